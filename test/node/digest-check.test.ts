import { expect } from 'chai';
import type { Replica } from '../../src/bucket/replica.js';
import type { TidemarkError } from '../../src/lib/errors.js';
import { DigestCheck } from '../../src/node/digest-check.js';
import type { DigestItem, PeerItem } from '../../src/node/peer-items.js';
import { ListLogger } from './support.js';

const BUCKET = 5;
const INDEX = 9;
const CHECK_MS = 5000;

/** A leader on node 1 that has applied everything, and what its check sends. */
class Leader {
  readonly sent: [number, PeerItem][] = [];
  readonly stops: TidemarkError[] = [];
  readonly log = new ListLogger(() => undefined);
  readonly raft;
  nowMs = 0;
  readonly #check: DigestCheck;

  constructor(voters: readonly number[], learners: readonly number[], digest: number) {
    const progress = (): { id: number }[] => [...voters, ...learners].map((id) => ({ id }));
    this.raft = { canServe: () => true, lastIndex: INDEX, term: 2, progress, config: { voters, learners } };
    const state = {
      watchDigest: (index: number, told: (digest: number) => void) => {
        if (index === INDEX) told(digest);
      },
    };
    const replica = { bucket: BUCKET, isLeader: true, installing: false, raft: this.raft, state } as unknown as Replica;
    this.#check = new DigestCheck({
      nodeId: 1,
      clock: { monotonicMs: () => this.nowMs, wallMs: () => this.nowMs },
      log: this.log,
      replicas: new Map([[BUCKET, replica]]),
      send: (to, item) => this.sent.push([to, item]),
      onDiverged: (error) => this.stops.push(error),
    });
  }

  /** The nodes that are asked by a look at the buckets. */
  asked(): number[] {
    this.#check.tick();
    return this.#take('digestAsked');
  }

  hear(from: number, item: DigestItem): void {
    this.#check.onItem(from, item);
  }

  tell(digests: Readonly<Record<number, number>>): void {
    for (const [node, digest] of Object.entries(digests)) {
      this.hear(Number(node), { kind: 'digestTold', bucket: BUCKET, index: INDEX, digest });
    }
  }

  judged(): number[] {
    return this.#take('digestJudged');
  }

  told(): number[] {
    return this.#take('digestTold');
  }

  #take(kind: DigestItem['kind']): number[] {
    const nodes = this.sent.filter(([, item]) => item.kind === kind).map(([to]) => to);
    this.sent.splice(0, this.sent.length, ...this.sent.filter(([, item]) => item.kind !== kind));
    return nodes;
  }
}

describe('the comparison of digests', () => {
  const TRUE = 0xaaaa;
  const WRONG = 0xbbbb;

  const cases: readonly {
    readonly what: string;
    readonly voters: readonly number[];
    readonly learners?: readonly number[];
    readonly own?: number;
    readonly told: Readonly<Record<number, number>>;
    readonly judged?: readonly number[];
    readonly stops?: boolean;
    readonly warned?: readonly number[];
  }[] = [
    { what: 'all equal: nobody', voters: [1, 2, 3], told: { 2: TRUE, 3: TRUE } },
    { what: 'two against one: the one', voters: [1, 2, 3], told: { 2: TRUE, 3: WRONG }, judged: [3] },
    { what: 'two against the leader: the leader', voters: [1, 2, 3], own: WRONG, told: { 2: TRUE, 3: TRUE }, stops: true },
    { what: 'one against one, a third silent: nobody yet', voters: [1, 2, 3], told: { 3: WRONG }, warned: [3] },
    { what: 'one against one and no third: the follower', voters: [1, 2], told: { 2: WRONG }, judged: [2] },
    { what: 'all different: the followers', voters: [1, 2, 3], told: { 2: WRONG, 3: 0xcccc }, judged: [2, 3] },
    { what: 'three against two of five: the two', voters: [1, 2, 3, 4, 5], told: { 2: WRONG, 3: WRONG, 4: TRUE, 5: TRUE }, judged: [2, 3] },
    { what: 'two against two of five, one silent: nobody yet', voters: [1, 2, 3, 4, 5], told: { 2: TRUE, 3: WRONG, 4: WRONG }, warned: [3, 4] },
    { what: 'a learner that differs: the learner', voters: [1, 2, 3], learners: [4], told: { 2: TRUE, 3: TRUE, 4: WRONG }, judged: [4] },
    { what: 'a learner on the side of the minority changes nothing', voters: [1, 2, 3], learners: [4], told: { 4: WRONG, 3: WRONG, 2: TRUE }, judged: [4, 3] },
  ];

  for (const { what, voters, learners = [], own = TRUE, told, judged = [], stops = false, warned = [] } of cases) {
    it(`stops whom it must; ${what}`, () => {
      const leader = new Leader(voters, learners, own);
      expect(leader.asked()).to.have.members([...voters, ...learners].filter((id) => id !== 1));
      leader.tell(told);
      // What is said of one side before all have spoken may be said twice.
      expect([...new Set(leader.judged())]).to.have.members(judged);
      expect([...new Set(leader.told())].filter((id) => !judged.includes(id))).to.have.members(stops ? [2] : warned);
      expect(leader.stops.map(({ reason }) => reason)).to.deep.equal(stops ? ['REPLICA_DIVERGED'] : []);
    });
  }

  it('asks those who have not told, every few seconds, and nobody about what is compared', () => {
    const leader = new Leader([1, 2, 3], [], TRUE);
    expect(leader.asked()).to.deep.equal([2, 3]);
    leader.tell({ 2: TRUE });
    leader.nowMs += CHECK_MS - 1;
    expect(leader.asked()).to.deep.equal([]);
    leader.nowMs += 1;
    expect(leader.asked()).to.deep.equal([3]);
    leader.tell({ 3: TRUE });
    leader.nowMs += CHECK_MS;
    expect(leader.asked()).to.deep.equal([]);
    leader.raft.lastIndex += 1;
    leader.nowMs += CHECK_MS;
    expect(leader.asked()).to.deep.equal([2, 3]);
  });

  it('takes no answer to another question, and no judgement about what it never told', () => {
    const leader = new Leader([1, 2, 3], [], TRUE);
    leader.asked();
    for (const node of [2, 3]) leader.hear(node, { kind: 'digestTold', bucket: BUCKET, index: INDEX - 1, digest: WRONG });
    leader.hear(2, { kind: 'digestJudged', bucket: BUCKET, index: INDEX, digest: WRONG });
    leader.hear(2, { kind: 'digestJudged', bucket: 99, index: INDEX, digest: WRONG });
    expect([leader.stops, leader.sent, leader.log.lines]).to.deep.equal([[], [], []]);
    // Having told, it believes that others differ; of the same it has nothing to hear.
    leader.hear(2, { kind: 'digestAsked', bucket: BUCKET, index: INDEX });
    leader.hear(2, { kind: 'digestJudged', bucket: BUCKET, index: INDEX, digest: TRUE });
    expect(leader.stops).to.deep.equal([]);
    leader.hear(2, { kind: 'digestJudged', bucket: BUCKET, index: INDEX, digest: WRONG });
    expect(leader.stops[0]?.message).to.match(/bucket 5 on node 1 has diverged: after entry 9 its digest is 0000aaaa, that of the others 0000bbbb/);
  });
});
