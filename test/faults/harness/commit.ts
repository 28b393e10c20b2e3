import { spawnSync } from 'node:child_process';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';

const UNKNOWN = 'unknown, not a checkout';

/** The commit that a run is of, with `+changes` if files differ from it: a verdict is about that code and no other. */
export function commitOf(folder = dirname(fileURLToPath(import.meta.url))): string {
  const head = git(folder, 'rev-parse', 'HEAD');
  if (head === undefined) return UNKNOWN;
  return git(folder, 'status', '--porcelain') === '' ? head : `${head}+changes`;
}

/** What it says; undefined if it fails or is not there. */
function git(folder: string, ...args: readonly string[]): string | undefined {
  // In a user namespace the checkout may seem to be somebody else's, whose files git would not look at.
  const { status, stdout } = spawnSync('git', ['-C', folder, '-c', 'safe.directory=*', ...args], { encoding: 'utf8' });
  return status === 0 ? stdout.trim() : undefined;
}
