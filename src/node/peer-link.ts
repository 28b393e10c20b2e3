import type { Bytes } from '../lib/bytes.js';
import { isTidemarkError, TidemarkError } from '../lib/errors.js';
import type { Counter, Env, FrameStream, Logger, Timer } from '../env/env.js';
import type { Limits } from '../env/limits.js';
import type { NodeId } from '../placement/map.js';
import { decodeWelcome, type Welcome } from './peer-hello.js';
import { encodeFrame, isBeats, sizeOf, type PeerItem } from './peer-items.js';

/** What an outgoing stream asks of the node's Peers. */
export interface LinkHost {
  readonly env: Pick<Env, 'clock' | 'timers' | 'random' | 'network'>;
  readonly limits: Pick<Limits, 'messageBytesMax' | 'peerQueueBytesMax'>;
  readonly log: Logger;
  readonly framesSent: Counter;
  readonly bytesSent: Counter;
  readonly messagesDropped: Counter;
  addressOf(nodeId: NodeId): string | undefined;
  helloTo(nodeId: NodeId): Bytes;
  /** Throws if the node is known under another uuid, or is not to be believed; fulfilled when the pin is durable. */
  verify(welcome: Welcome): Promise<void>;
  /** Whether this refusal by a peer is the end of this node. */
  endsThisNode(error: TidemarkError): boolean;
  connected(nodeId: NodeId): void;
  lost(nodeId: NodeId, error: TidemarkError): void;
  fatal(error: unknown): void;
}

const BACKOFF_MS_MIN = 100;
const BACKOFF_MS_MAX = 1000;
/** After a refusal that only a person can clear up. */
const REFUSED_BACKOFF_MS = 10_000;
const WELCOME_MS_MAX = 5000;

const LASTING_REFUSALS: ReadonlySet<string> = new Set([
  'WRONG_CLUSTER',
  'WRONG_FOUNDING',
  'WRONG_EPOCH',
  'WRONG_NODE',
  'PROTOCOL_MISMATCH',
  'NODE_IDENTITY_CHANGED',
]);

/** `idle`: not dialed, and nothing planned. `waiting`: a redial is planned; what is sent until then is dropped. */
type State = 'idle' | 'waiting' | 'dialing' | 'connected' | 'closed';

/**
 * The stream on which this node speaks to one peer. It is dialed by the first send and then kept, as long as the peer has an
 * address. Raft items go before snapshot items in every frame: a heartbeat never waits behind a snapshot in this queue.
 */
export class PeerLink {
  readonly nodeId: NodeId;
  readonly #host: LinkHost;
  #state: State = 'idle';
  #stream: FrameStream | undefined;
  /** Counts dials, so that what an older stream still says is ignored. */
  #dial = 0;
  #timer: Timer | undefined;
  #failures = 0;
  #lasting = false;
  #lastWarning = '';
  #connectedSince: number | undefined;
  /** The stream's buffer is full. */
  #held = false;
  #raft: PeerItem[] = [];
  #bulk: PeerItem[] = [];
  #queuedBytes = 0;

  constructor(host: LinkHost, nodeId: NodeId) {
    this.#host = host;
    this.nodeId = nodeId;
  }

  get connectedSince(): number | undefined {
    return this.#connectedSince;
  }

