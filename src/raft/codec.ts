import { EMPTY, toBytes } from '../lib/bytes.js';
import type { AppendMessage, AppendReply, Entry, EntryKind, HeartbeatMessage, HeartbeatReply, Message } from './types.js';

/**
 * Messages as arrays in a fixed order, ready for a frame: [kind, from, to, term, then the fields of that kind].
 *
 * The index of an entry is not sent: entries follow prevIndex one by one. What comes in may have been made by anybody, so
 * `messageFromArray` checks every field and throws RangeError, and nothing else, for what `messageToArray` cannot have made.
 */
const KINDS = [
  'append',
  'appendReply',
  'heartbeat',
  'heartbeatReply',
  'vote',
  'preVote',
  'voteReply',
  'preVoteReply',
  // Was a message that nobody sent. The kinds behind it keep their numbers.
  undefined,
  'timeoutNow',
  'readIndex',
  'readIndexReply',
  'appendReply',
] as const satisfies readonly (Message['type'] | undefined)[];

const APPEND = 0;
const APPEND_REPLY = 1;
const HEARTBEAT = 2;
const HEARTBEAT_REPLY = 3;
const TIMEOUT_NOW = 9;
const READ_INDEX = 10;
const READ_INDEX_REPLY = 11;
/** The last field of that one. Earlier releases told a timestamp there, which nobody read, and want to find one. */
const NO_TIMESTAMP = 0;
/** A kind of its own: an acceptance is sent much more often and does without the hint. */
const APPEND_REJECTION = 12;

const ENTRY_KINDS = ['data', 'config', 'empty'] as const satisfies readonly EntryKind[];
const ENTRY_FIELDS = 3;

export function messageToArray(m: Message): unknown[] {
  switch (m.type) {
    case 'heartbeat':
      return [HEARTBEAT, m.from, m.to, m.term, m.commit, m.round, m.floor, m.closed, m.closedIndex];
    case 'heartbeatReply':
      return [HEARTBEAT_REPLY, m.from, m.to, m.term, m.round, m.floor];
    case 'append':
      return appendToArray(m);
    case 'appendReply':
      return m.rejected
        ? [APPEND_REJECTION, m.from, m.to, m.term, m.index, m.round, m.floor, m.hintIndex, m.hintTerm]
        : [APPEND_REPLY, m.from, m.to, m.term, m.index, m.round, m.floor];
    case 'vote':
    case 'preVote':
      return [KINDS.indexOf(m.type), m.from, m.to, m.term, m.lastIndex, m.lastTerm, m.transfer];
    case 'voteReply':
    case 'preVoteReply':
      return [KINDS.indexOf(m.type), m.from, m.to, m.term, m.granted, m.floor];
    case 'timeoutNow':
      return [TIMEOUT_NOW, m.from, m.to, m.term];
    case 'readIndex':
      return [READ_INDEX, m.from, m.to, m.term, m.context];
    case 'readIndexReply':
      return [READ_INDEX_REPLY, m.from, m.to, m.term, m.context, m.index, NO_TIMESTAMP];
  }
}

export function messageFromArray(fields: unknown): Message {
  if (!Array.isArray(fields)) throw malformed();
  const f: readonly unknown[] = fields;
  const type = KINDS[whole(f[0])];
  if (type === undefined) throw malformed();
  const from = positive(f[1]);
  const to = positive(f[2]);
  const term = whole(f[3]);
  switch (type) {
    case 'heartbeat':
      return heartbeatFrom(f, { from, to, term });
    case 'heartbeatReply':
      mustHave(f, 6);
      return { type, from, to, term, round: whole(f[4]), floor: whole(f[5]) } satisfies HeartbeatReply;
    case 'append':
      return appendFrom(f, { from, to, term });
    case 'appendReply':
      return appendReplyFrom(f, { from, to, term });
    case 'vote':
    case 'preVote':
      mustHave(f, 7);
      return { type, from, to, term, lastIndex: whole(f[4]), lastTerm: upTo(f[5], term), transfer: flag(f[6]) };
    case 'voteReply':
    case 'preVoteReply':
      mustHave(f, 6);
      return { type, from, to, term, granted: flag(f[4]), floor: whole(f[5]) };
    case 'timeoutNow':
      mustHave(f, 4);
      return { type, from, to, term };
    case 'readIndex':
      mustHave(f, 5);
      return { type, from, to, term, context: whole(f[4]) };
    case 'readIndexReply':
      mustHave(f, 7);
      whole(f[6]);
      return { type, from, to, term, context: whole(f[4]), index: whole(f[5]) };
  }
}

