import { mutant } from '../lib/mutants.js';
import type { LogIndex, ReadState } from '../raft/types.js';

/**
 * The ReadIndex rounds of one replica. Reads of one turn join one round, which is asked for when the turn ends: it begins after
 * each of them came. A read of a later turn never joins it, for what was acknowledged in between it must see.
 */
export interface ReadRound {
  readonly context: number;
  /** What must be applied before a read of the round is served; undefined until it is confirmed, 0 if it failed. */
  index: LogIndex | undefined;
}

export class ReadRounds {
  /** The round that reads of this turn join. */
  #gathering: ReadRound | undefined;
  readonly #asked = new Map<number, ReadRound>();
  #nextContext = 1;

  /** The round of this turn. */
  join(): ReadRound {
    if (this.#gathering === undefined) {
      this.#gathering = { context: this.#nextContext++, index: undefined };
      this.#asked.set(this.#gathering.context, this.#gathering);
    }
    return this.#gathering;
  }

  /** There is a round to ask for when the turn ends. */
  get isWanted(): boolean {
    return this.#gathering !== undefined;
  }

  /** The turn ends: the round that is to be asked for now, by its context. */
  take(): number | undefined {
    const round = this.#gathering;
    if (round?.index !== undefined || !mutant('read-joins-asked-round')) this.#gathering = undefined;
    return round?.context;
  }

  confirmed(reads: readonly ReadState[]): void {
    for (const { context, index } of reads) {
      const round = this.#asked.get(context);
      if (round === undefined) continue;
      round.index = index;
      this.#asked.delete(context);
    }
  }
}
