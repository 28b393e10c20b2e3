import type { Condition, Consistency, KeyRange, Mutation, RequestId, Served, Timestamp } from '../../bucket/requests.js';
import { EMPTY } from '../../lib/bytes.js';
import { isTidemarkError, messageOf, type TidemarkError } from '../../lib/errors.js';
import { prefixEnd } from '../../lib/ordered.js';
import { compose, earlier, unixMsOf } from '../../mvcc/timestamp.js';
import type { Router } from '../../router/router.js';
import { WALL_START_MS } from '../clock.js';
import type { SimLoop } from '../loop.js';
import type { SimRandom } from '../random.js';
import { isExcused } from './excuses.js';
import { answered } from './patience.js';
import { BEYOND_KEYS, pickFrom, type SwarmPlan, type Work } from './plan.js';
import { foundOf } from './record.js';
import type { Attempt, Change, Command, Found, Proof, Recorder, VersionSeen } from './record.js';
import type { Waves } from './waves.js';

const ATTEMPTS_MAX = 3;
const RETRYING_MAX = 4;
const FUTURE_MS = 150;
/** A clock that was right at the start of a run goes wrong with time. */
const SLACK_MS = 100;

export interface WorkloadOptions {
  readonly loop: SimLoop;
  readonly plan: SwarmPlan;
  readonly random: SimRandom;
  readonly recorder: Recorder;
  readonly waves: Waves;
  readonly routers: readonly Router[];
  /** The routers of the nodes that run at present. */
  gateways(): readonly Router[];
}

/** A way into the cluster. */
interface Door {
  readonly router: Router;
  /** Who stands at it; a session as far as the checker is concerned. */
  readonly name: string;
}

/** Clients that read and write a few keys at random and write down what they were told. */
export class Workload {
  readonly #options: WorkloadOptions;
  readonly #random: SimRandom;
  /** The version of a key that somebody saw last, for conditions that have a chance. */
  readonly #lastSeen = new Map<string, { version: Timestamp; value: string }>();
  /** Timestamps that replies named, for reads as of them. */
  readonly #proved: Timestamp[] = [];
  readonly #running: Promise<void>[] = [];
  #stopped = false;
  #retrying = 0;
  #values = 0;
  #visitors = 0;

  constructor(options: WorkloadOptions) {
    this.#options = options;
    this.#random = options.random;
  }

  start(): void {
    const { plan, routers } = this.#options;
    for (let client = 0; client < routers.length; client += 1) {
      for (let worker = 0; worker < plan.workers; worker += 1) this.#running.push(this.#work(client));
    }
  }

  /** No new requests; fulfilled when the last one is answered. */
  async stop(): Promise<void> {
    this.#stopped = true;
    // What is under way may begin more.
    for (let known = 0; known < this.#running.length; ) {
      known = this.#running.length;
      await Promise.all(this.#running);
    }
  }

  /** One put by somebody else. Answers with what went wrong, if something did. */
  async put(key: string, router: Router, client: string): Promise<string | undefined> {
    const command = this.#options.recorder.command({ conditions: [], changes: [{ key, value: this.#value() }], id: undefined });
    const attempt = await this.#attempt(command, { router, name: client });
    if (attempt.outcome !== 'ok') await this.#sleep(50);
    return attempt.outcome === 'ok' ? undefined : attempt.reason;
  }

  async #work(client: number): Promise<void> {
    const { plan, recorder, waves } = this.#options;
    while (!this.#stopped) {
      await waves.atWork();
      await this.#sleep(plan.thinkMs * 2 * this.#random.float());
      const work = pickFrom(this.#random, plan.work);
      if (work === undefined || this.#stopped) return;
      try {
        await this.#do(work, client);
      } catch (error) {
        recorder.broken.push(`${work}: ${messageOf(error)}`);
      }
    }
  }

  #sleep(ms: number): Promise<void> {
    return new Promise((resolve) => {
      this.#options.loop.timers.after(ms, resolve);
    });
  }

  async #do(work: Work, client: number): Promise<void> {
    const key = this.#random.pick(this.#options.plan.keys);
    switch (work) {
      case 'put':
        return this.#command(client, [], [{ key, value: this.#value() }]);
      case 'delete':
        return this.#command(client, [], [{ key, value: undefined }]);
      case 'conditional':
        return this.#command(client, [this.#condition(key)], [{ key, value: this.#value() }]);
      case 'group':
        return this.#group(client);
      case 'retry':
        return this.#retryAside(client, [key]);
      case 'transact':
        return this.#transact(client);
      case 'get':
        return this.#get(client, key, { kind: 'linearizable' });
      case 'getBounded':
        return this.#get(client, key, this.#bounded());
      case 'getLocal':
        return this.#get(client, key, { kind: 'local' });
      case 'getAsOf':
        return this.#get(client, key, this.#asOf(client));
      case 'scan':
        return this.#scan(client, { kind: 'linearizable' });
      case 'scanBounded':
        return this.#scan(client, this.#bounded());
      case 'scanLocal':
        return this.#scan(client, { kind: 'local' });
      case 'scanAsOf':
        return this.#scan(client, this.#asOf(client));
      case 'history':
        return this.#history(client, key);
    }
  }

