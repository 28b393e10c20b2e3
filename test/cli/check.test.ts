import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { formatEvent } from '../../src/check/history.js';
import { Recorder } from '../check/support.js';
import { tidemark, type Outcome } from './support.js';

describe('tidemark check', () => {
  let folder = '';
  before(() => {
    folder = mkdtempSync(join(tmpdir(), 'tidemark-check-'));
  });
  after(() => rmSync(folder, { recursive: true }));

  const file = (name: string, text: string): string => {
    const path = join(folder, name);
    writeFileSync(path, text);
    return path;
  };
  const check = (play: (history: Recorder) => void, ...options: string[]): Promise<Outcome> => {
    const history = new Recorder();
    play(history);
    return tidemark(['check', file('history.jsonl', history.events.map(formatEvent).join('')), ...options]);
  };
  const goodRegister = (history: Recorder): void => {
    history.call(0, 'read', 'x')('ok', null);
    history.call(0, 'write', 'x', 'a')('ok');
    history.call(1, 'read', 'x')('ok', 'a');
  };

  it('recognises each model by its operations and accepts what is right', async () => {
    expect(await check(goodRegister)).to.deep.equal({ code: 0, out: 'valid (register: 3 operations, 1 keys)\n', err: '' });
    const set = await check((history) => {
      history.call(0, 'add', 's', 1)('ok');
      history.call(0, 'read', 's')('ok', [1]);
    });
    expect([set.code, set.out]).to.deep.equal([0, 'valid (set: 2 operations, 1 sets, 1 reads)\n']);
    const counter = await check((history) => {
      history.call(0, 'read', 'c')('ok', 0);
      history.call(0, 'increment', 'c', 2)('ok');
      history.call(0, 'read', 'c')('ok', 2);
    });
    expect([counter.code, counter.out]).to.deep.equal([0, 'valid (counter: 3 operations, 1 counters, 2 reads)\n']);
  });

  it('checks transactions at the level that is asked for', async () => {
    const skew = (history: Recorder): void => {
      const steps = [[['r', 'x', []], ['append', 'y', 1]], [['r', 'y', []], ['append', 'x', 1]]];
      const ends = steps.map((step, at) => history.call(at, 'txn', undefined, step));
      for (const end of ends) end('ok');
    };
    const strict = await check(skew);
    expect([strict.code, /\[G2-item\]/.test(strict.out)]).to.deep.equal([1, true]);
    expect((await check(skew, '--level', 'snapshot-isolation')).code).to.equal(0);
    expect((await check(skew, '--level', 'perfect')).code).to.equal(2);
  });

  it('reads standard input', async () => {
    const history = new Recorder();
    goodRegister(history);
    expect((await tidemark(['check', '-'], history.events.map(formatEvent).join(''))).code).to.equal(0);
  });

  it('ends with 1 and shows the evidence of what is wrong, also as JSON', async () => {
    const bad = (history: Recorder): void => {
      goodRegister(history);
      history.call(1, 'read', 'x')('ok', null);
    };
    const { code, out } = await check(bad);
    expect(code).to.equal(1);
    expect(out).to.match(/^NOT VALID \(register: 4 operations, 1 keys\)\n\nkey "x": no order .*\[not-linearizable\]\n {2}all that ended/);
    const json = await check(bad, '--json');
    expect(json.code).to.equal(1);
    const { verdict, model, findings } = JSON.parse(json.out) as { verdict: string; model: string; findings: { kind: string }[] };
    expect([verdict, model, findings.map(({ kind }) => kind)]).to.deep.equal(['invalid', 'register', ['not-linearizable']]);
  });

  it('ends with 2 when it does not know', async () => {
    const { code, out } = await check((history) => history.call(0, 'add', 's', 1)('ok'));
    expect(code).to.equal(2);
    expect(out).to.match(/^UNKNOWN .*\n\nnot known: 1 acknowledged elements were never read/s);
    const long = await check((history) => {
      for (let at = 0; at < 100; at += 1) history.call(0, 'write', `key${at}`, at)('ok');
    }, '--timeout', '0ms');
    expect(long.code).to.equal(2);
    expect(long.out).to.include('99 more keys were not looked at');
  });

  it('ends with 2 when nothing was done: what recorded nothing has not passed', async () => {
    const nemesis = '{"index":0,"timeNs":0,"process":"nemesis","type":"info","f":"kill begins"}\n';
    for (const text of ['', '\n', nemesis]) {
      const { code, out } = await tidemark(['check', file('nothing.jsonl', text)]);
      expect(code).to.equal(2);
      expect(out).to.include('UNKNOWN').and.to.include('not known: the history holds no operation');
    }
  });

  it('ends with 2 and says where when the file is bad', async () => {
    const bad = await tidemark(['check', file('bad.jsonl', 'nonsense\n')]);
    expect(bad.code).to.equal(2);
    expect(bad.err).to.include('line 1: this is not JSON: nonsense');
    expect((await tidemark(['check', '/nowhere'])).code).to.equal(2);
    const directory = await tidemark(['check', folder]);
    expect([directory.code, directory.err.includes(`${folder}: the input cannot be read: EISDIR`)]).to.deep.equal([2, true]);
    const nested = await check(goodRegister, '--versions', folder);
    expect([nested.code, nested.err.includes(`${folder}: the input cannot be read: EISDIR`)]).to.deep.equal([2, true]);
    const mixed = await check((history) => {
      history.call(0, 'write', 'x', 1)('ok');
      history.call(0, 'increment', 'x', 1)('ok');
    });
    expect(mixed.code).to.equal(2);
    expect(mixed.err).to.include("event 2: 'increment' does not fit");
  });

  it('holds reads against the versions that the store lists', async () => {
    const line = (version: number, value?: string): string =>
      `${JSON.stringify({ key: 'x', version, time: '', deleted: value === undefined, ...(value === undefined ? {} : { value }) })}\n`;
    const good = file('good.jsonl', line(5, 'a'));
    expect((await check(goodRegister, '--versions', good)).out).to.equal('valid (register: 3 operations, 1 keys)\n');
    const overwritten = file('deleted.jsonl', line(9) + line(5, 'b'));
    const { code, out } = await check(goodRegister, '--versions', overwritten);
    expect(code).to.equal(1);
    expect(out).to.include('[missing]').and.to.include('[phantom]');
    const unreadable = await check(goodRegister, '--versions', file('no.jsonl', '{"key":"x"}\n'));
    expect(unreadable.code).to.equal(2);
    expect(unreadable.err).to.match(/line 1 of the versions is no version of a key: 'version': .*; 'deleted': .*\n$/);
    expect(unreadable.err.trimEnd()).not.to.include('\n');
    const other = await check((history) => history.call(0, 'add', 's', 1)('ok'), '--versions', good);
    expect(other.err).to.include('--versions is for registers; this is a set');
  });

  it('teaches', async () => {
    const { code, out } = await tidemark(['check', '--help']);
    expect(code).to.equal(0);
    expect(out).to.include('"type":"invoke"').and.to.include('Exit codes: 0 valid');
  });
});
