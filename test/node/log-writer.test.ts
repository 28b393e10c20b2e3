import { expect } from 'chai';
import { LogStorage } from '../../src/bucket/log-storage.js';
import type { Replica } from '../../src/bucket/replica.js';
import { LogWriter } from '../../src/node/log-writer.js';
import { SimDisk } from '../../src/sim/disk.js';
import { SimLoop } from '../../src/sim/loop.js';
import { NO_METRICS } from '../../src/sim/telemetry.js';

describe('the log writer', () => {
  it('resets a log in its turn, however many appends of other buckets follow one another', async () => {
    const loop = new SimLoop('reset');
    const disk = new SimDisk({ timers: loop.timers, random: loop.random, place: 'n1' });
    const store = await loop.runUntilSettled(disk.openStore('log'), 1000);
    const logs = await loop.runUntilSettled(LogStorage.open(store), 1000);
    const writer = new LogWriter(logs, loop.clock(), NO_METRICS, (error) => {
      throw error;
    });
    const replicaOf = (bucket: number): Replica => ({ log: logs.log(bucket) }) as unknown as Replica;
    const busy = replicaOf(1);
    const installing = replicaOf(2);
    let index = 0;
    const append = (): void => {
      index += 1;
      const entries = [{ index, term: 1, kind: 'data', data: Buffer.from('x') }] as const;
      writer.append({ replica: busy, entries, hardState: undefined, done: append });
    };
    append();
    writer.flush();
    let isReset = false;
    void writer.reset(installing, 40, 3).then(() => (isReset = true));
    await loop.runUntil(() => isReset, 1000);
    expect(isReset, `after ${index} appends`).to.equal(true);
    expect(index).to.be.within(1, 5);
    expect(installing.log.lastIndex()).to.equal(40);
    const log = (await loop.runUntilSettled(LogStorage.open(store), 1000)).log(2);
    expect([log.firstIndex(), log.lastIndex(), log.term(40)]).to.deep.equal([41, 40, 3]);
  });
});
