import type { Clock, Timer, Timers } from '../env/env.js';
import type { Limits } from '../env/limits.js';
import { mutant } from '../lib/mutants.js';
import type { Replica } from '../bucket/replica.js';
import { nodeOfReplica, type NodeId } from '../placement/map.js';
import { Reading } from '../raft/reading.js';
import type { Message, Ready } from '../raft/types.js';
import type { BucketId } from '../placement/map.js';
import type { LogWriter } from './log-writer.js';

/**
 * The turn loop: everything is done once per turn of the event loop, not once per command or bucket.
 *
 * Messages and commands only mark their replica as changed. When the input of the turn is handled, every changed replica
 * hands over its Ready: messages that depend on no disk leave at once, in one frame per peer; entries and votes of all
 * buckets go into one synced batch; messages that depend on it wait until it is on disk.
 *
 * What gathers for learners leaves when it is due, between two ticks of the node.
 *
 * Entries that are no longer in memory are read synchronously, so all replicas together read only so much in a turn. Those that
 * wanted more read first in the next one, and of these those that got nothing; so each gets its share in turn.
 */
export interface TurnOutput {
  /** False if it is not sent. */
  send(to: NodeId, bucket: BucketId, message: Message): boolean;
  /** Sends one frame to each peer that has something queued. */
  flush(): void;
  snapshotWanted(replica: Replica, to: number): void;
}

/** How much of a replica's output is not on disk yet: later messages must queue behind it. */
interface Unsynced {
  batches: number;
}

export type ReadLimits = Pick<Limits, 'logEntriesReadPerTurn' | 'logBytesReadPerTurn'>;

export class TurnLoop {
  readonly #clock: Clock;
  readonly #timers: Timers;
  readonly #writer: LogWriter;
  readonly #limits: ReadLimits;
  readonly #output: TurnOutput;
  readonly #onBug: (error: unknown) => void;
  #changed = new Set<Replica>();
  /** Replicas that want to read more than they may, in the order in which they get it. */
  #reading: readonly Replica[] = [];
  readonly #unsynced = new Map<Replica, Unsynced>();
  /** Replicas for whose learners entries gather, and when the first of them is due. */
  #gathering = new Set<Replica>();
  #gatherDueMs = Infinity;
  #gatherTimer: Timer | undefined;
  #scheduled = false;
  #stopped = false;

  constructor(
    clock: Clock,
    timers: Timers,
    writer: LogWriter,
    limits: ReadLimits,
    output: TurnOutput,
    onBug: (error: unknown) => void,
  ) {
    this.#clock = clock;
    this.#timers = timers;
    this.#writer = writer;
    this.#limits = limits;
    this.#output = output;
    this.#onBug = onBug;
  }

  changed(replica: Replica): void {
    this.#changed.add(replica);
    this.#schedule();
  }

  /** A frame was queued outside of a replica's turn. */
  touched(): void {
    this.#schedule();
  }

  #schedule(): void {
    if (this.#scheduled || this.#stopped) return;
    this.#scheduled = true;
    this.#timers.turnEnd(() => {
      this.#scheduled = false;
      if (this.#stopped) return;
      try {
        this.#run();
      } catch (error) {
        // Consensus or apply failed in a way that its own code did not foresee: going on could break a promise.
        this.stop();
        this.#onBug(error);
      }
    });
  }

  #run(): void {
    const { logEntriesReadPerTurn, logBytesReadPerTurn } = this.#limits;
    const reading = new Reading(logEntriesReadPerTurn, logBytesReadPerTurn);
    const changed = this.#reading.length === 0 ? this.#changed : new Set([...this.#reading, ...this.#changed]);
    this.#changed = new Set();
    const unserved: Replica[] = [];
    const served: Replica[] = [];
    for (const replica of changed) {
      reading.next();
      const ready = replica.collect(reading);
      if (reading.isShort) (reading.hasGivenNothing ? unserved : served).push(replica);
      if (ready !== undefined) this.#carryOut(replica, ready);
      this.#planGather(replica);
      // One Ready holds a page of committed entries; the next page follows in the next turn, not with the next message.
      if (replica.raft.hasReady() && !mutant('turn-forgets-rest')) this.changed(replica);
    }
    this.#reading = [...unserved, ...served];
    this.#writer.flush();
    this.#output.flush();
  }

  #planGather(replica: Replica): void {
    const dueMs = replica.gatherDueMs;
    if (dueMs === Infinity) return;
    this.#gathering.add(replica);
    if (dueMs >= this.#gatherDueMs) return;
    this.#gatherTimer?.cancel();
    this.#gatherDueMs = dueMs;
    // Never at once: a timer may be early by so little that a clock does not show it.
    this.#gatherTimer = this.#timers.after(Math.max(1, dueMs - this.#clock.monotonicMs()), () => {
      const gathering = this.#gathering;
      this.#gathering = new Set();
      this.#gatherDueMs = Infinity;
      for (const due of gathering) {
        due.endGather();
        this.#planGather(due);
      }
    });
  }

  #carryOut(replica: Replica, ready: Ready): void {
    this.#send(replica, ready.messages);
    for (const to of ready.snapshotsWanted) this.#output.snapshotWanted(replica, to);
    const { entries, hardState, messagesAfterSync } = ready;
    const writes = entries.length > 0 || hardState !== undefined;
    const earlier = this.#unsynced.get(replica);
    if (!writes && earlier === undefined) {
      this.#send(replica, messagesAfterSync);
      return;
    }
    if (!writes && messagesAfterSync.length === 0) return;
    const unsynced = earlier ?? { batches: 0 };
    unsynced.batches += 1;
    this.#unsynced.set(replica, unsynced);
    const last = entries.at(-1);
    this.#writer.append({
      replica,
      entries,
      hardState,
      done: () => {
        unsynced.batches -= 1;
        if (unsynced.batches === 0) this.#unsynced.delete(replica);
        this.#send(replica, messagesAfterSync);
        if (last !== undefined) replica.persisted(last.index, last.term);
        this.touched();
      },
    });
  }

  #send(replica: Replica, messages: readonly Message[]): void {
    for (const message of messages) {
      if (!this.#output.send(nodeOfReplica(message.to), replica.bucket, message)) replica.dropped(message);
    }
  }

  /** True while nothing of this replica is on its way to the disk. */
  settled(replica: Replica): boolean {
    return !this.#unsynced.has(replica);
  }

  stop(): void {
    this.#stopped = true;
    this.#gatherTimer?.cancel();
  }
}
