import { expect } from 'chai';
import { Raft } from '../../src/raft/raft.js';
import { Reading } from '../../src/raft/reading.js';
import type { AppendReply, LogIndex, Message, ReplicaId } from '../../src/raft/types.js';
import { logOf, optionsOf } from './support.js';

const STORED = 100;

const LOG = logOf(STORED);

const NOTHING = (): Reading => new Reading(0, 1000);

/** Leads in term 2; replica 4 has all of its log, 2 has nothing and 3 has said nothing yet. */
class Leader {
  readonly raft = new Raft(optionsOf(LOG, [1, 2, 3, 4, 5], 10_000));
  now = 2000;
  private readonly sent = new Map<ReplicaId, LogIndex>();

  constructor() {
    const { raft } = this;
    raft.campaign(this.now);
    for (const from of [2, 3]) raft.step({ type: 'preVoteReply', from, to: 1, term: 2, granted: true, floor: 0 }, this.now);
    for (const from of [2, 3]) raft.step({ type: 'voteReply', from, to: 1, term: 2, granted: true, floor: 0 }, this.now);
    expect(raft.role).to.equal('leader');
    // Its own entry is in memory.
    this.turn(NOTHING());
    this.sent.clear();
    raft.persisted(STORED + 1, 2, this.now);
    this.answer(4, STORED + 1);
    this.answer(2, 0, true);
  }

  answer(from: ReplicaId, index: number, rejected = false): void {
    const hint = { hintIndex: 0, hintTerm: 0, round: 0, floor: 0 };
    const reply: AppendReply = { type: 'appendReply', from, to: 1, term: 2, index: rejected ? STORED : index, rejected, ...hint };
    this.raft.step(reply, this.now);
  }

  /** What is sent: `to:count` of entries, `to:h` of heartbeats. */
  turn(reading: Reading): string {
    const { messages, committed } = this.raft.ready(reading);
    if (committed.length > 0) this.raft.applied(committed.at(-1)?.index ?? 0);
    for (const m of messages) if (m.type === 'append' && m.entries.length > 0) this.sent.set(m.to, m.prevIndex + m.entries.length);
    return messages.map(short).join(' ');
  }

  /** Followers confirm what they were sent. */
  answers(): void {
    for (const [from, index] of this.sent) this.answer(from, index);
    this.sent.clear();
  }
}

function short(message: Message): string {
  return `${message.to}:${message.type === 'append' ? message.entries.length : message.type === 'heartbeat' ? 'h' : message.type}`;
}

describe('what a replica may read of its stored log', () => {
  it('is sent to followers in portions, to one as soon as to another', () => {
    const leader = new Leader();
    const sent: string[] = [];
    const turn = (): void => {
      const reading = new Reading(10, 1e6);
      sent.push(leader.turn(reading));
      expect(leader.raft.hasReady() || !reading.isShort).to.equal(true);
      leader.answers();
    };
    turn();
    // It stands elsewhere, so that neither gets what is read for the other.
    leader.answer(3, 0, true);
    for (let turns = 0; turns < 20; turns += 1) turn();
    const rest = ['2:10 2:1', '3:10', '3:10 3:1'];
    const inTurn = Array.from({ length: 16 }, (_, at) => (at % 2 === 0 ? '2:10' : '3:10'));
    expect(sent.filter((each) => each !== '')).to.deep.equal(['2:10', ...inTurn, ...rest]);
  });

  it('is read without limit by who leads, for what is committed: it serves nobody before it has applied that', () => {
    const leader = new Leader();
    leader.answer(3, STORED + 1);
    expect(leader.raft.canServe()).to.equal(false);
    for (let turns = 0; turns < 3; turns += 1) leader.turn(NOTHING());
    expect(leader.raft.canServe()).to.equal(true);
  });

  it('holds nothing back that is in memory, nor heartbeats, nor a commit index', () => {
    const leader = new Leader();
    leader.answer(3, STORED + 1);
    while (!leader.raft.canServe()) leader.turn(new Reading(40, 1e6));
    leader.answers();
    expect(leader.turn(NOTHING())).to.equal('');
    expect(leader.raft.hasReady()).to.equal(true);
    leader.raft.propose(Buffer.alloc(1), leader.now);
    leader.now += 250;
    leader.raft.tick(leader.now);
    expect(leader.turn(NOTHING())).to.equal('2:h 3:1 4:1 5:0 5:h');
    leader.raft.persisted(STORED + 2, 2, leader.now);
    for (const id of [3, 4]) leader.answer(id, STORED + 2);
    expect(leader.raft.commitIndex).to.equal(STORED + 2);
    leader.now += 50;
    leader.raft.tick(leader.now);
    expect(leader.turn(NOTHING())).to.equal('3:h 4:h');
    expect(leader.turn(new Reading(70, 1e6))).to.equal('2:60 2:2');
  });
});
