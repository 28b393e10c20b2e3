import { expect } from 'chai';
import { pack } from 'msgpackr';
import { Sessions } from '../../src/bucket/sessions.js';
import { decodeHeader } from '../../src/bucket/snapshot.js';
import { encodeMeta, type Meta } from '../../src/bucket/state.js';

const META: Meta = {
  slot: 1,
  replicaId: 65_537,
  applied: { index: 7, term: 2 },
  maxTimestamp: 9,
  horizon: 0,
  digest: 5,
  config: { voters: [65_537], outgoing: [], learners: [], learnersNext: [] },
  sessionsIndex: 0,
};

describe('the header of a snapshot', () => {
  const meta = encodeMeta(META);
  const sessions = new Sessions(1000, 10).encode();

  it('is read as it was written', () => {
    const decoded = decodeHeader(pack([1, meta, sessions]));
    expect(decoded.source).to.deep.equal(META);
    expect(decoded.sessions.equals(sessions)).to.equal(true);
  });

  it('is refused with one error, whatever it is instead', () => {
    const turned = Buffer.from(meta);
    turned[6] = (turned[6] ?? 0) ^ 1;
    const garbage: readonly Buffer[] = [
      Buffer.alloc(0),
      Buffer.from('garbage'),
      Buffer.from([0xc1]),
      pack(null),
      pack([]),
      pack([1]),
      pack([1, 'meta', 'sessions']),
      pack([1, Buffer.alloc(0), sessions]),
      pack([1, turned, sessions]),
      pack([1, meta]),
      pack([1, meta, Buffer.from([0xc1])]),
      pack([1, meta, pack([1, 0, 0, 5])]),
    ];
    for (const header of garbage) {
      expect(() => decodeHeader(header), header.toString('hex'))
        .to.throw()
        .that.includes({ code: 'INVALID_ARGUMENT' });
    }
    expect(() => decodeHeader(pack([2, meta, sessions]))).to.throw().that.includes({ reason: 'NEWER_FORMAT' });
  });
});
