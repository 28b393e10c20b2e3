import { expect } from 'chai';
import { pack } from 'msgpackr';
import { decodeHeader } from '../../src/bucket/snapshot.js';
import { encodeMeta, type Meta } from '../../src/bucket/state.js';

const META: Meta = {
  slot: 1,
  replicaId: 65_537,
  applied: { index: 7, term: 2 },
  maxTimestamp: 9,
  horizon: 0,
  pins: [],
  digest: 5,
  config: { voters: [65_537], outgoing: [], learners: [], learnersNext: [] },
  sessionsIndex: 0,
};

describe('the header of a snapshot', () => {
  const meta = encodeMeta(META);

  it('is read as it was written', () => {
    expect(decodeHeader(pack([3, meta]))).to.deep.equal(META);
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
      pack([3]),
      pack([3, 'meta']),
      pack([3, Buffer.alloc(0)]),
      pack([3, turned]),
    ];
    for (const header of garbage) {
      expect(() => decodeHeader(header), header.toString('hex'))
        .to.throw()
        .that.includes({ code: 'INVALID_ARGUMENT' });
    }
    expect(() => decodeHeader(pack([4, meta]))).to.throw().that.includes({ reason: 'NEWER_FORMAT' });
  });
});
