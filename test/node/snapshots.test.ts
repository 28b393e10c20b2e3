import { expect } from 'chai';
import type { SnapshotSink, SnapshotSource } from '../../src/bucket/snapshot-port.js';
import { DEFAULT_LIMITS } from '../../src/env/limits.js';
import type { Bytes } from '../../src/lib/bytes.js';
import { TidemarkError } from '../../src/lib/errors.js';
import { Installs, type InstallOptions } from '../../src/node/installs.js';
import type { SnapshotItem } from '../../src/node/peer-items.js';
import { SnapshotTransfer, type SnapshotTransferOptions } from '../../src/node/snapshots.js';
import { RealWorld, SimulatedWorld, TestNode, type TestNodeOptions, type World } from './support.js';

const CHUNK = 1000;
const LIMITS = { snapshotChunkBytes: CHUNK, snapshotChunksInFlightMax: 3, snapshotsAtOnceMax: 2 };

/** Chunks made from a number, and a record of how it was treated. */
class Source implements SnapshotSource {
  readonly header: Bytes;
  readonly chunks: number;
  given = 0;
  closed = 0;
  failure: TidemarkError | undefined;
  failAt = Infinity;

  constructor(header: string, chunks: number) {
    this.header = Buffer.from(header);
    this.chunks = chunks;
  }

  static content(chunks: number): Bytes {
    return Buffer.concat(Array.from({ length: chunks }, (_, i) => Buffer.alloc(CHUNK, i % 251)));
  }

  async next(bytesMax: number): Promise<Bytes | undefined> {
    expect(bytesMax).to.equal(CHUNK);
    expect(this.closed).to.equal(0);
    if (this.given === this.failAt && this.failure !== undefined) throw this.failure;
    if (this.given === this.chunks) return undefined;
    this.given += 1;
    return Buffer.alloc(CHUNK, (this.given - 1) % 251);
  }

  close(): void {
    this.closed += 1;
  }
}

/** Checks the contract of the port: one call at a time, and one end. */
class Sink implements SnapshotSink {
  readonly header: string;
  readonly written: Bytes[] = [];
  readonly calls: string[] = [];
  readonly #slow: () => Promise<void>;
  #busy = false;
  #ended = false;

  constructor(header: Bytes, slow: () => Promise<void>) {
    this.header = header.toString();
    this.#slow = slow;
  }

  async #call(name: string): Promise<void> {
    expect(this.#busy, 'two calls at a time').to.equal(false);
    expect(this.#ended, `${name} after the end`).to.equal(false);
    this.calls.push(name);
    if (name !== 'write') this.#ended = true;
    this.#busy = true;
    await this.#slow().finally(() => {
      this.#busy = false;
    });
  }

  async write(chunk: Bytes): Promise<void> {
    this.written.push(chunk);
    await this.#call('write');
  }

  finish(): Promise<void> {
    return this.#call('finish');
  }

  abort(): Promise<void> {
    return this.#call('abort');
  }

  get end(): string {
    return this.calls.filter((name) => name !== 'write').join();
  }
}

class SnapshotNode extends TestNode {
  readonly sinks: Sink[] = [];
  readonly offers: { from: number; bucket: number; toReplica: number }[] = [];
  readonly transfers: SnapshotTransfer;
  wanted = true;
  slow = (): Promise<void> => Promise.resolve();

  constructor(
    world: World,
    book: Map<number, string>,
    id: number,
    options: TestNodeOptions & Partial<SnapshotTransferOptions> = {},
  ) {
    super(world, book, id, { ...options, limits: { ...LIMITS, ...options.limits } });
    this.transfers = new SnapshotTransfer({
      env: this.env,
      peers: this.peers,
      accept: async (from, bucket, header, toReplica) => {
        this.offers.push({ from, bucket, toReplica });
        if (!this.wanted) return undefined;
        const sink = new Sink(header, () => this.slow());
        this.sinks.push(sink);
        return sink;
      },
      onFatal: (error) => this.fatals.push(error),
      ...options,
      limits: this.limits,
    });
    this.onItem = (from, item) => {
      if (item.kind.startsWith('snapshot')) this.transfers.onItem(from, item as SnapshotItem);
    };
  }
}

/** Streams between each two of them, in both directions. */
async function acquaint(world: World, ...nodes: readonly SnapshotNode[]): Promise<void> {
  const pairs = nodes.flatMap((one) => nodes.filter((other) => other !== one).map((other) => [one.peers, other.id] as const));
  for (const [peers, other] of pairs) peers.dial(other);
  await world.until(() => pairs.every(([peers, other]) => peers.connected(other) && peers.hears(other)));
}

