import { expect } from 'chai';
import { unpack } from 'msgpackr';
import { TableLoader, tableLimitsOf, Tables } from '../../src/bucket/tables.js';
import { sweepSlot, unnamedSlots, versionsOnDisk } from '../../src/bucket/slots.js';
import { decodeHeader, StagedSnapshot, StateSnapshot } from '../../src/bucket/snapshot.js';
import { BucketState, decodeMeta, metaKey, type Meta } from '../../src/bucket/state.js';
import { StateStore } from '../../src/bucket/state-store.js';
import { DEFAULT_LIMITS } from '../../src/env/limits.js';
import { EMPTY } from '../../src/lib/bytes.js';
import { readPointer, versionAsOf, walk } from '../../src/mvcc/reader.js';
import {
  encodePointer,
  encodeRecord,
  NO_VERSION,
  PERIOD,
  pointerKey,
  versionKey,
  type Slot,
  type VersionId,
} from '../../src/mvcc/records.js';
import { SimDisk } from '../../src/sim/disk.js';
import { SimLoop } from '../../src/sim/loop.js';

const b = (text: string): Buffer => Buffer.from(text);

const LIMITS = tableLimitsOf(DEFAULT_LIMITS);
const META: Meta = {
  slot: 1,
  replicaId: 65_537,
  applied: { index: 0, term: 2 },
  maxTimestamp: 0,
  horizon: 0,
  pins: [],
  digest: 5,
  config: { voters: [65_537], outgoing: [], learners: [], learnersNext: [] },
  sessionsIndex: 0,
};

class Machine {
  readonly #loop = new SimLoop('slots');
  readonly #disk = new SimDisk({ timers: this.#loop.timers, random: this.#loop.random, place: 'n1' });
  state!: StateStore;

