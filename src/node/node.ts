import type { Env, Server, Store } from '../env/env.js';
import type { Limits } from '../env/limits.js';
import { sleep } from '../env/time.js';
import { messageOf, TidemarkError } from '../lib/errors.js';
import { mutant } from '../lib/mutants.js';
import type { Replica, ReplicaHost, Timing } from '../bucket/replica.js';
import { LogStorage } from '../bucket/log-storage.js';
import { unseal } from '../bucket/sealed.js';
import { StateStore } from '../bucket/state-store.js';
import { HybridClock } from '../mvcc/timestamp.js';
import { preferredLeader } from '../placement/initial.js';
import { SYSTEM_BUCKET, type BucketId, type NodeId, type NodeInfo } from '../placement/map.js';
import { initialRecord, wasRemoved, type PlacementRecord } from '../placement/record.js';
import { decodeRecordOf } from '../placement/record-format.js';
import { PipelineServer } from '../router/pipeline-server.js';
import { Router } from '../router/router.js';
import { Sessions as RequestIds } from '../router/session.js';
import { Abstention } from './abstention.js';
import { LeaderBalance } from './balance.js';
import { Beats } from './beats.js';
import { ClockCeiling, ClockGuard } from './ceiling.js';
import { Collector } from './collector.js';
import { DigestCheck } from './digest-check.js';
import { DiskWatch } from './disk-watch.js';
import { Executor } from './executor.js';
import { FoundingGate } from './founding-gate.js';
import { Hosting } from './hosting.js';
import { claimStores, completeIdentity, openPins, readIdentity, type Identity } from './identity.js';
import { deliver } from './inbox.js';
import { Installs } from './installs.js';
import { isJoin } from './join.js';
import { LeaderNews } from './leader-news.js';
import { LogWriter } from './log-writer.js';
import { Holds } from './holds.js';
import { Peers, type PeerItem, type PeerPins } from './peers.js';
import { NodeView } from './services/node-view.js';
import { PLACEMENT_KEY, PlacementKeeper } from './placement-keeper.js';
import { Retention } from './retention.js';
import { publicServices } from './services/services.js';
import { SnapshotTransfer } from './snapshots.js';
import { StreamHolds } from './stream-holds.js';
import { Ticker } from './ticker.js';
import { Transactions } from './transactions.js';
import { TurnLoop } from './turn.js';

/**
 * A node: one process with one data directory, which hosts replicas of many buckets and serves them.
 *
 *   requests   gRPC services -> router (this node's gateway) -> executor -> replica
 *              pipeline streams of smart clients and other routers -> executor -> replica
 *   consensus  peers -> replica.step -> turn loop -> log writer and peers -> ... -> state store
 *
 * It depends on nothing but its own configuration, its data directory and a quorum of each bucket: the system bucket only
 * carries changes of placement. Anything that should not happen (a failed sync, an assertion, a corrupt record) ends the
 * node through `onFatal` instead of letting it guess.
 */
export interface NodeConfig {
  readonly clusterId: string;
  readonly nodeId: NodeId;
  /** All nodes of a new cluster; of an existing one, where to find them. None of a node that joined later. */
  readonly nodes: readonly NodeInfo[];
  readonly buckets: number;
  readonly replicas: number;
  /** `host:port` to listen on. */
  readonly listen: string;
  readonly timing: Timing;
  readonly limits: Limits;
  /** The node joined a running cluster (join.ts): with what that was founded, and its placement, unless the directory has it. */
  readonly joined?: { readonly members: readonly NodeId[]; readonly record: PlacementRecord | undefined };
}

