import { NO_CONFIG } from '../../src/raft/config.js';
import type { RaftOptions } from '../../src/raft/core.js';
import type { Entry, LogReader, ReplicaId } from '../../src/raft/types.js';

/** A stored log of so many entries of term 1. */
export function logOf(count: number): LogReader {
  return {
    firstIndex: () => 1,
    lastIndex: () => count,
    term: (index) => (index === 0 ? 0 : 1),
    entries: (from, to) => {
      return Array.from({ length: to - from }, (_, i): Entry => ({ index: from + i, term: 1, kind: 'data', data: Buffer.alloc(1) }));
    },
  };
}

/** Of replica 1 of a group whose term is 1: without chance, and with a clock that promises nothing. */
export function optionsOf(log: LogReader, voters: readonly ReplicaId[], appendBytesMax: number): RaftOptions {
  return {
    id: 1,
    config: { ...NO_CONFIG, voters },
    log,
    hardState: { term: 1, vote: 0, commit: 0 },
    applied: 0,
    now: 0,
    electionTimeoutMs: 1000,
    electionJitterMs: 500,
    heartbeatMs: 250,
    driftBound: 0.1,
    leaseReads: true,
    random: () => 0.5,
    promises: { offerFloor: () => 0, acceptFloor: () => 0, closed: () => 0 },
    appendBytesMax,
    appendsInFlightMax: 4,
    appendBytesInFlightMax: 4000,
    logCacheBytesMax: 1000,
    mayVote: () => true,
  };
}
