/**
 * How the placement grows: `npx tsx scripts/scale.ts [nodes] [buckets]`, 100 and 10,000 unless told. The planner alone, no
 * cluster: what each of its steps takes, how many there are until nothing is left to do, how large the map is, and what nodes say
 * to each other for it, computed with the encoders that they use. Times are processor time, garbage collection included.
 */
import { DEFAULT_LIMITS } from '../src/env/limits.js';
import { encodeFrame, BEAT_FIELDS } from '../src/node/peer-items.js';
import { HeatMeter } from '../src/placement/heat.js';
import { NO_HEAT, type HeatSummary } from '../src/placement/heat-summary.js';
import { bucketOf, replicaIdOf, SYSTEM_BUCKET, type NodeId } from '../src/placement/map.js';
import { plan } from '../src/placement/planner.js';
import { initialRecord, joined, type PlacementRecord } from '../src/placement/record.js';
import { decodeRecordOf, encodeRecordOf } from '../src/placement/record-format.js';
import { leaderOf } from '../src/placement/replicas.js';

const [nodes = 100, buckets = 10_000] = process.argv.slice(2).map(Number);
const HEARTBEAT_MS = 400;
const REPLICAS = 3;
const NOBODY: ReadonlySet<NodeId> = new Set();

function cpuMs(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}

/** Milliseconds of each run. */
function show(name: string, times: number[]): void {
  const total = times.reduce((sum, ms) => sum + ms, 0);
  times.sort((a, b) => a - b);
  const at = (part: number): string => (times[Math.floor(part * (times.length - 1))] ?? 0).toFixed(1);
  console.log(`${name}: ${at(0.5)} ms (p50), ${at(0.99)} ms (p99), ${at(1)} ms (max), ${Math.round(total)} ms in all`);
}

interface Case {
  readonly name: string;
  readonly start: PlacementRecord;
  readonly lost?: ReadonlySet<NodeId>;
  readonly heat?: HeatSummary;
}

/** The record when nothing is left to do. */
function run({ name, start, lost = NOBODY, heat = NO_HEAT }: Case): PlacementRecord {
  const settled = new Set([SYSTEM_BUCKET, ...start.map.map(({ id }) => id)]);
  const rest = { settled, led: settled, lost, unreachable: lost, away: lost, last: new Map(), cool: new Set<number>(), heat };
  const times: number[] = [];
  let record = start;
  for (;;) {
    const from = cpuMs();
    const next = plan({ record, ...rest, changesMax: DEFAULT_LIMITS.bucketsMovingMax, rules: DEFAULT_LIMITS });
    times.push(cpuMs() - from);
    if (next === undefined) break;
    record = next;
  }
  if (name !== '') show(`${name}, ${times.length - 1} steps`, times);
  return record;
}

function timed(name: string, work: () => unknown): void {
  const times: number[] = [];
  for (let n = 0; n < 50; n += 1) {
    const from = cpuMs();
    work();
    times.push(cpuMs() - from);
  }
  show(name, times);
}

/** Each bucket is asked for a little, the first for very much. */
function heatOf(record: PlacementRecord): HeatSummary {
  const of = new Map(record.nodes.map(({ id }) => [id, { reads: 0, writes: 0, bytes: 0 }]));
  const rates = { reads: 20, writes: 5, bytes: 10_000 };
  const hot = new Map(record.map.map(({ id: bucket }) => [bucket, { bucket, ...rates, reads: bucket === 0 ? 50_000 : 20 }]));
  for (const { id, replicas } of record.map) {
    for (const { node } of replicas) (of.get(node) ?? { reads: 0 }).reads += (hot.get(id)?.reads ?? 0) / replicas.length;
    (of.get(leaderOf(replicas) ?? 0) ?? { writes: 0 }).writes += 5;
  }
  return { buckets: hot, nodes: of, keys: [] };
}

