import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import { runScript } from './golden.js';

/**
 * One file for each protocol scenario. Lines of the script begin at the margin; what they cause stands indented below them.
 * `UPDATE_GOLDEN=1` writes the traces anew: read the difference before you commit it.
 */
const FOLDER = fileURLToPath(new URL('./golden/', import.meta.url));

describe('raft scenarios', () => {
  for (const name of readdirSync(FOLDER).sort()) {
    it(name.replace('.txt', '').replaceAll('-', ' '), () => {
      const expected = readFileSync(FOLDER + name, 'utf8');
      const actual = runScript(expected);
      if (process.env['UPDATE_GOLDEN'] === '1') writeFileSync(FOLDER + name, actual);
      else expect(actual).to.equal(expected);
    });
  }
});
