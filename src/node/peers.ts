import type { Bytes } from '../lib/bytes.js';
import { isTidemarkError, TidemarkError } from '../lib/errors.js';
import { mutant } from '../lib/mutants.js';
import type { Counter, Env, FrameStream, Gauge, StreamHandlers } from '../env/env.js';
import type { Limits } from '../env/limits.js';
import { checkEpoch } from '../placement/epoch.js';
import { describeFounding, foundingDifferences, type Founding } from '../placement/founding.js';
import type { NodeId } from '../placement/map.js';
import { decodeHello, encodeHello, encodeWelcome, type Hello, type Welcome } from './peer-hello.js';
import { decodeFrame, type PeerItem } from './peer-items.js';
import { PeerLink, refusedHere, type LinkHost } from './peer-link.js';

export type { PeerItem, RaftItem, SnapshotItem } from './peer-items.js';

/**
 * How the nodes of a cluster talk: one stream from each node to each other node, on which frames flow one way. An answer comes
 * on the stream that the other side dialed. What a node says to a peer within one turn of its event loop, for all buckets
 * together, leaves in one frame.
 *
 * A stream opens with a hello (cluster, its founding, who, to whom, epoch), answered by a welcome (who, epoch). Each side then
 * knows the other's uuid, the random name that a data directory gets when it is made, and nothing is handed up or sent before
 * that is checked:
 *
 * - The first uuid seen for a node id is pinned, durably. A node id that later comes with another uuid has lost its data
 *   directory, and with it votes and acknowledged entries that the others count on. It is refused by all who knew it, and
 *   stops.
 * - A node of another cluster, of one of this name that was founded otherwise (placement/founding.ts), or another node than the
 *   one dialed, is refused and said so in both logs. A node that is new stops: its configuration is wrong, and it has nothing
 *   to lose yet. A node that has been part of its cluster goes on: it may be the other that is wrong.
 * - A node that was removed while it was away is told so, and stops.
 * - An older or a newer epoch is as good as one's own: placements reach nodes one after the other, and what Raft says is bound
 *   to replica ids and to each group's own configuration, not to the map. An absurd one is refused (placement/epoch.ts).
 *
 * Example: node 1 sends to node 2. It dials 2's address with [1, 'c', 1, 'u1', 2, [256, 3, 1, 2, 3], 1]; node 2 pins u1 and
 * answers ['welcome', 2, 'u2', 1]; node 1 pins u2 and sends what it has queued. For its answers node 2 dials node 1 likewise.
 *
 * Not here: delivery. A frame may be lost with its stream, and a full queue drops; Raft repeats what matters, and a snapshot
 * transfer starts again.
 */
export interface PeerPins {
  get(nodeId: NodeId): string | undefined;
  /** Fulfilled when durable; a rejection is fatal, as of any disk. */
  pin(nodeId: NodeId, uuid: string): Promise<void>;
}

export interface PeersOptions {
  readonly env: Pick<Env, 'clock' | 'timers' | 'random' | 'network' | 'log' | 'metrics'>;
  readonly limits: Pick<Limits, 'messageBytesMax' | 'peerQueueBytesMax'>;
  readonly clusterId: string;
  readonly founding: Founding;
  readonly self: { readonly nodeId: NodeId; readonly uuid: string };
  readonly pins: PeerPins;
  /** The epoch of the placement that this node knows. */
  epoch(): number;
  /** This node has not been part of its cluster yet. */
  isNew(): boolean;
  /** That node is of the same cluster, founded alike, and known by its uuid; it knows that epoch. May be called again. */
  onAgreed(nodeId: NodeId, epoch: number): void;
  /** Where a member listens; undefined for a node that is none. */
  addressOf(nodeId: NodeId): string | undefined;
  /** That node was a member, and never will be again. */
  wasRemoved(nodeId: NodeId): boolean;
  onMessages(from: NodeId, items: readonly PeerItem[]): void;
  /** This node must stop: its identity is refused, or its disk failed. Called at most once. */
  onFatal(error: unknown): void;
}

/** Called when the stream to a node, or the one from it, has ended: what was on its way may be lost. */
export type LostListener = (nodeId: NodeId, error: TidemarkError) => void;

/** A stream that a peer dialed. */
interface Inbound {
  readonly stream: FrameStream;
  open: boolean;
}