interface Envelope {
  readonly from: number;
  readonly to: number;
  readonly term: number;
}

function appendToArray(m: AppendMessage): unknown[] {
  const fields: unknown[] = [
    APPEND, m.from, m.to, m.term, m.prevIndex, m.prevTerm, m.commit, m.round, m.floor, m.closed, m.closedIndex,
  ];
  for (const entry of m.entries) {
    fields.push(entry.term, ENTRY_KINDS.indexOf(entry.kind), entry.data);
  }
  return fields;
}

const APPEND_FIELDS = 11;

function appendFrom(f: readonly unknown[], { from, to, term }: Envelope): AppendMessage {
  if (f.length < APPEND_FIELDS || (f.length - APPEND_FIELDS) % ENTRY_FIELDS !== 0) throw malformed();
  const prevIndex = whole(f[4]);
  const prevTerm = upTo(f[5], term);
  const entries: Entry[] = [];
  let index = prevIndex;
  let lastTerm = prevTerm;
  for (let at = APPEND_FIELDS; at < f.length; at += ENTRY_FIELDS) {
    index += 1;
    const entryTerm = upTo(f[at], term);
    const kind = ENTRY_KINDS[whole(f[at + 1])];
    const data = f[at + 2];
    // Terms never fall along a log.
    if (entryTerm < lastTerm || kind === undefined || !(data instanceof Uint8Array)) throw malformed();
    lastTerm = entryTerm;
    entries.push({ index: whole(index), term: entryTerm, kind, data: data.length === 0 ? EMPTY : toBytes(data) });
  }
  return {
    type: 'append',
    from,
    to,
    term,
    prevIndex,
    prevTerm,
    entries,
    commit: whole(f[6]),
    round: whole(f[7]),
    floor: whole(f[8]),
    closed: whole(f[9]),
    closedIndex: whole(f[10]),
  };
}

function appendReplyFrom(f: readonly unknown[], { from, to, term }: Envelope): AppendReply {
  const rejected = f[0] === APPEND_REJECTION;
  mustHave(f, rejected ? 9 : 7);
  return {
    type: 'appendReply',
    from,
    to,
    term,
    index: whole(f[4]),
    rejected,
    hintIndex: rejected ? whole(f[7]) : 0,
    hintTerm: rejected ? upTo(f[8], term) : 0,
    round: whole(f[5]),
    floor: whole(f[6]),
  };
}

function heartbeatFrom(f: readonly unknown[], { from, to, term }: Envelope): HeartbeatMessage {
  mustHave(f, 9);
  return {
    type: 'heartbeat',
    from,
    to,
    term,
    commit: whole(f[4]),
    round: whole(f[5]),
    floor: whole(f[6]),
    closed: whole(f[7]),
    closedIndex: whole(f[8]),
  };
}

function mustHave(fields: readonly unknown[], length: number): void {
  if (fields.length !== length) throw malformed();
}

function whole(value: unknown): number {
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0) throw malformed();
  return value;
}

function positive(value: unknown): number {
  const number = whole(value);
  if (number === 0) throw malformed();
  return number;
}

function upTo(value: unknown, limit: number): number {
  const number = whole(value);
  if (number > limit) throw malformed();
  return number;
}

function flag(value: unknown): boolean {
  if (typeof value !== 'boolean') throw malformed();
  return value;
}

function malformed(): RangeError {
  return new RangeError('not a message of the consensus core');
}
