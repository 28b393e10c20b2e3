import { expect } from 'chai';
import { EMPTY } from '../../src/lib/bytes.js';
import type { Store } from '../../src/env/env.js';
import { SimDisk, type DiskFaults } from '../../src/sim/disk.js';
import { SimLoop } from '../../src/sim/loop.js';

const b = (text: string): Buffer => Buffer.from(text);

class Machine {
  readonly loop: SimLoop;
  readonly disk: SimDisk;

  constructor(seed: string | number, faults: DiskFaults = {}) {
    this.loop = new SimLoop(seed);
    this.disk = new SimDisk({ timers: this.loop.timers, random: this.loop.random.fork('disk'), place: 'n1', faults });
  }

  settle<T>(promise: Promise<T>): Promise<T> {
    return this.loop.runUntilSettled(promise, 1_000_000);
  }

  async openStore(): Promise<Store> {
    const disk = await this.settle(this.disk.open());
    return this.settle(disk.openStore('log'));
  }

  async put(store: Store, key: string): Promise<void> {
    await this.settle(start(store, key));
  }

  /** Crashes, opens again, and tells which keys are there. */
  async afterCrash(): Promise<string> {
    this.disk.crash();
    const store = await this.openStore();
    const page = await this.settle(store.page({ gte: EMPTY, lt: EMPTY, limit: 100 }));
    return page.entries.map(([key]) => key.toString()).join('');
  }
}

function start(store: Store, ...keys: string[]): Promise<void> {
  const batch = store.batch();
  for (const key of keys) batch.put(b(key), b('value'));
  return batch.write();
}

function failureOf(promise: Promise<unknown>): Promise<unknown> {
  return promise.then(
    () => undefined,
    (error: unknown) => error,
  );
}

/** What was found after crashes in many worlds: each outcome and how often. */
async function outcomes(faults: DiskFaults, act: (machine: Machine, store: Store) => Promise<void>): Promise<Set<string>> {
  const seen = new Set<string>();
  for (let seed = 0; seed < 100; seed += 1) {
    const machine = new Machine(seed, faults);
    await act(machine, await machine.openStore());
    seen.add(await machine.afterCrash());
  }
  return seen;
}

const threeInFlight = async (machine: Machine, store: Store): Promise<void> => {
  await machine.put(store, 'a');
  for (const key of ['b', 'c', 'd']) void start(store, key);
  await machine.loop.runFor(0.1);
};

describe('simulated disk', () => {
  it('keeps what was reported over a crash; the batch that was being written may be there, those behind it are not', async () => {
    expect(await outcomes({}, threeInFlight)).to.have.all.keys('a', 'ab').and.to.have.property('size', 2);
  });

  it('can be told to lose an older batch under a newer one', async () => {
    const seen = await outcomes({ lostUnderNewerChance: 1 }, threeInFlight);
    expect(seen).to.include('acd').and.to.include('ad').and.to.include('abcd').and.to.include('a');
    expect([...seen].every((keys) => keys.startsWith('a'))).to.equal(true);
  });

  it('keeps batches whole, unless it is told to tear them', async () => {
    const one = async (_: Machine, store: Store): Promise<void> => void start(store, 'x', 'y', 'z');
    expect(await outcomes({}, one)).to.have.all.keys('', 'xyz').and.to.have.property('size', 2);
    expect(await outcomes({ tornChance: 1 }, one)).to.have.all.keys('', 'x', 'xy').and.to.have.property('size', 3);
  });

  it('never answers a process that crashed', async () => {
    const machine = new Machine(1);
    const store = await machine.openStore();
    let answered = false;
    const note = (): void => void (answered = true);
    start(store, 'a').then(note, note);
    store.page({ gte: EMPTY, lt: EMPTY, limit: 1 }).then(note, note);
    machine.disk.crash();
    await machine.loop.runFor(10_000);
    expect(answered).to.equal(false);
  });

  it('refuses everything after a failed sync, until a process opens it anew', async () => {
    const machine = new Machine(1);
    const store = await machine.openStore();
    machine.disk.failNextWrite('sync');
    const failure = await machine.settle(failureOf(start(store, 'a')));
    expect(failure).to.include({ code: 'DATA_LOSS', reason: 'DISK_FAILED' });
    expect(await machine.settle(failureOf(start(store, 'b')))).to.equal(failure);
    expect(store.get(b('a'))).to.equal(undefined);
    expect(await machine.afterCrash()).to.be.oneOf(['', 'a']);
  });

  it('is full at its capacity', async () => {
    const machine = new Machine(1, { capacityBytes: 20 });
    const store = await machine.openStore();
    await machine.put(store, 'a');
    const failure = await machine.settle(failureOf(start(store, 'b', 'c', 'd')));
    expect(failure).to.include({ code: 'RESOURCE_EXHAUSTED', reason: 'DISK_FULL' });
  });

  it('lets a value rot by one bit', async () => {
    const machine = new Machine(1);
    const store = await machine.openStore();
    await machine.put(store, 'a');
    expect(machine.disk.rot('log')).to.equal(true);
    const rotten = store.get(b('a')) ?? EMPTY;
    const difference = [...rotten].map((byte, i) => byte ^ (b('value')[i] ?? 0)).filter((bits) => bits !== 0);
    expect(difference).to.have.length(1);
    expect(Math.log2(difference[0] ?? 0) % 1).to.equal(0);
  });

  it('stalls, and goes on where it stood', async () => {
    const machine = new Machine(1);
    const store = await machine.openStore();
    machine.disk.stall(5000);
    const startMs = machine.loop.nowMs;
    await machine.put(store, 'a');
    expect(machine.loop.nowMs - startMs).to.be.at.least(5000);
  });

  it('holds answers back from a paused process, also after a stall', async () => {
    const machine = new Machine(1);
    const process = machine.loop.process('n1');
    const disk = await machine.settle(machine.disk.open(process.timers));
    const store = await machine.settle(disk.openStore('log'));
    let written = false;
    void start(store, 'a').then(() => (written = true));
    machine.disk.stall(100);
    await machine.loop.runFor(50);
    process.pause();
    await machine.loop.runFor(1000);
    expect(written).to.equal(false);
    process.resume();
    await machine.loop.runFor(1);
    expect(written).to.equal(true);
  });

  it('forgets everything when it is wiped, and cannot be opened where it is damaged', async () => {
    const machine = new Machine(1);
    await machine.put(await machine.openStore(), 'a');
    machine.disk.wipe();
    expect(await machine.afterCrash()).to.equal('');
    machine.disk.crash();
    machine.disk.corrupt('log');
    expect(await failureOf(machine.openStore())).to.include({ code: 'DATA_LOSS', reason: 'STORE_CORRUPT' });
  });

  it('does the same in every run of a seed', async () => {
    const history = async (): Promise<string> => {
      const machine = new Machine('same', { stallChance: 0.1, stallMs: 7, lostUnderNewerChance: 0.5, tornChance: 0.5 });
      const times: string[] = [];
      for (let round = 0; round < 20; round += 1) {
        const store = await machine.openStore();
        for (const key of ['a', 'b', 'c']) {
          void start(store, `${key}${round}`).then(() => times.push(`${key}@${machine.loop.nowMs}`));
        }
        await machine.loop.runFor(1.5);
        times.push(await machine.afterCrash());
        machine.disk.crash();
      }
      return times.join(' ');
    };
    expect(await history()).to.equal(await history());
  });
});