  dial(): void {
    if (this.#state === 'idle') this.#connect();
  }

  /** Queues an item, or drops it and returns false. */
  send(item: PeerItem): boolean {
    this.dial();
    const size = sizeOf(item);
    const { peerQueueBytesMax, messageBytesMax } = this.#host.limits;
    if ((this.#state !== 'connected' && this.#state !== 'dialing') || this.#queuedBytes + size > peerQueueBytesMax) {
      this.#host.messagesDropped.add();
      return false;
    }
    if (size > messageBytesMax - 1024) {
      this.#host.log.error('dropped a message to a peer that is over the message limit', { bytes: size, kind: item.kind });
      this.#host.messagesDropped.add();
      return false;
    }
    const isUrgent = item.kind === 'raft' || item.kind === 'unfit' || isBeats(item);
    (isUrgent ? this.#raft : this.#bulk).push(item);
    this.#queuedBytes += size;
    return true;
  }

  /** Sends what is queued, as far as the stream takes it. */
  flush(): void {
    while (this.#state === 'connected' && !this.#held && this.#queuedBytes > 0) {
      const frame = encodeFrame(this.#take());
      this.#host.framesSent.add();
      this.#host.bytesSent.add(frame.length);
      this.#held = this.#stream?.send(frame) === false;
    }
  }

  /** The peer showed that it lives: do not wait for the planned redial. */
  nudge(): void {
    if (this.#state === 'waiting' && !this.#lasting) this.#connect();
  }

  close(error?: TidemarkError): void {
    const stream = this.#stream;
    const wasUp = this.#state === 'connected' || this.#state === 'dialing';
    this.#reset();
    this.#state = 'closed';
    stream?.close(error);
    if (wasUp) this.#host.lost(this.nodeId, error ?? gone(this.nodeId, 'this node closed the stream'));
  }

  /** The items of the next frame, at most half a message together unless the first alone is larger. */
  #take(): PeerItem[] {
    const half = this.#host.limits.messageBytesMax / 2;
    if (this.#queuedBytes <= half) {
      const all = this.#bulk.length === 0 ? this.#raft : this.#raft.concat(this.#bulk);
      this.#raft = [];
      this.#bulk = [];
      this.#queuedBytes = 0;
      return all;
    }
    const items: PeerItem[] = [];
    let bytes = 0;
    for (const queue of [this.#raft, this.#bulk]) {
      let taken = 0;
      for (const item of queue) {
        const size = sizeOf(item);
        if (items.length > 0 && bytes + size > half) break;
        items.push(item);
        bytes += size;
        taken += 1;
      }
      queue.splice(0, taken);
      if (queue.length > 0) break;
    }
    this.#queuedBytes -= bytes;
    return items;
  }

  #connect(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
    const { env } = this.#host;
    const address = this.#host.addressOf(this.nodeId);
    if (address === undefined) {
      this.#state = 'idle';
      return;
    }
    this.#state = 'dialing';
    this.#lasting = false;
    this.#dial += 1;
    const dial = this.#dial;
    const current = (): boolean => dial === this.#dial;
    this.#timer = env.timers.after(WELCOME_MS_MAX, () => {
      if (current()) this.#refuse(gone(this.nodeId, `no welcome from ${address} within ${WELCOME_MS_MAX} ms`));
    });
    const stream = env.network.connect(address, 'peer', this.#host.helloTo(this.nodeId), {
      frame: (frame) => {
        if (current()) this.#onFrame(frame, dial);
      },
      drained: () => {
        if (!current()) return;
        this.#held = false;
        this.flush();
      },
      closed: (error) => {
        if (current()) this.#onClosed(error);
      },
    });
    if (current()) this.#stream = stream;
  }

  #onFrame(frame: Bytes, dial: number): void {
    let pinned: Promise<void>;
    try {
      if (this.#state !== 'dialing') {
        throw new TidemarkError('INVALID_ARGUMENT', 'MALFORMED_FRAME', 'a peer answers only with one welcome');
      }
      const welcome = decodeWelcome(frame);
      if (welcome.nodeId !== this.nodeId) {
        const message = `node ${welcome.nodeId} answers at ${this.#stream?.remote ?? '?'}, the address of node ${this.nodeId}`;
        throw new TidemarkError('FAILED_PRECONDITION', 'WRONG_NODE', message);
      }
      pinned = this.#host.verify(welcome);
    } catch (error) {
      if (!isTidemarkError(error)) throw error;
      this.#refuse(error);
      return;
    }
    pinned.then(
      () => {
        if (dial === this.#dial) this.#onConnected();
      },
      (error: unknown) => this.#host.fatal(error),
    );
  }

  #onConnected(): void {
    if (this.#state !== 'dialing') return;
    this.#timer?.cancel();
    this.#timer = undefined;
    this.#state = 'connected';
    this.#connectedSince = this.#host.env.clock.monotonicMs();
    this.#lastWarning = '';
    this.#host.log.info('connected to peer', { peer: this.nodeId, address: this.#stream?.remote });
    this.#host.connected(this.nodeId);
    this.flush();
  }

  /** This side does not want the stream. */
  #refuse(error: TidemarkError): void {
    const stream = this.#stream;
    this.#lost(error);
    stream?.close(error);
  }

  #onClosed(error: TidemarkError | undefined): void {
    if (error !== undefined && this.#host.endsThisNode(error)) {
      this.#lost(error);
      this.#host.fatal(refusedHere(this.nodeId, error));
      return;
    }
    this.#lost(error ?? gone(this.nodeId, 'it closed the stream'));
  }

  #lost(error: TidemarkError): void {
    const { env, log } = this.#host;
    const since = this.#connectedSince;
    this.#reset();
    const steady = since !== undefined && env.clock.monotonicMs() - since >= BACKOFF_MS_MAX;
    this.#failures = steady ? 1 : this.#failures + 1;
    this.#lasting = LASTING_REFUSALS.has(error.reason);
    const backoff = Math.min(BACKOFF_MS_MAX, BACKOFF_MS_MIN * 2 ** Math.min(this.#failures - 1, 10));
    const delay = (this.#lasting ? REFUSED_BACKOFF_MS : backoff) * (0.5 + 0.5 * env.random.float());
    this.#state = 'waiting';
    this.#timer = env.timers.after(delay, () => this.#connect());
    if (error.reason !== this.#lastWarning || since !== undefined) {
      this.#lastWarning = error.reason;
      const fields = { peer: this.nodeId, code: error.code, reason: error.reason, error: error.message };
      if (this.#lasting) log.error('a peer and this node refuse each other', fields);
      else log.warn(since === undefined ? 'cannot reach peer' : 'lost the connection to peer', fields);
    }
    this.#host.lost(this.nodeId, error);
  }

  /** Forgets the stream and the queue. */
  #reset(): void {
    this.#dial += 1;
    this.#timer?.cancel();
    this.#timer = undefined;
    this.#stream = undefined;
    this.#connectedSince = undefined;
    this.#held = false;
    const dropped = this.#raft.length + this.#bulk.length;
    if (dropped > 0) this.#host.messagesDropped.add(dropped);
    this.#raft = [];
    this.#bulk = [];
    this.#queuedBytes = 0;
  }
}

export function refusedHere(by: NodeId, error: TidemarkError): TidemarkError {
  return new TidemarkError(error.code, error.reason, `node ${by} refuses this node: ${error.message}`, { cause: error });
}

function gone(nodeId: NodeId, why: string): TidemarkError {
  return new TidemarkError('UNAVAILABLE', 'PEER_UNREACHABLE', `node ${nodeId}: ${why}`, { retriable: true });
}
