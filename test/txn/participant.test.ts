import { expect } from 'chai';
import { NO_VERSION } from '../../src/mvcc/records.js';
import { Participant } from '../../src/txn/participant.js';
import type { Prepared } from '../../src/txn/transaction.js';

const b = (text: string): Buffer => Buffer.from(text);
const LIMITS = { life: 10, endedMax: 3 };

function prepared(attempt: number, timestamp: number, keys: string, start = timestamp): Prepared {
  const intents = [...keys].map((key) => ({ key: b(key), deleted: false, value: b('v'), previous: NO_VERSION }));
  const id = { session: 7, sequence: attempt, attempt };
  return { id, home: 3, start, first: start, timestamp, intents, reads: [], ranges: [] };
}

describe('a participant', () => {
  it('knows the intent on a key, and the lowest of all, until they are resolved', () => {
    const participant = new Participant(LIMITS);
    const [reader, one, two] = [prepared(1, 100, ''), prepared(2, 101, 'ab'), prepared(3, 102, 'c')];
    for (const each of [reader, one, two]) participant.prepare(each);
    expect(participant.lowestIntent(), 'what only reads holds nothing back').to.equal(101);
    expect(participant.intentOn(b('b'))).to.equal(one);
    expect(participant.resolve(one.id, one.start, 103)).to.equal(one);
    expect(participant.intentOn(b('b'))).to.equal(undefined);
    expect(participant.lowestIntent()).to.equal(102);
    expect(participant.resolve(one.id, one.start, 104), 'a second time').to.equal(undefined);
    participant.resolve(two.id, two.start, 105);
    participant.resolve(reader.id, reader.start, 106);
    expect([participant.count, participant.bytes, participant.lowestIntent()]).to.deep.equal([0, 0, undefined]);
  });

  it('refuses attempts that have ended, for as long as one may be prepared, and older ones unseen', () => {
    const participant = new Participant(LIMITS);
    const [early, late] = [prepared(1, 100, 'a'), prepared(2, 100, 'a')];
    participant.prepare(early);
    participant.resolve(early.id, early.start, 105);
    participant.resolve(late.id, late.start, 106);
    expect(participant.hasEnded(early.id, 100, 108)).to.equal(true);
    expect(participant.hasEnded(late.id, 100, 108), 'aborted before it was prepared').to.equal(true);
    expect(participant.hasEnded(prepared(3, 108, '').id, 99, 108)).to.equal(false);
    expect(participant.hasEnded(prepared(3, 108, '').id, 98, 108)).to.equal(true);
  });

  it('remembers no more than it may: what it forgets raises the start below which all are refused', () => {
    const participant = new Participant(LIMITS);
    for (let n = 1; n <= 6; n += 1) participant.resolve(prepared(n, 100 + n, '').id, 100 + n, 107);
    expect(participant.endedCount).to.equal(3);
    for (let n = 1; n <= 6; n += 1) expect(participant.hasEnded(prepared(n, 0, '').id, 100 + n, 107), String(n)).to.equal(true);
    expect(participant.hasEnded(prepared(9, 0, '').id, 103, 107), 'as old as one that was forgotten').to.equal(true);
    expect(participant.hasEnded(prepared(9, 0, '').id, 104, 107)).to.equal(false);
  });

  it('says up to where attempts are too old: what begins above is not, as long as it may live', () => {
    const participant = new Participant(LIMITS);
    expect(participant.tooOldFor(107)).to.equal(107);
    // Of homes whose clocks are ahead of this bucket's.
    for (let n = 1; n <= 6; n += 1) participant.resolve(prepared(n, 200 + n, '').id, 200 + n, 107);
    const upTo = participant.tooOldFor(107);
    expect(participant.hasEnded(prepared(9, 0, '').id, upTo, 107)).to.equal(true);
    expect(participant.hasEnded(prepared(9, 0, '').id, upTo + 1, 107)).to.equal(false);
    expect(participant.hasEnded(prepared(9, 0, '').id, upTo + 1, upTo + LIMITS.life)).to.equal(false);
  });
});
