import { expect } from 'chai';
import { StateStore } from '../../src/bucket/state-store.js';
import { SimDisk } from '../../src/sim/disk.js';
import { SimLoop } from '../../src/sim/loop.js';

const KEY = Buffer.from('key');

describe('the state store', () => {
  it('rejects every flush whose writes a failed batch has kept from the disk', async () => {
    const loop = new SimLoop('flush');
    const disk = new SimDisk({ timers: loop.timers, random: loop.random, place: 'n1' });
    const store = await loop.runUntilSettled(disk.openStore('state'), 1000);
    const fatal: unknown[] = [];
    const state = new StateStore({
      store,
      clock: loop.clock(),
      timers: loop.timers,
      gatherMs: 10,
      overlayBytesMax: 1000,
      onFatal: (error) => fatal.push(error),
    });
    state.put(KEY, Buffer.from('kept'));
    await loop.runUntilSettled(state.flush(), 1000);
    disk.failNextWrite('sync');
    state.put(KEY, Buffer.from('lost'));
    const outcomeOf = (promise: Promise<void>): Promise<unknown> => promise.then(() => 'fulfilled', (error: unknown) => error);
    // The second waits for the batch of the first, and would be written by the one after that.
    const outcomes = [outcomeOf(state.flush()), outcomeOf(state.flush())];
    await loop.runUntilSettled(Promise.all(outcomes), 1000);
    outcomes.push(outcomeOf(state.flush()), outcomeOf(state.close()));
    for (const outcome of outcomes) expect(await outcome).to.include({ reason: 'DISK_FAILED' });
    expect(fatal).to.have.length(1);
    expect(store.get(KEY)?.toString()).to.equal('kept');
  });
});
