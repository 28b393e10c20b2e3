import { Readable } from 'node:stream';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import fc from 'fast-check';
import { decode, encode, fromJsonFields, jsonFields, readValue, type Encoding } from '../../src/cli/values.js';

const none = Readable.from([]);

describe('keys and values on the command line', () => {
  it('are text, hexadecimal or base64', () => {
    expect(decode('é', 'text', 'key').toString('hex')).to.equal('c3a9');
    expect(decode('00fF', 'hex', 'key').toString('hex')).to.equal('00ff');
    expect(decode('AP8=', 'base64', 'key').toString('hex')).to.equal('00ff');
    expect(() => decode('0f0', 'hex', 'key')).to.throw("key '0f0' is not hexadecimal");
    expect(() => decode('AP8', 'base64', 'key')).to.throw("key 'AP8' is not padded base64");
  });

  it('are printed without control characters', () => {
    expect(encode(Buffer.from('Reykjavík'), 'text')).to.equal('Reykjavík');
    expect(encode(Buffer.from('a\x1b[31m'), 'text')).to.equal('0x611b5b33316d');
    expect(encode(Buffer.from([0xff]), 'text')).to.equal('0xff');
    expect(encode(Buffer.from([0xff]), 'base64')).to.equal('/w==');
  });

  it('lose nothing in JSON', () => {
    expect(jsonFields('key', Buffer.from('k'))).to.deep.equal({ key: 'k' });
    expect(jsonFields('key', Buffer.from([0xff]))).to.deep.equal({ keyBase64: '/w==' });
    const encodings = fc.constantFrom<Encoding>('text', 'hex', 'base64');
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 40 }), encodings, (array, encoding) => {
        const data = Buffer.from(array);
        const line: unknown = JSON.parse(JSON.stringify(jsonFields('value', data, encoding)));
        return fromJsonFields(line as Record<string, unknown>, 'value', encoding).equals(data);
      }),
    );
  });

  it('are refused in JSON if they are missing, doubled or no strings', () => {
    expect(() => fromJsonFields({}, 'key')).to.throw("expected either 'key' or 'keyBase64'");
    expect(() => fromJsonFields({ key: 'a', keyBase64: 'YQ==' }, 'key')).to.throw('expected either');
    expect(() => fromJsonFields({ key: 5 }, 'key')).to.throw("'key' is not a string");
  });

  it('come from standard input, a file, or the argument', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'tidemark-values-'));
    try {
      writeFileSync(join(folder, 'value'), Buffer.from([0, 255]));
      const stdin = Readable.from([Buffer.from('a'), Buffer.from('b')]);
      expect((await readValue('-', 'hex', stdin)).toString()).to.equal('ab');
      expect((await readValue(`@${join(folder, 'value')}`, 'text', none)).toString('hex')).to.equal('00ff');
      expect((await readValue('@@x', 'text', none)).toString()).to.equal('@x');
      const error: unknown = await readValue(`@${join(folder, 'missing')}`, 'text', none).catch((reason: unknown) => reason);
      expect(String(error)).to.match(/value's file cannot be read: ENOENT/);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});
