import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';

const MODULE = new URL('../../src/cli/lifetime.ts', import.meta.url).href;

describe('the lifetime of a command', () => {
  let folder = '';

  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'tidemark-lifetime-'));
  });

  afterEach(() => rmSync(folder, { recursive: true }));

  /** A process that says so when it is asked to stop; `then` is what it does about it. */
  const run = async (then: string): Promise<ChildProcess> => {
    const path = join(folder, 'command.mts');
    writeFileSync(
      path,
      `import { aborted, beginLifetime } from ${JSON.stringify(MODULE)};
       const lifetime = beginLifetime();
       const alive = setInterval(() => {}, 1000);
       lifetime.ready();
       const reason = await aborted(lifetime.signal);
       if (process.connected) process.send({ reason });
       ${then}`,
    );
    const child = spawn(process.execPath, [...process.execArgv, path], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
    expect((await once(child, 'message'))[0]).to.deep.equal({ ready: true });
    return child;
  };

  it('ends in order at the first signal', async () => {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) {
      const child = await run('clearInterval(alive); lifetime.end();');
      child.kill(signal);
      expect((await once(child, 'message'))[0]).to.deep.equal({ reason: signal });
      expect(await once(child, 'exit')).to.deep.equal([0, null]);
    }
  });

  it('ends at once at a later one, but takes a doubled Ctrl-C for one', async () => {
    const child = await run('');
    child.kill('SIGINT');
    await once(child, 'message');
    const ended = once(child, 'exit');
    let sent = 0;
    const again = setInterval(() => {
      sent += 1;
      child.kill('SIGINT');
    }, 50);
    expect(await ended).to.deep.equal([130, null]);
    clearInterval(again);
    expect(sent).to.be.greaterThan(5);
  });

  it('ends in order when its launcher is gone', async () => {
    const child = await run('clearInterval(alive); lifetime.end();');
    child.disconnect();
    expect(await once(child, 'exit')).to.deep.equal([0, null]);
  });
});