export class Peers {
  readonly #options: PeersOptions;
  readonly #host: LinkHost;
  readonly #links = new Map<NodeId, PeerLink>();
  readonly #inbound = new Map<NodeId, Inbound>();
  /** Of the placements that they named when they were last met. */
  readonly #epochs = new Map<NodeId, number>();
  /** Pins on their way to the disk. */
  readonly #pinning = new Map<NodeId, { readonly uuid: string; readonly done: Promise<void> }>();
  readonly #listeners = new Set<LostListener>();
  /** No members when `prune` last looked. */
  #leaving: ReadonlySet<NodeId> = new Set();
  readonly #bytesReceived: Counter;
  readonly #connectedGauge: Gauge;
  #lastRefusal = '';
  #failed = false;
  #closed = false;

  constructor(options: PeersOptions) {
    this.#options = options;
    const { env, limits, clusterId, founding, self } = options;
    const { metrics } = env;
    this.#bytesReceived = metrics.counter('tidemark_peer_received_bytes_total', 'Bytes of frames received from peers.');
    this.#connectedGauge = metrics.gauge('tidemark_peers_connected', 'Peers that this node can send to.');
    this.#host = {
      env,
      limits,
      log: env.log,
      framesSent: metrics.counter('tidemark_peer_sent_frames_total', 'Frames sent to peers.'),
      bytesSent: metrics.counter('tidemark_peer_sent_bytes_total', 'Bytes of frames sent to peers.'),
      messagesDropped: metrics.counter('tidemark_peer_dropped_messages_total', 'Messages to peers that were dropped.'),
      addressOf: (nodeId) => options.addressOf(nodeId),
      helloTo: (to) => encodeHello({ clusterId, founding, from: self.nodeId, uuid: self.uuid, to, epoch: options.epoch() }),
      verify: (welcome) => this.#verifyWelcome(welcome),
      endsThisNode: (error) => this.#endsThisNode(error),
      connected: (nodeId) => {
        this.#countConnected();
        options.onAgreed(nodeId, this.#epochs.get(nodeId) ?? 0);
      },
      lost: (nodeId, error) => {
        this.#countConnected();
        this.#lost(nodeId, error);
      },
      fatal: (error) => this.#fatal(error),
    };
  }

  /** Queues an item for the next flush. False if it was dropped: the peer is out of reach, or its queue is full. */
  send(to: NodeId, item: PeerItem): boolean {
    return !this.#closed && this.#linkTo(to).send(item);
  }