interface Outcome {
  settled: boolean;
  error?: TidemarkError;
}

for (const [name, makeWorld] of [
  ['a simulated network', (): World => new SimulatedWorld(1)],
  ['a real network', (): World => new RealWorld()],
] as const) {
  describe(`snapshot transfers over ${name}`, () => {
    it('with a header that cannot be read are refused with a log line, and the node goes on', async () => {
      const world = makeWorld();
      const book = new Map<number, string>();
      const wantsAll = { installing: false, raft: { canInstall: () => true } };
      const hosting = { replicas: new Map([[9, wantsAll]]), newSlot: () => 1 };
      const installs = new Installs({ hosting } as unknown as InstallOptions);
      const a = await new SnapshotNode(world, book, 1).start();
      const accept: SnapshotTransferOptions['accept'] = (_from, bucket, header) => installs.accept(bucket, header);
      const b = await new SnapshotNode(world, book, 2, { accept }).start();
      await acquaint(world, a, b);
      const outcome = watch(world, a.transfers.send(2, 9, 131_074, () => new Source('meta', 3)));
      await world.until(() => outcome.settled);
      expect(outcome.error).to.include({ code: 'INVALID_ARGUMENT', reason: 'SNAPSHOT_MALFORMED' });
      expect(b.fatals).to.deep.equal([]);
      const line = b.logged('a snapshot was not received');
      expect(line).to.have.property('level', 'error');
      const closing = watch(world, Promise.all([a, b].map((node) => node.transfers.close().then(() => node.close()))));
      await world.until(() => closing.settled);
    });

    it('arrive whole, in order, and are installed before the sender is told', async () => {
      const world = makeWorld();
      const book = new Map<number, string>();
      const a = await new SnapshotNode(world, book, 1).start();
      const b = await new SnapshotNode(world, book, 2).start();
      await acquaint(world, a, b);
      const source = new Source('meta', 57);
      const outcome = watch(world, a.transfers.send(2, 9, 131_074, () => source));
      await world.until(() => outcome.settled);
      expect(outcome.error).to.equal(undefined);
      expect(b.offers).to.deep.equal([{ from: 1, bucket: 9, toReplica: 131_074 }]);
      expect(b.sinks).to.have.length(1);
      expect(b.sinks[0]?.header).to.equal('meta');
      expect(Buffer.concat(b.sinks[0]?.written ?? []).equals(Source.content(57))).to.equal(true);
      expect(b.sinks[0]?.end).to.equal('finish');
      expect([source.given, source.closed]).to.deep.equal([57, 1]);
      const closing = watch(world, Promise.all([a, b].map((node) => node.transfers.close().then(() => node.close()))));
      await world.until(() => closing.settled);
    });
  });
}

function watch(world: World, promise: Promise<unknown>): Outcome {
  const outcome: Outcome = { settled: false };
  promise.then(
    () => {
      outcome.settled = true;
      world.changed();
    },
    (error: unknown) => {
      expect(error).to.be.instanceOf(TidemarkError);
      outcome.error = error as TidemarkError;
      outcome.settled = true;
      world.changed();
    },
  );
  return outcome;
}

