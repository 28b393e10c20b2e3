import type { Timing } from '../bucket/replica.js';
import type { Disk, Random, Store } from '../env/env.js';
import type { Limits } from '../env/limits.js';
import { EMPTY } from '../lib/bytes.js';
import { messageOf, TidemarkError } from '../lib/errors.js';
import type { Founding } from '../placement/founding.js';
import type { NodeId } from '../placement/map.js';
import type { PeerPins } from './peers.js';

/**
 * What a data directory says about itself, in small readable files: whose it is (identity.json), and under which identity this
 * node knows the others (peers.json). Both are written durably before anything depends on them.
 *
 * A node id is a name in a configuration; the uuid is the identity of one life of its disk. A node that lost its disk would
 * come back with the old id and no memory of its votes, so peers refuse an id that arrives with another uuid. It must not come
 * back with the old uuid either: each store holds the uuid too, and a directory of which only a part is left is refused.
 */
const FORMAT = 6;
const IDENTITY_FILE = 'identity.json';
const PEERS_FILE = 'peers.json';
/** In each store. */
const UUID_KEY = Buffer.from('n/uuid');

interface Expected extends Founding {
  readonly cluster: string;
  readonly node: NodeId;
}

export interface Identity extends Expected {
  readonly format: number;
  readonly uuid: string;
  /** This node has become part of its cluster (founding-gate.ts): from then on both stores hold what others rely on. */
  readonly complete?: boolean;
  /** Of a node that joined, as is where the others find it. */
  readonly settings?: Settings | undefined;
  readonly address?: string | undefined;
}

/** What the nodes of one cluster must agree on. A lease lasts because others keep quiet for as long. */
export interface Settings {
  readonly timing: Timing;
  readonly limits: Limits;
}

export type Stores = Readonly<Record<'log' | 'state', Store>>;

/** The identity of a data directory, undefined of a new one; refuses a directory that is not this node's. */
export async function readIdentity(disk: Disk, expected: Expected): Promise<Identity | undefined> {
  const data = await disk.readFile(IDENTITY_FILE);
  if (data === undefined) return undefined;
  const found = parse(data.toString(), disk, IDENTITY_FILE);
  const refuse = (reason: string, what: string): TidemarkError => refusal(disk, reason, what);
  if (typeof found['format'] === 'number' && found['format'] > FORMAT) {
    throw refuse('NEWER_FORMAT', `has format ${found['format']}; this release reads format ${FORMAT}: use a newer one`);
  }
  if (typeof found['format'] === 'number' && found['format'] < FORMAT) {
    const what = `has format ${found['format']}; this release reads format ${FORMAT} only`;
    throw refuse('OLDER_FORMAT', `${what}: export the data with the release that wrote it, and import it into a new directory`);
  }
  if (!isIdentity(found)) throw corrupt(disk, IDENTITY_FILE, 'a field is missing or wrong');
  if (found.cluster !== expected.cluster) {
    throw refuse('WRONG_CLUSTER', `belongs to cluster '${found.cluster}', not to '${expected.cluster}'`);
  }
  if (found.node !== expected.node) {
    throw refuse('WRONG_NODE', `belongs to node ${found.node}, not to node ${expected.node}`);
  }
  if (found.buckets !== expected.buckets) {
    throw refuse(
      'WRONG_BUCKETS',
      `was created with ${found.buckets} buckets; the configuration says ${expected.buckets}, which cannot be changed later`,
    );
  }
  const membersOf = ({ members, replicas }: Expected): string => `${replicas} replicas on nodes ${members.join(', ')}`;
  if (membersOf(found) !== membersOf(expected)) {
    throw refuse(
      'WRONG_MEMBERS',
      `was created for a cluster with ${membersOf(found)}; the configuration says ${membersOf(expected)}, which cannot be ` +
        'changed in this release',
    );
  }
  return found;
}

/** Gives an empty directory its identity; or checks that the stores are those of the identity that was read. */
export async function claimStores(
  { disk, random }: { readonly disk: Disk; readonly random: Random },
  stores: Stores,
  known: Identity | undefined,
  expected: Expected,
): Promise<Identity> {
  const names = ['log', 'state'] as const;
  if (known === undefined) {
    for (const name of names) {
      const { entries } = await stores[name].page({ gte: EMPTY, lt: EMPTY, limit: 1 });
      if (entries.length > 0) throw refusal(disk, 'IDENTITY_MISSING', `holds data, but its file ${IDENTITY_FILE} is gone`);
    }
  }
  if (known?.complete === true) {
    for (const name of names) {
      const uuid = stores[name].get(UUID_KEY)?.toString();
      if (uuid === known.uuid) continue;
      const what = uuid === undefined ? 'has lost its contents' : `comes from another directory (${uuid}, not ${known.uuid})`;
      const advice = `remove node ${known.node} from the cluster and add it under a new id`;
      throw refusal(disk, 'STORE_LOST', `is not whole: its store '${name}' ${what}; ${advice}`);
    }
    return known;
  }
  const identity = known ?? { format: FORMAT, ...expected, uuid: randomUuid(random) };
  if (known === undefined) await writeIdentity(disk, identity);
  for (const name of names) {
    const batch = stores[name].batch();
    batch.put(UUID_KEY, Buffer.from(identity.uuid));
    await batch.write();
  }
  return identity;
}

