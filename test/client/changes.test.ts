import { getEventListeners } from 'node:events';
import { expect } from 'chai';
import { ChangeFeed } from '../../src/client/changes.js';
import type { Timers } from '../../src/env/time.js';
import { EMPTY } from '../../src/lib/bytes.js';
import type { CancelSignal } from '../../src/lib/cancel.js';
import { TidemarkError } from '../../src/lib/errors.js';
import type { StreamEvent } from '../../src/router/change-stream.js';
import type { Router } from '../../src/router/router.js';

/** Pauses are over at once. */
const timers: Timers = {
  after: (_delayMs, callback) => {
    setImmediate(callback);
    return { cancel: () => undefined };
  },
  turnEnd: setImmediate,
};

/** Each stream tells one mark, then breaks. Counts who listens to its signal. */
class BreakingRouter {
  listeners = 0;
  #signal: CancelSignal | undefined;

  async *changes(_range: unknown, { signal }: { readonly signal: CancelSignal }): AsyncGenerator<StreamEvent> {
    this.#watch(signal);
    await Promise.resolve();
    if (signal.aborted) throw new TidemarkError('CANCELLED', 'CANCELLED', 'the caller went away');
    yield { kind: 'mark', timestamp: 1, cursor: 'c' };
    throw new TidemarkError('UNAVAILABLE', 'NO_LEADER', 'it broke', { retriable: true });
  }

  #watch(signal: CancelSignal): void {
    if (this.#signal === signal) return;
    this.#signal = signal;
    const [add, remove] = [signal.addEventListener.bind(signal), signal.removeEventListener.bind(signal)];
    signal.addEventListener = (type, listener) => {
      this.listeners += 1;
      add(type, listener);
    };
    signal.removeEventListener = (type, listener) => {
      this.listeners -= 1;
      remove(type, listener);
    };
  }
}

function follow(router: BreakingRouter, signal: AbortSignal): ChangeFeed {
  const options = { range: { start: EMPTY, end: EMPTY }, from: { kind: 'now' }, before: false, signal } as const;
  return new ChangeFeed(router as unknown as Router, timers, options);
}

describe('the change feed of a client', () => {
  it('leaves nobody listening: not to the signal of its caller when it is over, nor behind a pause', async () => {
    const { signal } = new AbortController();
    const router = new BreakingRouter();
    const feed = follow(router, signal);
    for (let marks = 0; marks < 50; marks += 1) expect((await feed.next()).done).to.equal(false);
    expect(router.listeners).to.be.within(0, 1);
    expect(getEventListeners(signal, 'abort').length).to.equal(1);
    await feed.return();
    await follow(router, signal).return();
    expect(getEventListeners(signal, 'abort').length).to.equal(0);
  });

  it('ends when its signal is aborted: before it begins, and while it pauses', async () => {
    const early = follow(new BreakingRouter(), AbortSignal.abort());
    expect((await early.next()).done).to.equal(true);
    const controller = new AbortController();
    const feed = follow(new BreakingRouter(), controller.signal);
    expect((await feed.next()).done).to.equal(false);
    const next = feed.next();
    controller.abort();
    expect((await next).done).to.equal(true);
    expect(getEventListeners(controller.signal, 'abort').length).to.equal(0);
  });
});