/** A node that has something to do looks at its clock this often: a quarter of a heartbeat, within these bounds. */
const TICK_MS_MIN = 50;
const TICK_MS_MAX = 100;
/** At rest it looks when heartbeats are due, and this often in any case, to keep the clock ceiling ahead. */
const REST_MS_MAX = 400;
const SECOND_MS = 1000;
/** How often it is looked for transactions that somebody left behind. */
const TRANSACTIONS_MS = 250;
/** Much of the log is dropped again before a buffer of this size is full, and then never compacted. */
const LOG_WRITE_BUFFER_BYTES = 8 * 1024 * 1024;
const STATE_WRITE_BUFFER_BYTES = 8 * 1024 * 1024;
/** Applied writes gather this long before they go to the state store. */
const STATE_GATHER_MS = 100;
/** Wall and monotonic clock may part by this much before leases are not trusted. */
const CLOCK_PARTING_MS = 50;

export interface NodeHooks {
  /** The node cannot go on: a failed disk, a broken invariant, an identity that its peers refuse. Called once. */
  readonly onFatal: (error: unknown) => void;
}

/** Opens the data directory, joins the other nodes, and serves. Rejects, changing nothing, if the directory is not its own. */
export async function startNode(env: Env, config: NodeConfig, hooks: NodeHooks): Promise<Node> {
  const { clusterId, nodeId, nodes, buckets, replicas } = config;
  const members = config.joined?.members ?? nodes.map(({ id }) => id).sort((a, b) => a - b);
  const expected = { cluster: clusterId, node: nodeId, buckets, members, replicas };
  const known = await readIdentity(env.disk, expected);
  const pins = await openPins(env.disk);
  const logStore = await env.disk.openStore('log', { writeBufferBytes: LOG_WRITE_BUFFER_BYTES });
  const stateStore = await env.disk.openStore('state', { writeBufferBytes: STATE_WRITE_BUFFER_BYTES });
  const identity = await claimStores(env, { log: logStore, state: stateStore }, known, expected);
  const logs = await LogStorage.open(logStore);
  const stored = stateStore.get(PLACEMENT_KEY);
  const told = stored === undefined ? config.joined?.record : decodeRecordOf(unseal(stored, 'the placement'));
  const record = told ?? initialRecord(clusterId, nodes, buckets, replicas);
  const node = new Node({ env, config, hooks, identity, pins, record, logStore, logs, stateStore });
  await node.open();
  return node;
}

interface NodeParts {
  readonly env: Env;
  readonly config: NodeConfig;
  readonly hooks: NodeHooks;
  readonly identity: Identity;
  readonly pins: PeerPins;
  readonly record: PlacementRecord;
  readonly logStore: Store;
  readonly logs: LogStorage;
  readonly stateStore: Store;
}

