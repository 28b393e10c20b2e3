#!/usr/bin/env node
/**
 * `scripts/faults`: compiles what is out of date, and runs scripts/faults-run.ts in a world of its own.
 *
 * That world is a set of private namespaces for processes, network and mounts. What is made in there, network namespaces of the
 * nodes, a bridge, links, addresses, mounted disks, is not visible outside, and the kernel takes it down when the last of its
 * processes is gone. So nothing is left behind however the run ends, and two runs do not meet. With --loopback the same
 * program runs where it was started.
 *
 * Two things outlive namespaces and are done here: the folder of the run's data is removed, and a file system that was frozen
 * when the run was killed is thawed, since its writers cannot even die.
 */
import { spawn, spawnSync } from 'node:child_process';
import { closeSync, existsSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { clearInterval, setInterval } from 'node:timers';
import { build, buildNeeded, checkNode, root } from './prepare.mjs';

const WATCH_MS = 1000;
const NAMESPACES = ['--mount', '--net', '--pid', '--fork', '--kill-child', '--mount-proc', '--propagation', 'private'];

/** The beginning of a command line that runs the rest in namespaces of its own; who is not root becomes it in there. */
function unshare() {
  const users = process.getuid?.() === 0 ? [] : ['--user', '--map-root-user'];
  return ['unshare', ...users, ...NAMESPACES, '--'];
}

/** Why namespaces cannot be made here; undefined if they can. */
function obstacle() {
  const [command, ...args] = unshare();
  const { status, error, stderr } = spawnSync(command, [...args, 'ip', 'link', 'add', 'probe', 'type', 'bridge']);
  if (status === 0) return undefined;
  return error?.message ?? stderr.toString().trim();
}

async function prepare() {
  checkNode();
  if (!existsSync(join(root, 'node_modules', 'tsx'))) throw new Error('the packages are not installed: run npm ci first');
  if (buildNeeded() && (await build()) !== 0) throw new Error('the build failed; its messages are above');
}

/** Killed, and not yet gone because a process of its namespace is not: it has no memory any more. */
function isDying(pid) {
  return existsSync(`/proc/${pid}/cmdline`) && readFileSync(`/proc/${pid}/cmdline`, 'utf8') === '';
}

function runHarness(args, isolated) {
  const folder = mkdtempSync(join(tmpdir(), 'tidemark-faults-'));
  const frozen = new Set();
  let mounts;
  const harness = [process.execPath, '--import', import.meta.resolve('tsx'), join(root, 'scripts/faults-run.ts'), ...args];
  const [command, ...rest] = isolated ? [...unshare(), ...harness] : harness;
  // In a session of its own: Ctrl-C in a terminal shall reach the run in order, not its nodes at the same time.
  const stdio = ['ignore', 'inherit', 'inherit', 'ipc'];
  const child = spawn(command, rest, { stdio, detached: true, env: { ...process.env, TMPDIR: folder } });

  child.on('message', ({ path, isFrozen }) => {
    mounts ??= openSync(`/proc/${child.pid}/ns/mnt`, 'r');
    if (isFrozen) frozen.add(path);
    else frozen.delete(path);
  });
  // `unshare` keeps the channel open and waits for what cannot die, so nothing but this tells that the harness was killed.
  const watch = setInterval(() => {
    if (frozen.size === 0 || !isDying(readFileSync(`/proc/${child.pid}/task/${child.pid}/children`, 'utf8').trim())) return;
    for (const path of frozen) {
      const thaw = ['--mount=/proc/self/fd/3', 'fsfreeze', '--unfreeze', path];
      spawnSync('nsenter', thaw, { stdio: ['ignore', 'inherit', 'inherit', mounts] });
    }
    frozen.clear();
  }, WATCH_MS);

  let asked = false;
  const stop = () => {
    if (asked) child.kill('SIGKILL');
    else if (child.connected) child.send('stop');
    asked = true;
  };
  process.on('SIGINT', stop);
  process.on('SIGTERM', stop);
  return new Promise((done, fail) => {
    child.once('error', fail);
    child.once('exit', (code) => {
      clearInterval(watch);
      if (mounts !== undefined) closeSync(mounts);
      rmSync(folder, { recursive: true, force: true });
      done(code ?? 1);
    });
  });
}

try {
  const args = process.argv.slice(2);
  const isHelp = args.includes('--help') || args.includes('-h');
  const isolated = !isHelp && !args.includes('--loopback');
  await prepare();
  const why = isolated ? obstacle() : undefined;
  if (why !== undefined) {
    console.error(`scripts/faults: no namespaces of its own can be made here: ${why}`);
    console.error('It takes Linux with unshare and ip, and root or unprivileged user namespaces.');
    console.error('With --loopback the nodes run on 127.0.0.1, without partitions and disk faults.');
    process.exitCode = 2;
  } else process.exitCode = await runHarness(args, isolated);
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
