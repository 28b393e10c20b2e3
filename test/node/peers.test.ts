import { expect } from 'chai';
import { Packr } from 'msgpackr';
import { TidemarkError } from '../../src/lib/errors.js';
import { encodeFrame } from '../../src/node/peer-items.js';
import {
  append,
  bucketOf,
  checksummed,
  heartbeat,
  RealWorld,
  SimulatedWorld,
  TestNode,
  type TestNodeOptions,
  type World,
} from './support.js';

const worlds: [string, () => World][] = [
  ['a simulated network', () => new SimulatedWorld(1)],
  ['a real network', () => new RealWorld()],
];

function reasonOf(error: unknown): string {
  expect(error).to.be.instanceOf(TidemarkError);
  return (error as TidemarkError).reason;
}

for (const [name, makeWorld] of worlds) {
  describe(`peers over ${name}`, () => {
    let world: World;
    let book: Map<number, string>;
    let nodes: TestNode[];

    beforeEach(() => {
      world = makeWorld();
      book = new Map();
      nodes = [];
    });

    afterEach(async () => {
      const closing = Promise.all(nodes.map((node) => node.close()));
      let closed = false;
      void closing.then(() => {
        closed = true;
        world.changed();
      });
      await world.until(() => closed);
      if (world instanceof RealWorld) expect(world.bugs).to.deep.equal([]);
    });

    async function node(id: number, options: TestNodeOptions = {}): Promise<TestNode> {
      const one = await new TestNode(world, book, id, options).start();
      nodes.push(one);
      return one;
    }

    it('carry items in order, one frame per turn, and pin each other first', async () => {
      const [a, b] = [await node(1), await node(2)];
      let pinnedFirst: boolean | undefined;
      b.onItem = () => {
        pinnedFirst ??= b.pins.get(1) === 'uuid-1' && a.pins.get(2) === 'uuid-2';
      };
      const first = [heartbeat(0), append(1, Buffer.from('x'), Buffer.alloc(0)), heartbeat(0xffff_ffff, 2)];
      a.send(2, ...first);
      expect(a.peers.connected(2)).to.equal(false);
      await world.until(() => b.items.length === 3);
      expect(b.items.map(({ item }) => item)).to.deep.equal(first);
      expect(b.items.every(({ from }) => from === 1)).to.equal(true);
      expect(pinnedFirst).to.equal(true);
      expect(a.peers.connected(2)).to.equal(true);
      expect(a.peers.connectedSince(2)).to.be.at.most(world.clock.monotonicMs());
      // The other direction has a stream of its own, which nobody has needed so far.
      expect(b.peers.connected(1)).to.equal(false);
      b.send(1, heartbeat(5), heartbeat(6));
      a.send(2, heartbeat(7));
      await world.until(() => a.items.length === 2 && b.items.length === 4);
      expect(b.frames).to.deep.equal([3, 1]);
      expect(a.frames).to.deep.equal([2]);
    });

    it('refuse a node that comes back under its id with another uuid, and that node stops', async () => {
      const [a, b] = [await node(1), await node(2, { pins: new Map([[1, 'uuid-of-old']]) })];
      a.send(2, heartbeat(0));
      await world.until(() => a.fatals.length > 0);
      expect(reasonOf(a.fatals[0])).to.equal('NODE_IDENTITY_CHANGED');
      expect((a.fatals[0] as Error).message).to.match(
        /^node 2 refuses this node: node 1 was known to node 2 as uuid-of-old.*remove node 1 and add it under a new id$/,
      );
      expect(b.fatals).to.deep.equal([]);
      expect(b.items).to.deep.equal([]);
      expect(b.pins.get(1)).to.equal('uuid-of-old');
      expect(b.logged('refused a peer')?.fields.reason).to.equal('NODE_IDENTITY_CHANGED');
    });

    it('notice it on the dialing side as well: the node that answers with another uuid stops', async () => {
      const [a, b] = [await node(1, { pins: new Map([[2, 'uuid-of-old']]) }), await node(2)];
      a.send(2, heartbeat(0));
      await world.until(() => b.fatals.length > 0);
      expect(reasonOf(b.fatals[0])).to.equal('NODE_IDENTITY_CHANGED');
      expect((b.fatals[0] as Error).message).to.contain('node 1 refuses this node: node 2 was known');
      expect(a.fatals).to.deep.equal([]);
      expect(b.items).to.deep.equal([]);
      expect(a.peers.connected(2)).to.equal(false);
      expect(a.pins.get(2)).to.equal('uuid-of-old');
      await world.until(() => a.logged('a peer and this node refuse each other') !== undefined);
    });

    it('refuse a node of another cluster and say so on both sides, without stopping', async () => {
      const [a, b] = [await node(1, { clusterId: 'east' }), await node(2, { clusterId: 'west' })];
      a.send(2, heartbeat(0));
      await world.until(() => a.logged('a peer and this node refuse each other') !== undefined);
      const { level, fields } = a.logged('a peer and this node refuse each other') ?? {};
      expect(level).to.equal('error');
      expect(fields?.reason).to.equal('WRONG_CLUSTER');
      expect(fields?.error).to.contain(`'east'`).and.to.contain(`'west'`);
      expect(b.logged('refused a peer')?.fields.reason).to.equal('WRONG_CLUSTER');
      expect([a.fatals, b.fatals, b.items]).to.deep.equal([[], [], []]);
      expect([a.pins.size, b.pins.size]).to.deep.equal([0, 0]);
    });

    it('refuse when an address leads to another node, or comes from no member', async () => {
      const [a, b] = [await node(1), await node(2)];
      book.set(3, book.get(2) ?? '');
      a.send(3, heartbeat(0));
      await world.until(() => b.log.lines.length > 0);
      expect(b.log.lines[0]?.fields.reason).to.equal('WRONG_NODE');
      book.delete(1);
      a.send(2, heartbeat(0));
      await world.until(() => b.log.lines.length > 1);
      expect(b.log.lines[1]?.fields.reason).to.equal('UNKNOWN_NODE');
      // It becomes one: nothing else is needed for the next dial to work.
      book.set(1, 'there');
      await world.until(() => a.peers.connected(2));
    });

    it('close a stream on frames that cannot be read, and live on', async () => {
      const b = await node(2);
      book.set(1, 'nowhere');
      const hello = TestNode.hello(1, 'uuid-1', 2);
      const hostile = [
        Buffer.alloc(0),
        Buffer.from('garbage'),
        checksummed(Buffer.from([0xc1])),
        checksummed(Buffer.from([0xdd, 0xff, 0xff, 0xff, 0xff])),
        checksummed(Buffer.alloc(50_000, 0x91)),
        checksummed(new Packr().pack({ a: 1 })),
        checksummed(new Packr().pack([[0, 1, [0, 1, 2, 3]]])),
        checksummed(new Packr().pack([[9, 1, 1]])),
        checksummed(new Packr().pack([[2, -1, 1, 1, 1, Buffer.alloc(1)]])),
      ];
      for (const frame of hostile) {
        let refusal: TidemarkError | undefined;
        const stream = b.env.network.connect(book.get(2) ?? '', 'peer', hello, {
          frame: () => void stream.send(frame),
          closed: (error) => {
            refusal = error;
            world.changed();
          },
        });
        await world.until(() => refusal !== undefined);
        expect([refusal?.code, refusal?.reason]).to.deep.equal(['INVALID_ARGUMENT', 'MALFORMED_FRAME'], frame.toString('hex'));
      }
      // A frame before the welcome breaks the rules, and so does a hello that is none.
      const refusals: (string | undefined)[] = [];
      const closed = (error: TidemarkError | undefined): void => {
        refusals.push(error?.reason);
        world.changed();
      };
      const slow = await node(3, { pin: () => new Promise(() => {}) });
      const tooSoon = TestNode.hello(1, 'uuid-1', 3);
      const early = slow.env.network.connect(book.get(3) ?? '', 'peer', tooSoon, { frame() {}, closed });
      early.send(encodeFrame([heartbeat(1)]));
      b.env.network.connect(book.get(2) ?? '', 'peer', Buffer.from('hello!'), { frame() {}, closed });
      await world.until(() => refusals.length === 2);
      expect(refusals).to.have.members(['MALFORMED_FRAME', 'MALFORMED_HELLO']);
      expect(slow.items).to.deep.equal([]);
      const a = await node(1);
      a.send(2, heartbeat(3));
      await world.until(() => b.items.some(({ item }) => bucketOf(item) === 3));
      expect(b.fatals).to.deep.equal([]);
    });

    it('find a peer again that was away', async () => {
      const [a, b] = [await node(1), await node(2)];
      a.send(2, heartbeat(1));
      b.send(1, heartbeat(1));
      await world.until(() => a.items.length === 1 && b.items.length === 1);
      const address = book.get(2) ?? '';
      const lost: number[] = [];
      a.peers.onLost((nodeId) => lost.push(nodeId));
      await closeNode(world, b);
      await world.until(() => !a.peers.connected(2));
      expect(lost).to.include(2);
      expect(a.peers.send(2, heartbeat(9))).to.equal(false);
      expect(a.metrics.values.get('tidemark_peer_dropped_messages_total')).to.equal(1);
      const again = await node(2, { address, pins: b.pins });
      await world.until(() => a.peers.connected(2));
      a.send(2, heartbeat(2));
      await world.until(() => again.items.length === 1);
      expect(a.metrics.values.get('tidemark_peers_connected')).to.equal(1);
    });
  });
}

