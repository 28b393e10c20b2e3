import { expect } from 'chai';
import type { BucketState } from '../../src/bucket/state.js';
import { Strides } from '../../src/bucket/strides.js';
import { TidemarkError } from '../../src/lib/errors.js';
import { walk, versionAsOf } from '../../src/mvcc/reader.js';
import {
  compareVersions,
  decodePointer,
  decodeRecord,
  decodeVersionId,
  encodePointer,
  encodeRecord,
  encodeVersionId,
  NO_VERSION,
  PERIOD,
  pointerKey,
  pointerOfKey,
  pointerRange,
  sectionBefore,
  sectionBehind,
  sectionOf,
  slotOfVersionKey,
  versionBounds,
  versionKey,
  versionOfKey,
  type VersionId,
} from '../../src/mvcc/records.js';

const b = (text: string): Buffer => Buffer.from(text);

/** A state with versions of one key at the given timestamps; `gone` are removed by garbage collection. */
function timeline(timestamps: number[], gone: number[] = []): { get: (key: Buffer) => Buffer | undefined; latest: VersionId } {
  const stored = new Map<string, Buffer>();
  let previous: VersionId = NO_VERSION;
  timestamps.forEach((timestamp, position) => {
    const id = { timestamp, index: position + 1, position: 0 };
    const record = { key: b('k'), deleted: false, value: b(`at ${timestamp}`), previous };
    if (!gone.includes(timestamp)) stored.set(versionKey(1, id).toString('hex'), encodeRecord(record));
    previous = id;
  });
  return { get: (key) => stored.get(key.toString('hex')), latest: previous };
}

describe('version records', () => {
  it('keeps its layout on disk', () => {
    const id = { timestamp: 2 ** 52 + 5, index: 7, position: 2 };
    const previous = { timestamp: 3, index: 2, position: 1 };
    expect(versionKey(9, id).toString('hex')).to.equal(
      '76' + '08000000' + '00000009' + '0010000000000005' + '0000000000000007' + '0002',
    );
    expect(encodeVersionId(id).toString('hex')).to.equal('0010000000000005' + '0000000000000007' + '0002');
    expect(pointerKey(9, b('a\0b')).toString('hex')).to.equal('6b6100ff62000100000009');
    expect(encodePointer({ ...id, deleted: true }).toString('hex')).to.equal(
      'b4ee88ca' + '001000000000000500000000000000070002' + '01',
    );
    expect(encodeRecord({ key: b('k'), deleted: false, value: b('v'), previous }).toString('hex')).to.equal(
      'a7cbf1b5' + '01' + '00' + '000000000000000300000000000000020001' + '0001' + '6b' + '76',
    );
  });

  it('reads back what it wrote', () => {
    const id = { timestamp: 2 ** 53 - 1, index: 2 ** 40, position: 65_535 };
    expect(versionOfKey(versionKey(3, id))).to.deep.equal(id);
    expect(slotOfVersionKey(versionKey(3, id))).to.equal(3);
    expect(decodeVersionId(encodeVersionId(id))).to.deep.equal(id);
    expect(decodePointer(encodePointer({ ...id, deleted: false }))).to.deep.equal({ ...id, deleted: false });
    expect(pointerOfKey(pointerKey(3, b('x\0')))).to.deep.equal({ key: b('x\0'), slot: 3 });
    const record = { key: b('key'), deleted: true, value: b(''), previous: id };
    expect(decodeRecord(encodeRecord(record))).to.deep.equal(record);
  });

  it('refuses bytes that name no version', () => {
    for (const hex of ['', '00', '0020000000000000' + '0000000000000001' + '0000', '0000000000000001' + 'ffffffffffffffff' + '0000']) {
      expect(() => decodeVersionId(Buffer.from(hex, 'hex')), hex).to.throw(RangeError);
    }
  });

  it('notices a flipped bit', () => {
    const data = encodeRecord({ key: b('key'), deleted: false, value: b('value'), previous: NO_VERSION });
    for (let at = 0; at < data.length; at += 1) {
      const bad = Buffer.from(data);
      bad[at] = (bad[at] ?? 0) ^ 4;
      expect(() => decodeRecord(bad), `byte ${at}`).to.throw(TidemarkError, 'checksum');
    }
  });

  it('orders records as their keys', () => {
    const ids: VersionId[] = [];
    for (const timestamp of [0, 1, PERIOD - 1, PERIOD, 2 ** 33, 2 ** 53 - 1]) {
      for (const index of [1, 2 ** 34]) for (const position of [0, 300]) ids.push({ timestamp, index, position });
    }
    for (const x of ids) {
      for (const y of ids) {
        expect(Buffer.compare(versionKey(1, x), versionKey(1, y))).to.equal(Math.sign(compareVersions(x, y)));
      }
    }
  });

  it('lets the period come before the slot, and the slot before the timestamp', () => {
    const keys = [[9, 0], [1, PERIOD], [2, PERIOD], [2, 2 * PERIOD - 1], [3, PERIOD], [1, 2 * PERIOD]] as const;
    const written = keys.map(([slot, timestamp]) => versionKey(slot, { timestamp, index: 1, position: 0 }));
    expect([...written].sort((a, b) => Buffer.compare(a, b))).to.deep.equal(written);
  });

  it('bounds the versions of a slot in a range of time', () => {
    const [from, to] = [3 * PERIOD + 5, 6 * PERIOD - 1];
    const { gte, lt } = versionBounds(4, from, to);
    const inside = (slot: number, id: Partial<VersionId>): boolean => {
      const at = versionKey(slot, { ...NO_VERSION, ...id });
      return Buffer.compare(at, gte) >= 0 && Buffer.compare(at, lt) < 0;
    };
    expect(inside(4, { timestamp: from })).to.equal(true);
    expect(inside(4, { timestamp: to, index: 2 ** 53 - 1, position: 65_535 })).to.equal(true);
    expect(inside(4, { timestamp: from - 1, index: 2 ** 53 - 1, position: 65_535 })).to.equal(false);
    expect(inside(4, { timestamp: to + 1 })).to.equal(false);
    const all = versionBounds(4, 0, 2 ** 53 - 1);
    const last = versionKey(4, { timestamp: 2 ** 53 - 1, index: 2 ** 53 - 1, position: 65_535 });
    expect(Buffer.compare(versionKey(4, NO_VERSION), all.gte)).to.equal(0);
    expect(Buffer.compare(last, all.lt)).to.equal(-1);
  });

  it('leads from the record of another slot to the sections before and behind it', () => {
    const at = (slot: number, timestamp: number): Buffer => versionKey(slot, { timestamp, index: 1, position: 0 });
    const [first, last] = [7 * PERIOD, 8 * PERIOD - 1];
    const order = (a: Buffer, b: Buffer): number => Buffer.compare(a, b);
    for (const [behind, start] of [[at(3, first + 9), first], [at(6, first + 9), last + 1]] as const) {
      expect(order(sectionBehind(5, behind), at(5, start))).to.equal(-1);
      expect(order(sectionBehind(5, behind), at(4, start + PERIOD - 1))).to.equal(1);
    }
    for (const [before, end] of [[at(6, first + 9), last], [at(3, first + 9), first - 1]] as const) {
      expect(order(sectionBefore(5, before), at(5, end))).to.equal(1);
      expect(order(sectionBefore(5, before), at(6, end - PERIOD + 1))).to.equal(-1);
    }
    expect(order(sectionBefore(5, at(3, 9)), at(0, 0)), 'nothing is before period 0').to.equal(-1);
    const { gte, lt } = sectionOf(at(5, first + 9));
    expect([at(4, last), at(5, first), at(5, last), at(6, first)].map((key) => order(key, gte) >= 0 && order(key, lt) < 0)).to.deep.equal([
      false, true, true, false,
    ]);
  });

  it('bounds the pointers of a range of keys over all slots', () => {
    const { gte, lt } = pointerRange(b('b'), b('d'));
    const inside = (key: string, slot: number): boolean => {
      const at = pointerKey(slot, b(key));
      return Buffer.compare(at, gte) >= 0 && Buffer.compare(at, lt) < 0;
    };
    expect(['a\xff', 'b', 'b\0', 'c\xff', 'd'].map((key) => inside(key, 0xffff_ffff))).to.deep.equal([
      false, true, true, true, false,
    ]);
    expect(inside('b', 0)).to.equal(true);
    expect(inside('d', 0)).to.equal(false);
  });
});

