import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import type { Json } from '../../src/check/history.js';
import { LinearizabilityChecker, registerModel, type Model } from '../../src/check/register.js';
import { run } from '../../src/check/work.js';
import { Recorder, type End } from './support.js';

/**
 * Recorded histories whose verdicts are known. They are not part of this repository; without them these verdicts are not
 * tested, and the run says so. `TIDEMARK_CONFORMANCE` names another folder than the one beside the checkout.
 */
const FOLDER =
  process.env['TIDEMARK_CONFORMANCE'] ?? fileURLToPath(new URL('../../../shared/conformance/linearizability', import.meta.url));
const LIMIT_MS = 10_000;

describe('the conformance histories of linearizability', () => {
  if (!existsSync(join(FOLDER, 'verdicts.json'))) {
    it('are NOT THERE, so their verdicts are not tested', () => {
      console.warn(`\n      NOT TESTED: there are no conformance histories in ${FOLDER}.`);
      console.warn('      Set TIDEMARK_CONFORMANCE to the folder that has them (verdicts.json, jepsen/, kv/).\n');
    });
    return;
  }

  const verdicts = JSON.parse(readFileSync(join(FOLDER, 'verdicts.json'), 'utf8')) as Readonly<Record<string, boolean>>;

  it('all have a verdict', () => {
    const files = ['jepsen', 'kv'].flatMap((folder) => readdirSync(join(FOLDER, folder)).map((file) => `${folder}/${file}`));
    expect(Object.keys(verdicts)).to.have.members(files);
  });

  for (const [file, expected] of Object.entries(verdicts)) {
    it(`${file} is ${expected ? '' : 'not '}linearizable`, () => {
      const text = readFileSync(join(FOLDER, file), 'utf8');
      const [history, model] = file.startsWith('kv/') ? [readMap(text), mapModel] : [readRegister(text), registerModel()];
      const checker = new LinearizabilityChecker(model);
      for (const operation of history.operations) checker.add(operation);
      const startedMs = performance.now();
      const { verdict } = run(checker.check(), () => performance.now() - startedMs > LIMIT_MS);
      expect(verdict).to.equal(expected ? 'valid' : 'invalid');
    });
  }
});

/** `INFO  jepsen.util - 3	:invoke	:cas	[1 4]`; a compare-and-set that failed was compared. */
function readRegister(text: string): Recorder {
  const history = new Recorder();
  const open = new Map<number, End>();
  for (const line of text.split('\n')) {
    const match = /^INFO\s+jepsen\.util - (\d+)\s+:(\w+)\s+:(\w+)\s+(.*)$/.exec(line);
    if (match === null) continue;
    const [, client = '', type = '', f = '', value = ''] = match;
    const number = Number(client);
    if (type === 'invoke') {
      open.set(number, history.call(number, f, undefined, parseEdn(value)));
      continue;
    }
    const known = value !== ':timed-out' && type !== 'info';
    const end = open.get(number);
    open.delete(number);
    if (known) end?.(type as 'ok' | 'fail', parseEdn(value), type === 'fail' && f === 'cas' ? { mismatch: true } : {});
    else if (f === 'read') end?.('fail');
    else end?.('info');
  }
  return history;
}

function parseEdn(text: string): Json {
  if (text === 'nil') return null;
  return JSON.parse(text.replace(' ', ',')) as Json;
}

/** `{:process 0, :type :ok, :f :append, :key "0", :value "x"}` */
function readMap(text: string): Recorder {
  const history = new Recorder();
  const open = new Map<number, End>();
  for (const line of text.split('\n')) {
    const match = /^\{:process (\d+), :type :(\w+), :f :(\w+), :key "(.*?)", :value (.*)\}$/.exec(line);
    if (match === null) continue;
    const [, client = '', type = '', f = '', key = '', value = ''] = match;
    const answer = value === 'nil' ? null : (JSON.parse(value) as Json);
    if (type === 'invoke') open.set(Number(client), history.call(Number(client), f, key, answer));
    else open.get(Number(client))?.('ok', answer);
  }
  return history;
}

const mapModel: Model = {
  initial: '',
  step: ({ f, input, output, outcome }) => {
    const value = ((f === 'get' ? output : input) ?? '') as string;
    const name = `${f} ${value}`;
    if (f === 'put') return { name, kind: 'blind', result: value, apply: () => value };
    if (f === 'append') return { name, kind: 'update', apply: (state) => `${state}${value}` };
    if (outcome !== 'ok') return undefined;
    return { name, kind: 'read', wants: value, apply: (state) => (state === value ? state : undefined) };
  },
};
