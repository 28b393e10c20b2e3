/**
 * What must be there before anything of the project can run: the installed packages and the compiled code. Both steps do
 * nothing when nothing changed. Only Node itself is needed to run this file.
 */
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = resolve(dirname(fileURLToPath(import.meta.url)), '..');

const NODE_MIN = [20, 15];
const LOCK = join(root, 'package-lock.json');
const INSTALLED = join(root, 'node_modules', '.package-lock.json');
const STAMP = join(root, 'dist', '.built');

/** Runs a program of the project. Resolves with its exit code; a death by signal counts as 128. */
export function run(command, args) {
  return new Promise((done, fail) => {
    const child = spawn(command, args, { cwd: root, stdio: 'inherit' });
    child.once('error', (error) => fail(new Error(`${command} could not be started: ${error.message}`)));
    child.once('exit', (code) => done(code ?? 128));
  });
}

/** Runs an installed tool with this very Node: `tool('typescript/bin/tsc', [...])`. */
export function tool(path, args) {
  return run(process.execPath, [join(root, 'node_modules', path), ...args]);
}

/** The same beside others: what it prints comes in one piece, when it has ended. */
export function toolBeside(path, args) {
  return new Promise((done, fail) => {
    const command = [join(root, 'node_modules', path), ...args];
    const child = spawn(process.execPath, command, { cwd: root, stdio: ['ignore', 'pipe', 'pipe'] });
    let output = '';
    for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text) => (output += text));
    child.once('error', (error) => fail(new Error(`${path} could not be started: ${error.message}`)));
    child.once('close', (code) => {
      process.stdout.write(output);
      done(code ?? 128);
    });
  });
}

export function checkNode() {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
  const [majorMin, minorMin] = NODE_MIN;
  if (major > majorMin || (major === majorMin && minor >= minorMin)) return;
  throw new Error(`Node ${NODE_MIN.join('.')} or newer is needed, this is ${process.versions.node}`);
}

export function installNeeded() {
  return !existsSync(INSTALLED) || statSync(INSTALLED).mtimeMs < statSync(LOCK).mtimeMs;
}

export function install() {
  return run('npm', ['ci', '--no-fund', '--no-audit', '--loglevel=error']);
}

export function buildNeeded() {
  return !existsSync(STAMP) || readFileSync(STAMP, 'utf8') !== fingerprint();
}

/** Compiles src/ to dist/ from scratch, so that dist/ never holds what src/ no longer has. */
export async function build() {
  const before = fingerprint();
  rmSync(join(root, 'dist'), { recursive: true, force: true });
  const code = await tool('typescript/bin/tsc', ['-p', 'tsconfig.build.json']);
  if (code !== 0) return code;
  // npm sets it only when it links the command, which may have been long before.
  chmodSync(join(root, 'dist', 'cli', 'main.js'), 0o755);
  mkdirSync(dirname(STAMP), { recursive: true });
  writeFileSync(STAMP, before);
  return 0;
}

/** Changes whenever a file that the compiler reads is added, removed or written. */
function fingerprint() {
  const hash = createHash('sha256');
  const sources = readdirSync(join(root, 'src'), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
    .sort();
  const settings = ['tsconfig.json', 'tsconfig.build.json', 'package-lock.json'].map((name) => join(root, name));
  for (const path of [...settings, ...sources]) {
    const { size, mtimeMs } = statSync(path);
    hash.update(`${path.slice(root.length)} ${size} ${mtimeMs}\n`);
  }
  return hash.digest('hex');
}