  /** Dials a node, and again until it is reached, though there is nothing to say to it yet. */
  dial(to: NodeId): void {
    if (!this.#closed) this.#linkTo(to).dial();
  }

  #linkTo(to: NodeId): PeerLink {
    let link = this.#links.get(to);
    if (link === undefined) {
      link = new PeerLink(this.#host, to);
      this.#links.set(to, link);
    }
    return link;
  }

  /** Sends what is queued: one frame per peer, more only if it is over half a message. Called at the end of a turn. */
  flush(): void {
    for (const link of this.#links.values()) link.flush();
  }

  /** True if this node can send to that one. */
  connected(nodeId: NodeId): boolean {
    return this.#links.get(nodeId)?.connectedSince !== undefined;
  }

  /** True if that node can send to this one: what it is asked can be answered. When it cannot any more, listeners are told. */
  hears(nodeId: NodeId): boolean {
    return this.#inbound.has(nodeId);
  }

  /** Monotonic ms since when `connected`, or undefined. */
  connectedSince(nodeId: NodeId): number | undefined {
    return this.#links.get(nodeId)?.connectedSince;
  }

  /** Tells about ended streams, of both directions. Returns what ends that. */
  onLost(listener: LostListener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Ends all streams with nodes that are no members any more: at the second call that finds them so, for they are told first. */
  prune(): void {
    const strangers = [...this.#links.keys(), ...this.#inbound.keys()].filter((id) => this.#options.addressOf(id) === undefined);
    for (const id of strangers) if (this.#leaving.has(id)) this.#forget(id);
    this.#leaving = new Set(strangers);
  }

  #forget(nodeId: NodeId): void {
    const error = new TidemarkError('FAILED_PRECONDITION', 'UNKNOWN_NODE', `node ${nodeId} is not a member any more`);
    this.#links.get(nodeId)?.close(error);
    this.#links.delete(nodeId);
    this.#endInbound(nodeId, error);
  }

  /** For the serving side: a stream on the channel `peer` has arrived. Throws the refusal. */
  accept(hello: Bytes, stream: FrameStream): StreamHandlers {
    const { from, epoch, pinned } = this.#admit(hello, stream.remote);
    const inbound: Inbound = { stream, open: false };
    let ended = false;
    pinned.then(
      () => {
        if (ended || this.#closed) return;
        const replaced = new TidemarkError('ABORTED', 'STREAM_REPLACED', `node ${from} dialed again`);
        this.#endInbound(from, replaced);
        this.#inbound.set(from, inbound);
        inbound.open = true;
        stream.send(encodeWelcome({ ...this.#options.self, epoch: this.#options.epoch() }));
        this.#links.get(from)?.nudge();
        this.#options.onAgreed(from, epoch);
      },
      (error: unknown) => this.#fatal(error),
    );
    return {
      frame: (frame) => {
        if (ended || this.#closed) return;
        // A replaced stream says nothing more.
        if (inbound.open && this.#inbound.get(from) !== inbound) return;
        this.#onFrame(from, inbound, frame);
      },
      closed: (error) => {
        if (ended) return;
        ended = true;
        if (this.#closed) return;
        const was = this.#inbound.get(from) === inbound;
        if (was) this.#inbound.delete(from);
        if (error !== undefined && this.#endsThisNode(error)) this.#fatal(refusedHere(from, error));
        if (was) this.#lost(from, error ?? streamEnded(from));
      },
    };
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    const error = new TidemarkError('UNAVAILABLE', 'SHUTTING_DOWN', `node ${this.#options.self.nodeId} is stopping`, {
      retriable: true,
    });
    for (const link of this.#links.values()) link.close(error);
    for (const { stream } of this.#inbound.values()) stream.close(error);
    this.#links.clear();
    this.#inbound.clear();
    this.#listeners.clear();
  }

  #onFrame(from: NodeId, inbound: Inbound, frame: Bytes): void {
    let items: PeerItem[];
    try {
      if (!inbound.open) {
        throw new TidemarkError('INVALID_ARGUMENT', 'MALFORMED_FRAME', 'a frame came before this node said welcome');
      }
      items = decodeFrame(frame);
    } catch (error) {
      if (!isTidemarkError(error)) throw error;
      const { code, reason, message } = error;
      this.#options.env.log.error('a peer sent a frame that cannot be read', { peer: from, code, reason, error: message });
      if (inbound.open) this.#endInbound(from, error);
      else inbound.stream.close(error);
      return;
    }
    this.#bytesReceived.add(frame.length);
    this.#options.onMessages(from, items);
  }

  #endInbound(nodeId: NodeId, error: TidemarkError): void {
    const inbound = this.#inbound.get(nodeId);
    if (inbound === undefined) return;
    this.#inbound.delete(nodeId);
    inbound.stream.close(error);
    this.#lost(nodeId, error);
  }

  /** Checks a hello; throws the refusal, which is also logged. */
  #admit(data: Bytes, remote: string): { from: NodeId; epoch: number; pinned: Promise<void> } {
    try {
      const hello = decodeHello(data);
      this.#check(hello, remote);
      return { from: hello.from, epoch: hello.epoch, pinned: this.#verify(hello.from, hello.uuid) };
    } catch (error) {
      if (isTidemarkError(error) && error.message !== this.#lastRefusal) {
        this.#lastRefusal = error.message;
        const { code, reason, message } = error;
        this.#options.env.log.error('refused a peer', { remote, code, reason, error: message });
      }
      if (isTidemarkError(error) && error.reason === 'WRONG_FOUNDING' && this.#options.isNew()) this.#fatal(error);
      throw error;
    }
  }

  #check(hello: Hello, remote: string): void {
    const { clusterId, founding, self } = this.#options;
    if (this.#closed) {
      const message = `node ${self.nodeId} is stopping`;
      throw new TidemarkError('UNAVAILABLE', 'SHUTTING_DOWN', message, { retriable: true });
    }
    if (hello.clusterId !== clusterId) {
      const message =
        `node ${hello.from} of cluster '${hello.clusterId}' (${remote}) called node ${self.nodeId} of cluster ` +
        `'${clusterId}': check the addresses in their configurations`;
      throw new TidemarkError('FAILED_PRECONDITION', 'WRONG_CLUSTER', message);
    }
    const differences = foundingDifferences(hello.founding, founding);
    if (differences.length > 0) {
      const { from } = hello;
      const message =
        `node ${from} (${remote}) and node ${self.nodeId} do not mean the same cluster '${clusterId}': node ${from} says ` +
        `that it was founded with ${describeFounding(hello.founding)}, node ${self.nodeId} with ` +
        `${describeFounding(founding)}; ${differences.join(' and ')} must be as they were when the cluster was founded, on ` +
        'all of its nodes: set them back, or give a new cluster an id of its own';
      throw new TidemarkError('FAILED_PRECONDITION', 'WRONG_FOUNDING', message);
    }
    if (hello.to !== self.nodeId) {
      const message = `node ${hello.from} called node ${hello.to}, but this is node ${self.nodeId}`;
      throw new TidemarkError('FAILED_PRECONDITION', 'WRONG_NODE', message);
    }
    if (hello.from === self.nodeId) {
      const message = `another process (${remote}) says that it is node ${self.nodeId}`;
      throw new TidemarkError('FAILED_PRECONDITION', 'WRONG_NODE', message);
    }
    if (this.#options.wasRemoved(hello.from)) {
      const who = `node ${hello.from} (${remote})`;
      const message = `${who} was removed from cluster '${clusterId}': stop it, and delete its data directory`;
      throw new TidemarkError('FAILED_PRECONDITION', 'NODE_REMOVED', message);
    }
    if (this.#options.addressOf(hello.from) === undefined) {
      const message =
        `node ${hello.from} (${remote}) is no member of cluster '${clusterId}' as node ${self.nodeId} knows it at epoch ` +
        `${this.#options.epoch()}: only nodes that were added to the cluster can take part in it`;
      throw new TidemarkError('FAILED_PRECONDITION', 'UNKNOWN_NODE', message, { retriable: true });
    }
    checkEpoch(hello.epoch, this.#options.epoch(), `node ${hello.from}`);
  }

  #verifyWelcome({ nodeId, uuid, epoch }: Welcome): Promise<void> {
    checkEpoch(epoch, this.#options.epoch(), `node ${nodeId}`);
    this.#epochs.set(nodeId, epoch);
    return this.#verify(nodeId, uuid);
  }

  /** Whether a peer's refusal shows that it is this node that must not go on. */
  #endsThisNode({ reason }: TidemarkError): boolean {
    if (reason === 'NODE_IDENTITY_CHANGED' || reason === 'NODE_REMOVED') return true;
    return (reason === 'WRONG_FOUNDING' || reason === 'UNKNOWN_NODE') && this.#options.isNew();
  }

  #verify(nodeId: NodeId, uuid: string): Promise<void> {
    const { pins, self } = this.#options;
    const pinned = pins.get(nodeId);
    const pinning = this.#pinning.get(nodeId);
    const known = pinned ?? pinning?.uuid;
    if (known !== undefined && known !== uuid && !mutant('wiped-node-welcome')) {
      const message =
        `node ${nodeId} was known to node ${self.nodeId} as ${known}, now it comes as ${uuid}: its data directory was lost ` +
        `or replaced; remove node ${nodeId} and add it under a new id`;
      throw new TidemarkError('FAILED_PRECONDITION', 'NODE_IDENTITY_CHANGED', message, { details: { known, uuid } });
    }
    if (pinning !== undefined) return pinning.done;
    if (pinned !== undefined) return Promise.resolve();
    const done = pins.pin(nodeId, uuid).then(() => {
      this.#pinning.delete(nodeId);
    });
    this.#pinning.set(nodeId, { uuid, done });
    return done;
  }

  #countConnected(): void {
    let count = 0;
    for (const link of this.#links.values()) if (link.connectedSince !== undefined) count += 1;
    this.#connectedGauge.set(count);
  }

  #lost(nodeId: NodeId, error: TidemarkError): void {
    for (const listener of this.#listeners) listener(nodeId, error);
  }

  #fatal(error: unknown): void {
    if (this.#failed || this.#closed) return;
    this.#failed = true;
    this.#options.onFatal(error);
  }
}

function streamEnded(nodeId: NodeId): TidemarkError {
  return new TidemarkError('UNAVAILABLE', 'PEER_UNREACHABLE', `node ${nodeId} closed its stream`, { retriable: true });
}
