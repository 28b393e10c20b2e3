import { expect } from 'chai';
import type { Replica } from '../../src/bucket/replica.js';
import type { LogWriter } from '../../src/node/log-writer.js';
import { TurnLoop } from '../../src/node/turn.js';
import { SimLoop } from '../../src/sim/loop.js';

describe('the turn loop', () => {
  it('fetches page after page of what is ready, without waiting for more input', async () => {
    // Found by the swarm: an install waits until nothing is ready, and nobody fetched the second page of committed entries.
    const loop = new SimLoop(1);
    let pages = 3;
    const replica = {
      collect: () => void (pages -= 1),
      gatherDueMs: Infinity,
      raft: { hasReady: () => pages > 0 },
    } as unknown as Replica;
    const writer = { flush: () => undefined } as unknown as LogWriter;
    const output = { send: () => true, flush: () => undefined, snapshotWanted: () => undefined };
    const turns = new TurnLoop(loop.clock(), loop.timers, writer, output, (error) => {
      throw error;
    });
    turns.changed(replica);
    await loop.runFor(1);
    expect(pages).to.equal(0);
  });
});
