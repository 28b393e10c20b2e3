import { BinaryReader, type BinaryWriter } from '../lib/binary.js';
import { EMPTY, type Bytes } from '../lib/bytes.js';
import { STATUS, TidemarkError, withoutStack, type StatusCode } from '../lib/errors.js';
import type { Change, Record, Served, Version } from '../bucket/requests.js';
import type { Change as FeedChange } from '../changes/change.js';
import { BUCKETS_MAX, type Placement, type ReplicaInfo } from '../placement/map.js';
import type { Outcome } from '../txn/transaction.js';
import type { Answer, LeaderHint, OperationKind, Result } from './operations.js';
import { CONSISTENCIES, decodePosition, encodePosition, ITEM, OPERATIONS, pick, type Welcome } from './wire.js';

/** Frames to a client (see wire.ts): answers, and what it is told unasked. */
export type Push =
  | { readonly kind: 'answer'; readonly number: number; readonly operation: OperationKind; readonly answer: Answer }
  | { readonly kind: 'error'; readonly number: number; readonly error: TidemarkError }
  | { readonly kind: 'welcome'; readonly welcome: Welcome }
  | { readonly kind: 'placement'; readonly placement: Placement }
  | { readonly kind: 'leaders'; readonly hints: readonly LeaderHint[] };

const CODES = Object.keys(STATUS) as StatusCode[];

/** Values shorter than this are copied out of a received frame, so that keeping one does not keep the frame. */
const COPY_BELOW_BYTES = 4096;

export function encodeAnswer(out: BinaryWriter, number: number, kind: OperationKind, answer: Answer): void {
  const { served } = answer;
  out.byte(OPERATIONS.indexOf(kind));
  out.uint(number);
  out.uint(served.node);
  out.uint(served.timestamp);
  out.byte(CONSISTENCIES.indexOf(served.consistency));
  out.uint(served.hops);
  switch (kind) {
    case 'write':
      encodeWriteResult(out, answer.result as Result['write']);
      return;
    case 'get': {
      const { record } = answer.result as Result['get'];
      out.byte(record === undefined ? 0 : 1);
      if (record !== undefined) encodeRecord(out, record);
      return;
    }
    case 'history': {
      const { versions, more } = answer.result as Result['history'];
      out.byte(more ? 1 : 0);
      out.uint(versions.length);
      for (const version of versions) encodeVersion(out, version);
      return;
    }
    case 'scan': {
      const { records, more, resume } = answer.result as Result['scan'];
      out.byte(!more ? 0 : resume === undefined ? 1 : 2);
      if (more && resume !== undefined) out.bytes(resume);
      out.uint(records.length);
      for (const record of records) encodeRecord(out, record);
      return;
    }
    case 'diff': {
      const { changes, resume } = answer.result as Result['diff'];
      out.byte(resume === undefined ? 0 : 1);
      if (resume !== undefined) out.bytes(resume);
      out.uint(changes.length);
      for (const change of changes) encodeChange(out, change);
      return;
    }
    case 'pins': {
      const { pins, horizon } = answer.result as Result['pins'];
      out.uint(horizon);
      out.uint(pins.length);
      for (const { name, timestamp, expires, lost, buckets } of pins) {
        out.text(name);
        out.uint(timestamp);
        out.uint(expires);
        out.byte(lost ? 1 : 0);
        out.uint(buckets);
      }
      return;
    }
    case 'readTimestamp':
      out.uint((answer.result as Result['readTimestamp']).timestamp);
      return;
    case 'prepare': {
      const result = answer.result as Result['prepare'];
      out.byte(PREPARE_RESULTS.indexOf(result.kind));
      if (result.kind === 'prepared') out.uint(result.timestamp);
      if (result.kind === 'ended') out.uint(result.upTo);
      if (result.kind === 'refused') encodeWriteResult(out, result.result);
      return;
    }
    case 'resolve':
    case 'reserve':
      return;
    case 'outcomes': {
      const { outcomes } = answer.result as Result['outcomes'];
      out.uint(outcomes.length);
      for (const outcome of outcomes) {
        out.byte(OUTCOMES.indexOf(outcome.kind));
        if (outcome.kind === 'committed') out.uint(outcome.timestamp);
      }
      return;
    }
    case 'changes': {
      const { changes, upTo, mark } = answer.result as Result['changes'];
      encodePosition(out, upTo);
      out.uint(mark);
      out.uint(changes.length);
      for (const change of changes) encodeFeedChange(out, change);
      return;
    }
    case 'awaitMark': {
      const { mark, behind } = answer.result as Result['awaitMark'];
      out.uint(mark);
      out.uint(behind.length);
      for (const bucket of behind) out.uint(bucket);
    }
  }
}

const PREPARE_RESULTS: readonly Result['prepare']['kind'][] = ['prepared', 'refused', 'locked', 'ended'];
const OUTCOMES: readonly Outcome['kind'][] = ['committed', 'pending', 'over'];

