import { expect } from 'chai';
import fc from 'fast-check';
import { decayed, HALF_LIFE_MS, HeatMeter, REPORT_BUCKETS_MAX, REPORT_KEYS_MAX } from '../../src/placement/heat.js';
import { reportFromArray, reportToArray } from '../../src/placement/heat-format.js';
import { HeatReports } from '../../src/placement/heat-summary.js';
import { bucketOf } from '../../src/placement/map.js';

const rate = fc.double({ min: 0, max: 1e6, noNaN: true });
const elapsed = fc.double({ min: 1, max: 60_000, noNaN: true });
const BUCKETS = 64;
const meterOf = (): HeatMeter => new HeatMeter((key) => bucketOf(key, BUCKETS));
const bytes = (text: string): Buffer => Buffer.from(text);

/** So many reads a second of a key, for some seconds. */
function readFor(meter: HeatMeter, seconds: number, perSecond: Readonly<Record<string, number>>): void {
  for (let second = 0; second < seconds; second += 1) {
    for (const [name, count] of Object.entries(perSecond)) {
      const key = bytes(name);
      for (let n = 0; n < count; n += 1) meter.read(bucketOf(key, BUCKETS), key, 100);
    }
    meter.tick(1000);
  }
}

describe('a decayed rate', () => {
  it('lies between what was and what is, and halves in a half-life', () => {
    fc.assert(
      fc.property(rate, rate, elapsed, (was, is, ms) => {
        expect(decayed(was, is, ms)).to.be.within(Math.min(was, is) * (1 - 1e-9), Math.max(was, is) * (1 + 1e-9));
      }),
    );
    expect(decayed(100, 0, HALF_LIFE_MS)).to.equal(50);
    expect(decayed(0, 100, HALF_LIFE_MS)).to.equal(50);
  });

  it('is the same in whatever pieces time passes', () => {
    fc.assert(
      fc.property(rate, rate, elapsed, elapsed, (was, is, a, b) => {
        expect(decayed(decayed(was, is, a), is, b)).to.be.closeTo(decayed(was, is, a + b), 1e-9 * (was + is + 1));
      }),
    );
  });
});

describe('the heat of a node', () => {
  it('comes near to what is asked of it, by bucket and by key', () => {
    const meter = meterOf();
    readFor(meter, 60, { hot: 2000, warm: 200 });
    const report = meter.report();
    expect(report?.reads).to.be.closeTo(2200, 50);
    expect(report?.bytes).to.be.closeTo(220_000, 5000);
    expect(report?.buckets[0]?.bucket).to.equal(bucketOf(bytes('hot'), BUCKETS));
    expect(report?.buckets[0]?.reads).to.be.closeTo(2000, 50);
    expect(report?.keys.map(({ key }) => key.toString())).to.deep.equal(['hot', 'warm']);
    expect(report?.keys[0]?.reads).to.be.closeTo(2000, 200);
    expect(report?.keys[1]?.reads).to.be.closeTo(200, 60);
  });

  it('is noticed within seconds, the sooner the hotter it is', () => {
    const meter = meterOf();
    readFor(meter, 2, { hot: 15_000 });
    expect(meter.report()?.reads).to.be.above(1900);
  });

  it('names a hot key among many others that come now and then', () => {
    const meter = meterOf();
    for (let second = 0; second < 20; second += 1) {
      for (let n = 0; n < 4000; n += 1) {
        const key = bytes(n % 4 === 0 ? 'hot' : `other-${second * 4000 + n}`);
        meter.read(bucketOf(key, BUCKETS), key, 1);
      }
      meter.tick(1000);
    }
    const [hottest, next] = meter.report()?.keys ?? [];
    expect(hottest?.key.toString()).to.equal('hot');
    expect(hottest?.reads).to.be.within(500, 1100);
    expect(next?.reads ?? 0).to.be.below(50);
  });

  it('is told in few words, and not at all when there is none', () => {
    const meter = meterOf();
    expect(meter.report()).to.equal(undefined);
    for (let bucket = 0; bucket < 1000; bucket += 1) {
      for (let n = 0; n < 100; n += 1) meter.read(bucket, bytes(`${'k'.repeat(4000)}${n}`), 1);
    }
    meter.tick(1000);
    const report = meter.report();
    expect(report?.buckets).to.have.lengthOf(REPORT_BUCKETS_MAX);
    expect(report?.keys.length).to.be.at.most(REPORT_KEYS_MAX);
    expect(report?.keys.reduce((sum, { key }) => sum + key.length, 0)).to.be.at.most(8192);
    for (let second = 0; second < 120; second += 1) meter.tick(1000);
    expect(meter.report()).to.equal(undefined);
    expect(meter.rates).to.deep.equal({ reads: 0, writes: 0, bytes: 0 });
  });

  it('is read as it was written', () => {
    const meter = meterOf();
    readFor(meter, 3, { a: 100, b: 50 });
    meter.write(3, 10);
    meter.tick(1000);
    const report = meter.report();
    if (report === undefined) throw new Error('nothing is warm');
    expect(reportFromArray(reportToArray(report))).to.deep.equal(report);
    expect(() => reportFromArray([1, 2, 3, [1], []])).to.throw(RangeError);
    expect(() => reportFromArray([1, 2, 3, [], ['k', 1, 1]])).to.throw(RangeError);
    expect(() => reportFromArray([1, 2, -3, [], []])).to.throw(RangeError);
  });
});

describe('the heat of a cluster', () => {
  it('is the sum of what was told lately', () => {
    const reports = new HeatReports();
    const rates = { reads: 10, writes: 2, bytes: 30 };
    const keys = [{ key: bytes('k'), bucket: 1, reads: 9 }];
    reports.heard(1, { ...rates, buckets: [{ bucket: 1, ...rates }], keys }, 0);
    reports.heard(2, { ...rates, buckets: [{ bucket: 1, ...rates }, { bucket: 2, ...rates }], keys }, 3000);
    const both = reports.summary(3500);
    expect(both.buckets.get(1)).to.deep.equal({ bucket: 1, reads: 20, writes: 4, bytes: 60 });
    expect(both.keys).to.deep.equal([{ key: bytes('k'), bucket: 1, reads: 18 }]);
    expect([...both.nodes.keys()]).to.deep.equal([1, 2]);
    const later = reports.summary(4000);
    expect(later.buckets.get(1)?.reads).to.equal(10);
    expect([...later.nodes.keys()]).to.deep.equal([2]);
    expect(reports.summary(60_000).buckets.size).to.equal(0);
  });
});
