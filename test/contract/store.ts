import { expect } from 'chai';
import fc from 'fast-check';
import { AssertionError } from '../../src/lib/assert.js';
import { EMPTY, type Bytes } from '../../src/lib/bytes.js';
import { TidemarkError } from '../../src/lib/errors.js';
import type { Batch, Disk, PageOptions, Store } from '../../src/env/env.js';

export type OpenDisk = Disk & { close(): Promise<void> };

/** A place for data that is opened, closed and opened again. */
export interface Place {
  /** Locks it. */
  open(): Promise<OpenDisk>;
  remove(): Promise<void>;
  /** Awaits a promise of the implementation; the simulator has to move its time for that. */
  settle<T>(promise: Promise<T>): Promise<T>;
}

/** What every implementation of the Disk port owes its callers. */
export function describeStoreContract(name: string, newPlace: () => Place): void {
  describe(`store contract: ${name}`, () => {
    let place: Place;
    let disk: OpenDisk;
    let store: Store;

    beforeEach(async () => {
      place = newPlace();
      disk = await place.settle(place.open());
      store = await place.settle(disk.openStore('state'));
    });

    afterEach(async () => {
      await place.settle(disk.close());
      await place.remove();
    });

    const write = (fill: (batch: Batch) => void): Promise<void> => {
      const batch = store.batch();
      fill(batch);
      return batch.write();
    };
    const put = (entries: Record<string, string>): Promise<void> =>
      place.settle(write((batch) => Object.entries(entries).forEach(([key, value]) => batch.put(b(key), b(value)))));
    const read = async (options: Partial<PageOptions> = {}): Promise<{ text: string; more: boolean }> => {
      const { entries, more } = await place.settle(store.page({ gte: EMPTY, lt: EMPTY, limit: 100, ...options }));
      return { text: entries.map(([key, value]) => `${key.toString()}=${value.toString()}`).join(' '), more };
    };
    const reopen = async (): Promise<void> => {
      await place.settle(disk.close());
      disk = await place.settle(place.open());
      store = await place.settle(disk.openStore('state'));
    };

    describe('point reads', () => {
      it('see every batch whose write was fulfilled', async () => {
        expect(store.get(b('a'))).to.equal(undefined);
        await put({ a: '1', b: '2' });
        expect(store.get(b('a'))).to.deep.equal(b('1'));
        await place.settle(write((batch) => batch.del(b('a'))));
        expect(store.get(b('a'))).to.equal(undefined);
        expect(store.get(b('b'))).to.deep.equal(b('2'));
      });

      it('keep empty values apart from missing ones, and bytes as they are', async () => {
        const key = Buffer.from([0, 0xff, 0, 0x80]);
        const value = Buffer.from([0xff, 0, 0xc3, 0x28]);
        await place.settle(
          write((batch) => {
            batch.put(key, value);
            batch.put(b('empty'), EMPTY);
          }),
        );
        expect(store.get(key)).to.deep.equal(value);
        expect(store.get(b('empty'))).to.deep.equal(EMPTY);
        expect(store.get(Buffer.from([0, 0xff, 0]))).to.equal(undefined);
      });

      it('hand out bytes of their own', async () => {
        await put({ a: 'xyz' });
        store.get(b('a'))?.fill(0);
        expect(store.get(b('a'))).to.deep.equal(b('xyz'));
      });
    });

    describe('pages', () => {
      it('are in the order of bytes', async () => {
        const keys = ['00', '0000', '01', '7f', '80', 'c3a9', 'ff', 'ff00', 'ffff'].map((hex) => Buffer.from(hex, 'hex'));
        await place.settle(write((batch) => [...keys].reverse().forEach((key) => batch.put(key, EMPTY))));
        const page = await place.settle(store.page({ gte: EMPTY, lt: EMPTY, limit: 100 }));
        expect(page.entries.map(([key]) => key.toString('hex'))).to.deep.equal(keys.map((key) => key.toString('hex')));
      });

      it('include the lower bound and exclude the upper one, in both directions', async () => {
        await put({ a: '1', b: '2', c: '3', d: '4' });
        expect(await read({ gte: b('b'), lt: b('d') })).to.deep.equal({ text: 'b=2 c=3', more: false });
        expect(await read({ gte: b('b'), lt: b('d'), reverse: true })).to.deep.equal({ text: 'c=3 b=2', more: false });
        expect(await read({ gte: b('bb'), lt: b('cc') })).to.deep.equal({ text: 'c=3', more: false });
        expect(await read({ gte: b('bb'), lt: b('cc'), reverse: true })).to.deep.equal({ text: 'c=3', more: false });
      });

      it('reach to the end of the store if the upper bound is empty', async () => {
        await put({ a: '1', z: '2' });
        expect((await read({ gte: b('b'), lt: EMPTY })).text).to.equal('z=2');
        expect((await read({ gte: EMPTY, lt: EMPTY, reverse: true })).text).to.equal('z=2 a=1');
      });

      it('are empty for empty, inverted and unused ranges', async () => {
        await put({ a: '1', c: '3' });
        const nothing = { text: '', more: false };
        expect(await read({ gte: b('b'), lt: b('c') })).to.deep.equal(nothing);
        expect(await read({ gte: b('a'), lt: b('a') })).to.deep.equal(nothing);
        expect(await read({ gte: b('c'), lt: b('a') })).to.deep.equal(nothing);
        expect(await read({ gte: b('d'), lt: b('e'), reverse: true })).to.deep.equal(nothing);
      });

      it('stop at the limit and say that there may be more', async () => {
        await put({ a: '1', b: '2', c: '3' });
        expect(await read({ limit: 2 })).to.deep.equal({ text: 'a=1 b=2', more: true });
        expect(await read({ limit: 2, reverse: true })).to.deep.equal({ text: 'c=3 b=2', more: true });
        expect(await read({ limit: 4 })).to.deep.equal({ text: 'a=1 b=2 c=3', more: false });
        expect(() => store.page({ gte: EMPTY, lt: EMPTY, limit: 0 })).to.throw(AssertionError);
      });

      it('stop behind the entry that reaches bytesMax, with at least one', async () => {
        await put({ a: '123456789', b: '123456789', c: '123456789' });
        expect((await read({ bytesMax: 1 })).text).to.equal('a=123456789');
        expect((await read({ bytesMax: 10 })).text).to.equal('a=123456789');
        expect((await read({ bytesMax: 11 })).text).to.equal('a=123456789 b=123456789');
        expect(await read({ bytesMax: 20 })).to.deep.equal({ text: 'a=123456789 b=123456789', more: true });
        expect(await read({ bytesMax: 31 })).to.deep.equal({ text: 'a=123456789 b=123456789 c=123456789', more: false });
      });

      it('tell about how much a range takes on disk', async function () {
        this.timeout(60_000);
        const values = Array.from({ length: 12 }, (_, at) => {
          const value = Buffer.alloc(1024 * 1024);
          for (let i = 0; i < value.length; i += 4) value.writeUInt32LE(((at * 262_144 + i) * 2_654_435_761) % 2 ** 32, i);
          return value;
        });
        for (const [at, value] of values.entries()) {
          await place.settle(write((batch) => batch.put(Buffer.from([0x61, at]), value)));
        }
        await reopen();
        const all = await place.settle(store.approximateBytes(b('a'), b('b')));
        expect(all).to.be.within(4 * 1024 * 1024, 16 * 1024 * 1024);
        expect(await place.settle(store.approximateBytes(Buffer.from([0x61, 6]), b('b')))).to.be.lessThan(all);
        expect(await place.settle(store.approximateBytes(b('c'), b('d')))).to.equal(0);
      });

      it('stop near one mebibyte if nothing is said', async () => {
        const value = Buffer.alloc(300 * 1024, 1);
        await place.settle(write((batch) => ['a', 'b', 'c', 'd', 'e'].forEach((key) => batch.put(b(key), value))));
        const page = await place.settle(store.page({ gte: EMPTY, lt: EMPTY, limit: 100 }));
        expect(page.entries).to.have.length(4);
        expect(page.more).to.equal(true);
      });
    });

    describe('batches', () => {
      it('apply their operations in order, all at once', async () => {
        const batch = store.batch();
        batch.put(b('a'), b('1'));
        batch.put(b('a'), b('2'));
        batch.put(b('b'), b('1'));
        batch.del(b('b'));
        batch.del(b('never there'));
        expect(store.get(b('a'))).to.equal(undefined);
        await place.settle(batch.write());
        expect((await read()).text).to.equal('a=2');
      });

      it('count their operations and bytes', () => {
        const batch = store.batch();
        expect([batch.length, batch.bytes]).to.deep.equal([0, 0]);
        batch.put(b('key'), b('value'));
        batch.del(b('key'));
        expect([batch.length, batch.bytes]).to.deep.equal([2, 11]);
      });

      it('take a copy of what they are given', async () => {
        const key = b('key');
        const value = b('value');
        const batch = store.batch();
        batch.put(key, value);
        key.fill(0);
        value.fill(0);
        await place.settle(batch.write());
        expect(store.get(b('key'))).to.deep.equal(b('value'));
      });

      it('take effect in the order in which write() was called, not in that of their making', async () => {
        const batches = Array.from({ length: 50 }, () => store.batch());
        const order: number[] = [];
        const writes = batches.map((batch, i) => {
          batch.put(b('last'), b(String(i)));
          return () => batch.write().then(() => order.push(i));
        });
        await place.settle(Promise.all([...writes].reverse().map((start) => start())));
        expect(store.get(b('last'))).to.deep.equal(b('0'));
        expect(order).to.deep.equal(Array.from({ length: 50 }, (_, i) => 49 - i));
      });

      it('of nothing write nothing', async () => {
        await place.settle(store.batch().write());
        expect((await read()).text).to.equal('');
      });

      it('refuse an empty key, a second write, and operations after it', async () => {
        const batch = store.batch();
        expect(() => batch.put(EMPTY, b('x'))).to.throw(AssertionError, 'no empty key');
        expect(() => batch.del(EMPTY)).to.throw(AssertionError, 'no empty key');
        batch.put(b('a'), b('1'));
        await place.settle(batch.write());
        expect(() => batch.put(b('b'), b('2'))).to.throw(AssertionError);
        expect(() => void batch.write()).to.throw(AssertionError);
      });

      it('that are never written leave no trace, also at close', async () => {
        store.batch().put(b('a'), b('1'));
        await reopen();
        expect(store.get(b('a'))).to.equal(undefined);
      });

      it('carry a value of several mebibytes and thousands of small ones', async () => {
        const big = Buffer.alloc(8 * 1024 * 1024);
        for (let at = 0; at < big.length; at += 4) big.writeUInt32LE((at * 2654435761) % 2 ** 32, at);
        await place.settle(
          write((batch) => {
            batch.put(b('big'), big);
            for (let i = 0; i < 5000; i += 1) batch.put(b(`small${i}`), b(String(i)));
          }),
        );
        await reopen();
        expect(store.get(b('big'))?.equals(big)).to.equal(true);
        expect(store.get(b('small4999'))).to.deep.equal(b('4999'));
        const page = await place.settle(store.page({ gte: b('big'), lt: b('bih'), limit: 2 }));
        expect(page.entries[0]?.[1].equals(big)).to.equal(true);
      });
    });

    describe('together', () => {
      it('pages and batches at the same time: every page is from one moment, no later than its answer', async () => {
        // Each batch sets all keys to its number, so a page that mixes two of them shows it.
        const keys = Array.from({ length: 40 }, (_, i) => `k${String(i).padStart(2, '0')}`);
        let done = 0;
        const setAll = (round: number): Promise<void> =>
          write((batch) => keys.forEach((key) => batch.put(b(key), b(String(round))))).then(() => {
            done = round;
          });
        const writer = async (): Promise<void> => {
          for (let round = 1; round <= 60; round += 1) await setAll(round);
        };
        const reader = async (reverse: boolean): Promise<void> => {
          while (done < 60) {
            const before = done;
            const page = await store.page({ gte: b('k'), lt: b('l'), limit: 100, reverse });
            const rounds = new Set(page.entries.map(([, value]) => value.toString()));
            expect(rounds.size, [...rounds].join(' ')).to.be.at.most(1);
            expect(Number([...rounds][0] ?? 0)).to.be.at.least(before);
          }
        };
        await place.settle(setAll(1));
        await place.settle(Promise.all([writer(), ...Array.from({ length: 12 }, (_, i) => reader(i % 2 === 0))]));
      });

      it('neither pages nor batches starve', async () => {
        let pages = 0;
        let batches = 0;
        let running = true;
        const reader = async (): Promise<void> => {
          while (running) {
            await store.page({ gte: EMPTY, lt: EMPTY, limit: 10 });
            pages += 1;
          }
        };
        const writer = async (key: string): Promise<void> => {
          while (running) {
            await write((batch) => batch.put(b(key), b('x')));
            batches += 1;
          }
        };
        const watch = async (): Promise<void> => {
          // Ends only if both sides get on.
          while (pages < 300 || batches < 100) await store.page({ gte: EMPTY, lt: EMPTY, limit: 1 });
          running = false;
        };
        const crowd = Array.from({ length: 20 }, (_, i) => [reader(), writer(`w${i}`)]).flat();
        await place.settle(Promise.all([watch(), ...crowd]));
      });

      it('agree with a plain map over any sequence of operations and reopenings', async function () {
        this.timeout(60_000);
        await fc.assert(fc.asyncProperty(fc.array(step, { maxLength: 30 }), runModel), { numRuns: 25 });
      });

      const runModel = async (steps: Step[]): Promise<void> => {
        const clear = store.batch();
        const old = await place.settle(store.page({ gte: EMPTY, lt: EMPTY, limit: 10_000 }));
        for (const [key] of old.entries) clear.del(key);
        await place.settle(clear.write());
        const model = new Map<string, Bytes>();
        for (const { reopens, operations, page } of steps) {
          const batch = store.batch();
          for (const [key, value] of operations) {
            if (value === undefined) {
              batch.del(key);
              model.delete(key.toString('hex'));
            } else {
              batch.put(key, value);
              model.set(key.toString('hex'), value);
            }
          }
          await place.settle(batch.write());
          if (reopens) await reopen();
          for (const [key] of operations) expect(store.get(key)).to.deep.equal(model.get(key.toString('hex')));
          const inRange = [...model]
            .map(([hex, value]) => [Buffer.from(hex, 'hex'), value] as const)
            .filter(([key]) => key.compare(page.gte) >= 0 && (page.lt.length === 0 || key.compare(page.lt) < 0))
            .sort(([a], [c]) => (page.reverse ? c.compare(a) : a.compare(c)));
          const answer = await place.settle(store.page(page));
          const count = answer.entries.length;
          expect(answer.entries).to.deep.equal(inRange.slice(0, count));
          expect(count).to.be.at.most(page.limit);
          if (!answer.more) expect(count).to.equal(inRange.length);
          else expect(count).to.be.at.least(1);
          const bytes = answer.entries.slice(0, -1).reduce((sum, [key, value]) => sum + key.length + value.length, 0);
          expect(bytes).to.be.below(page.bytesMax);
        }
      };
    });

    describe('lifetime', () => {
      it('what was written is there after the disk was closed and opened again', async () => {
        await put({ a: '1', b: '2' });
        await place.settle(write((batch) => batch.del(b('a'))));
        await reopen();
        expect((await read()).text).to.equal('b=2');
      });

      it('stores of different names are apart', async () => {
        const log = await place.settle(disk.openStore('log', { writeBufferBytes: 1 << 20, cacheBytes: 1 << 20 }));
        await put({ a: '1' });
        expect(log.get(b('a'))).to.equal(undefined);
        await place.settle(log.close());
        const again = await place.settle(disk.openStore('log'));
        expect((await place.settle(again.page({ gte: EMPTY, lt: EMPTY, limit: 1 }))).entries).to.have.length(0);
      });

      it('close waits for what is under way and refuses what comes later', async () => {
        const unwritten = store.batch();
        const writes = [1, 2, 3].map((i) => write((batch) => batch.put(b(`k${i}`), b('v'))));
        const page = store.page({ gte: EMPTY, lt: EMPTY, limit: 10 });
        let underWay = writes.length + 1;
        const all = [...writes, page].map((work) => work.then(() => (underWay -= 1)));
        const leftAtClose = store.close().then(() => underWay);
        expectClosed(() => store.get(b('k1')));
        expectClosed(() => store.batch());
        expectClosed(() => unwritten.put(b('k4'), b('v')));
        const rejected = store.page({ gte: EMPTY, lt: EMPTY, limit: 1 }).catch((error: unknown) => error);
        expect(await place.settle(leftAtClose)).to.equal(0);
        await place.settle(Promise.all(all));
        expect(await place.settle(rejected)).to.have.property('reason', 'STORE_CLOSED');
        store = await place.settle(disk.openStore('state'));
        expect((await read()).text).to.equal('k1=v k2=v k3=v');
      });

      it('a directory in use is refused by name, and free again once it was closed', async () => {
        const error: unknown = await place.settle(place.open().catch((reason: unknown) => reason));
        expect(error).to.be.instanceOf(TidemarkError);
        expect(error).to.include({ code: 'FAILED_PRECONDITION', reason: 'DATA_DIRECTORY_IN_USE', outcome: 'none' });
        expect((error as TidemarkError).message).to.include(disk.place);
        await put({ still: 'works' });
        await reopen();
        expect((await read()).text).to.equal('still=works');
      });
    });

    describe('files', () => {
      it('are replaced as a whole and found again', async () => {
        expect(await place.settle(disk.readFile('identity'))).to.equal(undefined);
        await place.settle(disk.writeFile('identity', b('a longer first content')));
        await place.settle(disk.writeFile('identity', b('second')));
        expect(await place.settle(disk.readFile('identity'))).to.deep.equal(b('second'));
        await reopen();
        expect(await place.settle(disk.readFile('identity'))).to.deep.equal(b('second'));
        await place.settle(disk.writeFile('identity', EMPTY));
        expect(await place.settle(disk.readFile('identity'))).to.deep.equal(EMPTY);
      });

      it('written at the same time end up as the last call said', async () => {
        const writes = Array.from({ length: 10 }, (_, i) => disk.writeFile('identity', b(`content ${i}`)));
        await place.settle(Promise.all(writes));
        expect(await place.settle(disk.readFile('identity'))).to.deep.equal(b('content 9'));
      });
    });
  });
}

