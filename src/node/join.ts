import { pack, unpack } from 'msgpackr';
import type { Env, FrameStream, StreamHandlers } from '../env/env.js';
import { sleep } from '../env/time.js';
import { EMPTY, type Bytes } from '../lib/bytes.js';
import { isTidemarkError, messageOf, TidemarkError } from '../lib/errors.js';
import type { Founding } from '../placement/founding.js';
import type { NodeId } from '../placement/map.js';
import { addressChanged, joined, type Applicant, type PlacementRecord } from '../placement/record.js';
import { decodeRecordOf, encodeRecordOf } from '../placement/record-format.js';
import { randomUuid, readJoined, writeJoined, type Settings } from './identity.js';
import { PEER_PROTOCOL } from './peer-hello.js';

/**
 * How a node becomes a member of a running cluster. It calls any member on the channel of peers:
 *
 *     ['join', protocol, cluster, uuid, address, zone, host]
 *     ->  ['joined', cluster, node, buckets, replicas, members, placement, settings]
 *
 * The member that leads the system bucket writes a placement with the new node in it; others answer NOT_LEADER, with the details
 * `leader` and `address` if they know who does. The uuid of the data directory is durable before it is first said, so a node that
 * lost the answer, or ended before it kept it, asks again and gets the same id.
 */
const JOIN = 'join';
const JOINED = 'joined';
const ASK_MS_MAX = 5000;
const PAUSE_MS = 500;
/** After so long without any answer a person is told that it may be the address. */
const HINT_MS = 5000;
const TEXT_MAX = 256;
/** Why a call fails that no member has answered. */
const NOBODY_THERE = new Set(['STREAM_LOST', 'PEER_UNREACHABLE']);

/** What a node that joined needs beside its own settings. */
export interface Admission {
  readonly clusterId: string;
  readonly nodeId: NodeId;
  readonly founding: Founding;
  /** Those of the member that let it in; undefined if that has told none. */
  readonly settings: Settings | undefined;
  /** Undefined if its data directory has it already. */
  readonly record: PlacementRecord | undefined;
}

export interface JoinOptions {
  /** Members of the cluster, `host:port`: one that answers is enough. */
  readonly seeds: readonly string[];
  /** Empty: whatever cluster they are of. */
  readonly clusterId: string;
  /** Where the others will find this node. */
  readonly address: string;
  readonly zone: string;
  readonly host: string;
  /** Monotonic milliseconds at which to give up. */
  readonly deadlineMs: number;
}

/** Makes the node of this data directory a member, or finds that it is one. Rejects if it is none in time. */
export async function joinCluster(env: Env, options: JoinOptions): Promise<Admission> {
  const known = await readJoined(env.disk);
  if (known?.complete === true) {
    const { cluster, node, members, buckets, replicas, settings, address = options.address } = known;
    if (address !== options.address) throw addressChanged(node, address, options.address);
    return { clusterId: cluster, nodeId: node, founding: { members, buckets, replicas }, settings, record: undefined };
  }
  const uuid = known?.uuid ?? randomUuid(env.random);
  if (known === undefined) await writeJoined(env.disk, uuid);
  const { address, zone, host } = options;
  const admission = await askAll(env, options, { uuid, address, zone, host });
  await writeJoined(env.disk, uuid, admission, address);
  env.log.info('this node is a member now', { cluster: admission.clusterId, node: admission.nodeId });
  return admission;
}

async function askAll(env: Env, options: JoinOptions, applicant: Applicant): Promise<Admission> {
  const { clock, timers, log } = env;
  let told = '';
  let hintDueMs = clock.monotonicMs() + HINT_MS;
  for (;;) {
    let refusal: TidemarkError | undefined;
    const addresses = [...options.seeds];
    for (const [at, address] of addresses.entries()) {
      try {
        return await ask(env, address, options.clusterId, applicant);
      } catch (error) {
        if (!isTidemarkError(error) || !error.retriable) throw error;
        // Who says why tells more than who is not there.
        if (refusal === undefined || !NOBODY_THERE.has(error.reason)) refusal = error;
        // Who leads is asked next. Hints may differ, and old ones be wrong for ever: each is followed, once in a round.
        const hint = error.details['address'];
        if (hint !== undefined && !addresses.includes(hint)) addresses.splice(at + 1, 0, hint);
      }
    }
    if (clock.monotonicMs() >= options.deadlineMs) {
      const message = `no member of the cluster let this node in; the last that was asked: ${messageOf(refusal)}`;
      throw new TidemarkError('UNAVAILABLE', 'JOIN_FAILED', message, { retriable: true, cause: refusal });
    }
    const reason = messageOf(refusal);
    if (reason !== told) log.info('waiting to be let into the cluster', { reason });
    told = reason;
    if (refusal === undefined || !NOBODY_THERE.has(refusal.reason)) hintDueMs = Infinity;
    if (clock.monotonicMs() >= hintDueMs) {
      const advice = 'nobody answers there; is the address right, and a member of the cluster running at it?';
      log.warn(advice, { asked: options.seeds.join(', ') });
      hintDueMs = Infinity;
    }
    await sleep(timers, PAUSE_MS);
  }
}

