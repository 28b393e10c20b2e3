import { SimDisk } from '../../src/sim/disk.js';
import { SimLoop } from '../../src/sim/loop.js';
import { describeStoreContract } from './store.js';

describeStoreContract('simulated disk', () => {
  const loop = new SimLoop('contract');
  const disk = new SimDisk({ timers: loop.timers, random: loop.random.fork('disk'), place: 'n1' });
  return {
    open: () => disk.open(),
    remove: async () => disk.wipe(),
    settle: (promise) => loop.runUntilSettled(promise, 3_600_000),
  };
});