interface Step {
  readonly reopens: boolean;
  readonly operations: [Bytes, Bytes | undefined][];
  readonly page: PageOptions & { readonly bytesMax: number; readonly reverse: boolean };
}

// Few and short keys, so that operations meet, with the bytes at which orders go wrong.
const keyBytes = fc.array(fc.constantFrom(0, 1, 0x7f, 0x80, 0xff), { minLength: 1, maxLength: 3 });
const key = keyBytes.map((bytes) => Buffer.from(bytes));
const bound = fc.option(key, { nil: EMPTY, freq: 4 });
const value = fc.uint8Array({ maxLength: 12 }).map((bytes) => Buffer.from(bytes));
const operation = fc.tuple(key, fc.option(value, { nil: undefined, freq: 3 }));
const step: fc.Arbitrary<Step> = fc.record({
  reopens: fc.integer({ min: 0, max: 9 }).map((n) => n === 0),
  operations: fc.array(operation, { maxLength: 12 }),
  page: fc.record({
    gte: bound,
    lt: bound,
    reverse: fc.boolean(),
    limit: fc.integer({ min: 1, max: 20 }),
    bytesMax: fc.integer({ min: 1, max: 100 }),
  }),
});

function expectClosed(call: () => unknown): void {
  try {
    call();
  } catch (error) {
    expect(error).to.have.property('reason', 'STORE_CLOSED');
    return;
  }
  expect.fail('a closed store answered');
}

function b(text: string): Bytes {
  return Buffer.from(text);
}
