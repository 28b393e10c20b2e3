import { expect } from 'chai';
import { HistoryReader, type HistoryEvent, type Json } from '../../src/check/history.js';
import { run } from '../../src/check/work.js';
import { bucketOf } from '../../src/placement/map.js';
import { StreamChecker } from './harness/streams.js';

const BUCKETS = 4;
const [A, B] = ['s/a', 's/b'];

type End = Exclude<HistoryEvent['type'], 'invoke'>;
type Part = readonly [key: string, number: number | null];

/** A history in which one thing happens after the other. */
class Told {
  readonly #checker = new StreamChecker();
  readonly #reader = new HistoryReader((operation) => this.#checker.add(operation));
  #index = 0;

  #add(f: string, key: string, type: End, asked: Json, answered: Json, version?: number): this {
    // A process of its own for each: after an unknown outcome none may go on.
    const common = { process: this.#index, f, key };
    this.#reader.event({ ...common, index: this.#index, timeNs: this.#index, type: 'invoke', value: asked });
    const end = { ...common, index: this.#index + 1, timeNs: this.#index + 1, type, value: answered };
    this.#reader.event(version === undefined ? end : { ...end, version });
    this.#index += 2;
    return this;
  }

  write(parts: readonly Part[], version?: number, type: End = 'ok'): this {
    return this.#add('write', 's/', type, parts, parts, version);
  }

  follow(name: number, ...events: Json[]): this {
    const from = { kind: 'timestamp', timestamp: 0 };
    return this.#add('follow', `chain ${name}`, 'fail', { name, start: 's/', end: 's0', before: true, from }, events);
  }

  history(key: string, ...versions: (readonly [version: number, value: string | null])[]): this {
    return this.#add('history', key, 'ok', null, { stream: 's/', clusterId: 'c', buckets: BUCKETS, versions });
  }

  judge(): string[] {
    this.#reader.end();
    const { verdict, findings } = run(this.#checker.check());
    return findings.length > 0 ? findings.map(({ kind, title }) => `${kind}: ${title}`) : [verdict];
  }
}

/** As plain gRPC tells it: without its place. */
function change(version: number, key: string, value: string | null, before: Json = null): Json {
  return ['c', version, null, key, value, Buffer.from(`t${version}`).toString('base64url'), before];
}

/** Of one commit, in the order of the buckets. */
const inOrder = (...changes: (readonly [key: string, change: Json])[]): Json[] => {
  return changes.sort(([a], [b]) => bucketOf(Buffer.from(a), BUCKETS) - bucketOf(Buffer.from(b), BUCKETS)).map(([, each]) => each);
};

describe('what judges the streams of scripts/faults', () => {
  const both = inOrder([A, change(20, A, '2', [10, '1'])], [B, change(20, B, '2')]);
  const all = [change(10, A, '1'), ...both, ['m', 20], change(30, A, null, [20, '2']), ['m', 40]];
  const written = (): Told => new Told().write([[A, 1]], 10).write([[A, 2], [B, 2]], 20).write([[A, null]], 30);
  const read = (told: Told): string[] => told.history(A, [30, null], [20, '2'], [10, '1']).history(B, [20, '2']).judge();

  it('accepts what a correct store tells, over several connections, and writes of unknown outcome', () => {
    expect(read(written().follow(1, ...all))).to.deep.equal(['valid']);
    expect(read(written().follow(1, ...all.slice(0, 2)).follow(2, ['m', 5]).follow(1, ...all.slice(2)))).to.deep.equal(['valid']);
    expect(read(written().write([[A, 4], [B, 4]], undefined, 'info').write([[B, 5]], undefined, 'fail').follow(1, ...all))).to.deep.equal(['valid']);
    const unknown = new Told().write([[A, 1]], 10).write([[A, 2], [B, 2]], undefined, 'info').write([[A, null]], undefined, 'info');
    expect(read(unknown.follow(1, ...all))).to.deep.equal(['valid']);
  });

  it('finds changes that a stream lost, told twice, tore apart or told too late', () => {
    for (const [place, event] of all.entries()) {
      if ((event as readonly Json[])[0] !== 'c') continue;
      expect(read(written().follow(1, ...all.toSpliced(place, 1))).join(), `without ${place}`).to.match(/^stream: .* is missing/);
      expect(read(written().follow(1, ...all.toSpliced(place, 0, event))).join(), `${place} twice`).to.match(/^stream: .*again, or late/);
    }
    const [begin, first = null, second = null, ...rest] = all;
    const late = [begin ?? null, first, ['m', 20], second, ...rest.slice(1)];
    expect(read(written().follow(1, ...late)).join()).to.match(/^stream: .* comes behind the mark 20/);
    const other = Buffer.from('other').toString('base64url');
    const torn = [begin ?? null, first, (second as readonly Json[]).with(5, other), ...rest];
    expect(read(written().follow(1, ...torn)).join()).to.match(/^stream: .* has several transaction ids/);
  });

  it('finds writes that are lost, split or invented', () => {
    const followed = written().follow(1, ...all);
    expect(read(followed.write([[B, 6]], 50)).join()).to.match(/^lost: write: at 50 it is not whole: s\/b/);
    const half = written().write([[A, 7], [B, 7]], undefined, 'info');
    expect(half.history(A, [35, '7'], [30, null], [20, '2'], [10, '1']).history(B, [20, '2']).judge().join()).to.match(/split: .* at 35 .*: s\/b/);
    const refused = written().write([[B, 8]], undefined, 'fail');
    expect(refused.history(A, [30, null], [20, '2'], [10, '1']).history(B, [35, '8'], [20, '2']).judge().join()).to.match(/invented: 8 at version 35/);
  });

  it('does not pass what was not read, or not followed, to its end', () => {
    expect(written().follow(1, ...all).judge()).to.deep.equal(['unknown']);
    expect(read(written().follow(1, ...all.slice(0, 4)))).to.deep.equal(['unknown']);
    expect(read(written())).to.deep.equal(['unknown']);
  });
});
