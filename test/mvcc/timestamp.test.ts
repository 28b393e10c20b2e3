import { expect } from 'chai';
import fc from 'fast-check';
import { TidemarkError } from '../../src/lib/errors.js';
import {
  checkNotAhead,
  checkTimestamp,
  compose,
  decompose,
  earlier,
  EPOCH_MS,
  formatTimestamp,
  HybridClock,
  later,
  LOGICAL,
  parseTimestamp,
  TIMESTAMP_MAX,
} from '../../src/mvcc/timestamp.js';

function refusal(run: () => unknown): TidemarkError {
  try {
    run();
  } catch (error) {
    if (error instanceof TidemarkError) return error;
    throw error;
  }
  throw new Error('expected a TidemarkError');
}

const T = compose(Date.UTC(2024, 4, 1, 12, 34, 56, 789), 0);

describe('timestamps', () => {
  it('compose and decompose are inverse over all 53 bits', () => {
    fc.assert(
      fc.property(fc.nat({ max: 2 ** 31 - 1 }), fc.nat({ max: 2 ** 22 - 1 }), (high, low) => {
        const timestamp = high * 2 ** 22 + low;
        const { unixMs, logical } = decompose(timestamp);
        return compose(unixMs, logical) === timestamp && logical < LOGICAL;
      }),
    );
    expect(decompose(TIMESTAMP_MAX).logical).to.equal(4095);
  });

  it('floors fractions of milliseconds', () => {
    expect(compose(EPOCH_MS + 1.999, 5)).to.equal(LOGICAL + 5);
  });

  it('formats as the system calendar does, and reads back exactly', () => {
    expect(formatTimestamp(4_096_002)).to.equal('2020-01-01T00:00:01.000Z+2');
    expect(formatTimestamp(T)).to.equal('2024-05-01T12:34:56.789Z');
    expect(formatTimestamp(TIMESTAMP_MAX)).to.equal('2089-09-06T15:47:35.551Z+4095');
    fc.assert(
      fc.property(fc.nat({ max: 2 ** 31 - 1 }), fc.nat({ max: 2 ** 22 - 1 }), (high, low) => {
        const timestamp = high * 2 ** 22 + low;
        const text = formatTimestamp(timestamp);
        const { unixMs, logical } = decompose(timestamp);
        return (
          text === new Date(unixMs).toISOString() + (logical === 0 ? '' : `+${logical}`) &&
          parseTimestamp(text, 0) === timestamp
        );
      }),
    );
  });

  it('reads numbers, ISO times and spans before now', () => {
    expect(parseTimestamp(' 4096002 ', T)).to.equal(4_096_002);
    expect(parseTimestamp('9007199254740991', T)).to.equal(TIMESTAMP_MAX);
    expect(parseTimestamp('2020-01-01', T)).to.equal(0);
    expect(parseTimestamp('2024-02-29 00:00', T)).to.equal(compose(Date.UTC(2024, 1, 29), 0));
    expect(parseTimestamp('2024-05-01T14:34:56.789+02:00', 0)).to.equal(T);
    expect(parseTimestamp('2024-05-01T07:04:56.7899-0530', 0)).to.equal(T);
    expect(parseTimestamp('-10s', T)).to.equal(T - 10_000 * LOGICAL);
    expect(parseTimestamp('-250ms', T)).to.equal(T - 250 * LOGICAL);
    expect(parseTimestamp('-1.5h', T)).to.equal(T - 5_400_000 * LOGICAL);
    expect(parseTimestamp('-1d', T + 7)).to.equal(T + 7 - 86_400_000 * LOGICAL);
    expect(parseTimestamp('now', T)).to.equal(T);
  });

  it('refuses what is no timestamp, saying which field and what was expected', () => {
    const malformed = ['', 'yesterday', '-5', '1.5', '1e9', '0x10', '+5s', '2024-02-30', '2024-13-01', '2024-05-01T25:00'];
    for (const text of [...malformed, '2023-02-29', '2024-05-01T12:00:60', '2024-05-01T12:00Z+4096', '10s', '٣']) {
      const error = refusal(() => parseTimestamp(text, T, 'as_of'));
      expect([error.code, error.reason], text).to.deep.equal(['INVALID_ARGUMENT', 'TIMESTAMP_MALFORMED']);
      expect(error.message).to.include('as_of').and.include(`'${text}'`);
    }
    for (const text of ['9007199254740992', '18446744073709551615', '2089-09-06T15:47:35.552Z', '9999-12-31']) {
      expect(refusal(() => parseTimestamp(text, T)).reason, text).to.equal('TIMESTAMP_TOO_LARGE');
    }
    for (const text of ['2019-12-31T23:59:59.999Z', '-9999d', '0001-01-01']) {
      const error = refusal(() => parseTimestamp(text, T));
      expect([error.code, error.reason], text).to.deep.equal(['OUT_OF_RANGE', 'TIMESTAMP_TOO_EARLY']);
      expect(error.details, text).to.include({ earliestReadable: '0' });
    }
    for (const value of [-1, 0.5, Number.NaN, Number.NEGATIVE_INFINITY]) {
      expect(refusal(() => checkTimestamp(value, 'version')).reason).to.equal('TIMESTAMP_MALFORMED');
    }
    expect(refusal(() => checkTimestamp(2 ** 53, 'version')).reason).to.equal('TIMESTAMP_TOO_LARGE');
  });

  it('moves by milliseconds and stays in range', () => {
    expect(later(T, 2)).to.equal(T + 2 * LOGICAL);
    expect(earlier(T, 2)).to.equal(T - 2 * LOGICAL);
    expect(earlier(5, 1)).to.equal(0);
    expect(later(TIMESTAMP_MAX, 1)).to.equal(TIMESTAMP_MAX);
  });
});

