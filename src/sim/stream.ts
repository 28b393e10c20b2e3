import type { Bytes } from '../lib/bytes.js';
import { assert } from '../lib/assert.js';
import { TidemarkError, withoutStack } from '../lib/errors.js';
import type { ChannelName, FrameStream, StreamHandlers, Timer } from '../env/env.js';

/** What streams ask of the network that carries them. */
export interface Carrier {
  readonly bufferBytesMax: number;
  readonly messageBytesMax: number;
  readonly keepaliveMs: number;
  after(delayMs: number, callback: () => void): Timer;
  latencyMs(from: string, to: string): number;
  /** A number in [0, 1). */
  chance(): number;
  breakChance(): number;
  /** Nothing arrives from there at present, and nothing will until somebody heals it. */
  isCut(from: string, to: string): boolean;
  /** Nothing arrives from there at present, though the connection is in order. */
  isStalled(from: string, to: string): boolean;
  /** An opening message arrived: attaches a listener to the stream, or throws a TidemarkError. */
  open(stream: SimStream): void;
  /** The stream will do nothing more. */
  gone(stream: SimStream): void;
  /** A frame leaves; what this gives is called when somebody gets it. */
  sent(from: string, to: string, bytes: number): (() => void) | undefined;
}

/** A process that asks for a stream to whoever listens at an address; `to` is the process that does now, or did last. */
export interface Request {
  readonly from: string;
  readonly to: string;
  readonly address: string;
  readonly channel: ChannelName;
  readonly hello: Bytes;
  readonly handlers: StreamHandlers;
}

export type End = 'client' | 'server';

type Parcel =
  | { readonly kind: 'open' }
  | { readonly kind: 'frame'; readonly data: Bytes }
  | { readonly kind: 'end'; readonly error: TidemarkError | undefined };

interface InTransit {
  readonly parcel: Parcel;
  readonly arrived: (() => void) | undefined;
  ripe: boolean;
}

function lost(remote: string, why: string): TidemarkError {
  const options = { outcome: 'unknown', retriable: true } as const;
  return withoutStack(() => new TidemarkError('UNAVAILABLE', 'STREAM_LOST', `${remote}: ${why}`, options));
}

/** One end of a stream, as its process sees it, and all that is on its way to the other end. */
class StreamEnd implements FrameStream {
  readonly remote: string;
  /** The process that holds this end; it changes once, when a listener takes the stream. */
  process: string;
  handlers: StreamHandlers | undefined;
  /** Nothing reaches the handlers any more, except the `closed` that answers their own `close`. */
  ended = false;
  /** The process behind it was killed: nobody may be called. */
  dead = false;
  keepalive: Timer | undefined;
  inTransit: InTransit[] = [];
  bytes = 0;
  crowded = false;
  readonly #stream: SimStream;
  readonly #end: End;

  constructor(stream: SimStream, end: End, process: string, remote: string) {
    this.#stream = stream;
    this.#end = end;
    this.process = process;
    this.remote = remote;
  }

  send(frame: Bytes): boolean {
    return this.#stream.send(this.#end, frame);
  }

  close(error?: TidemarkError): void {
    this.#stream.close(this.#end, error);
  }
}

/**
 * A stream of frames between two simulated processes. While it lives it is ordered and without loss, as TCP is: faults show
 * as delay, as silence, and in the end as a break. A frame is copied when it is sent, so no memory is shared.
 *
 * Each direction is a queue; a parcel is delivered once its own delay is over, those before it are delivered, and the path is
 * open. So jitter never reorders. What was on its way when an end died arrives up to some random parcel.
 */
export class SimStream {
  readonly hello: Bytes;
  readonly channel: ChannelName;
  readonly address: string;
  readonly client: StreamEnd;
  readonly server: StreamEnd;
  readonly #carrier: Carrier;
  /** What these ends have sent is on its way still, longer than usual. */
  readonly #lingering = new Set<End>();

  constructor(carrier: Carrier, request: Request) {
    this.#carrier = carrier;
    this.hello = Buffer.from(request.hello);
    this.channel = request.channel;
    this.address = request.address;
    this.client = new StreamEnd(this, 'client', request.from, request.address);
    this.client.handlers = request.handlers;
    this.server = new StreamEnd(this, 'server', request.to, request.from);
    this.#push('client', { kind: 'open' });
    this.pathChanged();
  }

