import { expect } from 'chai';
import { benchKey, benchValue, keyPicker, seededRandom } from '../../src/cli/bench/keys.js';
import { runLoad, type Driver, type RunOptions } from '../../src/cli/bench/run.js';
import { report } from '../../src/cli/bench/command.js';
import { TidemarkError } from '../../src/lib/errors.js';

const OPTIONS: RunOptions = {
  load: 'mixed',
  inFlight: 8,
  distribution: 'uniform',
  keys: 100,
  valueBytes: 16,
  readShare: 0.5,
  warmupMs: 20,
  durationMs: 100,
  seed: 1,
  signal: new AbortController().signal,
};

const driverOf = (operations: Partial<Driver>): Driver => ({
  name: 'memory',
  get: turn,
  put: turn,
  close: () => Promise.resolve(),
  ...operations,
});

function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

describe('the benchmark', () => {
  it('draws the same keys for the same seed', () => {
    const draw = (seed: number): number[] => {
      const pick = keyPicker('zipf', 1000, seededRandom(seed));
      return Array.from({ length: 50 }, pick);
    };
    expect(draw(1)).to.deep.equal(draw(1));
    expect(draw(1)).not.to.deep.equal(draw(2));
  });

  it('draws every key alike, or by Zipf', () => {
    const draws = 100_000;
    const count = (distribution: 'uniform' | 'zipf'): number[] => {
      const pick = keyPicker(distribution, 100, seededRandom(7));
      const counts = new Array<number>(100).fill(0);
      for (let drawn = 0; drawn < draws; drawn += 1) {
        const key = pick();
        counts[key] = (counts[key] ?? 0) + 1;
      }
      return counts;
    };
    const uniform = count('uniform');
    expect(Math.min(...uniform)).to.be.greaterThan(850);
    expect(Math.max(...uniform)).to.be.lessThan(1150);
    // Rank 1 of 100 has 1 / sum(1 / r^0.99) = 19.0 % of the draws, rank 10 has 10^-0.99 of that.
    const zipf = count('zipf');
    expect((zipf[0] ?? 0) / draws).to.be.closeTo(0.19, 0.01);
    expect((zipf[9] ?? 0) / (zipf[0] ?? 1)).to.be.closeTo(10 ** -0.99, 0.02);
  });

  it('has keys in order and values that do not compress to nothing', () => {
    expect(benchKey(42).toString()).to.equal('bench/000000042');
    expect(new Set(benchValue(256, seededRandom(1))).size).to.be.greaterThan(100);
  });

  it('keeps the asked number of operations in flight and counts both kinds', async () => {
    let running = 0;
    let most = 0;
    const work = async (): Promise<void> => {
      running += 1;
      most = Math.max(most, running);
      await turn();
      running -= 1;
    };
    const result = await runLoad(driverOf({ get: work, put: work }), OPTIONS);
    expect(most).to.equal(8);
    expect(running).to.equal(0);
    expect(result.all.count).to.equal((result.get?.count ?? 0) + (result.put?.count ?? 0));
    expect(result.get?.count).to.be.greaterThan(0);
    expect(result.put?.count).to.be.greaterThan(0);
    expect(result.throughput).to.be.closeTo(result.all.count / 0.1, 1);
    expect(result.all.p50Ms).to.be.at.most(result.all.p999Ms);
    expect(result.errors).to.equal(0);
  });

  it('counts errors by code, apart from what succeeded', async () => {
    const refused = new TidemarkError('UNAVAILABLE', 'NO_LEADER', 'bucket 7 has no leader');
    const result = await runLoad(driverOf({ put: () => Promise.reject(refused) }), OPTIONS);
    expect(result.put).to.equal(undefined);
    expect(result.get?.count).to.be.greaterThan(0);
    expect(result.errorCodes).to.deep.equal({ UNAVAILABLE: result.errors });
    expect(result.firstError).to.equal('bucket 7 has no leader');
    const text = report([result]);
    expect(text).to.match(/^driver {2}keys +load +in flight +ops\/s +p50 ms +p99 ms +p999 ms +max ms +errors\n/);
    expect(text).to.match(/\nmemory +uniform +mixed +8 +\d+ /);
    expect(text).to.match(/memory mixed at 8: \{"UNAVAILABLE":\d+\}, the first: bucket 7 has no leader/);
  });

  it('counts attempts of transactions that met a conflict, and has none without a driver for them', async () => {
    const tries = [1, 3];
    let done = 0;
    const transact = async (keys: readonly Buffer[]): Promise<number> => {
      await turn();
      expect(keys.map(String).join()).to.match(/^bench\/\{(\d+)\}a,bench\/\{\1\}b$/);
      done += 1;
      return tries[done % 2] ?? 0;
    };
    const result = await runLoad(driverOf({ transact }), { ...OPTIONS, load: 'txn' });
    expect(result.txn?.count).to.equal(result.all.count).and.to.be.greaterThan(0);
    expect(result.abortRate).to.be.closeTo(0.5, 0.1);
    expect(report([result])).to.match(/memory txn at 8, uniform: \d+\.\d % of the attempts met a conflict/);
    expect((await runLoad(driverOf({}), { ...OPTIONS, load: 'txn' })).firstError).to.equal('the driver memory has no transactions');
  });

  it('writes two keys at a time, of two buckets if they are to be spread, and counts that as puts', async () => {
    const written: string[] = [];
    const write = async (keys: readonly Buffer[]): Promise<void> => {
      await turn();
      written.push(keys.map(String).join());
    };
    const together = await runLoad(driverOf({ write }), { ...OPTIONS, load: 'write' });
    expect(together.put?.count).to.equal(together.all.count).and.to.be.greaterThan(0);
    expect(written[0]).to.match(/^bench\/\{(\d+)\}a,bench\/\{\1\}b$/);
    written.length = 0;
    await runLoad(driverOf({ write }), { ...OPTIONS, load: 'write-spread' });
    expect(written.filter((keys) => !/\{(\d+)\}a.*\{\1\}b/.test(keys)).length).to.be.greaterThan(0);
    const unable = await runLoad(driverOf({}), { ...OPTIONS, load: 'write' });
    expect(unable.firstError).to.equal('the driver memory has no Writes of several keys');
  });

  it('measures how far a change stream is behind the puts, at the rate that was asked for', async () => {
    const lagMs = 30;
    let told: (value: Buffer) => void = () => undefined;
    let stopped = false;
    const following = driverOf({
      put: async (_key, value) => {
        await turn();
        setTimeout(() => told(value), lagMs);
      },
      follow: (tell) => {
        told = tell;
        return Promise.resolve({
          stop: () => {
            stopped = true;
            return Promise.resolve();
          },
        });
      },
    });
    const result = await runLoad(following, { ...OPTIONS, load: 'stream', rate: 200, valueBytes: 2, durationMs: 500 });
    expect(result.errors).to.equal(0);
    // What a busy machine did not come to in the warm-up follows, but no more than was due in all.
    expect(result.put?.count).to.be.within(50, 112);
    expect(result.lag?.count).to.be.within(50, 112);
    expect(result.lag?.p50Ms).to.be.within(lagMs - 2, 10 * lagMs);
    expect(stopped).to.equal(true);
    expect(report([result])).to.match(/memory stream at 8, uniform: changes \d+\.\d\d ms behind their acknowledgements at p50, /);
  });

  it('takes a change that comes before its acknowledgement for no lag, and says what was never told', async () => {
    let told: (value: Buffer) => void = () => undefined;
    let puts = 0;
    const early = driverOf({
      put: async (_key, value) => {
        puts += 1;
        if (puts !== 3) told(value);
        await turn();
      },
      follow: (tell) => {
        told = tell;
        return Promise.resolve({ stop: () => Promise.resolve() });
      },
    });
    const result = await runLoad(early, { ...OPTIONS, load: 'stream', rate: 100, lagPatienceMs: 50 });
    expect(result.lag?.maxMs).to.be.below(0.1);
    expect(result.errorCodes).to.deep.equal({ UNTOLD: 1 });
    expect(result.firstError).to.equal('the change stream did not tell 1 puts that were acknowledged');
  });

  it('stops when it is told to', async () => {
    const controller = new AbortController();
    const passed = (): void => controller.abort();
    const result = await runLoad(driverOf({}), { ...OPTIONS, durationMs: 60_000, signal: controller.signal, passed });
    expect(result.seconds).to.be.lessThan(60);
    expect(result.cutShort).to.equal(true);
    expect(report([result])).to.match(/\nmemory mixed at 8, uniform: cut short after \d+\.\d s\n/);
  });
});