const infos = Array.from({ length: nodes }, (_, at) => {
  return { id: at + 1, address: `10.0.${at >> 8}.${at & 255}:7100`, zone: `z${at % 3}`, host: '' };
});
const founded = initialRecord('scale', infos, buckets, REPLICAS);
console.log(`${nodes} nodes in 3 zones, ${buckets} buckets, ${REPLICAS} replicas of each`);
console.log('\nplanner, each step done before the next begins:');
// The first placement does not look at zones.
const apart = run({ name: 'as founded, until zones are apart', start: founded });
const grown = joined(apart, { uuid: 'u', address: '10.9.9.9:7100', zone: 'z0', host: '' }).record;
// Once unseen, for the compiler.
for (const start of [grown, apart]) for (const heat of [NO_HEAT, heatOf(start)]) run({ name: '', start, heat });
run({ name: 'at rest', start: apart });
run({ name: 'a node was added', start: grown });
run({ name: 'a node was lost', start: apart, lost: new Set([7]) });
run({ name: 'a bucket is hot', start: apart, heat: heatOf(apart) });

console.log('\nmap:');
const encoded = encodeRecordOf(founded);
const moved = founded.map.map((place) => {
  return { ...place, replicas: place.replicas.map((replica) => ({ ...replica, id: replicaIdOf(replica.node, 4000) })) };
});
const later = encodeRecordOf({ ...founded, epoch: 5000, map: moved });
console.log(`as founded ${encoded.length} bytes; with all replicas moved in some thousand epochs ${later.length} bytes`);
timed('written', () => encodeRecordOf(founded));
timed('read', () => decodeRecordOf(encoded));

console.log('\nwhat a node says and hears, bytes a second:');
const led = Math.ceil(buckets / nodes);
const timestamp = 10 ** 15;
const beat = [buckets, 65_536, 65_537, 7, 100_000, 100_000, timestamp, timestamp];
const beats = (count: number): number => {
  const fields = Array.from({ length: count }, () => beat).flat();
  const replies = Array.from({ length: count }, () => beat.slice(0, BEAT_FIELDS.beatReplies)).flat();
  return encodeFrame([{ kind: 'beats', fields }]).length + encodeFrame([{ kind: 'beatReplies', fields: replies }]).length;
};
// The followers of what a node leads are spread over all others.
const peers = Math.min(nodes - 1, led * (REPLICAS - 1));
const perPeer = Math.ceil((led * (REPLICAS - 1)) / peers);
const heartbeats = Math.round((peers * beats(perPeer) * 1000) / HEARTBEAT_MS);
console.log(`heartbeats at rest: ${heartbeats} sent with their answers, to ${peers} peers, ${perPeer} groups each`);
const settledBuckets = Array.from({ length: led }, (_, at) => at * nodes);
const settledItem = { kind: 'settled', epoch: 5000, moving: [], buckets: settledBuckets } as const;
const hosts = Math.min(nodes, 5);
const settledBytes = encodeFrame([settledItem]).length;
const ofAll = Math.round((settledBytes * nodes) / 5);
const sent = Math.round((settledBytes * hosts) / 5);
console.log(`reports of what is done: ${sent} sent; who hosts the system bucket hears ${ofAll}`);
const meter = new HeatMeter((key) => bucketOf(key, buckets));
for (let bucket = 0; bucket < 3 * led; bucket += 1) {
  for (let n = 0; n < 50; n += 1) meter.read(bucket * 33, Buffer.from(`key-${bucket}`), 1000);
}
meter.tick(1000);
const report = meter.report();
const heatBytes = report === undefined ? 0 : encodeFrame([{ kind: 'heat', report }]).length;
console.log(`reports of heat, all warm: ${heatBytes * hosts} sent; who hosts the system bucket hears ${heatBytes * nodes}`);
console.log(`a change of the placement: ${(nodes - 1) * encoded.length} sent, once, by the node that leads the system bucket`);

console.log('\nheat, for each read:');
const keys = Array.from({ length: 1024 }, (_, at) => Buffer.from(`some-key-${at}`));
const rounds = 2_000_000;
const from = cpuMs();
for (let n = 0; n < rounds; n += 1) meter.read(n & 255, keys[(n * 7) & 1023] ?? Buffer.alloc(0), 256);
console.log(`${Math.round(((cpuMs() - from) * 1e6) / rounds)} ns`);