describe('snapshot transfers', () => {
  let world: SimulatedWorld;
  let book: Map<number, string>;
  let a: SnapshotNode;
  let b: SnapshotNode;

  type Options = ConstructorParameters<typeof SnapshotNode>[3];

  async function start(seed: number, options: Options = {}, acquainted = true): Promise<void> {
    world = new SimulatedWorld(seed);
    book = new Map();
    a = await new SnapshotNode(world, book, 1, options).start();
    b = await new SnapshotNode(world, book, 2, options).start();
    if (acquainted) await acquaint(world, a, b);
  }

  function delay(ms: number): () => Promise<void> {
    return () => new Promise((resolve) => world.timers.after(ms, resolve));
  }

  it('of an empty source work too', async () => {
    await start(1);
    const outcome = watch(world, a.transfers.send(2, 1, 2, () => new Source('', 0)));
    await world.until(() => outcome.settled);
    expect(outcome.error).to.equal(undefined);
    expect(b.sinks[0]?.calls).to.deep.equal(['finish']);
  });

  it('keep no more than a window in flight, at the pace of the sink', async () => {
    await start(2);
    b.slow = delay(100);
    const source = new Source('', 20);
    let ahead = 0;
    const next = source.next.bind(source);
    source.next = (bytesMax) => {
      ahead = Math.max(ahead, source.given - (b.sinks[0]?.written.length ?? 0));
      return next(bytesMax);
    };
    const outcome = watch(world, a.transfers.send(2, 1, 2, () => source));
    await world.until(() => outcome.settled);
    expect(outcome.error).to.equal(undefined);
    expect(ahead).to.be.within(2, 4);
    expect(world.now).to.be.above(2000);
  });

  it('are not begun if the receiver does not want them', async () => {
    await start(3);
    b.wanted = false;
    const source = new Source('', 5);
    const outcome = watch(world, a.transfers.send(2, 1, 2, () => source));
    await world.until(() => outcome.settled);
    expect([outcome.error?.code, outcome.error?.reason]).to.deep.equal(['FAILED_PRECONDITION', 'SNAPSHOT_NOT_WANTED']);
    expect([source.given, source.closed]).to.deep.equal([0, 1]);
  });

  it('wait for their turn at the sender, and are made when it comes', async () => {
    await start(4);
    b.slow = delay(50);
    const sources: Source[] = [];
    const open = (): Source => {
      const source = new Source('', 4);
      sources.push(source);
      return source;
    };
    const outcomes = [1, 2, 3, 4, 5].map((bucket) => watch(world, a.transfers.send(2, bucket, 2, open)));
    let most = 0;
    await world.until(() => {
      most = Math.max(most, b.sinks.filter((sink) => sink.end === '').length);
      expect(sources.filter(({ closed }) => closed === 0).length).to.be.at.most(2);
      return outcomes.every(({ settled }) => settled);
    });
    expect(outcomes.map(({ error }) => error)).to.deep.equal(Array(5).fill(undefined));
    expect(b.offers.map(({ bucket }) => bucket)).to.deep.equal([1, 2, 3, 4, 5]);
    expect(most).to.equal(2);
    expect(sources.map(({ closed }) => closed)).to.deep.equal(Array(5).fill(1));
  });

  it('share the bytes a second of their sender, and those that end hold up nobody', async () => {
    await start(17, { limits: { ...DEFAULT_LIMITS, ...LIMITS, snapshotsAtOnceMax: 3, snapshotBytesPerSecond: 10_000 } });
    const c = await new SnapshotNode(world, book, 3).start();
    await acquaint(world, a, b, c);
    const outcomes = [[2, 1], [2, 2], [3, 3]].map(([to = 0, bucket = 0]) => {
      return watch(world, a.transfers.send(to, bucket, 2, () => new Source('', 40)));
    });
    const counts = (): number[] => [...b.sinks, ...c.sinks].map(({ written }) => written.length);
    await world.run(4000);
    expect(counts()).to.satisfy((each: number[]) => each.every((count) => count === 13 || count === 14));
    world.net.breakStreams('n1', 'n3');
    await world.until(() => outcomes[2]?.settled === true);
    const before = counts();
    await world.run(2000);
    expect(counts().map((count, at) => count - (before[at] ?? 0))).to.deep.equal([10, 10, 0]);
    await world.until(() => outcomes.every(({ settled }) => settled));
    expect(outcomes.map(({ error }) => error?.code)).to.deep.equal([undefined, undefined, 'UNAVAILABLE']);
    expect(world.now).to.be.within(9000, 9500);
  });

  it('are refused by a receiver that has enough', async () => {
    await start(5);
    const c = await new SnapshotNode(world, book, 3).start();
    await acquaint(world, a, b, c);
    b.slow = delay(500);
    const first = [1, 2].map((bucket) => watch(world, a.transfers.send(2, bucket, 2, () => new Source('', 2))));
    await world.until(() => b.sinks.length === 2);
    const refused = watch(world, c.transfers.send(2, 3, 2, () => new Source('', 2)));
    await world.until(() => refused.settled);
    expect([refused.error?.code, refused.error?.reason]).to.deep.equal(['RESOURCE_EXHAUSTED', 'SNAPSHOTS_BUSY']);
    expect(refused.error?.retriable).to.equal(true);
    await world.until(() => first.every(({ settled }) => settled));
    const again = watch(world, c.transfers.send(2, 3, 2, () => new Source('', 2)));
    await world.until(() => again.settled);
    expect(again.error).to.equal(undefined);
  });

  it('end on both sides when the stream breaks', async () => {
    await start(6);
    b.slow = delay(20);
    const source = new Source('', 1000);
    const outcome = watch(world, a.transfers.send(2, 1, 2, () => source));
    await world.until(() => (b.sinks[0]?.written.length ?? 0) > 5);
    world.net.breakStreams('n1', 'n2');
    await world.until(() => outcome.settled && b.sinks[0]?.end !== '');
    expect(outcome.error?.code).to.equal('UNAVAILABLE');
    expect(outcome.error?.retriable).to.equal(true);
    expect(b.sinks[0]?.end).to.equal('abort');
    expect(source.closed).to.equal(1);
    const again = watch(world, a.transfers.send(2, 1, 2, () => new Source('again', 3)));
    // What is sent while the link waits to be dialed again is refused; then it works.
    await world.until(() => again.settled);
    if (again.error !== undefined) {
      await acquaint(world, a, b);
      const third = watch(world, a.transfers.send(2, 1, 2, () => new Source('again', 3)));
      await world.until(() => third.settled);
      expect(third.error).to.equal(undefined);
    }
    expect(b.sinks.at(-1)?.end).to.equal('finish');
  });

  it('end on both sides when the sender dies or a side falls silent', async () => {
    await start(7);
    b.slow = delay(20);
    void watch(world, a.transfers.send(2, 1, 2, () => new Source('', 1000)));
    await world.until(() => (b.sinks[0]?.written.length ?? 0) > 5);
    world.net.kill('n1');
    await world.until(() => b.sinks[0]?.end === 'abort');

    await start(8);
    b.slow = delay(20);
    const silent = watch(world, a.transfers.send(2, 1, 2, () => new Source('', 1000)));
    await world.until(() => (b.sinks[0]?.written.length ?? 0) > 5);
    world.net.cut('n2', 'n1');
    await world.until(() => silent.settled && b.sinks[0]?.end === 'abort');
    expect(silent.error?.code).to.equal('UNAVAILABLE');
  });

  it('are not begun with a receiver that cannot answer yet, whose word would be waited for in vain', async () => {
    await start(8, {}, false);
    a.peers.dial(2);
    await world.until(() => a.peers.connected(2));
    const source = new Source('', 3);
    const outcome = watch(world, a.transfers.send(2, 1, 2, () => source));
    await world.run(1);
    expect(a.peers.hears(2)).to.equal(false);
    expect(outcome.error).to.include({ code: 'UNAVAILABLE', reason: 'PEER_UNREACHABLE', retriable: true });
    expect([source.closed, b.offers.length]).to.deep.equal([1, 0]);
    await acquaint(world, a, b);
    const again = watch(world, a.transfers.send(2, 1, 2, () => new Source('again', 3)));
    await world.until(() => again.settled);
    expect([again.error, b.sinks.at(-1)?.end]).to.deep.equal([undefined, 'finish']);
  });

  it('time out when the receiver accepts and then does nothing', async () => {
    await start(9, { progressMsMax: 5000 });
    b.slow = () => new Promise(() => {});
    const source = new Source('', 10);
    const outcome = watch(world, a.transfers.send(2, 1, 2, () => source));
    await world.until(() => outcome.settled);
    expect([outcome.error?.code, outcome.error?.reason]).to.deep.equal(['DEADLINE_EXCEEDED', 'SNAPSHOT_STALLED']);
    expect(source.closed).to.equal(1);
  });

  it('time out when the sender offers and then does nothing', async () => {
    await start(10, { progressMsMax: 5000 });
    const source = new Source('', 10);
    source.next = () => new Promise(() => {});
    void watch(world, a.transfers.send(2, 1, 2, () => source));
    await world.until(() => b.sinks[0]?.end === 'abort');
    expect(world.now).to.be.within(5000, 5100);
  });

  it('give way to a newer one of the same bucket, which starts when the older has let go', async () => {
    await start(11);
    b.slow = delay(100);
    const olderSource = new Source('older', 1000);
    const older = watch(world, a.transfers.send(2, 1, 2, () => olderSource));
    await world.until(() => (b.sinks[0]?.written.length ?? 0) > 2);
    const newer = watch(world, a.transfers.send(2, 1, 2, () => new Source('newer', 4)));
    await world.until(() => b.sinks.length === 2);
    expect(b.sinks[0]?.end).to.equal('abort');
    expect(older.error?.reason).to.equal('SNAPSHOT_REPLACED');
    expect(olderSource.closed).to.equal(1);
    await world.until(() => newer.settled);
    expect(newer.error).to.equal(undefined);
    expect(b.sinks.map((sink) => [sink.header, sink.end])).to.deep.equal([
      ['older', 'abort'],
      ['newer', 'finish'],
    ]);
  });

  it('give way to a newer one from another node, even when the receiver has enough', async () => {
    await start(12);
    const c = await new SnapshotNode(world, book, 3).start();
    await acquaint(world, a, b, c);
    b.slow = delay(50);
    const older = [1, 2].map((bucket) => watch(world, a.transfers.send(2, bucket, 2, () => new Source('a', 100))));
    await world.until(() => b.sinks.length === 2 && b.sinks.every((sink) => sink.written.length > 1));
    const newer = watch(world, c.transfers.send(2, 1, 2, () => new Source('c', 3)));
    await world.until(() => newer.settled && older.every(({ settled }) => settled));
    expect(newer.error).to.equal(undefined);
    expect(older[0]?.error?.reason).to.equal('SNAPSHOT_REPLACED');
    expect(older[1]?.error).to.equal(undefined);
  });

  it('end with the reason of a source that fails, and leave the node alone, unless its disk has lost something', async () => {
    for (const code of ['ABORTED', 'DATA_LOSS'] as const) {
      await start(13);
      const source = new Source('', 10);
      source.failAt = 4;
      source.failure = new TidemarkError(code, 'SOURCE_FAILED', 'a page could not be read');
      const outcome = watch(world, a.transfers.send(2, 1, 2, () => source));
      await world.until(() => outcome.settled && b.sinks[0]?.end === 'abort');
      expect(outcome.error?.reason).to.equal('SOURCE_FAILED');
      expect([source.closed, a.fatals, b.fatals]).to.deep.equal([1, code === 'DATA_LOSS' ? [source.failure] : [], []]);
    }
  });

  it('stop the node whose disk fails under a sink, and tell the sender', async () => {
    await start(14);
    const broken = new TidemarkError('DATA_LOSS', 'DISK_FAILED', 'the disk is gone');
    b.slow = () => (b.sinks[0]?.end === '' ? Promise.reject(broken) : Promise.resolve());
    const outcome = watch(world, a.transfers.send(2, 1, 2, () => new Source('', 10)));
    await world.until(() => outcome.settled);
    expect(outcome.error?.reason).to.equal('DISK_FAILED');
    expect(outcome.error?.message).to.contain('node 2 ended the transfer of bucket 1: the disk is gone');
    expect([a.fatals, b.fatals]).to.deep.equal([[], [broken]]);
  });

  it('refuse damaged, missing, and surplus chunks', async () => {
    await start(15);
    const of = { bucket: 1, transfer: 5 };
    const chunk = { kind: 'snapshotChunk', ...of, data: Buffer.from('x') } as const;
    const crc = 2363233923;
    const scripts = [
      [{ ...chunk, sequence: 1, crc: crc + 1 }],
      [{ ...chunk, sequence: 2, crc }],
      [{ kind: 'snapshotEnd', ...of, chunks: 1, crc: 0 }],
      [
        { ...chunk, sequence: 1, crc },
        { kind: 'snapshotEnd', ...of, chunks: 1, crc: 7 },
      ],
      Array.from({ length: 6 }, (_, i) => ({ ...chunk, sequence: 1 + i, crc })),
    ] as const;
    for (const script of scripts) {
      const replies: string[] = [];
      a.onItem = (_from, item) => {
        replies.push(item.kind === 'snapshotAborted' ? item.reason : item.kind);
      };
      b.sinks.length = 0;
      a.send(2, { kind: 'snapshotOffer', ...of, toReplica: 2, header: Buffer.alloc(0) });
      await world.until(() => replies.length === 1);
      a.send(2, ...script);
      await world.until(() => replies.includes('SNAPSHOT_BROKEN') && b.sinks[0]?.end === 'abort');
    }
    // What belongs to no transfer is ignored.
    a.send(2, { ...chunk, sequence: 1, crc }, { kind: 'snapshotInstalled', ...of });
    await world.run(100);
    expect(b.fatals).to.deep.equal([]);
  });

  it('are all ended by close, on both sides', async () => {
    await start(16);
    b.slow = delay(30);
    const outcomes = [1, 2, 3].map((bucket) => watch(world, a.transfers.send(2, bucket, 2, () => new Source('', 1000))));
    await world.until(() => b.sinks.length === 2 && b.sinks.every((sink) => sink.written.length > 1));
    const closing = watch(world, a.transfers.close());
    await world.until(() => closing.settled);
    expect(outcomes.map(({ error }) => error?.reason)).to.deep.equal(Array(3).fill('SHUTTING_DOWN'));
    await world.until(() => b.sinks.every((sink) => sink.end === 'abort'));
  });
});
