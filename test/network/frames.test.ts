import { expect } from 'chai';
import fc from 'fast-check';
import { TidemarkError } from '../../src/lib/errors.js';
import { decodeFrame, encodeFrame, FRAME_OVERHEAD } from '../../src/env/real/grpc/frames.js';
import { messageNamed } from '../../src/env/real/grpc/protos.js';

const general = messageNamed('tidemark.v1.Frame');

describe('the frame codec', () => {
  it('keeps its form on the wire', () => {
    expect(encodeFrame(Buffer.from('abc')).toString('hex')).to.equal('0a03616263');
    expect(encodeFrame(Buffer.alloc(0)).toString('hex')).to.equal('0a00');
    expect(encodeFrame(Buffer.alloc(300)).subarray(0, 4).toString('hex')).to.equal('0aac0200');
    expect(encodeFrame({ error: undefined }).toString('hex')).to.equal('1200');
    const error = new TidemarkError('ABORTED', 'R', 'm', { retriable: true, details: { k: 'v' } });
    expect(encodeFrame({ error }).toString('hex')).to.equal('121d0a1b0a0741424f52544544120152180120012a060a016b12017632016d');
  });

  it('agrees with the general codec on payloads of every length', () => {
    for (const length of [0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152, 3_000_000]) {
      const payload = Buffer.alloc(length, 7);
      const bytes = encodeFrame(payload);
      expect(bytes.length).to.be.at.most(length + FRAME_OVERHEAD);
      expect((general.decode(bytes) as { payload: Buffer }).payload.equals(payload)).to.equal(true);
      for (const encoded of [bytes, general.encode({ payload })]) {
        const decoded = decodeFrame(encoded);
        expect(Buffer.isBuffer(decoded) && decoded.equals(payload)).to.equal(true);
      }
    }
  });

  it('carries the reason of an end', () => {
    const error = new TidemarkError('ABORTED', 'R', 'm', { outcome: 'unknown', retriable: true, details: { k: 'v' } });
    const decoded = decodeFrame(encodeFrame({ error }));
    if (Buffer.isBuffer(decoded)) throw new Error('expected an end');
    expect({ ...decoded.error, message: decoded.error?.message }).to.deep.equal({ ...error, message: 'm' });
    expect(decodeFrame(encodeFrame({ error: undefined }))).to.deep.equal({ error: undefined });
  });

  it('takes a code that is none for UNKNOWN', () => {
    for (const code of ['NO_SUCH_CODE', 'constructor', 'toString', '']) {
      const frame = decodeFrame(general.encode({ end: { error: { code, reason: 'R', message: 'm' } } }));
      if (Buffer.isBuffer(frame)) throw new Error('expected an end');
      expect([frame.error?.code, frame.error?.reason], code).to.deep.equal(['UNKNOWN', 'R']);
    }
  });

  it('never throws, whatever the bytes are', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 64 }), fc.boolean(), (bytes, tagged) => {
        const data = Buffer.from(tagged ? [0x0a, ...bytes] : bytes);
        const frame = decodeFrame(data);
        return Buffer.isBuffer(frame) || frame.error === undefined || frame.error instanceof TidemarkError;
      }),
      { numRuns: 2000 },
    );
  });
});
