import { expect } from 'chai';
import { DEFAULT_LIMITS } from '../../src/env/limits.js';
import type { Logger } from '../../src/env/env.js';
import { Placer } from '../../src/node/placer.js';
import { NO_HEAT } from '../../src/placement/heat-summary.js';
import { initialRecord } from '../../src/placement/record.js';
import { FakeTime } from '../router/support.js';

describe('the placer', () => {
  it('tells once that a node is lost, and once that it is back', () => {
    const clock = new FakeTime();
    const told: string[] = [];
    const tell = (_: string, fields?: object): void => void told.push(JSON.stringify({ ...fields, atMs: clock.nowMs }));
    const log: Logger = { debug: tell, info: tell, warn: tell, error: tell, child: () => log };
    const nodes = [1, 2, 3].map((id) => ({ id, address: `host-${id}:1`, zone: '', host: '' }));
    const record = initialRecord('test', nodes, 4, 3);
    const silent = new Set<number>();
    let isLeading = true;
    const placer = new Placer({
      clock,
      timers: clock,
      log,
      changesMax: 8,
      lostAfterMs: 10_000,
      rules: DEFAULT_LIMITS,
      heat: () => NO_HEAT,
      record: () => record,
      isLeading: () => isLeading,
      isReachable: (id) => !silent.has(id),
      change: (next) => Promise.resolve(next(record)),
      onBug: (error) => {
        throw error;
      },
    });
    const pass = (seconds: number): void => {
      for (let second = 0; second < seconds; second += 1) {
        placer.tick();
        clock.nowMs += 1000;
      }
    };
    silent.add(2);
    pass(100);
    expect(told).to.deep.equal(['{"lost":2,"silentMs":10000,"atMs":11000}']);
    silent.clear();
    pass(100);
    expect(told.splice(0)).to.deep.equal(['{"lost":2,"silentMs":10000,"atMs":11000}', '{"node":2,"atMs":101000}']);
    // Who leads anew begins to count anew.
    silent.add(3);
    pass(9);
    isLeading = false;
    pass(1);
    isLeading = true;
    pass(10);
    expect(told).to.deep.equal([]);
    pass(10);
    expect(told).to.have.lengthOf(1);
  });
});
