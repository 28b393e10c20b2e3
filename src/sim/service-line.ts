import { BinaryWriter } from '../lib/binary.js';
import type { Bytes } from '../lib/bytes.js';
import type { StreamHandlers } from '../env/env.js';
import { decodeCalls, encodeCancel, encodeRequest } from '../router/wire-calls.js';
import type { SimLoop } from './loop.js';

/**
 * What it costs a simulated node to work. The loop itself takes callbacks for free, so no queue ever forms; with a service line a
 * node does one thing at a time: every request that enters through a pipeline, and every frame of a peer, stands in line and
 * takes a fixed time before it is handled. What is measured then is exact, and the same on every machine: how load spreads, not
 * how fast the code is.
 */
export interface ServiceTimes {
  readonly requestMs: number;
  /** Of other nodes; a frame holds what one turn there had to say. */
  readonly peerFrameMs: number;
}

interface Item {
  readonly ms: number;
  readonly run: () => void;
  cancelled: boolean;
}

export class ServiceLine {
  readonly #loop: SimLoop;
  readonly #times: ServiceTimes;
  readonly #queue: Item[] = [];
  #isBusy = false;

  constructor(loop: SimLoop, times: ServiceTimes) {
    this.#loop = loop;
    this.#times = times;
  }

  /** The receiving end of a stream whose frames stand in line. */
  before(channel: string, handlers: StreamHandlers): StreamHandlers {
    const frame = channel === 'pipeline' ? this.#requests(handlers) : this.#peerFrames(handlers);
    return { ...handlers, frame };
  }

  #peerFrames(handlers: StreamHandlers): (frame: Bytes) => void {
    return (frame) => void this.#enter(this.#times.peerFrameMs, () => handlers.frame(frame));
  }

  /** Each request by itself. One that is called back while it waits takes no time. */
  #requests(handlers: StreamHandlers): (frame: Bytes) => void {
    const waiting = new Map<number, Item>();
    return (frame) => {
      for (const call of decodeCalls(frame)) {
        const out = new BinaryWriter();
        if (call.kind === 'request') {
          const { request } = call;
          encodeRequest(out, request);
          const alone = out.take();
          const item = this.#enter(this.#times.requestMs, () => {
            waiting.delete(request.number);
            handlers.frame(alone);
          });
          waiting.set(request.number, item);
          continue;
        }
        const item = waiting.get(call.number);
        if (item !== undefined) item.cancelled = true;
        encodeCancel(out, call.number);
        const cancel = out.take();
        if (item === undefined) this.#enter(0, () => handlers.frame(cancel));
      }
    };
  }

  #enter(ms: number, run: () => void): Item {
    const item = { ms, run, cancelled: false };
    this.#queue.push(item);
    if (!this.#isBusy) this.#next();
    return item;
  }

  #next(): void {
    const item = this.#queue.shift();
    this.#isBusy = item !== undefined;
    if (item === undefined) return;
    if (item.cancelled) {
      this.#next();
      return;
    }
    this.#loop.schedule(item.ms, () => {
      item.run();
      this.#next();
    });
  }
}