  send(end: End, frame: Bytes): boolean {
    const sender = this[end];
    if (sender.ended || sender.dead) return false;
    assert(frame.length <= this.#carrier.messageBytesMax, () => `a frame of ${frame.length} bytes is over the limit`);
    this.#push(end, { kind: 'frame', data: Buffer.from(frame) });
    if (this.#carrier.chance() < this.#carrier.breakChance()) this.break();
    if (sender.bytes > this.#carrier.bufferBytesMax) sender.crowded = true;
    return !sender.crowded;
  }

  close(end: End, error: TidemarkError | undefined): void {
    const closer = this[end];
    if (closer.ended || closer.dead) return;
    this.#end(closer);
    this.#push(end, { kind: 'end', error });
    this.#carrier.after(0, () => {
      if (!closer.dead) closer.handlers?.closed(error);
      this.#sweep();
    });
  }

  /** Both ends lose the connection at once; what was on its way is lost too. */
  break(): void {
    for (const end of ['client', 'server'] as const) {
      const other = this.#other(end);
      this.#forget(this[end]);
      this.#push(end, { kind: 'end', error: lost(other.remote, 'the connection was reset') });
    }
  }

  /**
   * One end loses the connection at once, and with it what was on its way there. What it had sent is still on its way: the other
   * end gets it `lingerMs` later, perhaps behind what came by another stream meanwhile, or a second time, and then the end.
   */
  loseHalf(end: End, lingerMs: number): void {
    const one = this[end];
    if (one.ended || one.dead) return;
    const other = this.#other(end);
    this.#end(one);
    this.#forget(other);
    this.#lingering.add(end);
    this.#push(end, { kind: 'end', error: lost(other.remote, 'the connection was reset') });
    this.#carrier.after(lingerMs, () => {
      this.#lingering.delete(end);
      this.#pump(end);
    });
    this.#carrier.after(0, () => {
      if (!one.dead) one.handlers?.closed(lost(one.remote, 'the connection was reset'));
      this.#sweep();
    });
  }

  /** The process behind an end was killed. */
  kill(end: End): void {
    const victim = this[end];
    if (victim.dead) return;
    const wasOpen = !victim.ended;
    this.#end(victim);
    victim.dead = true;
    if (!wasOpen) return;
    const kept = Math.floor(this.#carrier.chance() * (victim.inTransit.length + 1));
    // The opening message of a client stays: whoever listens must see a stream that opens and breaks.
    victim.inTransit.length = Math.max(kept, victim.inTransit[0]?.parcel.kind === 'open' ? 1 : 0);
    this.#push(end, { kind: 'end', error: lost(this.#other(end).remote, 'the connection was reset') });
    this.#sweep();
  }

  /** A path between the two processes was cut, stalled or healed. */
  pathChanged(): void {
    const cut =
      this.#carrier.isCut(this.client.process, this.server.process) ||
      this.#carrier.isCut(this.server.process, this.client.process);
    for (const end of ['client', 'server'] as const) {
      const one = this[end];
      if (one.ended || one.dead || one.handlers === undefined || !cut) {
        one.keepalive?.cancel();
        one.keepalive = undefined;
      } else if (one.keepalive === undefined) {
        const patience = this.#carrier.keepaliveMs * (1 + 0.2 * this.#carrier.chance());
        one.keepalive = this.#carrier.after(patience, () => this.#lose(end));
      }
    }
    this.#pump('client');
    this.#pump('server');
  }

  /** An end heard nothing for too long. */
  #lose(end: End): void {
    const one = this[end];
    if (one.ended || one.dead) return;
    this.#end(one);
    const error = lost(one.remote, `no sign of life for ${this.#carrier.keepaliveMs} ms`);
    this.#forget(one);
    this.#push(end, { kind: 'end', error: lost(this.#other(end).remote, 'the connection was reset') });
    one.handlers?.closed(error);
    this.#sweep();
  }

  #other(end: End): StreamEnd {
    return end === 'client' ? this.server : this.client;
  }

  #isOpen(end: End): boolean {
    const [from, to] = [this[end].process, this.#other(end).process];
    return !this.#lingering.has(end) && !this.#carrier.isCut(from, to) && !this.#carrier.isStalled(from, to);
  }

  #push(end: End, parcel: Parcel): void {
    const sender = this[end];
    const to = this.#other(end).process;
    const arrived = parcel.kind === 'frame' ? this.#carrier.sent(sender.process, to, parcel.data.length) : undefined;
    const transit: InTransit = { parcel, arrived, ripe: false };
    sender.inTransit.push(transit);
    if (parcel.kind === 'frame') sender.bytes += parcel.data.length;
    this.#carrier.after(this.#carrier.latencyMs(sender.process, to), () => {
      transit.ripe = true;
      this.#pump(end);
    });
  }

  #pump(end: End): void {
    const sender = this[end];
    while (sender.inTransit[0]?.ripe === true && this.#isOpen(end)) {
      const transit = sender.inTransit.shift();
      if (transit !== undefined) this.#deliver(end, transit);
    }
  }

  #deliver(end: End, { parcel, arrived }: InTransit): void {
    const receiver = this.#other(end);
    if (parcel.kind === 'frame') this.#leave(end, parcel.data.length);
    if (receiver.ended || receiver.dead) return;
    arrived?.();
    switch (parcel.kind) {
      case 'open':
        this.#open();
        break;
      case 'frame':
        receiver.handlers?.frame(parcel.data);
        break;
      case 'end':
        this.#end(receiver);
        receiver.handlers?.closed(parcel.error);
        this.#sweep();
        break;
    }
  }

  #open(): void {
    try {
      this.#carrier.open(this);
    } catch (error) {
      if (!(error instanceof TidemarkError)) throw error;
      this.#end(this.server);
      this.#push('server', { kind: 'end', error });
    }
  }

  /** A frame left the sender's buffer. */
  #leave(end: End, bytes: number): void {
    const sender = this[end];
    sender.bytes -= bytes;
    if (!sender.crowded || sender.bytes > this.#carrier.bufferBytesMax / 2) return;
    sender.crowded = false;
    this.#carrier.after(this.#carrier.latencyMs(this.#other(end).process, sender.process), () => {
      if (!sender.ended && !sender.dead) sender.handlers?.drained?.();
    });
  }

  #forget(sender: StreamEnd): void {
    sender.inTransit = [];
    sender.bytes = 0;
  }

  #end(end: StreamEnd): void {
    end.ended = true;
    end.keepalive?.cancel();
    end.keepalive = undefined;
  }

  #sweep(): void {
    if (this.client.ended && this.server.ended) this.#carrier.gone(this);
  }
}
