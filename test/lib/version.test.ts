import { readFileSync } from 'node:fs';
import { expect } from 'chai';
import { VERSION } from '../../src/lib/version.js';

describe('the version', () => {
  it('is the one of the package', () => {
    const file = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as { version: string };
    expect(VERSION).to.equal(file.version);
  });
});