describe('reading versions', () => {
  it('takes a pause behind every few hundred links of a long chain, over all that one request looks for', async () => {
    const { get, latest } = timeline(Array.from({ length: 1000 }, (_, at) => 10 + at));
    let pauses = 0;
    const strides = new Strides(() => Promise.resolve().then(() => void (pauses += 1)));
    const state = { store: { get }, slot: 1, horizon: 0, checkStands: () => undefined } as unknown as BucketState;
    const at = async (timestamp: number): Promise<number | undefined> =>
      (await strides.versionAsOf(state, latest, timestamp))?.id.timestamp;
    expect(await at(909)).to.equal(909);
    expect(pauses).to.equal(0);
    expect(await at(10)).to.equal(10);
    expect(pauses).to.equal(2);
    expect(await at(9)).to.equal(undefined);
    expect(pauses).to.equal(5);
  });

  it('finds the version of every moment', () => {
    const { get, latest } = timeline([10, 20, 30]);
    const at = (timestamp: number): string | undefined =>
      versionAsOf({ get }, 1, latest, timestamp, 0, Infinity).found?.record.value.toString();
    expect([9, 10, 19, 20, 30, 99].map(at)).to.deep.equal([undefined, 'at 10', 'at 10', 'at 20', 'at 30', 'at 30']);
    const { found, further, links } = versionAsOf({ get }, 1, latest, 10, 0, 2);
    expect([found, further?.timestamp, links], 'no further than it may').to.deep.equal([undefined, 10, 2]);
    expect(versionAsOf({ get }, 1, further ?? latest, 10, 0, 2).found?.id.timestamp).to.equal(10);
  });

  it('ends where garbage collection removed the predecessor of a version at or below the horizon', () => {
    const { get, latest } = timeline([10, 20, 30], [10]);
    const seen = [...walk({ get }, 1, latest, 20)].map(({ id }) => id.timestamp);
    expect(seen).to.deep.equal([30, 20]);
  });

  it('reports a record above the horizon that is missing', () => {
    const { get, latest } = timeline([10, 20, 30], [20]);
    expect(() => [...walk({ get }, 1, latest, 15)]).to.throw(TidemarkError, 'not on disk');
  });
});
