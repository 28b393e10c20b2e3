import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  closeSync,
  existsSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import { DEFAULT_LIMITS } from '../../src/env/limits.js';
import { later } from '../../src/mvcc/timestamp.js';
import { startService, type Service } from '../services/support.js';
import { Running, tidemark, type Outcome } from './support.js';

interface Served {
  readonly timestamp: number;
}

/** Commands that read and write, at one real node. */
describe('the commands for keys', function () {
  this.timeout(30_000);
  let service: Service;

  before(async () => {
    service = await startService(DEFAULT_LIMITS);
  });

  after(async () => service.close());

  const run = (args: readonly string[], input = ''): Promise<Outcome> => tidemark([...args, '--endpoint', service.address], input);
  const versionOf = async (...args: string[]): Promise<number> =>
    (JSON.parse((await run([...args, '--json'])).out) as { version: number }).version;

  it('tell as of when there was nothing', async () => {
    const before = await versionOf('put', 'some', '1');
    const scanned = await run(['scan', 'room/', '--json']);
    expect(scanned).to.include({ code: 0, out: '' });
    const { served } = JSON.parse(scanned.err) as { served: Served };
    expect(served.timestamp).to.be.at.least(before);
    const plain = await run(['scan', 'room/']);
    expect(plain).to.include({ code: 0, out: '' });
    expect(plain.err).to.match(/^tidemark: no keys, as of \d+ \(20\d\d-.*\)\n$/);

    const exported = await run(['export', 'room/', '--json']);
    expect(exported).to.include({ code: 0, out: '' });
    const { asOf, exported: count } = JSON.parse(exported.err) as { asOf: number; exported: number };
    expect(count).to.equal(0);
    expect(asOf).to.be.at.least(before);
    const past = await run(['export', 'some', '--as-of', String(before - 1)]);
    expect(past.err).to.match(new RegExp(`^exported 0 records as of ${before - 1} \\(20\\d\\d-`));

    const book = [{ if: 'unchanged', prefix: 'room/', since: served.timestamp }, { put: 'room/1', value: 'taken' }];
    const lines = book.map((line) => JSON.stringify(line)).join('\n');
    expect((await run(['txn'], lines)).code).to.equal(0);
    expect((await run(['txn'], lines)).code, 'somebody was there').to.equal(4);
  });

  it('export to a file all or nothing', async () => {
    await run(['put', 'exported/1', 'a']);
    const folder = mkdtempSync(join(tmpdir(), 'tidemark-export-'));
    const file = join(folder, 'out.jsonl');
    try {
      const missing = await tidemark(['export', '-o', file, '--endpoint', '127.0.0.1:1', '--timeout', '100ms']);
      expect(missing.err).to.include(`tidemark: ${file} was not written\n`).and.to.include('(UNAVAILABLE, ');
      writeFileSync(file, 'before\n', { mode: 0o600 });
      symlinkSync(file, join(folder, 'link'));
      const early = await run(['export', 'exported/', '-o', join(folder, 'link'), '--as-of', '-99999h']);
      expect(early.code).to.equal(7);
      expect(early.err).to.match(/^tidemark: \S+link is as it was\ntidemark: --as-of is '-99999h': the timeline begins/);
      expect(readFileSync(file, 'utf8')).to.equal('before\n');
      expect((await run(['export', 'exported/', '-o', join(folder, 'link')])).code).to.equal(0);
      expect(readFileSync(file, 'utf8')).to.equal('{"key":"exported/1","value":"a"}\n');
      expect(statSync(file).mode & 0o777).to.equal(0o600);
      expect(readdirSync(folder).sort()).to.deep.equal(['link', 'out.jsonl']);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  it('leave the file as it was when they are interrupted', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'tidemark-export-'));
    const file = join(folder, 'out.jsonl');
    writeFileSync(file, 'before\n');
    // It takes a connection, and says nothing.
    const silent = createServer();
    await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
    const { port } = silent.address() as AddressInfo;
    try {
      const running = new Running(['export', '-o', file, '--endpoint', `127.0.0.1:${port}`, '--timeout', '3s']);
      while (readdirSync(folder).length < 2) await new Promise((resolve) => setTimeout(resolve, 20));
      // The file is made a moment before signals are heard.
      await new Promise((resolve) => setTimeout(resolve, 200));
      expect(await running.stop()).to.equal(130);
      expect(running.text).to.equal(`tidemark: interrupted; ${file} is as it was (CANCELLED, INTERRUPTED)\n`);
      expect(readFileSync(file, 'utf8')).to.equal('before\n');
      expect(readdirSync(folder)).to.deep.equal(['out.jsonl']);
    } finally {
      silent.close();
      rmSync(folder, { recursive: true });
    }
  });

  it('say what is wrong when their output cannot be written', async function () {
    if (!existsSync('/dev/full')) this.skip();
    await run(['put', 'full', 'x'.repeat(100_000)]);
    for (const args of [['get', 'full'], ['scan', 'full'], ['export', 'full', '-o', '/dev/full']]) {
      const main = fileURLToPath(new URL('../../src/cli/main.ts', import.meta.url));
      const full = openSync('/dev/full', 'w');
      const all = [...process.execArgv, main, ...args, '--endpoint', service.address];
      const child = spawn(process.execPath, all, { stdio: ['ignore', full, 'pipe'] });
      let text = '';
      child.stderr?.on('data', (chunk: Buffer) => (text += chunk.toString('utf8')));
      const [code] = (await once(child, 'close')) as [number];
      closeSync(full);
      expect(text, args.join(' ')).to.match(/^tidemark: (standard output cannot be written: )?ENOSPC: no space left on device, write\n$/);
      expect(code).to.equal(1);
    }
  });

  it('end a benchmark that is interrupted as such', async () => {
    const options = ['--keys', '10', '--load', 'get', '--in-flight', '2', '--driver', 'client', '--distribution', 'uniform'];
    const running = new Running(['bench', ...options, '--warmup', '0s', '--duration', '60s', '--endpoint', service.address]);
    await running.printed(/Filling: 100%/);
    await new Promise((resolve) => setTimeout(resolve, 200));
    expect(await running.stop()).to.equal(130);
    expect(running.text).to.match(/client get at 2, uniform: cut short after \d+\.\d s\n/);
    expect(running.text).to.include('tidemark: interrupted; 0 measurements are whole (CANCELLED, INTERRUPTED)');
  });

  it('name the option whose moment is wrong', async () => {
    const wrong: [args: string[], option: string][] = [
      [['get', 'k', '--as-of', '-99999h'], '--as-of'],
      [['scan', '--as-of', '-99999h'], '--as-of'],
      [['history', 'k', '--oldest', '-99999h'], '--oldest'],
      [['diff', '--from', '-99999h'], '--from'],
      [['pin', 'add', 'p', '--as-of', '-99999h'], '--as-of'],
    ];
    for (const [args, option] of wrong) {
      const { code, err } = await run(args);
      expect(err).to.include(`tidemark: ${option} is '-99999h': the timeline begins`);
      expect(code).to.equal(7);
    }
  });

  it('refuse to watch until what was before', async () => {
    for (const args of [['--from', '-1h', '--until', '-2h'], ['--until', '-2h']]) {
      const { code, err } = await run(['watch', ...args]);
      expect(err).to.match(/the range is inverted: --from (-1h|now) is above --until -2h \(INVALID_ARGUMENT, RANGE_INVERTED\)/);
      expect(code).to.equal(2);
    }
  });

  it('refuse a pin that would expire later than pins can hold', async () => {
    const { code, err } = await run(['pin', 'add', 'long', '--expires', '31d']);
    expect(err).to.match(/holds at most 2592000000 ms \(limits\.pinMsMax\) .*PIN_TOO_LONG/);
    expect(code).to.equal(2);
    expect((await run(['pin', 'add', 'long', '--expires', '30d'])).code).to.equal(0);
    expect((await run(['pin', 'list'])).out).not.to.include('never');
    expect((await run(['pin', 'add', 'endless'])).code).to.equal(0);
    expect((await run(['pin', 'list'])).out).to.match(/never: it stays in the list .* limits\.pinMsMax/);
  });

  it('commit above the token of a session', async () => {
    let token = await versionOf('put', 'mine', '1');
    const writes: [args: string[], input?: string][] = [
      [['put', 'mine', '2']],
      [['put', 'mine', '3', '--if-exists']],
      [['delete', 'mine']],
      [['txn'], '{"put":"mine","value":"4"}'],
    ];
    for (const [args, input] of writes) {
      token = later(token, 100);
      const { code, out } = await run([...args, '--at-least', String(token), '--json'], input);
      expect(code).to.equal(0);
      expect((JSON.parse(out) as { version: number }).version, args.join(' ')).to.be.above(token);
    }
    expect((await run(['get', 'mine', '--at-least', String(token)])).out).to.equal('4\n');
    const future = await run(['delete', 'mine', '--at-least', String(later(token, 3_600_000))]);
    expect([future.code, future.out]).to.deep.equal([2, '']);
    expect(future.err).to.include('at_least').and.to.include('CLOCK_TOO_FAR_AHEAD');
  });
});
