import { z } from 'zod';
import { bytesOfFullSession } from '../bucket/sessions.js';
import { DEFAULT_LIMITS, type Limits } from '../env/limits.js';
import { parseAddress } from '../env/real/addresses.js';
import { BUCKETS_MAX, NODE_ID_MAX, REPLICAS_MAX } from '../placement/map.js';
import { HEDGING_BOUNDS } from '../router/hedging.js';
import { NEAR_CACHE_BOUNDS } from '../router/near-cache.js';

/**
 * What a configuration file may hold. Every field says what it expects; that text completes the sentence
 * "FILE: field.path: expected ...".
 */

/** Refuses fields that it does not know and tells those that it does. */
export function fields<Shape extends z.core.$ZodLooseShape>(shape: Shape) {
  const known = Object.keys(shape).join(', ');
  return z.strictObject(shape, {
    error: (issue) => (issue.code === 'unrecognized_keys' ? `one of ${known}` : `a mapping with some of ${known}`),
  });
}

export function whole(min: number, max: number) {
  const error = `a whole number from ${min} to ${max}`;
  return z.int({ error }).min(min, { error }).max(max, { error });
}

function part(min: number, max: number) {
  const error = `a number from ${min} to ${max}`;
  return z.number({ error }).min(min, { error }).max(max, { error });
}

export function oneOf<const Values extends readonly [string, ...string[]]>(...values: Values) {
  return z.enum(values, { error: `one of ${values.join(', ')}` });
}

const text = z.string({ error: 'a text' }).min(1, { error: 'a text that is not empty' });
const address = z
  .string({ error: 'host:port' })
  .refine((value) => (parseAddress(value)?.port ?? 0) > 0, { error: 'host:port or [ipv6]:port with a port from 1 to 65535' });
const listener = z
  .string({ error: 'host:port' })
  .refine((value) => parseAddress(value) !== undefined, { error: 'host:port or [ipv6]:port; port 0 takes a free one' });

const NAME = 'a name of 1 to 63 lower-case letters, digits and hyphens that begins with a letter';
const name = z.string({ error: NAME }).regex(/^[a-z][a-z0-9-]{0,62}$/, { error: NAME });

const clusterNode = fields({
  id: whole(1, NODE_ID_MAX),
  address,
  http: address.optional(),
  zone: text.optional(),
  host: text.optional(),
});

const cluster = fields({
  id: name,
  buckets: whole(1, BUCKETS_MAX).default(256),
  replicas: whole(1, REPLICAS_MAX).default(3),
  nodes: z.array(clusterNode, { error: 'a list of nodes' }).min(1, { error: 'at least one node' }),
});

const node = fields({
  id: whole(1, NODE_ID_MAX).optional(),
  dataDir: text,
  listen: listener.optional(),
  http: listener.optional(),
});

const nearCache = fields({
  keysMax: whole(...NEAR_CACHE_BOUNDS.keysMax),
  bytesMax: whole(...NEAR_CACHE_BOUNDS.bytesMax).optional(),
  readsPerSecondMin: whole(...NEAR_CACHE_BOUNDS.readsPerSecondMin).optional(),
});

const hedging = fields({
  share: part(...HEDGING_BOUNDS.share).optional(),
  afterMsMin: whole(...HEDGING_BOUNDS.afterMsMin).optional(),
});

const sidecar = fields({
  listen: listener,
  http: listener.optional(),
  zone: text.optional(),
  endpoints: z.array(address, { error: 'a list of host:port' }).min(1, { error: 'at least one host:port' }).optional(),
  nearCache: nearCache.optional(),
  hedging: hedging.optional(),
});

const tls = fields({ ca: text, cert: text, key: text });

const raft = fields({
  heartbeatMs: whole(10, 60_000).default(400),
  electionTimeoutMs: whole(50, 300_000).default(1200),
  readMode: oneOf('lease', 'read-index').default('lease'),
});

const LIMIT_MAX = 2 ** 40;
/** A version record has 16 bits for the length of its key, and its name 16 for the position in its Write. */
const NARROW: Readonly<Record<string, number>> = { keyBytesMax: 2 ** 16 - 1, writeMutationsMax: 2 ** 16 - 1, pinsMax: 1024 };
/** Where nothing at all makes sense. */
const LEAST: Readonly<Record<string, number>> = { readReplicasMax: 0 };
const limitFields = Object.fromEntries(
  Object.keys(DEFAULT_LIMITS).map((field) => [field, whole(LEAST[field] ?? 1, NARROW[field] ?? LIMIT_MAX).optional()]),
) as { readonly [Field in keyof Limits]: z.ZodOptional<z.ZodInt> };

const log = fields({ level: oneOf('debug', 'info', 'warn', 'error', 'silent').default('info') });

export const schema = fields({
  cluster,
  node: node.optional(),
  sidecar: sidecar.optional(),
  tls: tls.optional(),
  limits: fields(limitFields).prefault({}),
  raft: raft.prefault({}),
  log: log.prefault({}),
});

export type ConfigFile = z.infer<typeof schema>;

/**
 * What a message holds beside the largest Write: a page or a chunk that was begun before the largest value, and what belongs to
 * each mutation. A log entry that fits into no message would stop its bucket for ever, as would a page its reader. So much room
 * has the largest page too: with what belongs to each entry, and the change that fills it, which has two values.
 */
const MESSAGE_ROOM_BYTES = 2 * 1024 * 1024;
const ENTRY_ROOM_BYTES = 64;
const RETENTION_MS_MIN = 10_000;

type Complain = (path: readonly (string | number)[], expected: string, got: unknown) => void;

