import { expect } from 'chai';
import type { Timer } from '../../src/env/env.js';
import { Pace } from '../../src/node/pace.js';
import { FakeTime } from '../router/support.js';

const PER_SECOND = 10_000;

/** Knows how many timers are running. */
class CountingTime extends FakeTime {
  running = 0;

  override after(delayMs: number, callback: () => void): Timer {
    let ended = false;
    const end = (): void => {
      if (!ended) this.running -= 1;
      ended = true;
    };
    this.running += 1;
    const timer = super.after(delayMs, () => {
      end();
      callback();
    });
    return {
      cancel: () => {
        end();
        timer.cancel();
      },
    };
  }
}

describe('the pace of what is sent', () => {
  let time: CountingTime;
  let pace: Pace;
  let sent: { readonly name: string; readonly atMs: number; readonly bytes: number }[];

  beforeEach(() => {
    time = new CountingTime();
    pace = new Pace({ clock: time, timers: time }, PER_SECOND);
    sent = [];
  });

  /** Sends pieces one after the other, each when its turn has come. */
  function send(name: string, ...pieces: number[]): void {
    const [bytes, ...rest] = pieces;
    if (bytes === undefined) return;
    const turn = pace.take(() => {
      void Promise.resolve().then(() => {
        sent.push({ name, atMs: time.nowMs - 1000, bytes });
        turn.end(bytes);
        send(name, ...rest);
      });
    });
  }

  const names = (): string => sent.map(({ name }) => name).join('');

  it('is kept in every second, to the size of a piece, and nothing of it is wasted', async () => {
    send('a', ...Array.from({ length: 60 }, (_, at) => 300 + 10 * (at % 40)));
    await time.pass(10_000);
    expect(sent).to.have.lengthOf(60);
    const most = Math.max(
      ...sent.map(({ atMs: from }) => {
        return sent.filter(({ atMs }) => atMs >= from && atMs < from + 1000).reduce((sum, { bytes }) => sum + bytes, 0);
      }),
    );
    expect(most).to.be.within(PER_SECOND, PER_SECOND * 1.02 + 700);
    const total = sent.reduce((sum, { bytes }) => sum + bytes, 0);
    expect(sent.at(-1)?.atMs).to.be.within((total / PER_SECOND) * 1000 - 100, (total / PER_SECOND) * 1000);
  });

  it('lets a piece go that is larger than a second has room for, and the next when that is paid for', async () => {
    send('a', 35_000, 100, 100);
    await time.pass(10_000);
    expect(sent.map(({ atMs }) => atMs)).to.deep.equal([0, 3480, 3490]);
  });

  it('does not save up what was not sent', async () => {
    await time.pass(60_000);
    send('a', ...Array<number>(30).fill(1000));
    await time.pass(1000);
    expect(sent).to.have.lengthOf(11);
  });

  it('is shared by all that wait, whoever came first', async () => {
    send('a', ...Array<number>(20).fill(1000));
    await time.pass(450);
    send('b', ...Array<number>(3).fill(1000));
    send('c', ...Array<number>(3).fill(1000));
    await time.pass(700);
    expect(names()).to.equal('aaaaaabcabca');
  });

  it('is not taken by those who wait no more, or send nothing in their turn', async () => {
    send('a', 5000);
    await time.pass(0);
    const gone = pace.take(() => expect.fail('it has gone'));
    let came = 0;
    const idle = pace.take(() => {
      came = time.nowMs;
    });
    send('b', 100);
    gone.end(0);
    await time.pass(480);
    expect([came, idle.come, names()]).to.deep.equal([1480, true, 'a']);
    idle.end(0);
    await time.pass(0);
    expect(names()).to.equal('ab');
  });

  it('runs a timer only while somebody waits', async () => {
    send('a', 5000);
    await time.pass(0);
    expect(time.running).to.equal(0);
    const turn = pace.take(() => undefined);
    const other = pace.take(() => undefined);
    expect(time.running).to.equal(1);
    turn.end(0);
    expect(time.running).to.equal(1);
    other.end(0);
    expect(time.running).to.equal(0);
  });
});