async function closeNode(world: World, node: TestNode): Promise<void> {
  let closed = false;
  void node.close().then(() => {
    closed = true;
    world.changed();
  });
  await world.until(() => closed);
}

describe('peers', () => {
  const book = new Map<number, string>();
  const BYTES = 1000;

  beforeEach(() => book.clear());

  async function pair(world: SimulatedWorld, options: TestNodeOptions = {}): Promise<[TestNode, TestNode]> {
    const a = await new TestNode(world, book, 1, options).start();
    const b = await new TestNode(world, book, 2, options).start();
    a.send(2, heartbeat(0));
    b.send(1, heartbeat(0));
    await world.until(() => a.peers.connected(2) && b.peers.connected(1) && b.items.length === 1);
    b.items.length = 0;
    b.frames.length = 0;
    return [a, b];
  }

  it('send the heartbeats of many buckets in one frame, cheaply', async () => {
    const world = new SimulatedWorld(2);
    const [a, b] = await pair(world);
    a.send(2, ...Array.from({ length: 256 }, (_, bucket) => heartbeat(bucket)));
    await world.until(() => b.items.length === 256);
    expect(b.frames).to.deep.equal([256]);
  });

  it('split what is over half a message', async () => {
    const world = new SimulatedWorld(3);
    const [a, b] = await pair(world, { limits: { messageBytesMax: 16_384 } });
    const items = Array.from({ length: 40 }, (_, i) => append(i, Buffer.alloc(BYTES, i)));
    a.send(2, ...items);
    await world.until(() => b.items.length === 40);
    expect(b.items.map(({ item }) => item)).to.deep.equal(items);
    expect(b.frames.length).to.be.within(5, 8);
  });

  it('hold back while the stream is full, then drop raft messages and count them', async () => {
    const world = new SimulatedWorld(4, { bufferBytesMax: 10_000 });
    const [a, b] = await pair(world, { limits: { peerQueueBytesMax: 50_000 } });
    world.net.stall('n1', 'n2', 3000);
    let dropped = 0;
    for (let i = 0; i < 100; i += 1) {
      if (!a.peers.send(2, append(i, Buffer.alloc(BYTES)))) dropped += 1;
      a.peers.flush();
    }
    expect(dropped).to.be.within(40, 60);
    expect(a.metrics.values.get('tidemark_peer_dropped_messages_total')).to.equal(dropped);
    await world.until(() => b.items.length === 100 - dropped);
    expect(b.items.map(({ item }) => bucketOf(item))).to.deep.equal(Array.from({ length: 100 - dropped }, (_, i) => i));
    // Ten went out at once; the rest waited for room and left together.
    expect(b.frames.length).to.be.below(14);
    a.send(2, heartbeat(1));
    await world.until(() => b.items.length === 101 - dropped);
  });

  it('refuse a message over the limit', async () => {
    const world = new SimulatedWorld(5);
    const [a, b] = await pair(world, { limits: { messageBytesMax: 16_384 } });
    expect(a.peers.send(2, append(1, Buffer.alloc(16_384)))).to.equal(false);
    expect(a.logged('dropped a message to a peer that is over the message limit')).to.not.equal(undefined);
    a.send(2, heartbeat(2));
    await world.until(() => b.items.length === 1);
  });

  it('never pin two uuids for one node, though both come before the first pin is durable', async () => {
    const world = new SimulatedWorld(6);
    const b = await new TestNode(world, book, 2).start();
    book.set(1, 'nowhere');
    const outcomes: string[] = [];
    for (const uuid of ['first', 'second']) {
      b.env.network.connect(book.get(2) ?? '', 'peer', TestNode.hello(1, uuid, 2), {
        frame: () => outcomes.push(`${uuid} welcome`),
        closed: (error) => outcomes.push(`${uuid} ${error?.reason ?? ''}`),
      });
    }
    await world.until(() => outcomes.length === 2);
    const winner = b.pins.get(1);
    const loser = winner === 'first' ? 'second' : 'first';
    expect(outcomes).to.have.members([`${winner} welcome`, `${loser} NODE_IDENTITY_CHANGED`]);
  });

  it('stop the node when a pin cannot be written, and say nothing on that stream', async () => {
    const world = new SimulatedWorld(7);
    const broken = new TidemarkError('DATA_LOSS', 'DISK_FAILED', 'the disk is gone');
    const a = await new TestNode(world, book, 1).start();
    const b = await new TestNode(world, book, 2, { pin: () => Promise.reject(broken) }).start();
    a.send(2, heartbeat(0));
    await world.until(() => b.fatals.length > 0);
    await world.run(2000);
    expect(b.fatals).to.deep.equal([broken]);
    expect([a.peers.connected(2), b.items]).to.deep.equal([false, []]);
  });

  it('lose a silent peer, drop what was queued for it, and come back after the partition', async () => {
    const world = new SimulatedWorld(8, { keepaliveMs: 3000 });
    const [a, b] = await pair(world);
    world.net.partition('n1', 'n2');
    const before = world.now;
    a.send(2, heartbeat(1));
    await world.until(() => !a.peers.connected(2) && !b.peers.connected(1));
    expect(world.now - before).to.be.within(3000, 3700);
    await world.run(20_000);
    expect(b.items).to.deep.equal([]);
    world.net.heal();
    await world.until(() => a.peers.connected(2) && b.peers.connected(1));
    a.send(2, heartbeat(2));
    await world.until(() => b.items.length === 1);
    expect(b.items.map(({ item }) => bucketOf(item))).to.deep.equal([2]);
    expect([...a.fatals, ...b.fatals]).to.deep.equal([]);
  });

  it('go on where they stood when a partition heals in time', async () => {
    const world = new SimulatedWorld(9);
    const [a, b] = await pair(world);
    world.net.partition('n1', 'n2');
    a.send(2, heartbeat(1), heartbeat(2));
    await world.run(2000);
    expect(b.items).to.deep.equal([]);
    world.net.heal();
    await world.until(() => b.items.length === 2);
    expect(a.logged('lost the connection to peer')).to.equal(undefined);
  });

  it('do not wait for the planned redial when the peer dials first', async () => {
    const world = new SimulatedWorld(10, { keepaliveMs: 1000 });
    const [a] = await pair(world);
    world.net.kill('n2');
    await world.run(30_000);
    const again = await new TestNode(world, book, 2, { address: book.get(2) ?? '' }).start();
    const started = world.now;
    again.send(1, heartbeat(0));
    await world.until(() => a.peers.connected(2) && again.peers.connected(1));
    expect(world.now - started).to.be.below(50);
  });

  it('take the newer of two streams from one node', async () => {
    const world = new SimulatedWorld(11);
    const [a, b] = await pair(world);
    let refusal: string | undefined;
    let welcomed = false;
    const lost: string[] = [];
    b.peers.onLost((_node, error) => lost.push(error.reason));
    const hello = TestNode.hello(1, 'uuid-1', 2);
    world.net.networkFor('n1').connect(book.get(2) ?? '', 'peer', hello, {
      frame: () => {
        welcomed = true;
      },
      closed: (error) => {
        refusal = error?.reason;
      },
    });
    await world.until(() => welcomed);
    expect(lost).to.deep.equal(['STREAM_REPLACED']);
    await world.until(() => a.logged('lost the connection to peer') !== undefined);
    // The one whose stream was replaced dials again, and replaces in turn.
    await world.until(() => refusal === 'STREAM_REPLACED' && a.peers.connected(2));
  });

  it('deliver in order and never twice, whatever the network does, and always find each other again', async () => {
    for (let seed = 100; seed < 120; seed += 1) {
      const world = new SimulatedWorld(seed, { keepaliveMs: 500, bufferBytesMax: 2000 });
      book.clear();
      const ids = [1, 2, 3];
      const latest = new Map<string, number>();
      const start = async (id: number): Promise<TestNode> => {
        const node = await new TestNode(world, book, id, { address: `h${id}:1`, limits: { peerQueueBytesMax: 20_000 } }).start();
        node.onItem = (from, item) => {
          const round = item.kind === 'raft' && item.message.type === 'heartbeat' ? item.message.round : 0;
          expect(round).to.be.above(latest.get(`${from}>${id}`) ?? 0, `seed ${seed}`);
          latest.set(`${from}>${id}`, round);
        };
        return node;
      };
      const nodes = new Map<number, TestNode>();
      for (const id of ids) nodes.set(id, await start(id));
      const pick = (): number => 1 + (world.random.uint32() % 3);
      world.net.setLatency({ minMs: 0.1, maxMs: 5, spikeChance: 0.05, spikeMs: 100 });
      let round = 0;
      const sendAll = (): void => {
        round += 1;
        for (const from of ids) for (const to of ids) if (from !== to) nodes.get(from)?.send(to, heartbeat(from, round));
      };
      for (let step = 0; step < 150; step += 1) {
        sendAll();
        const [x, y] = [pick(), pick()];
        const dice = world.random.uint32() % 20;
        if (dice === 0) world.net.partition(`n${x}`, `n${y}`);
        if (dice === 1 && x !== y) world.net.cut(`n${x}`, `n${y}`);
        if (dice === 2) world.net.breakStreams(`n${x}`, `n${y}`);
        if (dice === 3) world.net.stall(`n${x}`, `n${y}`, 300);
        if (dice === 4 || dice === 5) world.net.heal();
        if (dice === 6) {
          world.net.kill(`n${x}`);
          nodes.get(x)?.peers.close();
          nodes.set(x, await start(x));
        }
        await world.run(world.random.float() * 200);
      }
      world.net.heal();
      await world.run(3000);
      sendAll();
      await world.until(() => ids.every((a) => ids.every((b) => a === b || latest.get(`${a}>${b}`) === round)));
      for (const node of nodes.values()) expect(node.fatals).to.deep.equal([]);
    }
  });

  it('forget a node that was removed, once it has had time to hear of it', async () => {
    const world = new SimulatedWorld(12);
    const [a, b] = await pair(world);
    book.delete(2);
    a.peers.prune();
    await world.run(1000);
    expect(b.peers.connected(1)).to.equal(true);
    a.peers.prune();
    await world.until(() => !b.peers.connected(1));
    await world.run(5000);
    expect([a.peers.connected(2), a.peers.hears(2)]).to.deep.equal([false, false]);
    expect(b.peers.connected(1)).to.equal(false);
    expect(b.fatals).to.deep.equal([]);
  });

  it('tell a node that was removed while it was away, and it stops', async () => {
    const world = new SimulatedWorld(13);
    await new TestNode(world, book, 1, { removed: [2] }).start();
    const b = await new TestNode(world, book, 2).start();
    b.send(1, heartbeat(0));
    await world.until(() => b.fatals.length > 0);
    expect(b.fatals[0]).to.include({ code: 'FAILED_PRECONDITION', reason: 'NODE_REMOVED' });
    expect((b.fatals[0] as Error).message).to.match(/node 2 .* was removed from cluster 'c1'/);
  });
});
