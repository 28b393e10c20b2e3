import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { VERSION } from '../version.js';

const TIMEOUT_MS = 5000;

/** Which code this is: the version, and the commit if it runs from a checkout, with `-dirty` if that was changed since. */
export async function codeVersion(): Promise<string> {
  const root = fileURLToPath(new URL('../../../', import.meta.url));
  if (!existsSync(`${root}.git`)) return VERSION;
  const args = ['-C', root, 'describe', '--always', '--dirty', '--exclude', '*', '--abbrev=12'];
  const commit = await new Promise<string>((resolve) => {
    execFile('git', args, { timeout: TIMEOUT_MS }, (error, stdout) => resolve(error === null ? stdout.trim() : ''));
  });
  return commit === '' ? VERSION : `${VERSION}, commit ${commit}`;
}