function ask(env: Env, address: string, clusterId: string, applicant: Applicant): Promise<Admission> {
  return new Promise((resolve, reject) => {
    const { uuid, address: own, zone, host } = applicant;
    const hello = pack([JOIN, PEER_PROTOCOL, clusterId, uuid, own, zone, host]);
    const stream = env.network.connect(address, 'peer', hello, {
      frame: (frame) => {
        timer.cancel();
        try {
          resolve(decodeAdmission(frame));
        } catch (error) {
          reject(error instanceof Error ? error : new Error(String(error)));
        }
        stream.close();
      },
      closed: (error) => {
        timer.cancel();
        reject(error ?? new TidemarkError('UNAVAILABLE', 'STREAM_LOST', `${address} said nothing`, { retriable: true }));
      },
    });
    const timer = env.timers.after(ASK_MS_MAX, () => {
      const message = `${address} did not answer within ${ASK_MS_MAX} ms`;
      stream.close();
      reject(new TidemarkError('UNAVAILABLE', 'PEER_UNREACHABLE', message, { retriable: true }));
    });
  });
}

export interface DoorOptions {
  readonly clusterId: string;
  readonly founding: Founding;
  readonly settings: Settings;
  readonly record: () => PlacementRecord;
  readonly change: (next: (record: PlacementRecord) => PlacementRecord) => Promise<PlacementRecord>;
}

/** True of the opening message of a node that wants to join. */
export function isJoin(hello: Bytes): boolean {
  try {
    const parts: unknown = unpack(hello);
    return Array.isArray(parts) && parts[0] === JOIN;
  } catch {
    return false;
  }
}

/** The member's side. */
export function acceptJoin(hello: Bytes, stream: FrameStream, options: DoorOptions): StreamHandlers {
  const applicant = applicantOf(hello, options.clusterId);
  letIn(applicant, options).then(
    (answer) => {
      stream.send(answer);
      stream.close();
    },
    (error: unknown) => stream.close(refusalFor(error, options.record())),
  );
  return { frame: () => undefined, closed: () => undefined };
}

async function letIn(applicant: Applicant, { clusterId, founding, settings, change }: DoorOptions): Promise<Bytes> {
  let node = 0;
  const record = await change((present) => {
    const next = joined(present, applicant);
    ({ node } = next);
    return next.record;
  });
  const { buckets, replicas, members } = founding;
  return pack([JOINED, clusterId, node, buckets, replicas, members, encodeRecordOf(record), settings]);
}

function applicantOf(hello: Bytes, own: string): Applicant {
  // Earlier releases say no host.
  const [, protocol, clusterId, uuid, address, zone, host = ''] = unpack(hello) as readonly unknown[];
  if (protocol !== PEER_PROTOCOL) {
    const message = `a node that wants to join speaks protocol version ${String(protocol)}, this one speaks ${PEER_PROTOCOL}`;
    throw new TidemarkError('FAILED_PRECONDITION', 'PROTOCOL_MISMATCH', message);
  }
  const areTexts = isText(clusterId) && isText(uuid) && isText(address) && isText(zone) && isText(host);
  if (!areTexts || uuid === '' || address === '') {
    throw new TidemarkError('INVALID_ARGUMENT', 'MALFORMED_HELLO', 'a node that wants to join does not say who and where it is');
  }
  if (clusterId !== '' && clusterId !== own) {
    const message = `this is cluster '${own}', not '${clusterId}', which the node at ${address} wants to join`;
    throw new TidemarkError('FAILED_PRECONDITION', 'WRONG_CLUSTER', message);
  }
  return { uuid, address, zone, host };
}

function isText(value: unknown): value is string {
  return typeof value === 'string' && value.length <= TEXT_MAX;
}

/** What the asker can make use of. A redirect says where the leader listens: the asker knows no placement. */
function refusalFor(error: unknown, { nodes }: PlacementRecord): TidemarkError {
  if (!isTidemarkError(error)) return new TidemarkError('INTERNAL', 'BUG', messageOf(error));
  if (error.code === 'DATA_LOSS') {
    // Of this member's disk, which is no concern of who asks: others have good copies.
    const message = `a record of this member is bad: ${error.message}`;
    return new TidemarkError('UNAVAILABLE', 'BAD_RECORD', message, { retriable: true });
  }
  const address = nodes.find(({ id }) => String(id) === error.details['leader'])?.address;
  if (address === undefined) return error;
  const { code, reason, message, retriable, outcome } = error;
  return new TidemarkError(code, reason, message, { retriable, outcome, details: { ...error.details, address } });
}

function decodeAdmission(frame: Bytes): Admission {
  const [kind, clusterId, nodeId, buckets, replicas, members, record, settings] = unpack(frame) as readonly unknown[];
  if (kind !== JOINED) throw new TidemarkError('INVALID_ARGUMENT', 'MALFORMED_FRAME', 'the answer to a join cannot be read');
  const founding = { buckets, replicas, members } as Founding;
  return {
    clusterId: clusterId as string,
    nodeId: nodeId as NodeId,
    founding,
    settings: settings as Settings | undefined,
    record: decodeRecordOf(Buffer.isBuffer(record) ? record : EMPTY),
  };
}

