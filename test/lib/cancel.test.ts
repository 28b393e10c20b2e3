import { expect } from 'chai';
import { getEventListeners } from 'node:events';
import { following } from '../../src/lib/cancel.js';

describe('a cancellation', () => {
  it('reaches all who listen, through one listener at the signal', () => {
    const controller = new AbortController();
    const { cancellation, stop } = following(controller.signal);
    let heard = 0;
    const hear = (): void => {
      heard += 1;
    };
    for (let n = 0; n < 100; n += 1) cancellation.addEventListener('abort', () => hear());
    cancellation.addEventListener('abort', hear);
    cancellation.removeEventListener('abort', hear);
    expect(getEventListeners(controller.signal, 'abort')).to.have.lengthOf(1);
    controller.abort();
    expect([heard, cancellation.aborted]).to.deep.equal([100, true]);
    stop();
    expect(getEventListeners(controller.signal, 'abort')).to.have.lengthOf(0);
  });

  it('that has come before is one as well, and one of its own reaches nobody else', () => {
    expect(following(AbortSignal.abort()).cancellation.aborted).to.equal(true);
    const { cancellation: above } = following(undefined);
    const { cancellation: below, stop } = following(above);
    below.abort();
    stop();
    expect([above.aborted, below.aborted]).to.deep.equal([false, true]);
  });
});