/** The second server at one address would find the port in use, and not say by whom. */
function complainOfSharedPorts({ cluster: { nodes }, node, sidecar }: ConfigFile, complain: Complain): void {
  const another = (path: readonly (string | number)[], http: string | undefined): void => {
    const index = nodes.findIndex(({ address: taken }) => taken === http);
    if (index >= 0) complain(path, `another than the address of nodes[${index}]`, http);
  };
  for (const [index, { http }] of nodes.entries()) another(['cluster', 'nodes', index, 'http'], http);
  another(['node', 'http'], node?.http);
  another(['sidecar', 'listen'], sidecar?.listen);
  another(['sidecar', 'http'], sidecar?.http);
  for (const [section, { listen, http } = {}] of Object.entries({ node, sidecar })) {
    const fixed = http !== undefined && parseAddress(http)?.port !== 0;
    if (fixed && http === listen) complain([section, 'http'], `another than ${section}.listen`, http);
  }
}

/** What no single field can tell. Returns a complaint for each rule that does not hold. */
export function contradictions(config: ConfigFile): { path: readonly (string | number)[]; expected: string; got: unknown }[] {
  const found: { path: readonly (string | number)[]; expected: string; got: unknown }[] = [];
  const complain: Complain = (path, expected, got) => {
    found.push({ path, expected, got });
  };
  const { nodes, replicas } = config.cluster;
  for (const field of ['id', 'address', 'http'] as const) {
    const seen = new Map<unknown, number>();
    for (const [index, each] of nodes.entries()) {
      const first = seen.get(each[field]);
      if (each[field] !== undefined && first !== undefined) {
        complain(['cluster', 'nodes', index, field], `another than that of nodes[${first}]`, each[field]);
      }
      seen.set(each[field], first ?? index);
    }
  }
  complainOfSharedPorts(config, complain);
  if (replicas > nodes.length) complain(['cluster', 'replicas'], `at most the number of nodes, ${nodes.length}`, replicas);
  const id = config.node?.id;
  if (id !== undefined && !nodes.some((each) => each.id === id)) {
    complain(['node', 'id'], `the id of one of cluster.nodes: ${nodes.map((each) => each.id).join(', ')}`, id);
  }
  const { heartbeatMs, electionTimeoutMs } = config.raft;
  if (electionTimeoutMs < 3 * heartbeatMs) {
    complain(['raft', 'electionTimeoutMs'], `at least three heartbeats, ${3 * heartbeatMs}`, electionTimeoutMs);
  }
  const limits = limitsOf(config);
  const inOrder = [['keyBytesMax', 'writeBytesMax'], ['valueBytesMax', 'writeBytesMax']] as const;
  for (const [small, large] of inOrder) {
    if (limits[small] > limits[large]) complain(['limits', small], `at most limits.${large}, ${limits[large]}`, limits[small]);
  }
  const room = MESSAGE_ROOM_BYTES + ENTRY_ROOM_BYTES * limits.writeMutationsMax;
  if (limits.writeBytesMax > limits.messageBytesMax - room) {
    const expected = `at most limits.messageBytesMax less ${room}, ${limits.messageBytesMax - room}`;
    complain(['limits', 'writeBytesMax'], expected, limits.writeBytesMax);
  }
  const pageRoom = MESSAGE_ROOM_BYTES + ENTRY_ROOM_BYTES * limits.pageEntriesMax;
  const pageMost = limits.pageBytesMax + 2 * limits.valueBytesMax + pageRoom;
  if (pageMost > limits.messageBytesMax) {
    const expected = `at least limits.pageBytesMax, twice limits.valueBytesMax and ${pageRoom} together, ${pageMost}`;
    complain(['limits', 'messageBytesMax'], expected, limits.messageBytesMax);
  }
  // In a frame, and in the queue before it, each entry takes more than what counts here.
  const appendMost = Math.floor(limits.messageBytesMax / 2);
  if (limits.appendBytesMax > appendMost) {
    complain(['limits', 'appendBytesMax'], `at most half of limits.messageBytesMax, ${appendMost}`, limits.appendBytesMax);
  }
  if (limits.peerQueueBytesMax < limits.messageBytesMax) {
    const expected = `at least limits.messageBytesMax, ${limits.messageBytesMax}`;
    complain(['limits', 'peerQueueBytesMax'], expected, limits.peerQueueBytesMax);
  }
  const chunks = limits.snapshotsAtOnceMax * limits.snapshotChunkBytes;
  if (limits.snapshotBytesPerSecond < chunks) {
    const expected = `at least limits.snapshotsAtOnceMax times limits.snapshotChunkBytes, ${chunks}: each snapshot must get on`;
    complain(['limits', 'snapshotBytesPerSecond'], expected, limits.snapshotBytesPerSecond);
  }
  const session = bytesOfFullSession(limits.sessionResultsMax);
  if (limits.sessionBytesPerBucketMax < session) {
    const expected = `at least ${session}, what a session with limits.sessionResultsMax results takes`;
    complain(['limits', 'sessionBytesPerBucketMax'], expected, limits.sessionBytesPerBucketMax);
  }
  if (limits.retentionMs < RETENTION_MS_MIN) {
    const expected = `at least ${RETENTION_MS_MIN}: shorter ones would end running transactions and scans`;
    complain(['limits', 'retentionMs'], expected, limits.retentionMs);
  }
  if (limits.pinMsMax < limits.retentionMs) {
    const expected = `at least limits.retentionMs, ${limits.retentionMs}: a pin holds more than is kept without it`;
    complain(['limits', 'pinMsMax'], expected, limits.pinMsMax);
  }
  return found;
}

export function limitsOf({ limits }: ConfigFile): Limits {
  return { ...DEFAULT_LIMITS, ...Object.fromEntries(Object.entries(limits).filter(([, value]) => value !== undefined)) };
}
