import type { Entry, Message } from '../raft/types.js';

/** What is worked off in one turn of what has waited: a millisecond or two, for other replicas may have waited as well. */
const ENTRIES_PER_TURN = 256;
const BYTES_PER_TURN = 256 * 1024;

/**
 * Committed entries of one replica that wait, because the state store's overlay is full or a snapshot is being installed.
 *
 * A follower whose disk is slow must not gather entries in memory without end: while it has a backlog, those that its leader
 * sends are dropped. The rest of the message is heard: the leader is alive and wants to know whether this replica is, else both
 * would take each other for dead under load. When the backlog is worked off, the leader is asked for what was dropped; by itself
 * it would notice only after an election timeout.
 *
 * What waits in all replicas of a node fills an overlay, so it is worked off in several turns; heartbeats and requests come in
 * between. What nothing waits before is not limited here: raft hands it out in pages.
 */
export class Backlog {
  readonly #entries: Entry[] = [];
  #hasDropped = false;
  #hasWaited = false;

  get isEmpty(): boolean {
    return this.#entries.length === 0;
  }

  add(entries: readonly Entry[]): void {
    for (const entry of entries) this.#entries.push(entry);
  }

  /** What is to be heard of a message. */
  heard(message: Message): Message {
    if (this.isEmpty || message.type !== 'append' || message.entries.length === 0) return message;
    this.#hasDropped = true;
    const { from, to, term, round, floor, closed, closedIndex } = message;
    return { type: 'heartbeat', from, to, term, commit: 0, round, floor, closed, closedIndex };
  }

  /** Hands over one after the other, as long as `mayTake`; if some have waited since the last turn, so many at most. */
  drain(mayTake: () => boolean, take: (entry: Entry) => void): void {
    const [entriesMax, bytesMax] = this.#hasWaited ? [ENTRIES_PER_TURN, BYTES_PER_TURN] : [Infinity, Infinity];
    let [count, bytes] = [0, 0];
    for (const entry of this.#entries) {
      if (count >= entriesMax || bytes >= bytesMax || !mayTake()) break;
      take(entry);
      count += 1;
      bytes += entry.data.length;
    }
    this.#entries.splice(0, count);
    this.#hasWaited = !this.isEmpty;
  }

  /** Whether there is room now for what was dropped. True once. */
  wantsDropped(): boolean {
    const wants = this.#hasDropped && this.isEmpty;
    if (wants) this.#hasDropped = false;
    return wants;
  }

  clear(): void {
    this.#entries.length = 0;
    this.#hasWaited = false;
  }
}
