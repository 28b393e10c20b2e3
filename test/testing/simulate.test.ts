import { randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { setTimeout as laterFromModule } from 'node:timers/promises';
import { expect } from 'chai';
import { isTidemarkError } from '../../src/client/index.js';
import { plantMutant } from '../../src/lib/mutants.js';
import { simulate, simulateMany, SimulationError, StrayError, type Body, type SimulateOptions } from '../../src/sim/testing/index.js';

/** Before anybody replaces it. */
const realTimeout = setTimeout;

async function failureOf(options: SimulateOptions, body: Body): Promise<SimulationError> {
  try {
    await simulate(options, body);
  } catch (error) {
    if (error instanceof SimulationError) return error;
    throw error;
  }
  throw new Error('it did not fail');
}

/** Some clients that read and write, with pauses and chance. */
const work: Body = async (world) => {
  const client = async (): Promise<void> => {
    const db = await world.connect();
    for (let count = 0; count < 10; count += 1) {
      const key = `k${world.random.below(5)}`;
      try {
        await db.put(key, `${count} ${Math.random()} ${randomUUID()} ${Date.now()}`, { timeoutMs: 1000 });
        for await (const entry of db.scan({ timeoutMs: 1000 })) await laterFromModule(entry.value.length % 7);
      } catch (error) {
        if (!isTidemarkError(error)) throw error;
      }
      await new Promise((resolve) => setTimeout(resolve, 100 * world.random.float()));
    }
  };
  await Promise.all([client(), client(), client()]);
};

describe('simulate', function () {
  this.timeout(60_000);

  it('gives the same run for the same seed, and another for another', async () => {
    for (const faults of ['none', 'swarm'] as const) {
      const [one, again, other] = [await simulate({ seed: 3, faults }, work), await simulate({ seed: 3, faults }, work), await simulate({ seed: 4, faults }, work)];
      expect(again.trace, faults).to.equal(one.trace);
      expect(again.events).to.equal(one.events);
      expect(again.log).to.deep.equal(one.log);
      expect(other.trace).not.to.equal(one.trace);
      expect(one.trace).to.match(/^[0-9a-f]{64}$/);
    }
  });

  it('fails with the seed, how to run it again, and the error of the test', async () => {
    const failure = await failureOf({ seed: 'my seed' }, async (world) => {
      world.log('about to fail', { because: 'it must' });
      expect({ a: 1 }).to.deep.equal({ a: 2 });
    });
    expect(failure.message).to.match(/^seed my seed: AssertionError: expected \{ a: 1 \} to deeply equal \{ a: 2 \}\n/);
    expect(failure.message).to.include("replay: TIDEMARK_SIM_SEED='my seed' npx mocha test/testing/simulate.test.ts\n");
    expect(failure.message).to.match(/^trace: [0-9a-f]{64}, of tidemark \d+\.\d+\.\d+$/m);
    expect(failure.message).to.match(/^ +\d+\.\d{3} ms {2}- +about to fail {2}because="it must"$/m);
    expect(failure).to.deep.include({ actual: { a: 1 }, expected: { a: 2 } });
    expect(failure.cause).to.have.property('name', 'AssertionError');
    expect(failure.trace).to.match(/^[0-9a-f]{64}$/);
  });

  it('runs the seed that the environment names, and no other', async () => {
    const seen: string[] = [];
    const note: Body = async (world) => void seen.push(world.seed);
    await simulateMany({ seeds: '1..3' }, note);
    process.env['TIDEMARK_SIM_SEED'] = '8';
    try {
      await simulate({ seed: 1 }, note);
      await simulateMany({ seeds: '1..3' }, note);
    } finally {
      delete process.env['TIDEMARK_SIM_SEED'];
    }
    process.env['TIDEMARK_SIM_SEEDS'] = '5..6';
    try {
      await simulateMany({ seeds: ['a'] }, note);
    } finally {
      delete process.env['TIDEMARK_SIM_SEEDS'];
    }
    expect(seen).to.deep.equal(['1', '2', '3', '8', '8', '5', '6']);
  });

  it('says so when the test waits for what never comes', async () => {
    const before = performance.now();
    const failure = await failureOf({}, async (world) => {
      await world.sleep(100);
      await new Promise(() => undefined);
    });
    expect(failure.message).to.include('the test waits for something that is not part of the simulated world');
    expect(failure.simulatedMs).to.be.within(30_000, 35_000);
    expect(performance.now() - before).to.be.below(20_000);
  });

  it('says so when the test goes on for ever', async () => {
    const failure = await failureOf({ timeoutMs: 5000 }, async (world) => {
      for (;;) await world.sleep(10);
    });
    expect(failure.message).to.include('the test has not ended after 5000 simulated ms (timeoutMs)');
  });

  it('refuses what comes back from the real world', async () => {
    const reads = await failureOf({}, async (world) => {
      const db = await world.connect();
      await readFile(new URL(import.meta.url));
      await db.put('k', 'v');
    });
    expect(reads.cause).to.be.instanceOf(StrayError);
    expect(reads.message).to.include('db.put() was called from outside of the simulated world');
    const waits = await failureOf({}, async () => {
      await new Promise((resolve) => realTimeout(resolve, 5));
    });
    expect(waits.message).to.include('the end of the test was called from outside of the simulated world');
  });

  it('finds what no seed decides by running it twice', async () => {
    let runs = 0;
    const failure = await failureOf({ twice: true }, async (world) => {
      runs += 1;
      await (await world.connect()).put('k', `${runs}`);
    });
    expect(failure.message).to.include('two runs of one seed differ');
    expect(runs).to.equal(2);
    await simulate({ twice: true, faults: 'swarm' }, work);
  });

  it('gives code under test simulated time and chance, and everybody else the real ones', async () => {
    const before = Date.now();
    const values: unknown[] = [];
    for (let run = 0; run < 2; run += 1) {
      await simulate({}, async (world) => {
        expect(Date.now()).to.equal(Math.floor(world.clock.wallMs()));
        expect(new Date()).to.be.instanceOf(Date);
        expect(new Date(5).getTime()).to.equal(5);
        expect(performance.now()).to.equal(world.nowMs);
        const start = world.nowMs;
        await laterFromModule(1000);
        await new Promise((resolve) => setTimeout(resolve, 2000));
        await new Promise((resolve) => setImmediate(resolve));
        expect(world.nowMs - start).to.equal(3000);
        let ticks = 0;
        const interval = setInterval(() => (ticks += 1), 10);
        const never = setTimeout(() => expect.fail('it was cancelled'), 20);
        clearTimeout(never);
        await world.sleep(105);
        clearInterval(interval);
        await world.sleep(100);
        expect(ticks).to.equal(10);
        expect(AbortSignal.timeout(50).aborted).to.equal(false);
        const signal = AbortSignal.timeout(50);
        await world.sleep(51);
        expect(signal.aborted).to.equal(true);
        values.push([Math.random(), randomUUID(), crypto.randomUUID(), world.random.float()]);
      });
    }
    expect(values[0]).to.deep.equal(values[1]);
    expect(setTimeout).to.equal(realTimeout);
    expect(Date.now() - before).to.be.within(0, 60_000);
    expect(randomUUID()).not.to.equal(randomUUID());
  });

  it('runs code on machines that crash between two steps', async () => {
    await simulate({}, async (world) => {
      const machine = world.machine({ name: 'worker', skewMs: 200 });
      const db = await machine.connect();
      let steps = 0;
      const worker = async (): Promise<void> => {
        for (;;) {
          await db.put('steps', `${(steps += 1)}`);
          await machine.sleep(10);
        }
      };
      void worker();
      await world.sleep(200);
      machine.crash();
      const atCrash = steps;
      expect(atCrash).to.be.above(5);
      await world.sleep(1000);
      expect(steps).to.equal(atCrash);
      const written = await (await world.connect()).get('steps');
      expect(written.json()).to.be.within(atCrash - 1, atCrash);
      expect(machine.clock.wallMs() - world.clock.wallMs()).to.be.closeTo(200, 1);
    });
  });

  it('breaks the cluster as the test wishes, and heals it', async () => {
    await simulate({ buckets: 1 }, async (world) => {
      const db = await world.connect();
      await db.put('k', '1');
      const leader = world.leaderOf('k') ?? 0;
      const others = world.nodes.filter((node) => node !== leader);
      world.crash(leader);
      await db.put('k', '2');
      expect(world.leaderOf('k')).to.be.oneOf(others);
      for (const node of others) world.isolate(node);
      try {
        await db.put('k', '3', { timeoutMs: 1000 });
        expect.fail('nobody could take it');
      } catch (error) {
        expect(error).to.have.property('code').that.is.oneOf(['UNAVAILABLE', 'DEADLINE_EXCEEDED']);
      }
      await world.heal();
      await db.put('k', '4');
      expect((await db.get('k')).text()).to.equal('4');
      const [one = 0, two = 0, three = 0] = world.nodes;
      world.partition(one, [two, three]);
      world.pause(two);
      const began = world.nowMs;
      world.timers.after(2000, () => {
        world.resume(two);
        world.reconnect();
      });
      await db.put('k', '5');
      expect(world.nowMs - began).to.be.above(2000);
      await world.stop(three);
      await world.restart(three);
      world.jumpClock(one, 100);
      world.stallDisk(two, 100);
      world.cut(one, two);
      world.setLatency({ minMs: 5, maxMs: 10 });
      expect((await db.get('k')).text()).to.equal('5');
      expect(() => world.crash(9)).to.throw('there is no node 9; the nodes are 1, 2, 3');
    });
  });

  it('has only the faults that were asked for, for as long as was asked', async () => {
    const { log } = await simulate({ faults: ['crash', 'isolate'], forMs: 5000, faultEveryMs: 200 }, (world) => world.sleep(20_000));
    const faults = log.filter((line) => line.includes(' fault ') && !line.includes('by'));
    expect(faults.length).to.be.above(10);
    for (const line of faults) {
      expect(line).to.match(/"fault":"(crash|isolate)"/);
      expect(Number.parseFloat(line)).to.be.below(6000);
    }
  });

  it('fails when Tidemark breaks a promise of its own', async () => {
    plantMutant('vote-forgotten');
    try {
      let failure: unknown;
      const options = { seeds: '1..25', faults: { crashInSync: 1, leaderStorm: 1 }, faultEveryMs: 300 };
      await simulateMany(options, (world) => world.sleep(10_000)).catch((error: unknown) => (failure = error));
      expect(String(failure)).to.match(/seed \d+: Tidemark broke a promise: bucket /);
    } finally {
      plantMutant(undefined);
    }
  });

  it('refuses options that it does not understand, and says what it expects', async () => {
    const refused = async (options: object, message: string): Promise<void> => {
      let error: unknown;
      await simulate(options, async () => undefined).catch((thrown: unknown) => (error = thrown));
      expect(String(error)).to.include(message);
    };
    await refused({ nodes: 0 }, 'nodes: expected a whole number from 1 to 7, not 0');
    await refused({ nodes: 3, replicas: 4 }, 'replicas: expected a whole number from 1 to 3, not 4');
    await refused({ faults: ['crahs'] }, "faults: there is no 'crahs'; expected 'none', 'swarm', or some of isolate, ");
    await refused({ faults: ['wipeDisk'] }, "faults: there is no 'wipeDisk'; expected");
    await refused({ faults: { crash: -1 } }, 'faults.crash: expected a weight of 0 or more, not -1');
    await refused({ faultMs: 0 }, 'faultMs: expected a number above 0, not 0');
    await refused({ fault: 'swarm' }, "options: there is no 'fault'; expected some of seed, seeds, twice, nodes, ");
    await refused({ faults: 'swarn' }, "faults: expected 'none', 'swarm', or some of isolate, ");
    await refused({ limits: { nope: 1 } }, "limits: there is no 'nope'; expected some of keyBytesMax, ");
    await refused({ limits: { keyBytesMax: -1 } }, 'limits.keyBytesMax: expected a whole number of 1 or more, not -1');
    await refused({ timeoutMs: Number.NaN }, 'timeoutMs: expected a number above 0, not NaN');
    await refused({ forMs: Infinity }, 'forMs: expected milliseconds, 0 or more, not Infinity');
    await refused({ latency: { minMs: 5 } }, 'latency.maxMs: expected milliseconds, 0 or more, not undefined');
    await refused({ latency: { minMs: 5, maxMs: 1 } }, 'latency.minMs: expected at most maxMs, 1, not 5');
    await refused({ disk: { syncMinMs: 'x' } }, 'disk.syncMinMs: expected milliseconds, 0 or more, not "x"');
    await refused({ timing: { heartbeatMs: 900 } }, 'timing.heartbeatMs: expected less than electionTimeoutMs, 500, not 900');
    await refused([], 'options: expected an object with some of seed, seeds, ');
    let error: unknown;
    await simulateMany({ seeds: '9..1' }, async () => undefined).catch((thrown: unknown) => (error = thrown));
    expect(String(error)).to.include("seeds: expected seeds like 1..50, or one like 7, not '9..1'");
    await simulateMany({ seeds: [] }, async () => undefined).catch((thrown: unknown) => (error = thrown));
    expect(String(error)).to.include('seeds: expected seeds like 1..50, or a list with at least one, not []');
    await simulate({}, undefined as never).catch((thrown: unknown) => (error = thrown));
    expect(String(error)).to.equal('TypeError: there is no test; expected simulate(options, async (world) => { ... })');
  });

  it('takes more seeds than fit into a list, until one fails', async () => {
    let error: unknown;
    const test = async (): Promise<void> => {
      throw new Error('the first');
    };
    await simulateMany({ seeds: '5..999999999999' }, test).catch((thrown: unknown) => (error = thrown));
    expect(String(error)).to.match(/^SimulationError: seed 5: Error: the first\n/);
  });

  it('refuses faults that would be none', async () => {
    await simulate({}, async (world) => {
      world.machine({ name: 'shop' });
      world.partition('n1', ['shop']);
      expect(() => world.partition('n1', 'shpo')).to.throw(RangeError, "there is no 'shpo'; there are n1, n2, n3, shop");
      expect(() => world.isolate('n4')).to.throw(RangeError, "there is no 'n4'");
      expect(() => world.setLatency({ minMs: 10 } as never)).to.throw(RangeError, 'setLatency().maxMs: expected milliseconds');
      expect(() => world.jumpClock(1, Number.NaN)).to.throw(RangeError, 'jumpClock(): expected a number, not NaN');
      expect(() => world.machine({ rate: 0 })).to.throw(RangeError, 'rate: expected a number above 0, not 0');
    });
  });
});
