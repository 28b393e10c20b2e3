import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { expect } from 'chai';
import { EMPTY } from '../../src/lib/bytes.js';
import { toDiskError } from '../../src/env/real/disk-errors.js';
import { openDisk } from '../../src/env/real/disk.js';

const b = (text: string): Buffer => Buffer.from(text);

async function failureOf(promise: Promise<unknown>): Promise<unknown> {
  return promise.then(
    () => undefined,
    (error: unknown) => error,
  );
}

describe('data directory', () => {
  let directory: string;
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'tidemark-disk-'));
  });
  afterEach(() => rmSync(directory, { recursive: true }));

  it('writes nothing any more, anywhere, once a write has failed', async () => {
    const disk = await openDisk(directory);
    const store = await disk.openStore('log');
    // A directory where the draft of the file has to be.
    mkdirSync(join(directory, 'identity.new'));
    const failure = await failureOf(disk.writeFile('identity', b('x')));
    expect(failure).to.include({ code: 'DATA_LOSS', reason: 'DISK_FAILED', outcome: 'unknown' });
    expect(failure).to.have.property('message').that.includes(directory);
    rmSync(join(directory, 'identity.new'), { recursive: true });
    const batch = store.batch();
    batch.put(b('a'), b('1'));
    expect(await failureOf(batch.write())).to.equal(failure);
    expect(await failureOf(disk.writeFile('identity', b('x')))).to.equal(failure);
    expect(store.get(b('a'))).to.equal(undefined);
    await disk.close();
  });

  it('tells a damaged store from other failures', async () => {
    const disk = await openDisk(directory);
    const store = await disk.openStore('state');
    const batch = store.batch();
    batch.put(b('a'), b('1'));
    await batch.write();
    await disk.close();
    const manifest = readdirSync(join(directory, 'state')).find((name) => name.startsWith('MANIFEST')) ?? '';
    writeFileSync(join(directory, 'state', manifest), 'not what was there');
    const again = await openDisk(directory);
    const failure = await failureOf(again.openStore('state'));
    expect(failure).to.include({ code: 'DATA_LOSS', reason: 'STORE_CORRUPT' });
    expect(failure).to.have.property('message').that.includes(join(directory, 'state'));
    await again.close();
  });

  it('notices a missing file of a store', async () => {
    const disk = await openDisk(directory);
    await disk.openStore('state');
    await disk.close();
    const manifest = readdirSync(join(directory, 'state')).find((name) => name.startsWith('MANIFEST')) ?? '';
    rmSync(join(directory, 'state', manifest));
    const again = await openDisk(directory);
    expect(await failureOf(again.openStore('state'))).to.include({ code: 'DATA_LOSS', reason: 'STORE_CORRUPT' });
    await again.close();
  });

  it('cannot be a file, nor be below one', async () => {
    writeFileSync(join(directory, 'file'), '');
    for (const path of [join(directory, 'file'), join(directory, 'file', 'data')]) {
      const failure = await failureOf(openDisk(path));
      expect(failure).to.include({ code: 'FAILED_PRECONDITION', reason: 'DATA_DIRECTORY_UNUSABLE' });
      expect(failure).to.have.property('message').that.includes(path);
    }
  });

  it('is made with the directories above it, and free again when its process was killed', async () => {
    const path = join(directory, 'a', 'b', 'c');
    const program = `
      const { openDisk } = await import(${JSON.stringify(new URL('../../src/env/real/disk.ts', import.meta.url).href)});
      const disk = await openDisk(process.argv[1]);
      const store = await disk.openStore('log');
      const batch = store.batch();
      batch.put(Buffer.from('a'), Buffer.from('acknowledged'));
      await batch.write();
      process.stdout.write('written');
      setInterval(() => {}, 1000);
    `;
    const args = ['--import', 'tsx', '--input-type=module', '--eval', program, path];
    const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
    await once(child.stdout, 'data');
    expect(await failureOf(openDisk(path))).to.include({ reason: 'DATA_DIRECTORY_IN_USE' });
    child.kill('SIGKILL');
    await once(child, 'exit');
    const disk = await openDisk(path);
    const store = await disk.openStore('log');
    expect(store.get(b('a'))).to.deep.equal(b('acknowledged'));
    await disk.close();
  });

  it('names a full disk as such, however it is told', () => {
    const byCode = Object.assign(new Error('write failed'), { code: 'ENOSPC' });
    const byText = Object.assign(new Error('IO error: /data/log/000003.log: No space left on device'), { code: 'LEVEL_IO_ERROR' });
    for (const cause of [byCode, byText, new Error('wrapped', { cause: byCode })]) {
      expect(toDiskError(cause, 'writing')).to.include({ code: 'RESOURCE_EXHAUSTED', reason: 'DISK_FULL' });
    }
    const other = Object.assign(new Error('IO error: /data/log/000003.log: Input/output error'), { code: 'LEVEL_IO_ERROR' });
    expect(toDiskError(other, 'writing')).to.include({ code: 'DATA_LOSS', reason: 'DISK_FAILED' });
  });

  it('keeps the loop free while it writes and reads', async () => {
    const disk = await openDisk(directory);
    const store = await disk.openStore('state');
    const value = Buffer.alloc(200, 1);
    const costs: number[] = [];
    for (let round = 0; round < 15; round += 1) {
      const batch = store.batch();
      const startMs = performance.now();
      for (let i = 0; i < 1000; i += 1) batch.put(b(`key${round}-${i}`), value);
      const written = batch.write();
      costs.push(performance.now() - startMs);
      await written;
    }
    // About 1 ms on a quiet machine; an array batch takes ten times that.
    expect(Math.min(...costs)).to.be.below(8);
    const page = await store.page({ gte: EMPTY, lt: EMPTY, limit: 10 });
    expect(page.entries).to.have.length(10);
    await disk.close();
  });
});
