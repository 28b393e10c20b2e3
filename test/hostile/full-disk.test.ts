import { expect } from 'chai';
import { isTidemarkError, type Database } from '../../src/client/index.js';
import { TestCluster } from '../faults/cluster.js';
import { Canary } from './canary.js';
import { limited, SmallDisk } from './small-disk.js';

const MIB = 1024 * 1024;
const BUCKETS = 8;
const VALUE_BYTES = 64 * 1024;
const FULL = /^tidemark: writing (\S+): .*(No space left on device|File too large).* \(RESOURCE_EXHAUSTED, DISK_FULL\)$/gm;

describe('a full disk', function () {
  this.timeout(60_000);
  let cluster: TestCluster;

  afterEach(async () => {
    await cluster.close();
  });

  it('ends its node with one message that says where, while the others go on; with room it catches up', async () => {
    cluster = await TestCluster.start({ buckets: BUCKETS });
    await cluster.terminate(3);
    using disk = SmallDisk.under(cluster.dataDir(3), 12 * MIB);
    await cluster.startNode(3, (args) => disk.wrap(args));
    await cluster.settled();
    const canary = new Canary(await cluster.connect());
    const database = await cluster.connect();
    const written = await fillUntil(database, async () => !cluster.runningIds.includes(3));
    expect(await cluster.process(3).ended).to.deep.equal({ code: 1, signal: null });
    const told = [...cluster.log(3).matchAll(FULL)];
    expect(told, cluster.log(3)).to.have.lengthOf(1);
    expect(told[0]?.[1]).to.match(new RegExp(`^${cluster.dataDir(3)}/(log|state)`));
    await canary.stop();
    for (const [key, value] of written) expect((await database.get(key)).text()?.slice(0, 20)).to.equal(value);

    disk.grow(256 * MIB);
    await cluster.startNode(3);
    await cluster.converged();
    await cluster.terminate(3);
  });

  it('of the only node: whoever writes is told, nothing acknowledged is lost, and with room it goes on', async () => {
    cluster = await TestCluster.start({ nodes: 1, buckets: BUCKETS });
    await cluster.terminate(1);
    await cluster.startNode(1, (args) => limited(args, 2 * MIB));
    const database = await cluster.connect();
    const written = await fillUntil(database, async () => !cluster.runningIds.includes(1));
    expect(await cluster.process(1).ended).to.deep.equal({ code: 1, signal: null });
    expect([...cluster.log(1).matchAll(FULL)], cluster.log(1)).to.have.lengthOf(1);
    await cluster.startNode(1);
    await cluster.settled();
    for (const [key, value] of written) expect((await database.get(key)).text()?.slice(0, 20)).to.equal(value);
    await database.put('after', 'it');
  });
});

/** Writes large values until it is so; what was acknowledged, by the beginnings of the values. */
async function fillUntil(database: Database, ended: () => Promise<boolean>): Promise<ReadonlyMap<string, string>> {
  const written = new Map<string, string>();
  for (let n = 0; !(await ended()); n += 1) {
    const key = `large/${n}`;
    const value = String(n).padStart(20, '0');
    try {
      await database.put(key, value.padEnd(VALUE_BYTES, 'x'), { timeoutMs: 2000 });
      written.set(key, value);
    } catch (error) {
      if (!isTidemarkError(error)) throw error;
      expect(error.code, error.message).to.be.oneOf(['UNAVAILABLE', 'RESOURCE_EXHAUSTED']);
    }
  }
  return written;
}
