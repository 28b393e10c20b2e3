import { expect } from 'chai';
import { getEventListeners } from 'node:events';
import { Cancellation, oneListener } from '../../src/lib/cancel.js';

describe('a cancellation', () => {
  it('reaches all who listen, through one listener at the signal', () => {
    const controller = new AbortController();
    const { signal, stop } = oneListener(controller.signal);
    let heard = 0;
    const hear = (): void => {
      heard += 1;
    };
    for (let n = 0; n < 100; n += 1) signal?.addEventListener('abort', () => hear());
    signal?.addEventListener('abort', hear);
    signal?.removeEventListener('abort', hear);
    expect(getEventListeners(controller.signal, 'abort')).to.have.lengthOf(1);
    controller.abort();
    expect([heard, signal?.aborted]).to.deep.equal([100, true]);
    stop();
    expect(getEventListeners(controller.signal, 'abort')).to.have.lengthOf(0);
  });

  it('that has come before, or never can, is one as well', () => {
    expect(oneListener(AbortSignal.abort()).signal?.aborted).to.equal(true);
    expect(oneListener(undefined).signal).to.equal(undefined);
    const own = new Cancellation();
    expect(oneListener(own).signal).to.equal(own);
  });
});
