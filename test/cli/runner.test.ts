import { expect } from 'chai';
import { spawn } from 'node:child_process';
import { once } from 'node:events';

const RUNNER = new URL('../../scripts/runner.mjs', import.meta.url).href;
const SCRIPT = `
import { endWithRunner } from '${RUNNER}';
endWithRunner();
process.on('SIGTERM', () => { console.log('told to stop'); process.exit(); });
setTimeout(() => process.exit(), 20_000);
console.log('up');
`;

describe('what a package runner started', () => {
  it('is told to stop when the runner is gone', async function () {
    this.timeout(30_000);
    // The shell stays between, as that of npm does.
    const command = `"$0" --input-type=module --eval "$1"; true`;
    const env = { ...process.env, npm_lifecycle_event: 'start' };
    const shell = spawn('sh', ['-c', command, process.execPath, SCRIPT], { env, stdio: ['ignore', 'pipe', 'inherit'] });
    let text = '';
    shell.stdout.setEncoding('utf8').on('data', (more: string) => {
      text += more;
      if (more.includes('up')) shell.kill('SIGTERM');
    });
    await once(shell.stdout, 'end');
    expect(text).to.equal('up\ntold to stop\n');
    expect(shell.signalCode).to.equal('SIGTERM');
  });
});
