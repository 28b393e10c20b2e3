import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import type { BucketsReply } from '../../src/cli/cluster/inspect.js';
import { freeBasePort, Running, tidemark, type Outcome } from './support.js';

const NODES = 3;

interface Watched {
  readonly kind: string;
  readonly key: string;
  readonly value?: string;
  readonly before?: { readonly value: string };
  readonly timestamp: number;
  readonly transaction: string;
  readonly cursor: string;
}

/** What every answer proves. */
const SERVED = ['node', 'timestamp', 'consistency', 'hops'];

/** One cluster of real processes for all of it: three nodes and a sidecar, started as a user does. */
describe('a local cluster', function () {
  this.timeout(120_000);
  let data = '';
  let base = 0;
  let cluster: Running;
  /** To be ended also if its test fails. */
  let watching: Running | undefined;
  let sidecar: string[] = [];
  let nodes: string[] = [];

  const start = (...more: string[]): Running =>
    new Running(['cluster', 'start', '--no-sample', '--data', data, '--base-port', String(base), ...more]);

  before(async () => {
    data = mkdtempSync(join(tmpdir(), 'tidemark-cluster-'));
    base = await freeBasePort(NODES);
    sidecar = ['--endpoint', `127.0.0.1:${base}`];
    nodes = ['--endpoint', [1, 2, 3].map((id) => `127.0.0.1:${base + id}`).join(',')];
    cluster = start();
    await cluster.printed(/Ctrl-C stops everything/);
  });

  after(async () => {
    watching?.process.kill('SIGKILL');
    await cluster.stop();
    rmSync(data, { recursive: true });
  });

  const succeed = async (...args: string[]): Promise<Outcome> => {
    const outcome = await tidemark(args);
    expect(outcome.err).to.equal('');
    expect(outcome.code).to.equal(0);
    return outcome;
  };

  it('says where everything listens', () => {
    for (const port of [base, base + 1, base + 2, base + 3]) {
      expect(cluster.text).to.match(new RegExp(`gRPC 127\\.0\\.0\\.1:${port} .*http://127\\.0\\.0\\.1:${port + 100} .*pid \\d+`));
    }
    expect(cluster.text).to.include(`export TIDEMARK_ENDPOINT=127.0.0.1:${base}`);
  });

  it('serves health and metrics over HTTP', async () => {
    for (const port of [base + 100, base + 101]) {
      const health = await fetch(`http://127.0.0.1:${port}/health`);
      expect(health.status).to.equal(200);
      expect(await health.json()).to.have.property('status', 'serving');
      const metrics = await fetch(`http://127.0.0.1:${port}/metrics`);
      expect(await metrics.text()).to.match(/^# HELP tidemark_/m);
    }
  });

  it('puts, gets, deletes, and remembers', async () => {
    expect((await succeed('put', 'fruit', 'apple', ...sidecar)).out).to.match(/^put, version \d+ \(20\d\d-.*Z.*\)\n$/);
    expect((await succeed('get', 'fruit', ...nodes)).out).to.equal('apple\n');
    expect((await succeed('get', 'fruit', '--raw', ...sidecar)).out).to.equal('apple');
    const first = jsonOf(await succeed('get', 'fruit', '--json', ...nodes));
    expect(first).to.include({ found: true, key: 'fruit', value: 'apple' });
    expect(first).to.have.nested.property('served.consistency', 'linearizable');
    const version = String(first.version);

    await succeed('put', 'fruit', 'pear', '--if-version', version, ...nodes);
    await succeed('delete', 'fruit', '--if-exists', ...sidecar);
    expect((await succeed('get', 'fruit', '--as-of', version, ...sidecar)).out).to.equal('apple\n');
    const { out } = await succeed('history', 'fruit', ...nodes);
    expect(out).to.match(/^\d+\t\S+\t\(deleted\)\n\d+\t\S+\tpear\n\d+\t\S+\tapple\n$/);

    const versions = await succeed('history', 'fruit', '--json', ...nodes);
    for (const line of versions.out.trimEnd().split('\n')) expect(JSON.parse(line)).to.have.property('served').that.has.all.keys(SERVED);

    const gone = await tidemark(['get', 'fruit', ...nodes]);
    expect(gone).to.deep.equal({ code: 3, out: '', err: 'tidemark: no such key\n' });
    expect((await tidemark(['history', 'vegetable', ...nodes])).code).to.equal(3);
  });

  it('tells a condition that does not hold from an error', async () => {
    await succeed('put', 'once', '1', '--if-absent', ...nodes);
    const again = await tidemark(['put', 'once', '2', '--if-absent', ...nodes]);
    expect(again.code).to.equal(4);
    expect(again.err).to.match(/^tidemark: not put: the condition does not hold, the key has version \d+\n$/);
    const json = await tidemark(['delete', 'never', '--if-exists', '--json', ...sidecar]);
    expect(json.code).to.equal(4);
    expect(jsonOf(json)).to.include({ applied: false, failedVersion: 0 });
    expect((await succeed('get', 'once', ...sidecar)).out).to.equal('1\n');
  });

  it('commits what a transaction says, or nothing, and says which line stands in the way', async () => {
    const lines = (...objects: object[]): string => `# a transfer\n\n${objects.map((each) => JSON.stringify(each)).join('\n')}\n`;
    const txn = (text: string, ...more: string[]): Promise<Outcome> => tidemark(['txn', ...more, ...sidecar], text);
    const open = lines({ if: 'absent', key: '{bank}ada' }, { put: '{bank}ada', value: '20' }, { put: '{bank}bob', valueBase64: 'AA==' });
    const first = await txn(open, '--json');
    expect([first.code, first.err]).to.deep.equal([0, '']);
    const { version, served } = JSON.parse(first.out) as { version: number; served: object };
    expect(served).to.have.all.keys(SERVED);
    const again = await txn(open);
    expect([again.code, again.out]).to.deep.equal([4, '']);
    expect(again.err).to.equal(`tidemark: not committed: line 3 does not hold, the key has version ${version}\n`);
    const path = join(data, 'transfer.jsonl');
    const transfer = lines(
      { if: 'value', key: '{bank}ada', value: '20' },
      { if: 'version', key: '{bank}bob', version },
      { if: 'unchanged', prefix: '{bank}', since: version },
      { put: '{bank}ada', value: '15' },
      { delete: '{bank}bob' },
    );
    writeFileSync(path, transfer);
    const done = await tidemark(['txn', path, ...nodes]);
    expect(done.out).to.match(/^committed at \d+ \(.*\): 3 conditions held, 2 keys changed\n$/);
    expect(done.code).to.equal(0);
    const changed = await txn(lines({ if: 'unchanged', start: '{bank}a', end: '{bank}b', since: version }), '--json');
    expect(changed.code).to.equal(4);
    expect(JSON.parse(changed.out)).to.have.nested.property('failed.line', 3);
    expect((await tidemark(['get', '{bank}ada', ...nodes])).out).to.equal('15\n');
    expect((await tidemark(['get', '{bank}bob', ...nodes])).code).to.equal(3);
  });

  it('refuses a transaction with a line that it does not understand', async () => {
    const wrong: [line: string, message: RegExp][] = [
      ['', /there is nothing to do/],
      ['{"put":"a"}', /line 1 is neither a condition nor a change: expected either 'value' or 'valueBase64'/],
      ['{"if":"newer","key":"a"}', /'if' is 'newer'; expected exists, absent, version, value or unchanged/],
      ['{"if":"exists","key":"a","value":"x"}', /'value' means nothing here/],
      ['{"if":"version","key":"a","version":true}', /'version' is true: a version is a whole number, 0 or more/],
      ['{"value":"x"}', /it has none of 'if', 'put', 'delete'/],
      ['[1]', /it is not a JSON object/],
    ];
    for (const [line, message] of wrong) {
      const { code, out, err } = await tidemark(['txn', ...nodes], line);
      expect([code, out]).to.deep.equal([2, '']);
      expect(err).to.match(message);
    }
    expect((await tidemark(['txn', '--help'])).out).to.include('{"if":"unchanged","prefix":"cart/","since":123}');
    const nobody = await tidemark(['txn', '-e', '127.0.0.1:1', '--timeout', '100ms'], '{"delete":"a"}');
    expect(nobody.code).to.equal(6);
  });

  it('takes and gives any bytes', async () => {
    await succeed('put', '00ff', 'fe0d0a', '--hex', ...nodes);
    expect((await succeed('get', 'AP8=', '--base64', ...sidecar)).out).to.equal('/g0K\n');
    expect(jsonOf(await succeed('get', '00ff', '--hex', '--json', ...sidecar))).to.include({ key: '00ff', value: 'fe0d0a' });
    const { code } = await tidemark(['put', 'from-stdin', '-', ...nodes], 'two\nlines\n');
    expect(code).to.equal(0);
    expect((await succeed('get', 'from-stdin', '--raw', ...nodes)).out).to.equal('two\nlines\n');
  });

  it('refuses what the limits and the timeline do not allow', async () => {
    const refused = async (expected: number, reason: RegExp, ...args: string[]): Promise<void> => {
      const { code, err } = await tidemark([...args, ...sidecar]);
      expect(err).to.match(reason);
      expect(code).to.equal(expected);
    };
    await refused(2, /^tidemark: key is empty.*EMPTY_KEY/, 'put', '', 'x');
    await refused(2, /^tidemark: key is empty.*EMPTY_KEY/, 'delete', '');
    await refused(2, /KEY_TOO_LARGE/, 'put', 'k'.repeat(5000), 'x');
    await refused(2, /RESERVED_KEY/, 'put', '!k', 'x');
    await refused(2, /RANGE_INVERTED/, 'scan', '--start', 'b', '--end', 'a');
    await refused(2, /TIMESTAMP_MALFORMED/, 'get', 'k', '--as-of', 'yesterday');
    await refused(7, /TIMESTAMP_TOO_EARLY/, 'get', 'k', '--as-of', '1999-12-31');
  });

  it('imports, scans and exports', async () => {
    const lines = Array.from({ length: 2000 }, (_, at) => JSON.stringify({ key: `item/${String(at).padStart(4, '0')}`, value: `v${at}` }));
    lines.push(JSON.stringify({ keyBase64: Buffer.from('item/\xff', 'latin1').toString('base64'), valueBase64: '/w==' }));
    const text = `${lines.join('\n')}\n`;
    const imported = await tidemark(['import', '-', ...sidecar], text);
    expect(imported.out).to.equal('imported 2001 records\n');
    expect(imported.code).to.equal(0);

    const scanned = await succeed('scan', 'item/', '--limit', '3', '--reverse', ...nodes);
    expect(scanned.out).to.equal('0x6974656d2fff\t0xff\nitem/1999\tv1999\nitem/1998\tv1998\n');
    const [line = ''] = (await succeed('scan', 'item/', '--limit', '1', '--json', ...sidecar)).out.split('\n');
    const record = JSON.parse(line) as { served: unknown };
    expect(record).to.include({ key: 'item/0000', value: 'v0' }).and.to.have.property('version').that.is.a('number');
    expect(record.served).to.have.all.keys(SERVED);
    const keys = await succeed('scan', '--start', 'item/0009', '--end', 'item/0012', '--keys-only', ...sidecar);
    expect(keys.out).to.equal('item/0009\nitem/0010\nitem/0011\n');

    const before = await tidemark(['export', 'item/', '--json', ...nodes]);
    expect(before.out).to.equal(text);
    const { exported, asOf } = JSON.parse(before.err) as { exported: number; asOf: number };
    expect(exported).to.equal(2001);
    await succeed('put', 'item/0000', 'changed', ...nodes);
    const file = join(data, 'items.jsonl');
    const after = await tidemark(['export', 'item/', '--as-of', String(asOf), '-o', file, ...sidecar]);
    expect(after.code).to.equal(0);
    expect(readFileSync(file, 'utf8')).to.equal(text);
  });

  it('shows the past as the tour in the README does, and what changed since', async () => {
    const diff = (...more: string[]): Promise<Outcome> => succeed('diff', 'tour/', ...more, ...sidecar);
    const first = jsonOf(await succeed('put', 'tour/a', 'one', '--json', ...nodes));
    await succeed('put', 'tour/gone', 'x', ...nodes);
    const from = String(jsonOf(await succeed('put', 'tour/same', 's', '--json', ...nodes)).version);
    await succeed('put', 'tour/a', 'two', ...nodes);
    await succeed('put', 'tour/b', 'new', ...nodes);
    const to = String(jsonOf(await succeed('delete', 'tour/gone', '--json', ...nodes)).version);
    expect((await diff('--from', from)).out).to.equal('~ tour/a\tone\ttwo\n+ tour/b\tnew\n- tour/gone\tx\n');
    expect((await diff('--from', from, '--to', to, '--keys-only')).out).to.equal('~ tour/a\n+ tour/b\n- tour/gone\n');
    const nothing = await tidemark(['diff', 'tour/', '--from', to, ...sidecar]);
    expect([nothing.code, nothing.out]).to.deep.equal([0, '']);
    expect(nothing.err).to.match(new RegExp(`^tidemark: nothing changed from ${to} \\(20\\S+Z\\S*\\) to \\d+ \\(20\\S+Z\\S*\\)\n$`));
    const same = await tidemark(['diff', 'tour/', '--from', to, '--to', to, '--json', ...sidecar]);
    expect([same.out, JSON.parse(same.err)]).to.deep.equal(['', { from: Number(to), to: Number(to) }]);
    const lines = (await diff('--from', from, '--to', to, '--json')).out.trimEnd().split('\n');
    const changes = lines.map((line) => JSON.parse(line) as Record<string, unknown>);
    expect(changes[0]).to.deep.include({ kind: 'changed', key: 'tour/a', before: { value: 'one', version: first.version } });
    expect(changes.map(({ kind }) => kind)).to.deep.equal(['changed', 'added', 'removed']);
    expect(changes[2]).to.not.have.property('after');
    expect(changes[1]).to.have.property('served').that.deep.includes({ timestamp: Number(to), consistency: 'asOf' });

    // Half a minute ago nothing of it was there.
    const early = await tidemark(['scan', 'tour/', '--as-of', '-30s', ...nodes]);
    expect([early.code, early.out]).to.deep.equal([0, '']);
    expect(early.err).to.match(/^tidemark: no keys, as of \d+ /);
    expect((await diff('--from', '-30s', '--keys-only')).out).to.equal('+ tour/a\n+ tour/b\n+ tour/same\n');
    expect((await succeed('scan', 'tour/', '--as-of', from, ...sidecar)).out).to.equal('tour/a\tone\ntour/gone\tx\ntour/same\ts\n');
    const inverted = await tidemark(['diff', 'tour/', '--from', to, '--to', from, ...nodes]);
    expect([inverted.code, inverted.out]).to.deep.equal([2, '']);
    expect(inverted.err).to.match(/^tidemark: the range is inverted: from \d+ is above to \d+.*RANGE_INVERTED/);
    expect((await tidemark(['diff', 'tour/', ...nodes])).code, 'a moment to begin with is missing').to.equal(2);
  });

  it('watches what changes, and goes on from the cursor with which a watch ended', async () => {
    const versionOf = async (...args: string[]): Promise<number> => {
      return (jsonOf(await succeed(...args, '--json', ...nodes)) as { version: number }).version;
    };
    const first = await versionOf('put', 'watched/a', '1');
    await versionOf('put', 'watched/a', '2');
    await versionOf('delete', 'watched/a');
    const puts = ['b', 'c', 'd', 'e'].map((name) => JSON.stringify({ put: `watched/${name}`, value: name })).join('\n');
    const txn = JSON.parse((await tidemark(['txn', '--json', ...sidecar], puts)).out) as { version: number };
    await versionOf('put', 'unwatched', '1');

    const watch = (...args: string[]): Promise<Outcome> => tidemark(['watch', 'watched/', ...args, ...sidecar]);
    const all = await watch('--from', String(first - 1), '--until', 'now', '--before', '--json');
    expect(all.code).to.equal(0);
    const changes = all.out.trimEnd().split('\n').map((line) => JSON.parse(line) as Watched);
    expect(changes.map(({ kind, key, value, before }) => [kind, key, value, before?.value])).to.deep.equal([
      ['put', 'watched/a', '1', undefined],
      ['put', 'watched/a', '2', '1'],
      ['delete', 'watched/a', undefined, '2'],
      ...changes.slice(3).map(({ key, value }) => ['put', key, value, undefined]),
    ]);
    const parts = changes.slice(3);
    expect(parts.map(({ key }) => key).sort()).to.deep.equal(['watched/b', 'watched/c', 'watched/d', 'watched/e']);
    expect(new Set(parts.map(({ timestamp }) => timestamp))).to.deep.equal(new Set([txn.version]));
    expect(new Set(parts.map(({ transaction }) => transaction)).size, 'one transaction').to.equal(1);
    expect(new Set(changes.map(({ transaction }) => transaction)).size).to.equal(4);

    const cut = await watch('--from', String(first - 1), '--limit', '5');
    expect(cut.out).to.match(/^\d+\t20\S+Z(?:\+\d+)?\tput\twatched\/a\t1\n.*\n\d+\t\S+\tdelete\twatched\/a\n/);
    const cursor = /^tidemark: go on with --from (c1\.\S+)\n$/.exec(cut.err)?.[1] ?? '';
    expect(cursor, 'in the midst of the transaction').to.equal(changes[4]?.cursor);
    const rest = await watch('--from', cursor, '--until', 'now', '--json');
    expect(rest.out.trimEnd().split('\n').map((line) => (JSON.parse(line) as Watched).key)).to.deep.equal(changes.slice(5).map(({ key }) => key));
    const { cursor: end } = JSON.parse(rest.err) as { cursor: string };
    expect(await watch('--from', end, '--until', 'now')).to.include({ code: 0, out: '' });

    const snapshot = await watch('--from', 'beginning', '--until', 'now', '--keys-only');
    expect(snapshot.code, 'no such option').to.equal(2);
    const beginning = await watch('--from', 'beginning', '--until', 'now');
    expect(beginning.out).to.match(/^(\d+\t\S+\tentry\twatched\/[bcde]\t[bcde]\n){4}$/);
    const refused = await watch('--from', `${cursor.slice(0, -3)}AAA`);
    expect(refused.code).to.equal(2);
    expect(refused.err).to.match(/^tidemark: cursor is malformed: .* fails its checksum/);
  });

  it('watches until it is stopped', async () => {
    const running = new Running(['watch', 'live/', '--marks', ...nodes]);
    watching = running;
    await running.printed(/\tmark\n/);
    await succeed('put', 'live/1', 'x', ...sidecar);
    await running.printed(/\tput\tlive\/1\tx\n/);
    expect(await running.stop()).to.equal(0);
    const [, cursor = ''] = await running.printed(/tidemark: go on with --from (\S+)\n$/);
    await succeed('put', 'live/2', 'y', ...nodes);
    const { out } = await tidemark(['watch', 'live/', '--from', cursor, '--limit', '1', ...sidecar]);
    expect(out).to.match(/^\d+\t\S+\tput\tlive\/2\ty\n$/);
  });

  it('pins moments by name, and lets them go', async () => {
    const pin = (...args: string[]): Promise<Outcome> => succeed('pin', ...args, ...sidecar);
    const version = String(jsonOf(await succeed('put', 'pinned', 'x', '--json', ...nodes)).version);
    expect((await pin('add', 'release-1', '--as-of', version)).out).to.match(new RegExp(`^pinned release-1 at ${version} \\(20.*Z.*\\)\n$`));
    const added = jsonOf(await pin('add', 'release-1', '--as-of', version, '--expires', '1h', '--json'));
    expect(added).to.include({ name: 'release-1', timestamp: Number(version), lost: false, complete: true });
    expect(added.expires).to.be.greaterThan(Number(version));
    await pin('add', 'just-now');
    const { out } = await succeed('pin', 'list', ...nodes);
    expect(out).to.match(/^PIN +TIMESTAMP +TIME +EXPIRES +STATE\n/);
    expect(out).to.match(new RegExp(`\nrelease-1 +${version} +20\\S+Z\\S* +20\\S+Z\\S* +held\n`));
    expect(out).to.match(/\njust-now +\d+ +20\S+Z\S* +never +held\n/);
    expect(out).to.match(/\nnever: it stays in the list until it is removed, .*\n/);
    expect(out).to.match(/\nearliest readable: \d+ \(20\S+Z.*\)\n$/);
    const taken = await tidemark(['pin', 'add', 'release-1', ...nodes]);
    expect([taken.code, taken.out]).to.deep.equal([1, '']);
    expect(taken.err).to.include('PIN_EXISTS').and.to.include('remove it first');
    expect((await tidemark(['pin', 'add', 'no name', ...nodes])).err).to.include('PIN_NAME_MALFORMED');
    expect((await tidemark(['pin', 'add', 'old', '--as-of', '2019-12-31', ...nodes])).code).to.equal(7);
    expect((await pin('remove', 'release-1')).out).to.equal('removed release-1\n');
    const absent = await tidemark(['pin', 'remove', 'release-1', ...nodes]);
    expect([absent.code, absent.out, absent.err]).to.deep.equal([
      3,
      '',
      'tidemark: there is no pin release-1; `tidemark pin list` shows those that there are\n',
    ]);
    const never = await tidemark(['pin', 'remove', 'never-there', '--json', ...nodes]);
    expect([never.code, jsonOf(never)]).to.deep.equal([3, { found: false, name: 'never-there' }]);
    const { pins } = jsonOf(await pin('list', '--json')) as { pins: { name: string }[] };
    expect(pins.map(({ name }) => name)).to.deep.equal(['just-now']);
    await pin('remove', 'just-now');
  });

  it('says at which line an import failed', async () => {
    const { code, err } = await tidemark(['import', '-', ...nodes], '{"key":"a","value":"1"}\n\n{"key":"b"}\n');
    expect(code).to.equal(2);
    expect(err).to.include('go on with --from-line 3');
    expect(err).to.include("line 3 is no record: expected either 'value' or 'valueBase64'");
    const rest = await tidemark(['import', '-', '--from-line', '3', '--json', ...nodes], '\n{"no record\n{"key":"b","value":"2"}');
    expect(rest.code).to.equal(0);
    expect(jsonOf(rest)).to.deep.equal({ imported: 1 });
  });

  it('shows its members and buckets', async () => {
    const { out } = await succeed('cluster', 'status', ...nodes);
    expect(out).to.match(/^cluster local-[0-9a-f]{8}: 256 buckets, placement epoch \d+\nanswered by node 1, /);
    const status = jsonOf(await succeed('cluster', 'status', '--json', ...sidecar));
    expect(status.nodes).to.have.lengthOf(NODES);
    const table = await succeed('cluster', 'buckets', '--id', '3,5', ...nodes);
    expect(table.out).to.match(/^bucket .*\n +3 .*\n +5 .*\n$/);
    expect(jsonOf(await succeed('cluster', 'buckets', '--json', ...nodes)).buckets).to.have.lengthOf(256);
  });

  it('gives a bucket a number of replicas of its own, and takes it back', async () => {
    const nodesOf = async (id: string): Promise<number> => {
      const { buckets } = jsonOf(await succeed('cluster', 'buckets', '--id', id, '--json', ...nodes)) as unknown as BucketsReply;
      return buckets[0]?.bucket.replicas.length ?? 0;
    };
    const changed = await tidemark(['cluster', 'replicas', '1', '--bucket', '17, 18', ...sidecar]);
    expect(changed.out).to.match(/^placement epoch \d+, 3 replicas of each bucket, 1 of bucket 17, 18: everything is in its place\n/);
    expect([await nodesOf('17'), await nodesOf('18'), await nodesOf('19')]).to.deep.equal([1, 1, 3]);
    for (const [args, reason, code] of [
      [['4', '--bucket', '19'], /from 1 to 3, for there are 3 nodes, not 4 replicas.*REPLICAS_OUT_OF_RANGE/, 2],
      [['3', '--bucket', '19,256'], /there is no bucket 256; there are 256.*UNKNOWN_BUCKET/, 2],
      [['0', '--bucket', '19'], /'0' is invalid for argument 'count'\. Expected a whole number from 1 to 7\./, 2],
      [['default'], /'default' is what buckets have without a number of their own: give --bucket/, 2],
    ] as const) {
      const refused = await tidemark(['cluster', 'replicas', ...args, ...nodes]);
      expect(refused).to.include({ code, out: '' });
      expect(refused.err).to.match(reason);
    }
    const back = await tidemark(['cluster', 'replicas', '--bucket', '17,18', 'default', '--json', ...nodes]);
    expect(back.code).to.equal(0);
    expect(jsonOf(back)).to.deep.include({ replicas: 3, bucketReplicas: [], moving: [] });
    expect([await nodesOf('17'), await nodesOf('18')]).to.deep.equal([3, 3]);
  });

  it('shows what is hot, whoever is asked', async () => {
    const { out } = await succeed('cluster', 'heat', ...sidecar);
    expect(out).to.match(/^[\d,]+ reads\/s, [\d,]+ writes\/s, [\d,]+ bytes\/s; placement epoch \d+, as node \d was told\n\nnode +reads/);
    const heat = jsonOf(await succeed('cluster', 'heat', '--json', '--buckets', '1', ...nodes));
    expect(heat.nodes).to.have.lengthOf(NODES);
    expect(heat.hotReadsPerSecond).to.equal(2000);
  });

  it('measures itself', async () => {
    const options = ['--keys', '50', '--duration', '200ms', '--warmup', '50ms', '--in-flight', '4', '--load', 'mixed', '--json'];
    const { code, out } = await tidemark(['bench', ...options, ...nodes]);
    expect(code).to.equal(0);
    const runs = out.trimEnd().split('\n').map((line) => JSON.parse(line) as Record<string, unknown>);
    expect(runs.map(({ driver, distribution }) => `${String(driver)} ${String(distribution)}`)).to.deep.equal([
      'client uniform',
      'client zipf',
      'unary uniform',
      'unary zipf',
    ]);
    for (const run of runs) expect(run).to.include({ load: 'mixed', inFlight: 4, errors: 0 });
  });

  it('measures how far a change stream is behind', async () => {
    const options = ['--keys', '50', '--duration', '1s', '--warmup', '100ms', '--in-flight', '8', '--distribution', 'uniform', '--json'];
    const stream = ['bench', '--load', 'stream', '--rate', '100', ...options, ...sidecar];
    const { code, out } = await tidemark([...stream, '--driver', 'client']);
    expect(code).to.equal(0);
    const run = JSON.parse(out) as { put: { count: number }; lag: { count: number; p99Ms: number }; errors: number };
    expect(run.errors).to.equal(0);
    expect(run.lag.count).to.be.within(1, run.put.count + 8);
    expect(run.lag.p99Ms).to.be.greaterThan(0);
    const unary = await tidemark([...stream, '--driver', 'unary']);
    expect(unary).to.include({ code: 2, out: '' });
    expect(unary.err).to.include('--load txn, txn-spread, write, write-spread, stream, as-of need --driver client');
  });

  it('is alone in its directory', async () => {
    const second = start();
    expect(await second.exited).to.equal(1);
    expect(second.text).to.match(/DATA_DIRECTORY_IN_USE/);
  });

  it('starts a node again that was killed', async () => {
    const pid = Number(/node 2 .*pid (\d+)/.exec(cluster.text)?.[1]);
    process.kill(pid, 'SIGKILL');
    await cluster.printed(/node 2 was killed by SIGKILL; starting it again/);
    await succeed('put', 'meanwhile', 'served', ...sidecar);
    await cluster.printed(/node 2 is back, pid \d+/);
  });

  it('stops in order, and finds its data at the next start', async () => {
    await succeed('put', 'kept', 'yes', ...nodes);
    expect(await cluster.stop()).to.equal(0);
    expect(cluster.text).to.match(/Stopping \.\.\.\nStopped\. The data stays\.\n$/);
    const other = start('--nodes', '5');
    expect(await other.exited).to.equal(2);
    expect(other.text).to.include('holds a cluster of 3 nodes, not 5');
    cluster = start();
    await cluster.printed(/the data is there/);
    await cluster.printed(/Ctrl-C stops everything/);
    expect((await succeed('get', 'kept', ...sidecar)).out).to.equal('yes\n');
  });
});

function jsonOf({ out }: Outcome): Record<string, unknown> {
  return JSON.parse(out) as Record<string, unknown>;
}