function encodeWriteResult(out: BinaryWriter, result: Result['write']): void {
  out.uint(result.timestamp);
  out.uint(result.applied ? 0 : result.failedCondition + 1);
  if (!result.applied) out.uint(result.failedVersion);
}

function decodeWriteResult(input: BinaryReader): Result['write'] {
  const timestamp = input.uint();
  const failed = input.uint();
  if (failed === 0) return { applied: true, timestamp, failedCondition: -1, failedVersion: 0 };
  return { applied: false, timestamp, failedCondition: failed - 1, failedVersion: input.uint() };
}

function decodePrepareResult(input: BinaryReader): Result['prepare'] {
  const kind = pick(PREPARE_RESULTS, input, 'what became of a prepare');
  if (kind === 'prepared') return { kind, timestamp: input.uint() };
  if (kind === 'ended') return { kind, upTo: input.uint() };
  return kind === 'refused' ? { kind, result: decodeWriteResult(input) } : { kind };
}

function decodeOutcome(input: BinaryReader): Outcome {
  const kind = pick(OUTCOMES, input, 'an outcome');
  return kind === 'committed' ? { kind, timestamp: input.uint() } : { kind };
}

export function encodeError(out: BinaryWriter, number: number, error: TidemarkError): void {
  out.byte(ITEM.error);
  out.uint(number);
  out.byte(STATUS[error.code]);
  out.text(error.reason);
  out.text(error.message);
  out.byte((error.outcome === 'unknown' ? 1 : 0) + (error.retriable ? 2 : 0));
  const details = Object.entries(error.details);
  out.uint(details.length);
  for (const [name, value] of details) {
    out.text(name);
    out.text(value);
  }
}

export function encodeWelcome(out: BinaryWriter, welcome: Welcome): void {
  out.byte(ITEM.welcome);
  out.text(welcome.clusterId);
  out.uint(welcome.node);
  out.uint(welcome.now);
}

export function encodePlacement(out: BinaryWriter, placement: Placement): void {
  out.byte(ITEM.placement);
  out.text(placement.clusterId);
  out.uint(placement.epoch);
  out.uint(placement.nodes.length);
  for (const node of placement.nodes) {
    out.uint(node.id);
    out.text(node.address);
    out.text(node.zone);
    out.text(node.host);
  }
  out.uint(placement.buckets);
  for (const bucket of placement.map) {
    out.uint(bucket.leader);
    out.uint(bucket.replicas.length);
    for (const replica of bucket.replicas) {
      out.uint(replica.id);
      out.uint(replica.node);
      out.byte(replica.learner ? 1 : 0);
    }
  }
}

export function encodeLeaders(out: BinaryWriter, hints: readonly LeaderHint[]): void {
  out.byte(ITEM.leaders);
  out.uint(hints.length);
  for (const hint of hints) {
    out.uint(hint.bucket);
    out.uint(hint.leader);
    out.uint(hint.term);
  }
}

/** Throws INVALID_ARGUMENT / MALFORMED_MESSAGE. Long values are views of the frame. */
export function decodePushes(frame: Bytes): Push[] {
  const input = new BinaryReader(frame, 'a frame of replies');
  const pushes: Push[] = [];
  while (!input.done) pushes.push(decodePush(input));
  return pushes;
}

function decodePush(input: BinaryReader): Push {
  const type = input.byte();
  const kind = OPERATIONS[type];
  if (kind !== undefined) {
    const number = input.uint();
    const served: Served = {
      node: input.uint(),
      timestamp: input.uint(),
      consistency: pick(CONSISTENCIES, input, 'the consistency'),
      hops: input.uint(),
    };
    return { kind: 'answer', number, operation: kind, answer: { result: decodeResult(input, kind), served } };
  }
  switch (type) {
    case ITEM.error:
      return { kind: 'error', number: input.uint(), error: decodeError(input) };
    case ITEM.welcome:
      return { kind: 'welcome', welcome: { clusterId: input.text(), node: input.uint(), now: input.uint() } };
    case ITEM.placement:
      return { kind: 'placement', placement: decodePlacement(input) };
    case ITEM.leaders:
      return {
        kind: 'leaders',
        hints: input.list(() => ({ bucket: input.uint(), leader: input.uint(), term: input.uint() })),
      };
    default:
      throw input.malformed(`there is no reply of type ${type}`);
  }
}