export class Node {
  readonly identity: Identity;
  readonly config: NodeConfig;
  readonly hybrid: HybridClock;
  readonly hosting: Hosting;
  readonly router: Router;
  /** Moments that somebody reads here: they hold the horizon back. */
  readonly holds: Holds;
  readonly #streamHolds: StreamHolds;
  /** The placement, and what people may change of it. */
  readonly keeper: PlacementKeeper;
  /** The cluster as this node sees it. */
  readonly view: NodeView;
  readonly #env: Env;
  readonly #hooks: NodeHooks;
  readonly #state: StateStore;
  readonly #writer: LogWriter;
  readonly #turns: TurnLoop;
  readonly #peers: Peers;
  readonly #gate: FoundingGate;
  readonly #snapshots: SnapshotTransfer;
  readonly #installs: Installs;
  readonly #ceiling: ClockCeiling;
  readonly #abstention: Abstention;
  readonly #guard: ClockGuard;
  readonly #disk: DiskWatch;
  readonly #balance: LeaderBalance;
  readonly #digests: DigestCheck;
  readonly #transactions: Transactions;
  readonly #retention: Retention;
  readonly #collector: Collector;
  readonly #beats: Beats;
  readonly #executor: Executor;
  readonly #pipelines: PipelineServer;
  readonly #requestIds: RequestIds;
  readonly #leaders = new LeaderNews((hints) => {
    this.router.learn(hints);
    this.#pipelines.pushLeaders(hints);
  });
  readonly #placementWatchers = new Set<() => void>();
  #server: Server | undefined;
  readonly #ticker: Ticker;
  #transactionsDueMs = 0;
  #secondDueMs = 0;
  #stopping = false;
  #failed = false;

  constructor({ env, config, hooks, identity, pins, record, logStore, logs, stateStore }: NodeParts) {
    const { limits, timing, nodeId, clusterId } = config;
    const { clock, timers, metrics, log } = env;
    const onFatal = (error: unknown): void => this.#fatal(error);
    this.#env = env;
    this.#hooks = hooks;
    this.config = config;
    this.identity = identity;
    this.hybrid = new HybridClock(() => clock.wallMs(), limits.maxClockOffsetMs);
    this.#state = new StateStore({
      store: stateStore,
      clock,
      timers,
      gatherMs: STATE_GATHER_MS,
      overlayBytesMax: limits.overlayBytesMax,
      recentVersionsMax: limits.recentVersionsMax,
      onFatal,
    });
    this.#writer = new LogWriter(logs, clock, metrics, onFatal);
    this.#ceiling = new ClockCeiling(logStore, this.#writer, this.hybrid);
    this.#abstention = new Abstention(clock, this.#ceiling);
    const busyMs = Math.min(Math.max(TICK_MS_MIN, timing.heartbeatMs / 4), TICK_MS_MAX);
    const work = (): number | 'busy' => this.#guarded(() => this.#tick()) ?? 'busy';
    this.#ticker = new Ticker({ clock, timers, busyMs, restMs: Math.min(timing.heartbeatMs, REST_MS_MAX), work });
    this.#guard = new ClockGuard(clock, CLOCK_PARTING_MS, timing.electionTimeoutMs);
    const { electionTimeoutMs } = timing;
    this.#disk = new DiskWatch({ log: this.#writer, state: this.#state, electionTimeoutMs, logger: log, metrics });
    this.#peers = new Peers({
      env,
      limits,
      clusterId,
      founding: identity,
      self: { nodeId, uuid: identity.uuid },
      pins,
      epoch: () => this.keeper.record.epoch,
      isNew: () => !this.#gate.isOpen,
      onAgreed: (id, epoch) => {
        void this.#gate.agreed(id);
        this.keeper.met(id, epoch);
      },
      addressOf: (id) => this.keeper.record.nodes.find((node) => node.id === id)?.address,
      wasRemoved: (id) => wasRemoved(this.keeper.record, id),
      onMessages: (from, items) => this.#guarded(() => this.#received(from, items)),
      onFatal,
    });
    this.#peers.onLost((peer) => this.#guarded(() => this.#lost(peer)));
    this.#gate = new FoundingGate({
      members: identity.members,
      log,
      // Whoever joined a running cluster was let in by it.
      passed: identity.complete === true || this.#hasJoined,
      keep: () => completeIdentity(env.disk, identity),
      opened: () => this.#standForPreferred(),
      deliver: (from, items) => this.#guarded(() => this.#received(from, items)),
      onFatal,
    });
    this.#turns = new TurnLoop(
      clock,
      timers,
      this.#writer,
      limits,
      {
        send: (to, bucket, message) => this.#peers.send(to, { kind: 'raft', bucket, message }),
        flush: () => this.#peers.flush(),
        snapshotWanted: (replica, to) => this.#installs.send(replica, to),
      },
      onFatal,
    );
    this.hosting = new Hosting({
      env,
      limits,
      nodeId,
      logs,
      state: this.#state,
      writer: this.#writer,
      host: this.#replicaHost(),
      onBug: onFatal,
    });
    this.#balance = new LeaderBalance({
      nodeId,
      clock,
      log,
      replicas: this.hosting.replicas,
      peers: this.#peers,
      nodes: () => this.keeper.record.nodes.map(({ id }) => id),
      preferredLeader: (bucket) => this.#preferredLeader(bucket),
    });
    this.#installs = new Installs({
      hosting: this.hosting,
      state: this.#state,
      writer: this.#writer,
      log,
      transfer: () => this.#snapshots,
      settled: (replica) => this.#settled(replica),
      now: () => clock.monotonicMs(),
      onBug: onFatal,
    });
    this.#digests = new DigestCheck({
      nodeId,
      clock,
      log,
      replicas: this.hosting.replicas,
      send: (to, item) => this.#send(to, item),
      onDiverged: onFatal,
    });
    this.holds = new Holds({
      clock,
      tell: (lowest) => {
        for (const { id } of this.keeper.record.nodes) if (id !== nodeId) this.#peers.send(id, { kind: 'held', lowest });
        this.#turns.touched();
      },
    });
    this.#streamHolds = new StreamHolds({ clock, hybrid: this.hybrid, holds: this.holds, limits });
    const { replicas } = this.hosting;
    const history = { clock, timers, log, metrics, limits, replicas, state: this.#state, onBug: onFatal };
    this.#retention = new Retention({ ...history, hybrid: this.hybrid, holds: this.holds });
    this.#collector = new Collector(history);
    this.#beats = new Beats({ replicas: this.hosting.replicas, send: (to, item) => this.#send(to, item) });
    this.keeper = new PlacementKeeper({
      env,
      limits,
      timing,
      nodeId,
      clusterId,
      founding: identity,
      nodes: config.nodes,
      record,
      state: this.#state,
      hosting: this.hosting,
      asRequest: (execute) => this.#requestIds.run(execute),
      send: (to, item) => this.#send(to, item),
      dial: (id) => this.#peers.dial(id),
      isConnected: (id) => this.#peers.connected(id),
      settled: (replica) => this.#settled(replica),
      added: (replica) => this.#turns.changed(replica),
      adopted: (adopted) => this.#adopted(adopted),
      onFatal,
    });
    this.#snapshots = new SnapshotTransfer({
      env,
      limits,
      peers: this.#peers,
      accept: (_from, bucket, header) => this.#installs.accept(bucket, header),
      onFatal,
    });
    this.#transactions = new Transactions({
      env,
      limits,
      hybrid: this.hybrid,
      replicas: this.hosting.replicas,
      handle: () => this.router,
      onBug: onFatal,
    });
    const executor = (this.#executor = new Executor({
      nodeId,
      limits,
      metrics,
      clock,
      timers,
      state: this.#state,
      hybrid: this.hybrid,
      transactions: this.#transactions,
      buckets: config.buckets,
      onCorrupt: onFatal,
      holds: this.holds,
      streamHolds: this.#streamHolds,
      heat: this.keeper.heat.meter,
      epoch: () => this.keeper.record.epoch,
      replica: (bucket) => (bucket === SYSTEM_BUCKET ? undefined : this.hosting.replicas.get(bucket)),
    }));
    this.#pipelines = new PipelineServer({
      env,
      limits,
      node: nodeId,
      handle: executor,
      placement: () => this.keeper.record,
      leaders: () => this.#leaders.told(),
      wallNow: () => this.hybrid.physicalNow(),
      fatal: onFatal,
    });
    this.router = new Router({
      env,
      limits,
      role: 'node',
      clusterId,
      seeds: [],
      self: { node: nodeId, handle: executor },
      now: () => this.hybrid.now(),
    });
    this.view = new NodeView({
      nodeId,
      clock,
      timers,
      startedMs: clock.monotonicMs(),
      replicas: this.hosting.replicas,
      placement: () => this.keeper.record,
      keeper: () => this.keeper,
      leaderOf: (bucket) => this.hosting.replicas.get(bucket)?.leaderNode ?? 0,
      watch: (changed) => {
        this.#placementWatchers.add(changed);
        return () => void this.#placementWatchers.delete(changed);
      },
      now: () => this.hybrid.now(),
      reachable: (id) => this.#peers.connected(id),
    });
    this.#requestIds = new RequestIds(clock, env.random, limits, () => this.hybrid.now());
  }

  /** What replicas need of their node. */
  #replicaHost(): ReplicaHost {
    const { clock, random, log } = this.#env;
    return {
      clock,
      random,
      log,
      limits: this.config.limits,
      hybrid: this.hybrid,
      timing: this.config.timing,
      clockTrusted: () => this.#guard.trusted(),
      floorCeiling: () => this.#ceiling.promisable,
      restartFloor: () => this.#ceiling.restartFloor,
      mayVote: () => this.#abstention.isOver,
      mayLead: () => this.#mayLead,
      outcomes: (asked, asOf, deadlineMs) => this.#transactions.outcomes(asked, asOf, deadlineMs),
      changed: (replica) => {
        this.#turns.changed(replica);
        this.#ticker.wake();
      },
      tellBeat: (replica, ...beat) => this.#beats.tell(replica, ...beat),
      leaderLearned: (replica) => this.#leaders.learned(replica),
    };
  }

  // --- life

  async open(): Promise<void> {
    const { config, hosting } = this;
    const { clock, log } = this.#env;
    // Only what it was founded with, and only before it took part: of later placements a leader calls for the replicas.
    if (hosting.isNew && !this.#hasJoined && this.identity.complete !== true) {
      const { system, map } = initialRecord(config.clusterId, config.nodes, config.buckets, config.replicas);
      await hosting.create([system, ...map]);
    } else if (!mutant('vote-after-restart')) {
      // Whoever was here before may have voted, heard a leader, or promised floors.
      this.#abstention.begin(config.timing.electionTimeoutMs);
    }
    await hosting.open();
    if (this.#hasJoined && this.identity.complete !== true) {
      await this.keeper.keep();
      await completeIdentity(this.#env.disk, this.identity);
    }
    this.keeper.checkMember();
    this.#ceiling.tick();
    this.#server = await this.#env.network.serve({
      address: config.listen,
      accept: (channel, hello, stream) => {
        if (channel === 'pipeline') return this.#pipelines.accept(hello, stream);
        return isJoin(hello) ? this.keeper.acceptJoin(hello, stream) : this.#peers.accept(hello, stream);
      },
      services: publicServices({ router: this.router, cluster: this.view, pageBytesMax: config.limits.pageBytesMax }),
    });
    this.router.adopt(this.keeper.record);
    this.#secondDueMs = clock.monotonicMs() + SECOND_MS;
    this.#ticker.start();
    if (!this.#gate.isOpen) await this.#meetFounders();
    log.info('node is up', { address: this.#server.address, replicas: hosting.replicas.size });
  }

  get address(): string {
    return this.#server?.address ?? this.config.listen;
  }

  /** Resolves without waiting for others. */
  async #meetFounders(): Promise<void> {
    const { members, node: own } = this.identity;
    for (const id of members) if (id !== own) this.#peers.dial(id);
    await this.#gate.agreed(own);
  }

  /** A new cluster need not wait for election timeouts: each bucket's first node stands at once. */
  #standForPreferred(): void {
    const now = this.#env.clock.monotonicMs();
    for (const replica of this.hosting.replicas.values()) {
      if (this.#preferredLeader(replica.bucket) === this.config.nodeId) replica.campaign(now);
    }
  }

  #preferredLeader(bucket: BucketId): NodeId {
    const info = this.keeper.record.map[bucket];
    return info === undefined ? 0 : preferredLeader(info);
  }

  /** Says when it is to look again: see Ticker. */
  #tick(): number | 'busy' {
    const now = this.#env.clock.monotonicMs();
    this.#ceiling.tick();
    this.#guard.tick();
    this.#disk.tick(now);
    if (this.#mayLead) this.#balance.reset();
    else if (this.#abstention.isOver) this.#balance.handOver();
    else this.#balance.abstain();
    let dueMs = Infinity;
    let isBusy = !this.#mayLead || !this.#gate.isOpen || this.#disk.isSlow(now);
    for (const replica of this.hosting.replicas.values()) {
      if (replica.dueMs(now) <= now && !replica.installing && this.#gate.isOpen) replica.tick(now);
      if (replica.isBusy) {
        replica.expire(now);
        if (replica.blocked && !this.#state.full) this.#turns.changed(replica);
        isBusy = true;
      }
      dueMs = Math.min(dueMs, replica.dueMs(now + REST_MS_MAX));
    }
    this.#beats.send();
    this.#leaders.tell();
    if (now >= this.#transactionsDueMs) {
      this.#transactionsDueMs = now + TRANSACTIONS_MS;
      this.#transactions.tick();
    }
    if (now >= this.#secondDueMs) {
      this.#secondDueMs = Math.max(now, this.#secondDueMs + SECOND_MS);
      this.#eachSecond();
    }
    return isBusy ? 'busy' : Math.min(dueMs, this.#secondDueMs);
  }

  #eachSecond(): void {
    this.hosting.compact((replica, kept, gone) => this.#installs.logWantedBehind(replica, kept, gone));
    this.keeper.tick();
    this.#peers.prune();
    this.#balance.spread();
    this.#digests.tick();
    this.#streamHolds.tick();
    this.#retention.tick();
    this.#collector.tick();
  }

  get #mayLead(): boolean {
    return this.#abstention.isOver && !this.#disk.hangs && !this.#stopping;
  }

  #adopted(record: PlacementRecord): void {
    this.router.adopt(record);
    this.#pipelines.pushPlacement();
    for (const changed of this.#placementWatchers) changed();
  }

  get #hasJoined(): boolean {
    return this.config.joined !== undefined;
  }

  // --- consensus

  /** Sends an item in this turn's frame. */
  #send(to: NodeId, item: PeerItem): void {
    this.#peers.send(to, item);
    this.#turns.touched();
  }

  #received(from: NodeId, items: readonly PeerItem[]): void {
    if (!this.#gate.isOpen) {
      this.#gate.hold(from, items);
      return;
    }
    const { hosting, holds, keeper } = this;
    const [balance, beats, digests, snapshots] = [this.#balance, this.#beats, this.#digests, this.#snapshots];
    deliver(from, items, { hosting, holds, keeper, balance, beats, digests, snapshots });
  }

  #lost(peer: NodeId): void {
    const now = this.#env.clock.monotonicMs();
    for (const replica of this.hosting.replicas.values()) replica.lost(peer, now);
    this.#ticker.wake();
  }

  /** Resolves when nothing of a replica that has stopped is on its way to the log. */
  async #settled(replica: Replica): Promise<void> {
    while (replica.raft.hasReady() || !this.#turns.settled(replica)) {
      if (this.#failed) throw new TidemarkError('UNAVAILABLE', 'SHUTTING_DOWN', 'the node is stopping', { retriable: true });
      // Nothing else does: a replica that is to go hears neither messages nor the clock.
      this.#turns.changed(replica);
      await sleep(this.#env.timers, 1);
    }
  }

  /** What time and peers set off: whatever it throws ends this node, and not the process that it happens to be in. */
  #guarded<T>(work: () => T): T | undefined {
    if (this.#failed) return undefined;
    try {
      return work();
    } catch (error) {
      this.#fatal(error);
      return undefined;
    }
  }

  #fatal(error: unknown): void {
    if (this.#failed) return;
    this.#failed = true;
    this.#turns.stop();
    this.#env.log.error('this node cannot go on', { error: messageOf(error) });
    this.#hooks.onFatal(error);
  }

  /** Hands over what it leads, for at most a second, finishes what is under way, and closes its stores. */
  async close(): Promise<void> {
    this.#stopping = true;
    await this.#balance.resign(this.#env.timers, () => this.#failed);
    this.#leaders.tell();
    this.#ticker.stop();
    await this.#server?.close(500);
    await this.router.close();
    this.#pipelines.close();
    const transfersEnded = this.#snapshots.close();
    // After a failure nothing reaches the disk any more, and an install would wait for it for ever.
    if (!this.#failed) await transfersEnded;
    this.#executor.close();
    this.#peers.close();
    this.keeper.close();
    if (!this.#failed) await this.#collector.close();
    if (!this.#failed) await this.hosting.checkpointAll();
    this.#turns.stop();
    for (const replica of this.hosting.replicas.values()) replica.close();
    if (this.#failed) return;
    await this.#writer.close();
    await this.#state.close();
  }
}
