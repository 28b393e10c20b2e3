import { expect } from 'chai';
import { simulate } from '../../src/sim/testing/index.js';

it('reads its own writes', async () => {
  await simulate({ seed: 1, faults: 'swarm' }, async (world) => {
    const db = await world.connect();
    await db.put('greeting', 'hello', { timeoutMs: 60_000 });
    world.crash(world.leaderOf('greeting') ?? 1);
    expect((await db.get('greeting', { timeoutMs: 60_000 })).text()).to.equal('hello');
  });
});
