/** What `import ... from 'tidemark'` gives. */
export { connect, type ConnectOptions } from './connect.js';
export {
  Database,
  Session,
  type ConditionOf,
  type ChangesOptions,
  type DatabaseOptions,
  type DiffOptions,
  type HistoryOptions,
  type MutationOf,
  type PinOptions,
  type ReadOptions,
  type RequestOptions,
  type ScanOptions,
  type Snapshot,
  type Write,
  type WriteOptions,
  type WriteOutcome,
  type Written,
} from './database.js';
export { ChangeEntry, ChangeFeed, SnapshotEntry, type ChangeEvent, type Mark } from './changes.js';
export { Diff, type Change } from './diff.js';
export { Entry, Missing, VersionEntry, type Data, type RangeOf } from './entries.js';
export { TransactionConflict, type Commit, type TransactionOptions } from './run-transaction.js';
export { Scan } from './scan.js';
export type { Transaction, TransactionScanOptions } from './transaction.js';
export { STATUS, TidemarkError, isTidemarkError, type Outcome, type StatusCode } from '../lib/errors.js';
export { formatTimestamp, parseTimestamp, type Timestamp } from '../mvcc/timestamp.js';
export type { RequestId, Served } from '../bucket/requests.js';
export type { Pin, PinsReply } from '../router/options.js';
export type { TlsFiles } from '../env/real/network.js';
