import { expect } from 'chai';
import fc from 'fast-check';
import { Alarms } from '../../src/router/alarms.js';
import { FakeTime } from './support.js';

describe('alarms', () => {
  it('ring once, in time, never early, unless cancelled; whatever the order in which they are set', async () => {
    const plan = fc.array(fc.record({ setMs: fc.nat(200), afterMs: fc.nat(300), cancelMs: fc.option(fc.nat(400)) }), { maxLength: 20 });
    await fc.assert(
      fc.asyncProperty(plan, async (all) => {
        const time = new FakeTime();
        const alarms = new Alarms(time, time);
        const startMs = time.nowMs;
        const rung = all.map((): number[] => []);
        for (const [index, { setMs, afterMs, cancelMs }] of all.entries()) {
          time.after(setMs, () => {
            const alarm = alarms.at(time.nowMs + afterMs, () => rung[index]?.push(time.nowMs - startMs));
            if (cancelMs !== null) time.after(cancelMs, () => alarm.cancel());
          });
        }
        await time.pass(1000);
        for (const [index, { setMs, afterMs, cancelMs }] of all.entries()) {
          const dueMs = setMs + afterMs;
          const [atMs = -1, ...again] = rung[index] ?? [];
          expect(again).to.deep.equal([]);
          if (cancelMs === null || cancelMs > afterMs + 10) expect(atMs).to.be.within(dueMs, dueMs + 10);
          else if (cancelMs < afterMs) expect(atMs).to.equal(-1);
        }
      }),
      { numRuns: 100 },
    );
  });

  it('that are pending ring when they are closed, later ones never', async () => {
    const time = new FakeTime();
    const alarms = new Alarms(time, time);
    let rings = 0;
    alarms.at(time.nowMs + 100, () => (rings += 1));
    alarms.at(time.nowMs + 200, () => (rings += 1));
    alarms.close();
    expect(rings).to.equal(2);
    alarms.at(time.nowMs + 100, () => (rings += 1));
    await time.pass(1000);
    expect(rings).to.equal(2);
  });
});
