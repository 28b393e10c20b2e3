import { expect } from 'chai';
import fc from 'fast-check';
import { escape, escapePrefix, isKeyIn, prefixEnd, readUint64, unescape, writeUint64 } from '../../src/lib/ordered.js';

const bytes = fc.uint8Array({ maxLength: 12 }).map((data) => Buffer.from(data));
// Zeros and 0xff are where an escaping goes wrong, so most strings are made of them.
const nasty = fc.array(fc.constantFrom(0, 1, 2, 0xfe, 0xff), { maxLength: 8 }).map((data) => Buffer.from(data));
const key = fc.oneof(bytes, nasty);

describe('ordered encoding', () => {
  it('keeps the order of byte strings, whatever follows them', () => {
    fc.assert(
      fc.property(key, key, bytes, bytes, (a, b, tailA, tailB) => {
        const order = Buffer.compare(a, b);
        if (order === 0) return;
        const encoded = Buffer.compare(Buffer.concat([escape(a), tailA]), Buffer.concat([escape(b), tailB]));
        expect(encoded).to.equal(order);
      }),
    );
  });

  it('reads back what it wrote, and where it ended', () => {
    fc.assert(
      fc.property(key, bytes, (a, tail) => {
        const encoded = Buffer.concat([Buffer.from([7]), escape(a), tail]);
        const { value, next } = unescape(encoded, 1);
        expect(value.equals(a)).to.equal(true);
        expect(encoded.subarray(next).equals(tail)).to.equal(true);
      }),
    );
  });

  it('refuses a string without its closing mark', () => {
    expect(() => unescape(Buffer.from([1, 2, 3]), 0)).to.throw(RangeError);
    expect(() => unescape(Buffer.from([1, 0, 3]), 0)).to.throw(RangeError);
    expect(() => unescape(Buffer.alloc(0), 0)).to.throw(RangeError);
  });

  it('knows the keys of a range: from its start on, below its end, or to the end of all', () => {
    const isIn = (text: string, start: string, end: string): boolean =>
      isKeyIn(Buffer.from(text), { start: Buffer.from(start), end: Buffer.from(end) });
    expect(['a', 'b', 'b\0', 'c', 'd'].filter((text) => isIn(text, 'b', 'c'))).to.deep.equal(['b', 'b\0']);
    expect(['', 'a', 'b', 'c'].filter((text) => isIn(text, 'b', ''))).to.deep.equal(['b', 'c']);
    expect(isIn('b', 'b', 'b')).to.equal(false);
  });

  it('bounds exactly the keys with a prefix', () => {
    fc.assert(
      fc.property(key, key, (prefix, other) => {
        const end = prefixEnd(prefix);
        const inside = Buffer.compare(other, prefix) >= 0 && (end.length === 0 || Buffer.compare(other, end) < 0);
        expect(inside).to.equal(other.subarray(0, prefix.length).equals(prefix));
        expect(Buffer.compare(escapePrefix(prefix), escape(prefix))).to.equal(-1);
      }),
    );
  });

  it('writes numbers up to 2^53 in order', () => {
    fc.assert(
      fc.property(fc.maxSafeNat(), fc.maxSafeNat(), (a, b) => {
        const [x, y] = [Buffer.alloc(8), Buffer.alloc(8)];
        writeUint64(x, a, 0);
        writeUint64(y, b, 0);
        expect(readUint64(x, 0)).to.equal(a);
        expect(Buffer.compare(x, y)).to.equal(Math.sign(a - b));
      }),
    );
  });
});