  #value(): string {
    this.#values += 1;
    return `v${this.#values}:${'x'.repeat(this.#random.below(this.#options.plan.valueBytesMax + 1))}`;
  }

  #bounded(): Consistency {
    return { kind: 'bounded', maxStalenessMs: this.#random.pick([1, 200, 1000, 5000]) };
  }

  /** A moment of the past, one that a reply named, or one a little ahead. */
  #asOf(client: number): Consistency {
    const now = this.#router(client).now();
    const proved = this.#proved.length === 0 ? now : this.#random.pick(this.#proved);
    const timestamp = this.#random.pick([
      proved,
      now,
      earlier(now, 3000 * this.#random.float()),
      // Of true time: relative to what the cluster says, each such read would carry its clocks further ahead.
      compose(WALL_START_MS + this.#options.loop.nowMs + FUTURE_MS * this.#random.float(), 0),
    ]);
    return { kind: 'asOf', timestamp };
  }

  #condition(key: string): Condition {
    const bytes = Buffer.from(key);
    const seen = this.#lastSeen.get(key);
    switch (this.#random.below(4)) {
      case 0:
        return { kind: 'exists', key: bytes };
      case 1:
        return { kind: 'absent', key: bytes };
      case 2:
        return { kind: 'value', key: bytes, value: Buffer.from(seen?.value ?? 'never') };
      default:
        return { kind: 'version', key: bytes, version: seen?.version ?? 0 };
    }
  }

  /** That nothing below a prefix has changed since some moment that a reply named, mostly one of the last. */
  #unchanged(prefix: string): Condition {
    const proved = this.#random.chance(0.8) ? this.#proved.slice(-6) : this.#proved;
    const start = Buffer.from(prefix);
    const since = proved.length === 0 ? 0 : this.#random.pick(proved);
    return { kind: 'unchanged', range: { start, end: prefixEnd(start) }, since };
  }

  /** Several keys of one bucket, and conditions on others of them. */
  async #group(client: number): Promise<void> {
    const prefix = `{g${this.#random.below(2)}}`;
    const members = this.#options.plan.keys.filter((key) => key.startsWith(prefix));
    const changes = members
      .filter(() => this.#random.chance(0.7))
      .map((key): Change => ({ key, value: this.#random.chance(0.2) ? undefined : this.#value() }));
    const conditions = members.filter(() => this.#random.chance(0.3)).map((key) => this.#condition(key));
    if (this.#random.chance(0.4)) conditions.push(this.#unchanged(prefix));
    if (changes.length + conditions.length > 0) await this.#command(client, conditions, changes);
  }

  /** A few keys of any buckets, written together, on conditions on some of them and on others; now and then with retries. */
  async #transact(client: number): Promise<void> {
    const random = this.#random;
    const keys = [...new Set([0, 1, 2, 3].slice(random.below(3)).map(() => random.pick(this.#options.plan.keys)))];
    if (random.chance(0.15)) return this.#retryAside(client, keys);
    const written = keys.filter(() => random.chance(0.8));
    const changes = written.map((key): Change => ({ key, value: random.chance(0.1) ? undefined : this.#value() }));
    const conditions = keys.filter(() => random.chance(0.3)).map((key) => this.#condition(key));
    if (changes.length + conditions.length > 0) await this.#command(client, conditions, changes);
  }

  async #command(client: number, conditions: readonly Condition[], changes: readonly Change[]): Promise<void> {
    const command = this.#options.recorder.command({ conditions, changes, id: undefined });
    await this.#attempt(command, this.#door(client));
  }

  /** Retries take their time: their worker goes on meanwhile, unless there are many already. */
  async #retryAside(client: number, keys: readonly string[]): Promise<void> {
    if (this.#retrying >= RETRYING_MAX) return;
    this.#retrying += 1;
    const ended = (): void => {
      this.#retrying -= 1;
    };
    const broke = (error: unknown): void => void this.#options.recorder.broken.push(`retry: ${messageOf(error)}`);
    this.#running.push(this.#retried(client, keys).catch(broke).finally(ended));
  }

  /** The same command under the same id again and again, after answers too, through any router. */
  async #retried(client: number, keys: readonly string[]): Promise<void> {
    const random = this.#random;
    const session = 1 + random.uint32();
    const id: RequestId = { session, born: this.#router(client).now(), sequence: 1, lowest: 1 };
    const conditions = random.chance(0.5) ? [this.#condition(random.pick(keys))] : [];
    const changes = keys.map((key) => ({ key, value: this.#value() }));
    const command = this.#options.recorder.command({ conditions, changes, id });
    let router = client;
    for (let attempts = 0; attempts < ATTEMPTS_MAX; attempts += 1) {
      // Sometimes while the one before is still under way.
      const attempt = this.#attempt(command, this.#door(router));
      if (random.chance(0.8)) await attempt;
      else this.#running.push(attempt.then(() => undefined));
      await this.#sleep(random.pick([0, 10, 300, 3000, 8000]) * random.float());
      router = random.below(this.#options.routers.length);
    }
  }

  async #attempt(command: Command, { router, name }: Door): Promise<Attempt> {
    const { recorder, loop } = this.#options;
    const timeoutMs = this.#timeoutMs();
    const attempt: Attempt = { ...recorder.begin(name), outcome: 'unknown', result: undefined, reason: '' };
    command.attempts.push(attempt);
    const mutations = command.changes.map(({ key, value }): Mutation => {
      const bytes = Buffer.from(key);
      return value === undefined
        ? { kind: 'delete', key: bytes }
        : { kind: 'put', key: bytes, value: Buffer.from(value) };
    });
    try {
      const id = command.id === undefined ? {} : { id: command.id };
      const reply = await answered(loop, timeoutMs, router.write(command.conditions, mutations, { timeoutMs, ...id }));
      recorder.end(attempt);
      const { applied, timestamp, failedCondition, failedVersion } = reply;
      attempt.outcome = 'ok';
      attempt.result = { applied, timestamp, failedCondition, failedVersion };
      this.#proved.push(timestamp);
      if (!applied) return attempt;
      for (const { key, value } of command.changes) this.#lastSeen.set(key, { version: timestamp, value: value ?? '' });
    } catch (error) {
      recorder.end(attempt);
      if (!isTidemarkError(error)) throw error;
      attempt.outcome = error.outcome;
      attempt.reason = error.reason;
      const since = Math.min(...command.conditions.map((each) => (each.kind === 'unchanged' ? each.since : Infinity)));
      if (error.reason === 'BEFORE_HORIZON' && this.#mayBeGone({ kind: 'asOf', timestamp: since }, 0)) return attempt;
      this.#excuse(error);
    }
    return attempt;
  }

  async #get(client: number, key: string, asked: Consistency): Promise<void> {
    const { recorder, loop } = this.#options;
    const { router, name } = this.#door(client);
    const span = recorder.begin(name);
    const timeoutMs = this.#timeoutMs();
    await this.#reading(asked, async () => {
      const reply = router.get(Buffer.from(key), { consistency: asked, timeoutMs });
      const { record, served } = await answered(loop, timeoutMs, reply);
      recorder.end(span);
      const found = record && foundOf(record);
      recorder.reads.push({ ...span, kind: 'get', key, asked, found, proof: this.#proof(served) });
      if (found !== undefined) this.#lastSeen.set(key, found);
    });
  }

  async #scan(client: number, asked: Consistency): Promise<void> {
    const { recorder, plan, loop } = this.#options;
    const random = this.#random;
    const [one = '', two = ''] = [random.pick(plan.keys), random.pick(plan.keys)].sort();
    // What transactions write lies behind, and is checked by itself.
    const open = plan.transactions > 0 ? BEYOND_KEYS : '';
    const [start, end] = random.pick([['', open], [one, two], [one, open], ['', two]] as const);
    const range: KeyRange = { start: Buffer.from(start), end: end === '' ? EMPTY : Buffer.from(end) };
    const reverse = random.chance(0.3);
    const limit = random.pick([0, 0, 1, 4]);
    const { router, name } = this.#door(client);
    const span = recorder.begin(name);
    const timeoutMs = this.#timeoutMs();
    await this.#reading(asked, async () => {
      const proofs: Proof[] = [];
      const found: Found[] = [];
      const pages = router.scan(range, { consistency: asked, reverse, limit, timeoutMs });
      for (;;) {
        const page = await answered(loop, timeoutMs, pages.next());
        if (page.done === true) break;
        for (const record of page.value.records) found.push(foundOf(record));
        proofs.push(this.#proof(page.value.served));
        if (random.chance(0.3)) await this.#sleep(50 * random.float());
      }
      recorder.end(span);
      recorder.reads.push({ ...span, kind: 'scan', start, end, reverse, limit, asked, proofs, found });
    });
  }

  async #history(client: number, key: string): Promise<void> {
    const { recorder, loop } = this.#options;
    const { router, name } = this.#door(client);
    const span = recorder.begin(name);
    const timeoutMs = this.#timeoutMs();
    const asked = { kind: 'linearizable' } as const;
    await this.#reading(asked, async () => {
      let proof: Proof | undefined;
      const versions: VersionSeen[] = [];
      const pages = router.history(Buffer.from(key), { timeoutMs });
      for (;;) {
        const page = await answered(loop, timeoutMs, pages.next());
        if (page.done === true) break;
        proof ??= this.#proof(page.value.served);
        for (const { version, deleted, value } of page.value.versions) {
          versions.push({ version, deleted, value: value.toString() });
        }
      }
      recorder.end(span);
      if (proof !== undefined) recorder.reads.push({ ...span, kind: 'history', key, asked, proof, versions });
    });
  }

  async #reading(asked: Consistency, work: () => Promise<void>): Promise<void> {
    const beganMs = this.#options.loop.nowMs;
    try {
      await work();
    } catch (error) {
      if (!isTidemarkError(error)) throw error;
      this.#options.recorder.failed(error.reason);
      if (error.reason === 'BEFORE_HORIZON' && this.#mayBeGone(asked, beganMs)) return;
      this.#excuse(error);
    }
  }

  /**
   * A moment that was asked for, or one that was chosen when the read began, perhaps by a clock that was behind, is older by now
   * than is kept by a clock that may be ahead.
   */
  #mayBeGone(asked: Consistency, beganMs: number): boolean {
    const { loop, plan } = this.#options;
    const { retentionMs = Infinity } = plan.limits;
    const staleMs = asked.kind === 'bounded' ? asked.maxStalenessMs : 0;
    const chosenMs = asked.kind === 'asOf' ? unixMsOf(asked.timestamp) - WALL_START_MS : beganMs - staleMs - plan.clockSkewMs;
    return chosenMs <= loop.nowMs - retentionMs + plan.clockSkewMs + SLACK_MS;
  }

  #excuse(error: TidemarkError): void {
    if (isExcused(this.#options.plan, error)) return;
    this.#options.recorder.broken.push(`a client was told ${error.code} / ${error.reason}: ${error.message}`);
  }

  #proof({ consistency, timestamp, node }: Served): Proof {
    this.#proved.push(timestamp);
    return { consistency, timestamp, node };
  }

  /** The client's own router, or some node, where it is a stranger. */
  #door(client: number): Door {
    const gateways = this.#random.chance(this.#options.plan.gatewayChance) ? this.#options.gateways() : [];
    if (gateways.length === 0) return { router: this.#router(client), name: `c${client}` };
    this.#visitors += 1;
    return { router: this.#random.pick(gateways), name: `visitor${this.#visitors}` };
  }

  #router(client: number): Router {
    const router = this.#options.routers[client];
    if (router === undefined) throw new RangeError(`there is no client ${client}`);
    return router;
  }

  #timeoutMs(): number {
    return this.#random.pick([300, 2000, 10_000]);
  }
}
