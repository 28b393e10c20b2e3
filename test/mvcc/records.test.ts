import { expect } from 'chai';
import { TidemarkError } from '../../src/lib/errors.js';
import { walk, versionAsOf } from '../../src/mvcc/reader.js';
import {
  compareVersions,
  decodePointer,
  decodeRecord,
  encodePointer,
  encodeRecord,
  NO_VERSION,
  pointerKey,
  pointerOfKey,
  pointerRange,
  versionKey,
  versionOfKey,
  versionRange,
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
    expect(versionKey(9, id).toString('hex')).to.equal('61000000090010000000000005' + '00000000000000070002');
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
    expect(decodePointer(encodePointer({ ...id, deleted: false }))).to.deep.equal({ ...id, deleted: false });
    expect(pointerOfKey(pointerKey(3, b('x\0')))).to.deep.equal({ key: b('x\0'), slot: 3 });
    const record = { key: b('key'), deleted: true, value: b(''), previous: id };
    expect(decodeRecord(encodeRecord(record))).to.deep.equal(record);
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
    for (const timestamp of [0, 1, 2 ** 33]) {
      for (const index of [1, 2 ** 34]) for (const position of [0, 300]) ids.push({ timestamp, index, position });
    }
    for (const x of ids) {
      for (const y of ids) {
        expect(Buffer.compare(versionKey(1, x), versionKey(1, y))).to.equal(Math.sign(compareVersions(x, y)));
      }
    }
    const { gte, lt } = versionRange(1);
    expect(Buffer.compare(versionKey(1, { timestamp: 2 ** 53 - 1, index: 2 ** 53 - 1, position: 65_535 }), lt)).to.equal(-1);
    expect(Buffer.compare(versionKey(0, { timestamp: 2 ** 53 - 1, index: 9, position: 0 }), gte)).to.equal(-1);
    expect(Buffer.compare(versionKey(2, NO_VERSION), lt)).to.equal(1);
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
  it('finds the version of every moment', () => {
    const { get, latest } = timeline([10, 20, 30]);
    const at = (timestamp: number): string | undefined =>
      versionAsOf({ get }, 1, latest, timestamp, 0)?.record.value.toString();
    expect([9, 10, 19, 20, 30, 99].map(at)).to.deep.equal([undefined, 'at 10', 'at 10', 'at 20', 'at 30', 'at 30']);
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
