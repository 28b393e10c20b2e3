import { expect } from 'chai';
import { forEachInFlight } from '../../src/cli/in-flight.js';

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

describe('work in flight', () => {
  it('never exceeds its limit and leaves nothing out', async () => {
    const done: number[] = [];
    let running = 0;
    let most = 0;
    await forEachInFlight(Array.from({ length: 20 }, (_, at) => at), 4, undefined, async (item) => {
      running += 1;
      most = Math.max(most, running);
      for (let turns = item % 3; turns >= 0; turns -= 1) await turn();
      running -= 1;
      done.push(item);
    });
    expect(most).to.equal(4);
    expect(done.sort((a, b) => a - b)).to.deep.equal(Array.from({ length: 20 }, (_, at) => at));
  });

  it('rejects with the first failure once all that is under way has ended', async () => {
    let running = 0;
    let begun = 0;
    const error: unknown = await forEachInFlight([1, 2, 3, 4, 5, 6, 7, 8], 3, undefined, async (item) => {
      begun += 1;
      running += 1;
      await turn();
      running -= 1;
      if (item >= 2) throw new Error(`item ${item}`);
    }).catch((reason: unknown) => reason);
    expect(String(error)).to.equal('Error: item 2');
    expect(running).to.equal(0);
    expect(begun).to.be.lessThan(8);
  });

  it('takes no more items once it is told to stop', async () => {
    const controller = new AbortController();
    let begun = 0;
    await forEachInFlight([1, 2, 3, 4], 1, controller.signal, async () => {
      begun += 1;
      await turn();
      if (begun === 2) controller.abort();
    });
    expect(begun).to.equal(2);
  });
});
