import type { Logger } from '../env/env.js';
import type { NodeId } from '../placement/map.js';
import type { PeerItem } from './peers.js';

/**
 * Keeps a new node out of consensus until a majority of the nodes that its configuration names, itself included, have said
 * that they were founded with the same configuration (Peers checks that they were).
 *
 * Without it a few new nodes with a list of their own, started while the nodes of the running cluster refuse them or are out
 * of reach, would elect leaders among themselves and acknowledge writes that the cluster does not know. A node that has passed
 * the gate once has that in its data directory, and never waits here again.
 *
 * A node that joins a running cluster later has no gate to pass: the cluster itself says that it is a member.
 */
export interface FoundingGateOptions {
  readonly members: readonly NodeId[];
  readonly log: Logger;
  /** This data directory has passed before. */
  readonly passed: boolean;
  /** Fulfilled when it is durable that this node takes part from now on. */
  readonly keep: () => Promise<void>;
  /** Called once, when it may take part; what was held back follows through `deliver`. */
  readonly opened: () => void;
  readonly deliver: (from: NodeId, items: readonly PeerItem[]) => void;
  readonly onFatal: (error: unknown) => void;
}

/** Frames that come while the identity is being written: mostly the first calls for votes. Raft repeats what is dropped. */
const HELD_FRAMES_MAX = 64;

export class FoundingGate {
  readonly #options: FoundingGateOptions;
  readonly #agreed = new Set<NodeId>();
  #held: { readonly from: NodeId; readonly items: readonly PeerItem[] }[] = [];
  #opening: Promise<void> | undefined;
  #isOpen: boolean;

  constructor(options: FoundingGateOptions) {
    this.#options = options;
    this.#isOpen = options.passed;
  }

  get isOpen(): boolean {
    return this.#isOpen;
  }

  /** Counts a node. Fulfilled at once if that is no majority yet, else when the gate is open. */
  async agreed(node: NodeId): Promise<void> {
    const { members, log } = this.#options;
    if (this.#isOpen || !members.includes(node)) return;
    this.#agreed.add(node);
    const met = this.#agreed.size;
    if (met > members.length / 2) await (this.#opening ??= this.#open());
    else log.info('a new node waits for a majority of the nodes of its cluster', { met, of: members.length });
  }

  /** What came too early. */
  hold(from: NodeId, items: readonly PeerItem[]): void {
    if (this.#held.length < HELD_FRAMES_MAX) this.#held.push({ from, items });
  }

  async #open(): Promise<void> {
    const { members, log, keep, opened, deliver, onFatal } = this.#options;
    try {
      await keep();
      this.#isOpen = true;
      log.info('this node is part of its cluster from now on', { met: this.#agreed.size, of: members.length });
      opened();
      const held = this.#held;
      this.#held = [];
      for (const { from, items } of held) deliver(from, items);
    } catch (error) {
      onFatal(error);
    }
  }
}
