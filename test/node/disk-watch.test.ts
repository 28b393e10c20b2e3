import { expect } from 'chai';
import { DiskWatch } from '../../src/node/disk-watch.js';
import { NO_METRICS } from '../../src/sim/telemetry.js';
import { ListLogger } from './support.js';

describe('the disk watch', () => {
  it('takes a batch for stuck at the second late look, so that a process that was stopped can hear its disk first', () => {
    const log = { busySinceMs: undefined as number | undefined };
    const state = { busySinceMs: undefined as number | undefined };
    const logger = new ListLogger(() => undefined);
    const watch = new DiskWatch({ log, state, electionTimeoutMs: 1000, logger, metrics: NO_METRICS });
    const look = (now: number): boolean => {
      watch.tick(now);
      return watch.hangs;
    };
    log.busySinceMs = 100;
    expect([look(150), look(1100), look(1150), look(1200)]).to.deep.equal([false, false, false, true]);
    log.busySinceMs = undefined;
    expect(look(1250)).to.equal(false);
    // Stopped from 1300 to 9000: the first look finds the batch old, the second finds it done.
    log.busySinceMs = 1290;
    expect(look(9000)).to.equal(false);
    log.busySinceMs = 9001;
    expect(look(9050)).to.equal(false);
    log.busySinceMs = undefined;
    state.busySinceMs = 9000;
    expect([look(11_900), look(12_050), look(12_100)]).to.deep.equal([false, false, true]);
    expect(logger.lines.map(({ level, fields }) => [level, fields['store']])).to.deep.equal([
      ['warn', 'log'],
      ['info', undefined],
      ['warn', 'state'],
    ]);
  });
});