/**
 * A directory whose node joins a running cluster (join.ts) has its uuid before it has anything else: in the file of an identity
 * without a cluster, and node 0, until it is a member.
 */
export async function readJoined(disk: Disk): Promise<Identity | undefined> {
  const data = await disk.readFile(IDENTITY_FILE);
  if (data === undefined) return undefined;
  const found = parse(data.toString(), disk, IDENTITY_FILE);
  if (!isIdentity(found)) throw corrupt(disk, IDENTITY_FILE, 'a field is missing or wrong');
  if (!found.members.includes(found.node)) return found;
  throw refusal(disk, 'FOUNDER', `belongs to node ${found.node}, with which its cluster was founded; start it without --join`);
}

export async function writeJoined(disk: Disk, uuid: string, as?: Joined, address?: string): Promise<void> {
  const nobody: Expected = { cluster: '', node: 0, members: [], buckets: 0, replicas: 0 };
  const joined = as && { cluster: as.clusterId, node: as.nodeId, ...as.founding, settings: as.settings, address };
  const identity = joined ?? nobody;
  await writeIdentity(disk, { format: FORMAT, ...identity, uuid });
}

interface Joined {
  readonly clusterId: string;
  readonly nodeId: NodeId;
  readonly founding: Founding;
  readonly settings: Settings | undefined;
}

/** This node takes part from now on. */
export async function completeIdentity(disk: Disk, identity: Identity): Promise<void> {
  if (identity.complete !== true) await writeIdentity(disk, { ...identity, complete: true });
}

async function writeIdentity(disk: Disk, identity: Identity): Promise<void> {
  await disk.writeFile(IDENTITY_FILE, Buffer.from(`${JSON.stringify(identity, undefined, 2)}\n`));
}

function isIdentity(found: object): found is Identity {
  const { format, cluster, node, uuid, buckets, members, replicas } = found as Partial<Record<keyof Identity, unknown>>;
  return (
    Number.isSafeInteger(format) &&
    typeof cluster === 'string' &&
    Number.isSafeInteger(node) &&
    typeof uuid === 'string' &&
    uuid !== '' &&
    Number.isSafeInteger(buckets) &&
    Array.isArray(members) &&
    members.every(Number.isSafeInteger) &&
    Number.isSafeInteger(replicas)
  );
}

export async function openPins(disk: Disk): Promise<PeerPins> {
  const data = await disk.readFile(PEERS_FILE);
  const pins = new Map<NodeId, string>();
  if (data !== undefined) {
    for (const [id, uuid] of Object.entries(parse(data.toString(), disk, PEERS_FILE))) {
      if (!/^\d+$/.test(id) || typeof uuid !== 'string') throw corrupt(disk, PEERS_FILE, `an entry for '${id}' is wrong`);
      pins.set(Number(id), uuid);
    }
  }
  let writing = Promise.resolve();
  return {
    get: (node) => pins.get(node),
    pin: async (node, uuid) => {
      if (pins.get(node) === uuid) return writing;
      pins.set(node, uuid);
      const text = `${JSON.stringify(Object.fromEntries(pins), undefined, 2)}\n`;
      writing = writing.then(() => disk.writeFile(PEERS_FILE, Buffer.from(text)));
      await writing;
    },
  };
}

function parse(text: string, disk: Disk, name: string): Readonly<Record<string, unknown>> {
  let found: unknown;
  try {
    found = JSON.parse(text);
  } catch (error) {
    throw corrupt(disk, name, messageOf(error), error);
  }
  if (typeof found !== 'object' || found === null || Array.isArray(found)) throw corrupt(disk, name, 'it holds no JSON object');
  return found as Record<string, unknown>;
}

function corrupt(disk: Disk, name: string, why: string, cause?: unknown): TidemarkError {
  const message = `the file ${name} in ${disk.place} cannot be read: ${why}`;
  return new TidemarkError('DATA_LOSS', 'STATE_CORRUPT', message, { cause });
}

function refusal(disk: Disk, reason: string, what: string): TidemarkError {
  return new TidemarkError('FAILED_PRECONDITION', reason, `the data directory ${disk.place} ${what}`);
}

export function randomUuid(random: Random): string {
  const word = (): string => random.uint32().toString(16).padStart(8, '0');
  return `${word()}-${word()}-${word()}-${word()}`;
}
