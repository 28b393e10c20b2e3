import { expect } from 'chai';
import fc from 'fast-check';
import { TidemarkError } from '../../src/lib/errors.js';
import { BEAT_FIELDS, decodeFrame, encodeFrame, sizeOf, type PeerItem } from '../../src/node/peer-items.js';
import { append, checksummed, heartbeat } from './support.js';

describe('peer frames', () => {
  const natural = fc.nat({ max: Number.MAX_SAFE_INTEGER });
  const bytes = fc.uint8Array({ maxLength: 300 }).map((data) => Buffer.from(data));
  const of = { bucket: fc.nat({ max: 0xffff_ffff }), transfer: natural };
  const crc = fc.nat({ max: 0xffff_ffff });
  const rates = { reads: natural, writes: natural, bytes: natural };
  const heats = fc.array(fc.record({ bucket: of.bucket, ...rates }), { maxLength: 9 });
  const hotKeys = fc.array(fc.record({ key: bytes, bucket: of.bucket, reads: natural }), { maxLength: 9 });
  const item: fc.Arbitrary<PeerItem> = fc.oneof(
    fc.tuple(of.bucket, natural).map(([bucket, round]) => heartbeat(bucket, round)),
    fc.tuple(of.bucket, fc.array(bytes, { maxLength: 5 })).map(([bucket, data]) => append(bucket, ...data)),
    fc.record({ kind: fc.constant('snapshotOffer' as const), ...of, toReplica: natural, header: bytes }),
    fc.record({ kind: fc.constant('snapshotChunk' as const), ...of, sequence: natural, crc, data: bytes }),
    fc.record({ kind: fc.constant('snapshotEnd' as const), ...of, chunks: natural, crc }),
    fc.record({ kind: fc.constant('snapshotTaken' as const), ...of, sequence: natural }),
    fc.record({ kind: fc.constant('snapshotInstalled' as const), ...of }),
    fc.record({
      kind: fc.constant('snapshotAborted' as const),
      ...of,
      by: fc.constantFrom('sender' as const, 'receiver' as const),
      code: fc.constantFrom('ABORTED' as const, 'DATA_LOSS' as const),
      reason: fc.string({ maxLength: 20 }),
      message: fc.string({ maxLength: 100 }),
    }),
    fc.record({ kind: fc.constant('unfit' as const), forMs: fc.nat() }),
    fc.record({ kind: fc.constant('held' as const), lowest: natural }),
    ...(['beats', 'beatReplies'] as const).map((kind) =>
      fc
        .array(fc.array(natural, { minLength: BEAT_FIELDS[kind], maxLength: BEAT_FIELDS[kind] }), { maxLength: 9 })
        .map((beats) => ({ kind, fields: beats.flat() })),
    ),
    fc.record({ kind: fc.constant('digestAsked' as const), bucket: of.bucket, index: natural }),
    fc.record({ kind: fc.constant('heat' as const), report: fc.record({ ...rates, buckets: heats, keys: hotKeys }) }),
    fc.record({ kind: fc.constantFrom('digestTold' as const, 'digestJudged' as const), bucket: of.bucket, index: natural, digest: crc }),
  );

  it('are read as they were written, and are never larger than was estimated', () => {
    fc.assert(
      fc.property(fc.array(item, { maxLength: 20 }), (items) => {
        const frame = encodeFrame(items);
        expect(decodeFrame(frame)).to.deep.equal(items);
        expect(frame.length).to.be.at.most(items.reduce((sum, one) => sum + sizeOf(one), 16));
      }),
    );
  });

  it('are refused if any bit was turned', () => {
    const frame = encodeFrame([heartbeat(1), append(2, Buffer.from('value'))]);
    for (let bit = 0; bit < frame.length * 8; bit += 1) {
      const bad = Buffer.from(frame);
      bad[bit >> 3] = (bad[bit >> 3] ?? 0) ^ (1 << (bit & 7));
      expect(() => decodeFrame(bad)).to.throw(TidemarkError).with.property('reason', 'MALFORMED_FRAME');
    }
  });

  it('are refused as malformed, whatever else they hold', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (body) => {
        try {
          decodeFrame(checksummed(Buffer.from(body)));
        } catch (error) {
          expect((error as TidemarkError).reason).to.equal('MALFORMED_FRAME');
        }
      }),
      { numRuns: 2000 },
    );
  });

  it('are refused if they end in the middle of a beat', () => {
    for (const kind of ['beats', 'beatReplies'] as const) {
      const frame = encodeFrame([{ kind, fields: [1, 2, 3, 4, 5, 6, 7] }]);
      expect(() => decodeFrame(frame)).to.throw(TidemarkError).with.property('reason', 'MALFORMED_FRAME');
    }
  });

  it('do not keep a large frame alive for the sake of a small entry', () => {
    const frame = Buffer.from(encodeFrame(Array.from({ length: 100 }, (_, i) => append(i, Buffer.alloc(500, i)))));
    for (const one of decodeFrame(frame)) {
      if (one.kind !== 'raft' || one.message.type !== 'append') throw new Error('unexpected');
      for (const entry of one.message.entries) expect(entry.data.buffer).to.not.equal(frame.buffer);
    }
  });

  it('have these bytes', () => {
    const taken = { kind: 'snapshotTaken', bucket: 1, transfer: 2, sequence: 3 } as const;
    const asked = { kind: 'digestAsked', bucket: 1, index: 2 } as const;
    const told = { bucket: 1, index: 2, digest: 3 } as const;
    const digests = [asked, { kind: 'digestTold', ...told }, { kind: 'digestJudged', ...told }] as const;
    const beats = { kind: 'beats', fields: [1, 2, 3, 4, 5, 6, 7, 8] } as const;
    const replies = { kind: 'beatReplies', fields: [1, 3, 2, 4, 6, 7] } as const;
    const held = { kind: 'held', lowest: 5 } as const;
    const rate = { reads: 1, writes: 2, bytes: 3 };
    const keys = [{ key: Buffer.from('k'), bucket: 4, reads: 1 }];
    const heat = { kind: 'heat', report: { ...rate, buckets: [{ bucket: 4, ...rate }], keys } } as const;
    const frame = encodeFrame([heartbeat(3), taken, { kind: 'unfit', forMs: 600 }, ...digests, held, beats, replies, heat]);
    expect(frame.toString('hex')).to.equal(
      '1b6bf9a3' + // checksum
        '9a' +
        '930003' + // raft, bucket 3
        '9902ce00010001ce0001000207cd03e801cb4303e52b9abe0000cb4303e52b9abe0000cd03e9' + // the message: raft/codec.ts
        '9404010203' + // taken, bucket 1, transfer 2, sequence 3
        '9207cd0258' + // unfit for 600 ms
        '93080102' + // asked, bucket 1, index 2
        '9409010203' + // told, bucket 1, index 2, digest 3
        '940a010203' + // judged, the same
        '920b05' + // held: 5
        '990c0102030405060708' + // a beat of bucket 1, from 2 to 3, term 4, index 5, round 6, floor 7, closed 8
        '970d010302040607' + // its answer
        '9612010203' + // heat: 1 read, 2 writes, 3 bytes a second
        '9404010203' + // all of it in bucket 4
        '93c4016b0401', // a read of key k
    );
  });
});
