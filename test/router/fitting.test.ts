import { expect } from 'chai';
import { keyAfter } from '../../src/lib/ordered.js';
import type { Answer, Operation } from '../../src/router/operations.js';
import { fitted } from '../../src/router/fitting.js';
import { bytes } from './support.js';

const served = { node: 1, timestamp: 9, consistency: 'asOf', hops: 1 } as const;
const range = { start: bytes(''), end: bytes('') };
const KEYS = ['a', 'b', 'c', 'd', 'e'];
/** Room for two entries. */
const ROOM = 700;
const value = Buffer.alloc(200);

/** What whoever asked gets in all if it goes on behind each answer, and how many answers that takes. */
function readAll<T>(page: (from: T | undefined) => { readonly keys: readonly string[]; readonly next: T | undefined }): [string, number] {
  let from: T | undefined;
  let all = '';
  for (let pages = 1; ; pages += 1) {
    const { keys, next } = page(from);
    all += keys.join('');
    if (next === undefined) return [all, pages];
    from = next;
  }
}

function fit<O extends Operation>(operation: O, result: Answer<O['kind']>['result']): Answer<O['kind']>['result'] {
  return fitted(operation, { result, served }, ROOM).result as Answer<O['kind']>['result'];
}

describe('what fits into a message', () => {
  it('is gone on from without a gap, in scans of both directions', () => {
    for (const reverse of [false, true]) {
      const [all, pages] = readAll<Buffer>((from) => {
        const isIn = (key: string): boolean => from === undefined || (reverse ? bytes(key) < from : bytes(key) >= from);
        const keys = (reverse ? KEYS.toReversed() : KEYS).filter(isIn);
        const operation = { kind: 'scan', buckets: [0], range, reverse, keysOnly: false, limit: 9, consistency: { kind: 'local' } } as const;
        const { records, more } = fit(operation, { records: keys.map((key) => ({ key: bytes(key), value, version: 1 })), more: false });
        const last = records.at(-1)?.key ?? bytes('');
        return { keys: records.map(({ key }) => key.toString()), next: more ? (reverse ? last : keyAfter(last)) : undefined };
      });
      expect([all, pages]).to.deep.equal([reverse ? 'edcba' : 'abcde', 3]);
    }
  });

  it('is gone on from without a gap, in diffs, feeds and histories', () => {
    const diff = { kind: 'diff', buckets: [0], range, from: 0, to: 1, limit: 9 } as const;
    expect(
      readAll<Buffer>((from = bytes('')) => {
        const keys = KEYS.map(bytes).filter((key) => key.compare(from) >= 0);
        const whole = keys.map((key) => ({ key, before: undefined, after: { value, version: 1 } }));
        const { changes, resume } = fit(diff, { changes: whole, resume: undefined });
        return { keys: changes.map(({ key }) => key.toString()), next: resume };
      }),
    ).to.deep.equal(['abcde', 3]);

    const at = (index: number): { timestamp: number; bucket: number; index: number; position: number } => {
      return { timestamp: 5, bucket: 0, index, position: 0 };
    };
    const needs = { stream: 1, above: 0 };
    const feed = { kind: 'changes', buckets: [0], after: at(0), range, before: false, limit: 9, needs } as const;
    expect(
      readAll<number>((from = 0) => {
        const whole = KEYS.map((key, index) => {
          return { at: at(index + 1), key: bytes(key), deleted: false, value, before: undefined, transaction: bytes('t') };
        });
        const page = { changes: whole.slice(from), upTo: at(100), mark: 5 };
        const { changes, upTo, mark } = fit(feed, page);
        expect(mark).to.equal(5);
        return { keys: changes.map(({ key }) => key.toString()), next: upTo.index === 100 ? undefined : upTo.index };
      }),
    ).to.deep.equal(['abcde', 3]);

    const history = { kind: 'history', bucket: 0, key: bytes('k'), from: 9, to: 0, limit: 9, consistency: { kind: 'linearizable' } } as const;
    expect(
      readAll<number>((from = 0) => {
        const whole = KEYS.map((_, index) => ({ version: 5 - index, deleted: false, value })).slice(from);
        const { versions, more } = fit(history, { versions: whole, more: false });
        return { keys: versions.map(({ version }) => KEYS[5 - version] ?? ''), next: more ? from + versions.length : undefined };
      }),
    ).to.deep.equal(['abcde', 3]);
  });

  it('is left as it is, also when it is empty', () => {
    const scan = { kind: 'scan', buckets: [0], range, reverse: false, keysOnly: false, limit: 9, consistency: { kind: 'local' } } as const;
    const result = { records: [], more: true, resume: bytes('q') };
    expect(fit(scan, result)).to.equal(result);
  });
});
