import type { LogIndex, ReplicaId } from './types.js';

/**
 * What the leader knows of one other replica, for the length of one term.
 *
 * - `probe`: where its log matches is unknown. One append at a time, until an answer comes or a heartbeat is due.
 * - `replicate`: appends follow one another without waiting, within a window of messages and bytes; `next` runs ahead of
 *   `match`. A rejection or a long silence means that something was lost: back to `probe`.
 * - `snapshot`: what it needs is compacted. No entries are sent until a snapshot is reported as sent; then its end is probed.
 *
 * Invariant: match < next. `match` never falls: what a replica acknowledged in this term it keeps in this term.
 */
export type ProgressState = 'probe' | 'replicate' | 'snapshot';

export class Progress {
  readonly id: ReplicaId;
  state: ProgressState = 'probe';
  /** Durable there, as far as it told. */
  match: LogIndex = 0;
  next: LogIndex;
  /** In `probe`: an append is out and unanswered; and how many were sent since the last answer. */
  probing = false;
  probes = 0;
  /** In `snapshot`: the index of the one that was sent; 0 while it is being made, -1 when it failed and is wanted again. */
  snapshotIndex: LogIndex = 0;
  snapshotSentMs = 0;
  /** The highest commit index it was told. */
  commitTold: LogIndex = 0;
  /** When it was last heard of in this term, and when a message that carries a round was last made for it. */
  heardMs: number;
  roundSentMs = -Infinity;
  /** When entries were last sent in `replicate`. */
  appendedMs = -Infinity;
  /** The highest index that a read there has had to wait for. */
  awaited: LogIndex = 0;
  /** When `match` last moved, or the first append of the window was sent. */
  movedMs: number;
  readonly window: Window;

  constructor(id: ReplicaId, next: LogIndex, nowMs: number, appendsMax: number, bytesMax: number) {
    this.id = id;
    this.next = next;
    this.heardMs = nowMs;
    this.movedMs = nowMs;
    this.window = new Window(appendsMax, bytesMax);
  }

  toProbe(next: LogIndex): void {
    this.state = 'probe';
    this.next = Math.max(next, this.match + 1);
    this.probing = false;
    this.probes = 0;
    this.window.clear();
  }

  toReplicate(): void {
    this.state = 'replicate';
    this.next = this.match + 1;
    this.probing = false;
    this.probes = 0;
    this.window.clear();
  }

  toSnapshot(): void {
    this.state = 'snapshot';
    this.snapshotIndex = 0;
    this.window.clear();
  }

  /** True if `index` is news. */
  acknowledge(index: LogIndex, nowMs: number): boolean {
    if (index <= this.match) return false;
    this.match = index;
    this.next = Math.max(this.next, index + 1);
    this.movedMs = nowMs;
    this.window.free(index);
    return true;
  }
}

/** What the caller may know of it. */
export type FollowerProgress = Readonly<Pick<Progress, 'id' | 'match' | 'next' | 'state' | 'heardMs'>>;

/** The appends in flight to one follower: a ring of (last index, bytes), bounded in both. */
export class Window {
  private readonly appendsMax: number;
  private readonly bytesMax: number;
  private readonly indexes: LogIndex[] = [];
  private readonly sizes: number[] = [];
  private head = 0;
  private count = 0;
  private bytes = 0;

  constructor(appendsMax: number, bytesMax: number) {
    this.appendsMax = appendsMax;
    this.bytesMax = bytesMax;
  }

  get isEmpty(): boolean {
    return this.count === 0;
  }

  get isFull(): boolean {
    return this.count >= this.appendsMax || this.bytes >= this.bytesMax;
  }

  add(lastIndex: LogIndex, bytes: number): void {
    const at = (this.head + this.count) % this.appendsMax;
    this.indexes[at] = lastIndex;
    this.sizes[at] = bytes;
    this.count += 1;
    this.bytes += bytes;
  }

  /** Everything up to `index` has arrived. */
  free(index: LogIndex): void {
    while (this.count > 0 && (this.indexes[this.head] ?? 0) <= index) {
      this.bytes -= this.sizes[this.head] ?? 0;
      this.head = (this.head + 1) % this.appendsMax;
      this.count -= 1;
    }
  }

  clear(): void {
    this.head = 0;
    this.count = 0;
    this.bytes = 0;
  }
}
