import { expect } from 'chai';
import { TidemarkError } from '../../src/lib/errors.js';
import { EPOCH_LEAD_MAX } from '../../src/placement/epoch.js';
import { FOUNDING, heartbeat, SimulatedWorld, TestNode, type TestNodeOptions } from './support.js';

const REFUSED = 'a peer and this node refuse each other';

describe('peers of a cluster that was founded otherwise', () => {
  let world: SimulatedWorld;
  let book: Map<number, string>;

  beforeEach(() => {
    world = new SimulatedWorld(1);
    book = new Map();
  });

  const node = (id: number, options: TestNodeOptions = {}): Promise<TestNode> => new TestNode(world, book, id, options).start();

  const others = [
    [{ ...FOUNDING, members: [1, 2, 3, 4] }, '3 replicas of 16 buckets on nodes 1, 2, 3, 4', 'cluster.nodes must'],
    [{ ...FOUNDING, buckets: 32 }, '3 replicas of 32 buckets on nodes 1, 2, 3', 'cluster.buckets must'],
    [{ members: [1, 2], buckets: 16, replicas: 2 }, '2 replicas of 16 buckets on nodes 1, 2', 'cluster.nodes and cluster.replicas must'],
  ] as const;

  for (const [founding, described, differs] of others) {
    it(`refuse each other and go on: ${described}`, async () => {
      const [a, b] = [await node(1, { founding }), await node(2)];
      a.send(2, heartbeat(0));
      await world.until(() => a.logged(REFUSED) !== undefined);
      for (const line of [a.logged(REFUSED), b.logged('refused a peer')]) {
        expect(line?.fields).to.include({ code: 'FAILED_PRECONDITION', reason: 'WRONG_FOUNDING' });
        expect(line?.fields.error)
          .to.contain(`node 1 says that it was founded with ${described}, node 2 with 3 replicas of 16 buckets on nodes 1, 2, 3`)
          .and.to.contain(differs);
      }
      expect([a.fatals, b.fatals, b.items]).to.deep.equal([[], [], []]);
      expect([a.pins.size, b.pins.size, a.agreed.size, b.agreed.size]).to.deep.equal([0, 0, 0, 0]);
    });
  }

  it('stop a new node, whichever of them dialed', async () => {
    const founding = { ...FOUNDING, members: [1, 2, 3, 4] };
    const [old, dialing, dialed] = [await node(1), await node(2, { founding, isNew: true }), await node(3, { founding, isNew: true })];
    dialing.send(1, heartbeat(0));
    old.send(3, heartbeat(0));
    await world.until(() => dialing.fatals.length + dialed.fatals.length === 2);
    for (const { fatals } of [dialing, dialed]) {
      expect(fatals[0]).to.be.instanceOf(TidemarkError).and.to.include({ code: 'FAILED_PRECONDITION', reason: 'WRONG_FOUNDING' });
    }
    expect((dialing.fatals[0] as Error).message).to.match(/^node 1 refuses this node: node 2 .* and node 1 do not mean the same cluster 'c1'/);
    expect(old.fatals).to.deep.equal([]);
  });

  it('stop a new node that is no member, and no other', async () => {
    const [a, b, c] = [await node(1), await node(2, { isNew: true }), await node(3)];
    book.delete(2);
    book.delete(3);
    b.send(1, heartbeat(0));
    c.send(1, heartbeat(0));
    await world.until(() => b.fatals.length > 0 && c.log.lines.length > 0);
    expect(b.fatals[0]).to.include({ code: 'FAILED_PRECONDITION', reason: 'UNKNOWN_NODE' });
    expect((b.fatals[0] as Error).message).to.match(/^node 1 refuses this node: node 2 .* is no member of cluster 'c1'.*only nodes that were added/);
    expect([a.fatals, c.fatals]).to.deep.equal([[], []]);
  });

  it('agree in both directions when they were founded alike', async () => {
    const [a, b] = [await node(1), await node(2)];
    a.peers.dial(2);
    await world.until(() => a.agreed.has(2) && b.agreed.has(1));
    expect(a.items).to.deep.equal([]);
  });
});

describe('peers with other epochs of the placement', () => {
  let world: SimulatedWorld;
  let book: Map<number, string>;

  beforeEach(() => {
    world = new SimulatedWorld(2);
    book = new Map();
  });

  const node = (id: number, epoch: number): Promise<TestNode> => new TestNode(world, book, id, { epoch }).start();

  for (const [one, other] of [[1, 7], [7, 1], [1, 1 + EPOCH_LEAD_MAX]] as const) {
    it(`talk to each other at epochs ${one} and ${other}`, async () => {
      const [a, b] = [await node(1, one), await node(2, other)];
      a.send(2, heartbeat(0));
      b.send(1, heartbeat(0));
      await world.until(() => a.items.length === 1 && b.items.length === 1);
    });
  }

  it('refuse one that is absurdly far ahead, whichever of them dialed', async () => {
    const [a, b] = [await node(1, 1), await node(2, 2 + EPOCH_LEAD_MAX)];
    a.send(2, heartbeat(0));
    await world.until(() => a.logged(REFUSED) !== undefined);
    b.send(1, heartbeat(0));
    await world.until(() => a.logged('refused a peer') !== undefined);
    for (const message of [REFUSED, 'refused a peer']) {
      const { fields } = a.logged(message) ?? {};
      expect(fields).to.include({ code: 'FAILED_PRECONDITION', reason: 'WRONG_EPOCH' });
      expect(fields?.error).to.contain(`node 2 says that the placement is at epoch ${2 + EPOCH_LEAD_MAX}; here it is known at epoch 1`);
    }
    expect([a.items, b.items, a.fatals, b.fatals]).to.deep.equal([[], [], [], []]);
  });
});
