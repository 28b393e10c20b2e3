import { TidemarkError, type Outcome } from '../lib/errors.js';
import { mutant } from '../lib/mutants.js';
import { isTimestamp, type Timestamp } from '../mvcc/timestamp.js';
import { serverNamed, type NodeId } from '../placement/map.js';

/** What one operation has met so far; made when its first attempt fails. */
const SHOWN_MAX = 6;
const TIMEOUTS_MAX = 10;

export class Trail {
  /** Nodes asked in vain in this round. */
  readonly asked = new Set<NodeId>();
  rounds = 0;
  /** Attempts that ended in silence. */
  timeouts = 0;
  /** Only the leader may serve it, or no other replica is fresh enough. */
  needsLeader: boolean;
  /** As far as some replica was complete that could not serve; 0 if none said. */
  resolved: Timestamp = 0;
  /** An attempt was sent whose effect is not known. */
  mayHaveApplied = false;
  readonly #leaderOnly: boolean;
  #attempts = 0;
  /** The latest trouble with each node. */
  readonly #troubles = new Map<NodeId, string>();

  constructor(needsLeader: boolean) {
    this.needsLeader = needsLeader;
    this.#leaderOnly = needsLeader;
  }

  get outcome(): Outcome {
    return this.mayHaveApplied ? 'unknown' : 'none';
  }

  failed(node: NodeId, address: string, error: TidemarkError): void {
    this.#attempts += 1;
    this.asked.add(node);
    this.#troubles.set(node, `${serverNamed(node, address)} (${error.reason}: ${error.message})`);
    const resolved = Number(error.details['resolved'] ?? 0);
    if (isTimestamp(resolved)) this.resolved = Math.max(this.resolved, resolved);
    if (error.outcome === 'unknown' && !mutant('doubt-reported-as-none')) this.mayHaveApplied = true;
    if (error.reason === 'TIMED_OUT') this.timeouts = Math.min(this.timeouts + 1, TIMEOUTS_MAX);
  }

  /** It goes on at this node, which may take longer the next time. */
  waits(node: NodeId): void {
    this.asked.delete(node);
    this.timeouts = Math.min(this.timeouts + 1, TIMEOUTS_MAX);
  }

  /** In this round the leader is asked from now on, which may be a replica that was too stale as a follower. */
  staleReplica(node: NodeId): void {
    if (this.needsLeader) return;
    this.needsLeader = true;
    this.asked.clear();
    this.asked.add(node);
  }

  /** Somebody must be, so the leader, if others cannot; in the next round others may have come further. */
  preferLeader(): void {
    this.needsLeader = true;
  }

  newRound(): void {
    this.rounds += 1;
    this.asked.clear();
    this.needsLeader = this.#leaderOnly;
  }

  /** An error as the caller may know it: it says nothing about earlier attempts, so their doubt remains. */
  settle(error: TidemarkError): TidemarkError {
    if (!this.mayHaveApplied || error.outcome === 'unknown') return error;
    const message = `${error.message} (an earlier attempt may have taken effect)`;
    const { code, reason, retriable, details } = error;
    return new TidemarkError(code, reason, message, { outcome: 'unknown', retriable, details, cause: error });
  }

  summary(): string {
    if (this.#attempts === 0) return 'nobody: no replica is known';
    const shown = [...this.#troubles.values()].slice(0, SHOWN_MAX).join('; ');
    return `${this.#attempts} times: ${shown}`;
  }
}
