import { expect } from 'chai';
import { isTidemarkError, type Database } from '../../src/client/index.js';
import { TestCluster } from './cluster.js';
import { tagOf } from './load.js';

const BUCKETS = 8;
/** Small, so that seconds are enough to leave the log of a node that is away behind. */
const LOG_ENTRIES_KEPT = 300;
const IN_FLIGHT = 96;
const VALUE = 'v'.repeat(256);
const AWAY = 3;
const PATIENCE_MS = 45_000;
/** A node that follows is behind by what is under way; this many entries are a small part of what it was behind. */
const LAG_MAX = LOG_ENTRIES_KEPT;
/** No second of the catching up without a write: the others are a quorum, and go on. */
const SILENCE_MS_MAX = 3000;

/** Writers without any rest, each with one write under way, all to keys of their own. */
class Flood {
  readonly acknowledged = new Map<string, number>();
  readonly refused: string[] = [];
  #lastMs = performance.now();
  #silenceMs = 0;
  #stopping = false;
  readonly #writers: Promise<unknown>;

  constructor(database: Database) {
    const tags = Array.from({ length: BUCKETS }, (_, bucket) => tagOf(bucket, BUCKETS));
    this.#writers = Promise.all(Array.from({ length: IN_FLIGHT }, (_, writer) => this.#write(database, tags[writer % BUCKETS] ?? '', writer)));
    this.#writers.catch(() => undefined);
  }

  async #write(database: Database, tag: string, writer: number): Promise<void> {
    for (let n = 0; !this.#stopping; n += 1) {
      const key = `{${tag}}${writer}/${n}`;
      try {
        const { version } = await database.put(key, VALUE);
        this.acknowledged.set(key, version);
        const now = performance.now();
        this.#silenceMs = Math.max(this.#silenceMs, now - this.#lastMs);
        this.#lastMs = now;
      } catch (error) {
        if (!isTidemarkError(error)) throw error;
        this.refused.push(error.message);
      }
    }
  }

  /** The longest time without an acknowledgement since it was asked last, the one that lasts included. */
  takeSilenceMs(): number {
    const silenceMs = Math.max(this.#silenceMs, performance.now() - this.#lastMs);
    this.#silenceMs = 0;
    return silenceMs;
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    await this.#writers;
  }
}

describe('a node that comes back while clients write at full speed', function () {
  this.timeout(150_000);
  let cluster: TestCluster;

  afterEach(async () => {
    await cluster.close();
  });

  const applied = async (id: number): Promise<number[]> => (await cluster.bucketsOf(id)).map(({ local }) => local?.appliedIndex ?? 0);
  const received = async (): Promise<number> => (await cluster.metrics(AWAY)).get('tidemark_snapshots_received_total') ?? 0;

  for (const how of ['killed', 'stopped'] as const) {
    it(`after it was ${how} until the logs were compacted catches up by snapshots, and no write waits for it`, async () => {
      cluster = await TestCluster.start({ buckets: BUCKETS, limits: { logEntriesKept: LOG_ENTRIES_KEPT } });
      const database = await cluster.connect();
      const flood = new Flood(database);
      await cluster.eventually('the flood runs', async () => flood.acknowledged.size > 1000);

      const left = await applied(AWAY);
      const receivedBefore = await received();
      if (how === 'killed') await cluster.kill(AWAY);
      else cluster.signal(AWAY, 'SIGSTOP');
      // Far more than is kept, in every bucket: it takes longer than the two seconds within which logs are compacted.
      const others = [1, 2];
      await cluster.eventually('every bucket has left the node far behind', async () => {
        const now = await Promise.all(others.map(applied));
        return now.every((indexes) => indexes.every((index, bucket) => index > (left[bucket] ?? 0) + 10 * LOG_ENTRIES_KEPT));
      }, PATIENCE_MS);

      const writtenBefore = flood.acknowledged.size;
      flood.takeSilenceMs();
      if (how === 'killed') await cluster.startNode(AWAY);
      else cluster.signal(AWAY, 'SIGCONT');
      await cluster.eventually('it has caught up, though the others do not wait for it', async () => {
        const [ahead = [], own = []] = await Promise.all([applied(1), applied(AWAY)]);
        return own.every((index, bucket) => index > (ahead[bucket] ?? 0) - LAG_MAX);
      }, PATIENCE_MS);
      const silenceMs = flood.takeSilenceMs();
      const writtenMeanwhile = flood.acknowledged.size - writtenBefore;
      expect(await received(), 'snapshots that it received').to.be.above(how === 'killed' ? 0 : receivedBefore);
      expect(writtenMeanwhile, 'writes acknowledged while it caught up').to.be.above(100);
      expect(silenceMs, 'the longest silence while it caught up').to.be.below(SILENCE_MS_MAX);

      // It stays with them, too.
      const writtenThen = flood.acknowledged.size;
      await cluster.eventually('the flood goes on', async () => flood.acknowledged.size > writtenThen + 1000);
      await flood.stop();
      expect(flood.refused, 'writes that were refused').to.deep.equal([]);
      await cluster.converged();
      // What it holds now is the whole of it.
      const keys = [...flood.acknowledged.keys()];
      const local = await cluster.connect({ endpoints: [cluster.address(AWAY)] });
      let read = 0;
      for await (const entry of local.getMany(keys, { consistency: 'linearizable', timeoutMs: 60_000 })) {
        expect(entry.version, entry.key.toString()).to.equal(flood.acknowledged.get(entry.key.toString()));
        read += 1;
      }
      expect(read).to.equal(keys.length);
      expect(cluster.runningIds).to.deep.equal([1, 2, 3]);
    });
  }
});
