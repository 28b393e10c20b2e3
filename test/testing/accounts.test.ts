import { expect } from 'chai';
import type { Database } from '../../src/client/index.js';
import { simulateMany, SimulationError, type World } from '../../src/sim/testing/index.js';
import { CarefulAccounts, HastyAccounts, type Accounts } from './accounts.js';

const OWNERS = ['ada', 'bob', 'eve'];

/** Three clerks book ten payments each while the cluster breaks. In the end each payment counts once. */
async function bookPayments(world: World, open: (db: Database) => Accounts): Promise<void> {
  const clerk = async (name: string): Promise<void> => {
    const accounts = open(await world.connect());
    for (let number = 1; number <= 10; number += 1) {
      await accounts.deposit(world.random.pick(OWNERS), `${name}-${number}`, 100);
      await world.sleep(500 * world.random.float());
    }
  };
  await Promise.all(['x', 'y', 'z'].map(clerk));
  await world.heal();
  const accounts = open(await world.connect());
  const balances = await Promise.all(OWNERS.map((owner) => accounts.balance(owner)));
  expect(balances.reduce((sum, cents) => sum + cents)).to.equal(3000);
}

describe('careful accounts', () => {
  it('book each payment once, whatever breaks', async function () {
    this.timeout(120_000);
    await simulateMany({ seeds: '1..20', faults: 'swarm' }, (world) => bookPayments(world, (db) => new CarefulAccounts(db)));
  });
});

describe('hasty accounts', () => {
  it('book a payment twice, which a seed shows', async function () {
    this.timeout(120_000);
    let failure: unknown;
    try {
      await simulateMany({ seeds: '1..50', faults: 'swarm' }, (world) => bookPayments(world, (db) => new HastyAccounts(db)));
    } catch (error) {
      failure = error;
    }
    expect(failure).to.be.instanceOf(SimulationError);
    expect(String(failure)).to.match(/^SimulationError: seed \d+: AssertionError: expected 3[1-9]00 to equal 3000\nreplay: TIDEMARK_SIM_SEED=\d+ /);
  });
});
