import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';

function read(path: string): string {
  return readFileSync(fileURLToPath(new URL(path, import.meta.url)), 'utf8');
}

describe('docs/testing.md', () => {
  const page = read('../../docs/testing.md');

  it('shows the examples that are tested', () => {
    for (const file of ['./greeting.test.ts', './accounts.ts', './accounts.test.ts']) {
      const source = read(file)
        .replace("'../../src/client/index.js'", "'tidemark'")
        .replace("'../../src/sim/testing/index.js'", "'tidemark/testing'");
      expect(page).to.include(`\`\`\`ts\n${source}\`\`\``);
    }
  });

  it('is about what the package exports', () => {
    const manifest = JSON.parse(read('../../package.json')) as { exports: Record<string, { types: string; default: string }> };
    const { types = '', default: code = '' } = manifest.exports['./testing'] ?? {};
    expect([types, code]).to.deep.equal(['./dist/sim/testing/index.d.ts', './dist/sim/testing/index.js']);
    expect(read(code.replace('./dist', '../../src').replace(/js$/, 'ts'))).to.include('simulate');
  });
});
