import type { Entry, Message } from '../raft/types.js';

/**
 * Committed entries of one replica that wait, because the state store's overlay is full or a snapshot is being installed.
 *
 * A follower whose disk is slow must not gather entries in memory without end: while it has a backlog, those that its leader
 * sends are dropped. The rest of the message is heard: the leader is alive and wants to know whether this replica is, else both
 * would take each other for dead under load. When the backlog is worked off, the leader is asked for what was dropped; by itself
 * it would notice only after an election timeout.
 */
export class Backlog {
  readonly #entries: Entry[] = [];
  #hasDropped = false;

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

  /** Hands over one after the other, as long as `mayTake`. */
  drain(mayTake: () => boolean, take: (entry: Entry) => void): void {
    let count = 0;
    for (const entry of this.#entries) {
      if (!mayTake()) break;
      take(entry);
      count += 1;
    }
    this.#entries.splice(0, count);
  }

  /** Whether there is room now for what was dropped. True once. */
  wantsDropped(): boolean {
    const wants = this.#hasDropped && this.isEmpty;
    if (wants) this.#hasDropped = false;
    return wants;
  }

  clear(): void {
    this.#entries.length = 0;
  }
}