describe('the hybrid clock', () => {
  const start = Date.UTC(2024, 4, 1);

  it('gives out strictly increasing timestamps while the wall clock stands still or goes back', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: -50, max: 50 })), (steps) => {
        let wall = start + 0.5;
        const clock = new HybridClock(() => wall, 1000);
        let before = clock.now();
        for (const step of steps) {
          wall += step;
          const now = clock.now();
          if (now <= before || now < clock.physicalNow()) return false;
          before = now;
        }
        return true;
      }),
    );
  });

  it('carries an overflowing counter into the milliseconds', () => {
    const clock = new HybridClock(() => start, 1000);
    const first = clock.now();
    for (let i = 1; i < LOGICAL; i += 1) clock.now();
    expect(decompose(clock.now())).to.deep.equal({ unixMs: start + 1, logical: 0 });
    expect(clock.last).to.equal(first + LOGICAL);
  });

  it('rises above what it merges, within the offset', () => {
    const clock = new HybridClock(() => start + 0.9, 1000);
    const heard = compose(start + 1000, 4095);
    clock.merge(heard);
    expect(clock.now()).to.equal(heard + 1);
    clock.merge(5);
    expect(clock.now()).to.equal(heard + 2);
  });

  it('refuses what is further ahead than the offset and stays where it was', () => {
    const clock = new HybridClock(() => start, 1000);
    const before = clock.now();
    const error = refusal(() => clock.merge(compose(start + 1001, 0), 'session timestamp'));
    expect([error.code, error.reason]).to.deep.equal(['UNAVAILABLE', 'CLOCK_TOO_FAR_AHEAD']);
    expect(error.retriable).to.equal(true);
    clock.hear(compose(start + 1001, 0));
    expect(error.message).to.include('session timestamp').and.include('1001 ms ahead');
    expect(clock.now()).to.equal(before + 1);
    expect(refusal(() => clock.merge(2 ** 53)).reason).to.equal('TIMESTAMP_TOO_LARGE');
    expect(refusal(() => clock.merge(-1)).reason).to.equal('TIMESTAMP_MALFORMED');
  });

  it('takes note of what is within the offset, where nothing depends on it', () => {
    const clock = new HybridClock(() => start, 1000);
    clock.hear(compose(start + 1000, 0));
    expect(clock.now()).to.equal(compose(start + 1000, 1));
  });

  it('refuses what a caller makes up only when no node could mean it', () => {
    const now = compose(start, 0);
    checkNotAhead(compose(start + 2000, 0), 'as_of', now, 1000);
    const error = refusal(() => checkNotAhead(compose(start + 2001, 0), 'as_of', now, 1000));
    expect([error.code, error.reason]).to.deep.equal(['INVALID_ARGUMENT', 'CLOCK_TOO_FAR_AHEAD']);
    expect(error.message).to.include('as_of').and.include('2001 ms ahead');
  });

  it('never refuses a committed timestamp', () => {
    const clock = new HybridClock(() => start, 1000);
    const committed = compose(start + 3_600_000, 9);
    clock.mergeCommitted(committed);
    expect(clock.now()).to.equal(committed + 1);
    // Nor in a request of somebody who has seen it.
    clock.merge(committed);
    expect(clock.now()).to.equal(committed + 2);
    expect(refusal(() => clock.merge(committed + 3)).reason).to.equal('CLOCK_TOO_FAR_AHEAD');
  });

  it('survives a wall clock before the epoch and stops at the end of the timeline', () => {
    const clock = new HybridClock(() => 0, 1000);
    expect(clock.now()).to.equal(1);
    clock.mergeCommitted(TIMESTAMP_MAX);
    expect(refusal(() => clock.now()).reason).to.equal('TIMELINE_EXHAUSTED');
  });
});
