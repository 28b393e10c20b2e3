import type { CancelSignal } from '../lib/cancel.js';
import type { Timestamp } from '../bucket/requests.js';

/** What goes with a request on its way through a router, whatever it asks for. */
export interface Call {
  /** Monotonic milliseconds at which to stop trying, a little before the caller does. */
  readonly giveUpMs: number;
  /** Processes passed before this router's. */
  readonly hops: number;
  readonly seen: Timestamp;
  readonly signal: CancelSignal | undefined;
  /** Who made the request id can make another: a refusal that a new session cures goes back at once. */
  readonly renewable?: boolean;
  /** A linearizable read that is to name a timestamp of now, which no other replica can. */
  readonly atLeader?: boolean;
}
