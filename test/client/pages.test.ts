import { getEventListeners } from 'node:events';
import { expect } from 'chai';
import { Scan } from '../../src/client/scan.js';
import type { CancelSignal } from '../../src/lib/cancel.js';
import { TidemarkError } from '../../src/lib/errors.js';
import type { ScanPage } from '../../src/router/scan.js';
import { bytes, failureOf } from '../router/support.js';

describe('the pages of a scan or a diff', () => {
  const SERVED = { node: 1, timestamp: 1, consistency: 'asOf', hops: 1 } as const;
  const turn = (): Promise<void> => new Promise((resolve) => void setImmediate(resolve));
  let ended = 0;

  /** One page, and then none until it is called off. */
  async function* stalling(signal: CancelSignal): AsyncGenerator<ScanPage> {
    try {
      yield { records: [{ key: bytes('a'), value: bytes('v'), version: 1 }], more: true, served: SERVED };
      await new Promise<void>((resolve) => signal.addEventListener('abort', resolve));
      throw new TidemarkError('CANCELLED', 'CANCELLED', 'the caller went away');
    } finally {
      ended += 1;
    }
  }

  beforeEach(() => {
    ended = 0;
  });

  it('are left at once, also while one is waited for, which then is the end', async () => {
    const { signal } = new AbortController();
    const scan = new Scan(stalling, signal);
    expect((await scan.next()).value?.key.toString()).to.equal('a');
    const pending = scan.next();
    await turn();
    expect(await scan.return()).to.deep.equal({ done: true, value: undefined });
    expect(await pending).to.deep.equal({ done: true, value: undefined });
    expect([ended, getEventListeners(signal, 'abort').length]).to.deep.equal([1, 0]);
  });

  it('end with an error when their caller calls them off', async () => {
    const controller = new AbortController();
    const scan = new Scan(stalling, controller.signal);
    await scan.next();
    const pending = failureOf(scan.next());
    await turn();
    controller.abort();
    expect(await pending).to.include({ code: 'CANCELLED' });
    expect([ended, getEventListeners(controller.signal, 'abort').length]).to.deep.equal([1, 0]);
  });

  it('that were never asked for are not begun', async () => {
    const scan = new Scan(() => expect.fail('it is begun'), undefined);
    await scan.return();
    expect((await scan.next()).done).to.equal(true);
  });
});
