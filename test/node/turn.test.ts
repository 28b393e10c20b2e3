import { expect } from 'chai';
import type { Replica } from '../../src/bucket/replica.js';
import type { LogWriter } from '../../src/node/log-writer.js';
import { DEFAULT_LIMITS } from '../../src/env/limits.js';
import type { Reading } from '../../src/raft/reading.js';
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
    const turns = new TurnLoop(loop.clock(), loop.timers, writer, DEFAULT_LIMITS, output, (error) => {
      throw error;
    });
    turns.changed(replica);
    await loop.runFor(1);
    expect(pages).to.equal(0);
  });

  it('lets replicas read what is stored in turn, no more than so much in a turn of all', async () => {
    const loop = new SimLoop(1);
    const turns: Reading[] = [];
    const writer = { flush: () => undefined } as unknown as LogWriter;
    const output = { send: () => true, flush: () => undefined, snapshotWanted: () => undefined };
    const limits = { logEntriesReadPerTurn: 10, logBytesReadPerTurn: 1e6 };
    const loopOfTurns = new TurnLoop(loop.clock(), loop.timers, writer, limits, output, (error) => {
      throw error;
    });
    const order: string[] = [];
    const start = (name: string, wanted: number, use: 'toSend' | 'toApply'): void => {
      const replica = {
        collect: (reading: Reading) => {
          if (turns.at(-1) !== reading) turns.push(reading);
          while (wanted > 0) {
            const count = Math.min(wanted, reading[use].ask().entries);
            if (count === 0) return;
            reading[use].take(count, 8 * count);
            wanted -= count;
            order.push(`${name}${turns.length}:${count}`);
          }
        },
        gatherDueMs: Infinity,
        raft: { hasReady: () => wanted > 0 },
      };
      loopOfTurns.changed(replica as unknown as Replica);
    };
    start('a', 25, 'toSend');
    start('b', 14, 'toSend');
    start('c', 12, 'toApply');
    start('d', 3, 'toSend');
    await loop.runFor(1);
    expect(order.join(' ')).to.equal('a1:10 c1:10 b2:10 c2:2 d3:3 a3:7 b4:4 a4:6 a5:2');
  });

  describe('and what gathers for learners', () => {
    /** Replicas whose entries leave after so long, and again after as long, on a machine whose clock goes at this rate and has slept. */
    const start = (rate: number, ...everyMs: number[]): { loop: SimLoop; turns: TurnLoop; left: number[][] } => {
      const loop = new SimLoop(1);
      const { clock, timers } = loop.process('n1', loop.clock({ rate }));
      clock.slept(1234.567);
      const writer = { flush: () => undefined } as unknown as LogWriter;
      const output = { send: () => true, flush: () => undefined, snapshotWanted: () => undefined };
      const turns = new TurnLoop(clock, timers, writer, DEFAULT_LIMITS, output, (error) => {
        throw error;
      });
      const left = everyMs.map((partMs) => {
        const late: number[] = [];
        const next = (): number => (Math.floor(clock.monotonicMs() / partMs) + 1) * partMs;
        const replica = {
          collect: () => undefined,
          gatherDueMs: next(),
          raft: { hasReady: () => false },
          endGather: () => {
            if (clock.monotonicMs() < replica.gatherDueMs) return;
            late.push(clock.monotonicMs() - replica.gatherDueMs);
            replica.gatherDueMs = next();
          },
        };
        turns.changed(replica as unknown as Replica);
        return late;
      });
      return { loop, turns, left };
    };

    it('lets it leave when it is due, whatever rounding makes of clocks and timers', async () => {
      for (let round = 0; round < 40; round += 1) {
        const { loop, left } = start(1 - round / 1000, 40, 20, 13, 500);
        await loop.runFor(10_000);
        expect(left.map((late) => late.length >= 19)).to.deep.equal([true, true, true, true]);
        expect(Math.max(...left.flat())).to.be.at.most(2);
      }
    });

    it('leaves it where it is when the node stops', async () => {
      const { loop, turns, left } = start(1, 40);
      await loop.runFor(10);
      turns.stop();
      await loop.runFor(200);
      expect(left).to.deep.equal([[]]);
    });
  });
});
