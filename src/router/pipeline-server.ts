import type { FrameStream, StreamHandlers } from '../env/env.js';
import type { Bytes } from '../lib/bytes.js';
import { TidemarkError } from '../lib/errors.js';
import type { LeaderHint } from './operations.js';
import { Pool, ServedStream, type PipelineServerOptions } from './served-stream.js';
import { PROTOCOL_VERSION, decodeHello } from './wire.js';
import { encodeLeaders, encodePlacement } from './wire-pushes.js';

/**
 * The serving end of pipeline streams, in a node and in a sidecar: takes frames apart, has a NodeHandle execute what is in
 * them, and sends the answers of one turn of the event loop as one frame. It also tells every caller the placement, who leads,
 * and its clock, as they change.
 *
 * A request made by an old map is executed like any other if its bucket is here: the bucket decides, not the epoch. The first
 * reply to such a request, and the first that says NOT_HOSTED, has the placement behind it in the same frame: the asker knows
 * better before it asks again. Not in front: on learning that this node has left, a router ends the stream.
 *
 * Invariants: each request is answered once, or its stream ends. Operations reach the handle checked (router/checks.ts).
 * What a stream may hold here is bounded: requests by number, Commands and Queries each by itself; answers by starting
 * only as many reads at a time as, by the usual size of this stream's answers, fill a few stream buffers, and none while
 * the stream is congested. A caller that leaves more than HELD_BUFFERS of them unread is cut off. All streams together keep and
 * expect about limits.answerBytesMax: at that, reads wait, and the stream that has been congested for longest is cut off.
 */
export class PipelineServer {
  readonly #options: PipelineServerOptions;
  readonly #streams = new Set<ServedStream>();
  readonly #pool: Pool;

  constructor(options: PipelineServerOptions) {
    this.#options = options;
    this.#pool = new Pool(options, this.#streams);
  }

  /** How many streams are open. */
  get size(): number {
    return this.#streams.size;
  }

  /** For ServeOptions.accept, channel `pipeline`. Throws a TidemarkError to refuse the stream. */
  accept(hello: Bytes, stream: FrameStream): StreamHandlers {
    const { protocol, clusterId, role } = decodeHello(hello);
    if (protocol !== PROTOCOL_VERSION) {
      const message = `the caller speaks pipeline protocol ${protocol}; this process speaks ${PROTOCOL_VERSION}`;
      throw new TidemarkError('FAILED_PRECONDITION', 'PROTOCOL_MISMATCH', message);
    }
    const placement = this.#options.placement();
    if (placement === undefined) {
      const message = 'this process has not joined its cluster yet';
      throw new TidemarkError('UNAVAILABLE', 'NOT_READY', message, { retriable: true });
    }
    if (clusterId !== '' && clusterId !== placement.clusterId) {
      const message = `this is cluster ${placement.clusterId}; the caller wants ${clusterId}`;
      throw new TidemarkError('FAILED_PRECONDITION', 'WRONG_CLUSTER', message);
    }
    const served = new ServedStream(this.#options, this.#pool, role, stream, () => this.#streams.delete(served));
    this.#streams.add(served);
    served.push((out) => {
      served.encodeClock(out, placement);
      encodePlacement(out, placement);
      const hints = this.#options.leaders?.() ?? [];
      if (hints.length > 0) encodeLeaders(out, hints);
    });
    return served;
  }

  /** Tells everybody the present placement. */
  pushPlacement(): void {
    const placement = this.#options.placement();
    if (placement === undefined) return;
    for (const stream of this.#streams) stream.push((out) => encodePlacement(out, placement));
  }

  /** Tells everybody who leads. */
  pushLeaders(hints: readonly LeaderHint[]): void {
    if (hints.length === 0) return;
    for (const stream of this.#streams) stream.push((out) => encodeLeaders(out, hints));
  }

  /** Ends all streams. */
  close(): void {
    for (const stream of [...this.#streams]) stream.end();
  }
}