  /** Again after a crash. */
  async open(): Promise<void> {
    const store = await this.settle(this.#disk.openStore('state'));
    const onFatal = (error: unknown): void => {
      throw error;
    };
    const { timers } = this.#loop;
    this.state = new StateStore({ store, clock: this.#loop.clock(), timers, gatherMs: 10, overlayBytesMax: 1e9, onFatal });
  }

  crash(): Promise<void> {
    this.#disk.crash();
    return this.open();
  }

  settle<T>(promise: Promise<T>): Promise<T> {
    return this.#loop.runUntilSettled(promise, 1_000_000);
  }

  /** Puts `key` once in each of the given periods, by log entries 1, 2 and so on. */
  write(slot: Slot, key: string, periods: readonly number[]): void {
    let previous: VersionId = NO_VERSION;
    periods.forEach((period, at) => {
      const id = { timestamp: period * PERIOD + at, index: at + 1, position: 0 };
      const value = b(`${key} in ${period}`);
      this.state.put(versionKey(slot, id), encodeRecord({ key: b(key), deleted: false, value, previous }));
      this.state.put(pointerKey(slot, b(key)), encodePointer({ ...id, deleted: false }));
      previous = id;
    });
  }

  /** All values of a key, newest first. */
  read(slot: Slot, key: string): string[] {
    const pointer = readPointer(this.state, slot, b(key));
    return pointer === undefined ? [] : [...walk(this.state, slot, pointer, 0)].map(({ record }) => record.value.toString());
  }

  async keys(): Promise<string[]> {
    const page = await this.settle(this.state.page({ gte: EMPTY, lt: EMPTY, limit: 10_000 }));
    return page.entries.map(([key]) => key.toString('hex'));
  }

  bucket(meta: Partial<Meta>): BucketState {
    return new BucketState(0, this.state, { ...META, ...meta }, new TableLoader(new Tables(LIMITS)));
  }

  /** Every chunk of a snapshot. */
  async chunks(source: StateSnapshot, bytesMax: number): Promise<Buffer[]> {
    const chunks: Buffer[] = [];
    for (;;) {
      const chunk = await this.settle(source.next(bytesMax));
      if (chunk === undefined) return chunks;
      chunks.push(chunk);
    }
  }

  stage(source: StateSnapshot, slot: Slot): StagedSnapshot {
    return new StagedSnapshot(decodeHeader(source.header), slot, this.state, LIMITS);
  }
}

/** The records of a chunk as they are sent: name and value. */
function recordsOf(chunk: Buffer): readonly [Buffer, Buffer][] {
  return (unpack(chunk) as [Buffer | null, [Buffer, Buffer][]])[1];
}

describe('the slots of a store', () => {
  const periods = [3, 4, 5, 900, 1_000_000, 1_000_001];
  let machine: Machine;

  beforeEach(async () => {
    machine = new Machine();
    await machine.open();
    machine.write(1, 'other', [1, 3, 4, 899, 900, 901]);
    machine.write(5, 'mine', periods);
    machine.write(9, 'other', [2, 3, 5, 900, 1_000_002]);
  });

  it('a snapshot brings the versions of one slot up to its index, whatever the sender calls it', async () => {
    const source = new StateSnapshot(machine.bucket({ slot: 5, applied: { index: 5, term: 2 } }));
    const receiver = new Machine();
    await receiver.open();
    const staged = receiver.stage(source, 7);
    const chunks = await machine.chunks(source, 100);
    const records = chunks.flatMap(recordsOf);
    expect(records.map(([id]) => id.length)).to.deep.equal([18, 18, 18, 18, 18]);
    for (const chunk of chunks) await receiver.settle(staged.write(chunk));
    await receiver.settle(staged.flip(receiver.bucket({ slot: 2 })));
    await receiver.crash();
    const values = periods.slice(0, 5).map((period) => `mine in ${period}`);
    expect(receiver.read(7, 'mine')).to.deep.equal(values.reverse());
    const pointer = readPointer(receiver.state, 7, b('mine')) ?? NO_VERSION;
    expect(versionAsOf(receiver.state, 7, pointer, 899 * PERIOD, 0, Infinity).found?.record.value.toString()).to.equal('mine in 5');
    expect(decodeMeta(receiver.state.get(metaKey(0)) ?? EMPTY).slot).to.equal(7);
    expect(await receiver.settle(unnamedSlots(receiver.state))).to.deep.equal([2]);
  });

  it('a snapshot gathers what lies in many periods into one chunk', async () => {
    machine.write(5, 'often', Array.from({ length: 60 }, (_, at) => 10 + 3 * at));
    machine.write(9, 'often', Array.from({ length: 60 }, (_, at) => 11 + 3 * at));
    const source = new StateSnapshot(machine.bucket({ slot: 5, applied: { index: 60, term: 2 } }));
    const chunks = await machine.chunks(source, 1e6);
    expect(chunks.map((chunk) => recordsOf(chunk).length)).to.deep.equal([0, 0, 66]);
  });

  it('is refused, and nothing of it staged, if a chunk names an impossible version', async () => {
    const source = new StateSnapshot(machine.bucket({ slot: 5, applied: { index: 5, term: 2 } }));
    const staged = machine.stage(source, 7);
    const [sessions = EMPTY, transactions = EMPTY, chunk = EMPTY] = await machine.chunks(source, 1e6);
    await machine.settle(staged.write(sessions));
    await machine.settle(staged.write(transactions));
    const id = recordsOf(chunk)[4]?.[0] ?? EMPTY;
    const bad = Buffer.from(chunk);
    bad[bad.indexOf(id)] = 0x7f;
    const outcome = machine.settle(staged.write(bad).catch((error: unknown) => error));
    expect(await outcome).to.include({ code: 'INVALID_ARGUMENT', reason: 'SNAPSHOT_MALFORMED' });
    expect(machine.read(7, 'mine')).to.deep.equal([]);
  });

  it('are swept whole when a crash has left them without a name', async () => {
    await machine.settle(machine.state.flush());
    const before = await machine.keys();
    const source = new StateSnapshot(machine.bucket({ slot: 5, applied: { index: 6, term: 2 } }));
    const staged = machine.stage(source, 7);
    for (const chunk of await machine.chunks(source, 100)) await machine.settle(staged.write(chunk));
    await machine.crash();
    expect(await machine.keys()).to.have.length(before.length + 10);
    expect(await machine.settle(unnamedSlots(machine.state))).to.deep.equal([7]);
    await machine.settle(sweepSlot(machine.state, 7));
    await machine.crash();
    expect(await machine.keys()).to.deep.equal(before);
  });

  it('are swept though a record in them is rotten: it was to go anyway', async () => {
    const source = new StateSnapshot(machine.bucket({ slot: 5, applied: { index: 6, term: 2 } }));
    const staged = machine.stage(source, 7);
    for (const chunk of await machine.chunks(source, 100)) await machine.settle(staged.write(chunk));
    const scan = await machine.settle(versionsOnDisk(machine.state, 7));
    const { entries } = await machine.settle(scan.next({ limit: 10, bytesMax: 1e6 }));
    const [key = EMPTY, value = EMPTY] = entries[0] ?? [];
    const rotten = Buffer.from(value);
    rotten[rotten.length - 1] = (rotten[rotten.length - 1] ?? 0) ^ 1;
    machine.state.put(key, rotten);
    await machine.settle(machine.state.flush());
    await machine.settle(sweepSlot(machine.state, 7));
    expect(await machine.settle(unnamedSlots(machine.state))).to.deep.equal([]);
    const left = await machine.settle((await machine.settle(versionsOnDisk(machine.state, 7))).next({ limit: 10, bytesMax: 1e6 }));
    expect(left.entries).to.deep.equal([]);
  });

  it('are not swept without the mark', async () => {
    await machine.settle(sweepSlot(machine.state, 5));
    expect(machine.read(5, 'mine')).to.have.length(periods.length);
  });
});