function decodeResult(input: BinaryReader, kind: OperationKind): Result[OperationKind] {
  switch (kind) {
    case 'write':
      return decodeWriteResult(input);
    case 'get':
      return { record: input.choice(2, 'a flag') === 1 ? decodeRecord(input) : undefined };
    case 'history': {
      const more = input.choice(2, 'a flag') === 1;
      return { more, versions: input.list(() => decodeVersion(input)) };
    }
    case 'scan': {
      const more = input.choice(3, 'where a scan goes on');
      const resume = more === 2 ? { resume: owned(input.bytes()) } : {};
      return { more: more > 0, ...resume, records: input.list(() => decodeRecord(input)) };
    }
    case 'diff': {
      const resume = input.choice(2, 'a flag') === 1 ? owned(input.bytes()) : undefined;
      return { resume, changes: input.list(() => decodeChange(input)) };
    }
    case 'pins': {
      const horizon = input.uint();
      const pins = input.list(() => {
        const of = { name: input.text(), timestamp: input.uint(), expires: input.uint() };
        return { ...of, lost: input.choice(2, 'a flag') === 1, buckets: input.uint() };
      });
      return { pins, horizon };
    }
    case 'readTimestamp':
      return { timestamp: input.uint() };
    case 'prepare':
      return decodePrepareResult(input);
    case 'resolve':
    case 'reserve':
      return {};
    case 'outcomes':
      return { outcomes: input.list(() => decodeOutcome(input)) };
    case 'changes': {
      const upTo = decodePosition(input);
      const mark = input.uint();
      return { upTo, mark, changes: input.list(() => decodeFeedChange(input)) };
    }
    case 'awaitMark':
      return { mark: input.uint(), behind: input.list(() => input.uint()) };
  }
}

function decodeError(input: BinaryReader): TidemarkError {
  const code = CODES[input.byte()];
  if (code === undefined || code === 'OK') throw input.malformed('an error has no status');
  const reason = input.text();
  const message = input.text();
  const flags = input.choice(4, 'the flags of an error');
  const details = new Map(input.list(() => [input.text(), input.text()] as const));
  const outcome = flags % 2 === 1 ? 'unknown' : 'none';
  const options = { outcome, retriable: flags >= 2, details: Object.fromEntries(details) } as const;
  return withoutStack(() => new TidemarkError(code, reason, message, options));
}

function decodePlacement(input: BinaryReader): Placement {
  const clusterId = input.text();
  const epoch = input.uint();
  const nodes = input.list(() => ({ id: input.uint(), address: input.text(), zone: input.text(), host: input.text() }));
  const map = input.list((id) => {
    const leader = input.uint();
    const replicas = input.list((): ReplicaInfo => {
      return { id: input.uint(), node: input.uint(), learner: input.choice(2, 'a flag') === 1 };
    });
    return { id, replicas, leader };
  });
  if (map.length === 0 || map.length > BUCKETS_MAX) throw input.malformed(`a placement has ${map.length} buckets`);
  return { clusterId, epoch, buckets: map.length, nodes, map };
}

function encodeRecord(out: BinaryWriter, record: Record): void {
  out.bytes(record.key);
  out.uint(record.version);
  out.bytes(record.value);
}

function decodeRecord(input: BinaryReader): Record {
  return { key: owned(input.bytes()), version: input.uint(), value: owned(input.bytes()) };
}

/** Which of the two there are, then each with its version. */
function encodeChange(out: BinaryWriter, { key, before, after }: Change): void {
  out.bytes(key);
  out.byte((before === undefined ? 0 : 1) + (after === undefined ? 0 : 2));
  for (const side of [before, after]) {
    if (side === undefined) continue;
    out.uint(side.version);
    out.bytes(side.value);
  }
}

function decodeChange(input: BinaryReader): Change {
  const key = owned(input.bytes());
  const sides = input.choice(4, 'which values a change has');
  const side = (isThere: boolean): Change['after'] =>
    isThere ? { version: input.uint(), value: owned(input.bytes()) } : undefined;
  return { key, before: side(sides % 2 === 1), after: side(sides >= 2) };
}

function encodeVersion(out: BinaryWriter, version: Version): void {
  out.uint(version.version);
  out.byte(version.deleted ? 1 : 0);
  if (!version.deleted) out.bytes(version.value);
}

function decodeVersion(input: BinaryReader): Version {
  const version = input.uint();
  const deleted = input.choice(2, 'a flag') === 1;
  return { version, deleted, value: deleted ? EMPTY : owned(input.bytes()) };
}

const CHANGE_DELETED = 1;
const CHANGE_BEFORE = 2;

function encodeFeedChange(out: BinaryWriter, { at, key, deleted, value, before, transaction }: FeedChange): void {
  encodePosition(out, at);
  out.byte((deleted ? CHANGE_DELETED : 0) + (before === undefined ? 0 : CHANGE_BEFORE));
  out.bytes(key);
  out.bytes(transaction);
  if (!deleted) out.bytes(value);
  if (before === undefined) return;
  out.uint(before.version);
  out.bytes(before.value);
}

function decodeFeedChange(input: BinaryReader): FeedChange {
  const at = decodePosition(input);
  const flags = input.choice(4, 'the flags of a change');
  const deleted = flags % 2 === CHANGE_DELETED;
  const key = owned(input.bytes());
  const transaction = owned(input.bytes());
  const value = deleted ? EMPTY : owned(input.bytes());
  const before = flags >= CHANGE_BEFORE ? { version: input.uint(), value: owned(input.bytes()) } : undefined;
  return { at, key, deleted, value, before, transaction };
}

function owned(data: Bytes): Bytes {
  return data.length < COPY_BELOW_BYTES ? Buffer.from(data) : data;
}
