import { mutant } from '../lib/mutants.js';
import type { Core } from './core.js';
import type { ReadIndexReply } from './types.js';

/**
 * Reads that a follower sent to its leader. Each goes under a number of its own that is never used again, in another life
 * of this replica neither (it starts at random), so that a late answer cannot confirm a later read.
 */
export class ForwardedReads {
  private readonly core: Core;
  private readonly pending = new Map<number, { context: number; dueMs: number }>();
  private sequence: number;

  constructor(core: Core) {
    this.core = core;
    this.sequence = Math.floor(core.options.random() * 2 ** 48);
  }

  /** When the oldest one has waited long enough. */
  dueMs = Infinity;

  forward(context: number): void {
    const { core } = this;
    if (core.leader === 0) {
      core.giveRead(context, 0);
      return;
    }
    if (!mutant('read-tokens-reused')) this.sequence += 1;
    const dueMs = core.now + core.options.electionTimeoutMs;
    if (this.pending.size === 0) this.dueMs = dueMs;
    this.pending.set(this.sequence, { context, dueMs });
    core.send({ type: 'readIndex', from: core.id, to: core.leader, term: core.term, context: this.sequence });
  }

  onReply(m: ReadIndexReply): void {
    const read = this.pending.get(m.context);
    if (read === undefined) return;
    this.pending.delete(m.context);
    if (this.pending.size === 0) this.dueMs = Infinity;
    this.core.giveRead(read.context, m.index);
  }

  tick(now: number): void {
    if (now < this.dueMs) return;
    this.dueMs = Infinity;
    for (const [sequence, read] of this.pending) {
      if (read.dueMs > now) {
        this.dueMs = read.dueMs;
        return;
      }
      this.pending.delete(sequence);
      this.core.giveRead(read.context, 0);
    }
  }

  /** The leader is not the one that was asked any more. */
  failAll(): void {
    if (this.pending.size === 0) return;
    for (const read of this.pending.values()) this.core.giveRead(read.context, 0);
    this.pending.clear();
    this.dueMs = Infinity;
  }
}
