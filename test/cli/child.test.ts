import { once } from 'node:events';
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { Child, startAll } from '../../src/cli/cluster/child.js';

const READY = `process.send({ ready: true });\n`;
/** Lives until told to go, or until its parent is gone. */
const LIVES = `setInterval(() => {}, 1000);\nprocess.on('disconnect', () => process.exit());\n`;

describe('a child process of a local cluster', () => {
  let folder = '';
  const children: Child[] = [];

  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'tidemark-child-'));
  });

  afterEach(async () => {
    for (const child of children.splice(0)) await child.stop(1000);
    rmSync(folder, { recursive: true });
  });

  const childOf = (script: string, more: Partial<ConstructorParameters<typeof Child>[0]> = {}): Child => {
    const path = join(folder, 'script.mjs');
    writeFileSync(path, script);
    const child = new Child({
      finalCode: 9,
      left: () => undefined,
      name: 'node 1',
      args: [path],
      logPath: join(folder, 'logs', 'node-1.log'),
      died: () => undefined,
      revived: () => undefined,
      restartDelayMsMin: 10,
      ...more,
    });
    children.push(child);
    return child;
  };

  it('that has left is not started again', async () => {
    const left: string[] = [];
    const died: string[] = [];
    const child = childOf(`process.send({ ready: true }); setTimeout(() => process.exit(9), 20);`, {
      left: ({ name }) => left.push(name),
      died: (_child, how) => died.push(how),
    });
    await child.start();
    while (left.length === 0) await new Promise((resolve) => setTimeout(resolve, 10));
    await new Promise((resolve) => setTimeout(resolve, 100));
    expect([left, died, child.pid]).to.deep.equal([['node 1'], [], 0]);
  });

  it('is ready when it says so, and keeps what it prints', async () => {
    const child = childOf(`console.log('hello');\n${READY}${LIVES}`);
    await child.start();
    expect(child.pid).to.be.greaterThan(0);
    expect(child.logTail()).to.match(/hello$/);
    await child.stop(5000);
    expect(child.pid).to.equal(0);
  });

  it('that is late is named, with its log', async () => {
    const quick = childOf('', { args: ['--eval', `${READY}${LIVES}`] });
    await startAll([quick], 30_000);
    const late = childOf(LIVES, { name: 'node 2', logPath: join(folder, 'logs', 'node-2.log') });
    const error: unknown = await startAll([late], 50).catch((reason: unknown) => reason);
    expect(String(error)).to.match(/not ready within 0\.05 s: node 2; see \S*node-2\.log$/);
  });

  it('shows the end of its log if it ends before it is ready', async () => {
    const child = childOf(`console.error('the port is in use');\nprocess.exitCode = 1;\n`);
    const error: unknown = await child.start().catch((reason: unknown) => reason);
    expect(String(error)).to.match(/node 1 ended with exit code 1 before it was ready\.[^]*the port is in use/);
  });

  it('is started again when it dies', async () => {
    let died = '';
    const child = await new Promise<Child>((revived) => {
      const started = childOf(READY + LIVES, {
        died: (_child, how) => {
          died = how;
        },
        revived,
      });
      void started.start().then(() => process.kill(started.pid, 'SIGKILL'));
    });
    expect(died).to.equal('was killed by SIGKILL');
    expect(child.pid).to.be.greaterThan(0);
  });

  it('is killed after the grace if it does not go', async () => {
    const child = childOf(`process.on('SIGTERM', () => {});\n${READY}${LIVES}`);
    await child.start();
    await child.stop(50);
    expect(child.pid).to.equal(0);
  });

  it('does not outlive its parent, however that one ended', async () => {
    const script = join(folder, 'script.mjs');
    writeFileSync(script, READY + LIVES);
    const parent = join(folder, 'parent.ts');
    const moduleUrl = new URL('../../src/cli/cluster/child.ts', import.meta.url).href;
    writeFileSync(
      parent,
      `import { Child } from ${JSON.stringify(moduleUrl)};
       const none = () => {};
       const child = new Child({ name: 'x', args: [${JSON.stringify(script)}], logPath: ${JSON.stringify(join(folder, 'x.log'))},
         died: none, revived: none, finalCode: 9, left: none });
       void child.start().then(() => process.send({ pid: child.pid }));`,
    );
    const process1 = spawn(process.execPath, [...process.execArgv, parent], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
    const [message] = (await once(process1, 'message')) as [{ pid: number }];
    expect(isRunning(message.pid)).to.equal(true);
    process1.kill('SIGKILL');
    await once(process1, 'exit');
    while (isRunning(message.pid)) await new Promise((resolve) => setImmediate(resolve));
  });
});

/** A process that ended and was not waited for by whoever inherited it does not count. */
function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
}
