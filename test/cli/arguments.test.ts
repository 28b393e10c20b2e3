import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { duration, durationOrNone, endpoints, integer, share } from '../../src/cli/arguments.js';
import { describeError, EXIT, exitCodeOf, UsageError } from '../../src/cli/exit.js';
import { describeHeat } from '../../src/cli/cluster/heat.js';
import { describeStatus } from '../../src/cli/cluster/inspect.js';
import { table } from '../../src/cli/terminal.js';
import { STATUS, TidemarkError, type StatusCode } from '../../src/lib/errors.js';
import { tidemark } from './support.js';

/** Nobody listens on port 1. */
const NOWHERE = ['--endpoint', '127.0.0.1:1', '--timeout', '100ms'];

describe('the command line', () => {
  const wrong: [title: string, args: string[], message: RegExp][] = [
    ['an unknown command', ['launch'], /unknown command 'launch'/],
    ['an unknown option', ['get', 'k', '--fast'], /unknown option '--fast'/],
    ['a missing argument', ['put', 'k'], /missing required argument 'value'/],
    ['too many arguments', ['get', 'k', 'l'], /too many arguments/],
    ['two encodings', ['get', 'k', '--hex', '--base64'], /'--hex' cannot be used with option '--base64'/],
    ['a key that is not hexadecimal', ['get', 'xyz', '--hex'], /key 'xyz' is not hexadecimal/],
    ['an endpoint without a port', ['get', 'k', '-e', 'localhost'], /'localhost' is not host:port/],
    ['an endpoint with port 0', ['get', 'k', '-e', 'a:1,b:0'], /'b:0' is not host:port/],
    ['a timeout without a unit', ['get', 'k', '--timeout', '10'], /Expected a duration/],
    ['a timeout of nothing', ['get', 'k', '--timeout', '0.1ms'], /Expected a duration of at least 1ms/],
    ['a pin that is gone at once', ['pin', 'add', 'p', '--expires', '0s'], /Expected a duration of at least 1ms/],
    ['a version that is none', ['put', 'k', 'v', '--if-version', 'foo'], /Expected a whole number from 0 to 9007199254740991/],
    ['a version that is a span', ['delete', 'k', '--if-version', '-10s'], /Expected a whole number from 0/],
    ['help for what is unknown', ['help', 'frob'], /unknown command 'frob'/],
    ['help for what is unknown of a group', ['cluster', 'help', 'frob'], /unknown command 'frob'/],
    ['two consistencies', ['get', 'k', '--as-of', '-1s', '--consistency', 'local'], /cannot be used with/],
    ['an unknown consistency', ['get', 'k', '--consistency', 'best'], /Allowed choices are linearizable, bounded, local/],
    ['a limit of 0', ['scan', '--limit', '0'], /Expected a whole number from 1/],
    ['two conditions', ['put', 'k', 'v', '--if-absent', '--if-exists'], /cannot be used with/],
    ['an unknown load', ['bench', '--load', 'put,post'], /Expected some of put, get, mixed/],
    ['an unusable port', ['cluster', 'start', '--base-port', '70000'], /Expected a whole number from 1 to 65000/],
    ['half of TLS', ['get', 'k', '--tls-ca', 'ca.pem'], /are needed together/],
    ['a value file that is not there', ['put', 'k', '@/nowhere'], /value's file cannot be read: ENOENT/],
    ['an import file that is not there', ['import', '/nowhere'], /file cannot be opened: ENOENT/],
    ['a transaction file that is not there', ['txn', '/nowhere'], /file cannot be opened: ENOENT/],
    ['a prefix beside bounds', ['scan', 'a', '--start', 'b'], /give a prefix, or --start and --end, not both/],
    ['a moment that is none', ['get', 'k', '--as-of', 'nonsense'], /--as-of is 'nonsense': expected a number, an ISO 8601 time/],
    ['a moment to scan at', ['scan', '--as-of', '2024-13-01'], /--as-of is '2024-13-01'/],
    ['a moment to export', ['export', '--as-of', '-10'], /--as-of is '-10'/],
    ['a moment of a history', ['history', 'k', '--oldest', 'first'], /--oldest is 'first'/],
    ['a moment to compare with', ['diff', '--from', '-1m', '--to', 'soon'], /--to is 'soon'/],
    ['a moment to pin', ['pin', 'add', 'p', '--as-of', '99999999999999999'], /--as-of is 99999999999999999: timestamps are below 2\^53/],
    ['a moment to watch from', ['watch', '--from', 'yesterday'], /from is 'yesterday': expected 'now', 'beginning', a cursor/],
    ['a moment to watch until', ['watch', '--until', 'later'], /--until is 'later'/],
    ['a staleness of no bounded read', ['get', 'k', '--max-staleness', '1s'], /--max-staleness needs --consistency bounded/],
    ['a token beside another consistency', ['export', '--at-least', '1', '--consistency', 'local'], /--at-least goes with/],
    ['a prefix beside bounds of a diff', ['diff', 'a', '--start', 'b', '--from', '-1s'], /give a prefix, or --start and --end/],
    ['a missing configuration', ['node'], /required option '-c, --config <file>' not specified/],
    ['a configuration that is not there', ['node', '-c', '/nowhere.yaml'], /\/nowhere\.yaml: the configuration cannot be read/],
  ];
  for (const [title, args, message] of wrong) {
    it(`refuses ${title}`, async () => {
      const { code, out, err } = await tidemark(args);
      expect(err).to.match(message);
      expect(out).to.equal('');
      expect(code).to.equal(EXIT.USAGE);
    });
  }

  it('refuses a moment before all time without asking anybody', async () => {
    const { code, err } = await tidemark(['get', 'k', '--as-of', '2019-12-31', '--json', ...NOWHERE]);
    expect(code).to.equal(EXIT.OUT_OF_RANGE);
    expect(JSON.parse(err)).to.have.nested.property('error.reason', 'TIMESTAMP_TOO_EARLY');
  });

  it('names every mistake of a configuration', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'tidemark-arguments-'));
    try {
      const file = join(folder, 'cluster.yaml');
      writeFileSync(file, 'cluster: { id: demo, nodes: [{ id: 1, address: here }] }\nnode: { dataDir: 5 }\n');
      const { code, err } = await tidemark(['node', '--config', file]);
      expect(code).to.equal(EXIT.USAGE);
      expect(err).to.include('cluster.nodes[0].address: expected').and.to.include('node.dataDir: expected');
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  it('helps, with the exit codes', async () => {
    const { code, out } = await tidemark(['--help']);
    expect(code).to.equal(0);
    for (const name of ['node', 'sidecar', 'cluster', 'put', 'get', 'delete', 'scan', 'history', 'txn', 'watch', 'import', 'export', 'bench', 'check']) {
      expect(out).to.match(new RegExp(`\\n  ${name} `));
    }
    expect(out).to.include('5  outcome unknown');
  });

  it('helps with a command, also of a group', async () => {
    for (const args of [['help', 'get'], ['cluster', 'help', 'move'], ['help', 'cluster', 'move']]) {
      const { code, out } = await tidemark(args);
      expect(code).to.equal(0);
      expect(out).to.include(`Usage: tidemark ${args.filter((word) => word !== 'help').join(' ')} [options]`);
    }
  });

  it('refuses a version of a transaction that is no number', async () => {
    const { code, err } = await tidemark(['txn'], '{"if":"version","key":"k","version":"foo"}');
    expect(code).to.equal(EXIT.USAGE);
    expect(err).to.include("'version' is foo: a version is a whole number, 0 or more");
  });

  it('says what is wrong with the words themselves, for people and for programs', async () => {
    for (const [args, message] of [
      [['get'], "missing required argument 'key'"],
      [['get', 'k', '--bogus'], "unknown option '--bogus'"],
      [['bogus'], "unknown command 'bogus'"],
      [['get', 'k', '--timeout', 'soon'], "option '--timeout <duration>' argument 'soon' is invalid. Expected a duration like 250ms, 10s, 5m, 1h, 2d."],
    ] as const) {
      const plain = await tidemark(args);
      expect(plain).to.deep.equal({ code: EXIT.USAGE, out: '', err: `error: ${message}\n(--help tells more)\n` });
      const json = await tidemark([...args, '--json']);
      expect(json).to.include({ code: EXIT.USAGE, out: '' });
      expect(JSON.parse(json.err)).to.deep.equal({ error: { code: 'INVALID_ARGUMENT', reason: 'USAGE', message, outcome: 'none' } });
    }
  });

  it('says that nobody answers, for people and for programs', async () => {
    const plain = await tidemark(['get', 'k', ...NOWHERE]);
    expect(plain.code).to.equal(EXIT.UNAVAILABLE);
    expect(plain.err).to.match(/^tidemark: .*127\.0\.0\.1:1.*\(UNAVAILABLE, /);
    const json = await tidemark(['get', 'k', '--json', ...NOWHERE]);
    expect(json.code).to.equal(EXIT.UNAVAILABLE);
    expect(JSON.parse(json.err)).to.have.nested.property('error.code', 'UNAVAILABLE');
    const status = await tidemark(['cluster', 'status', ...NOWHERE]);
    expect(status.code).to.equal(EXIT.UNAVAILABLE);
    const why = 'tidemark: no node or sidecar answered: 127.0.0.1:1: connect ECONNREFUSED 127.0.0.1:1 (UNAVAILABLE, NO_ENDPOINT_ANSWERED)';
    expect(status.err).to.equal(`${why}\n`);
  });
});

describe('options', () => {
  it('are read strictly', () => {
    expect(duration('1.5s')).to.equal(1500);
    expect(duration('2m')).to.equal(120_000);
    expect(duration('1h') * 24).to.equal(duration('1d'));
    expect(() => duration('-1s')).to.throw('Expected a duration like 250ms, 10s, 5m, 1h, 2d');
    expect(() => duration('0s')).to.throw('at least 1ms');
    expect(durationOrNone('0s')).to.equal(0);
    expect(integer(1, 5)('5')).to.equal(5);
    for (const text of ['0', '6', '1.5', '0x1', '', ' 1']) expect(() => integer(1, 5)(text)).to.throw('from 1 to 5');
    expect(share('0.25')).to.equal(0.25);
    for (const text of ['', '1.1', '-1', 'x']) expect(() => share(text)).to.throw('from 0 to 1');
    expect(endpoints('a:1, [::1]:7100')).to.deep.equal(['a:1', '[::1]:7100']);
    for (const text of ['a', 'a:', ':1', 'a:65536', '::1:7100']) expect(() => endpoints(text)).to.throw('is not host:port');
  });
});

describe('exit codes', () => {
  it('tell unknown outcomes from certain ones', () => {
    const code = (status: StatusCode, outcome: 'none' | 'unknown' = 'none'): number =>
      exitCodeOf(new TidemarkError(status, 'TEST', 'test', { outcome }));
    expect(code('UNAVAILABLE')).to.equal(6);
    expect(code('DEADLINE_EXCEEDED', 'unknown')).to.equal(5);
    expect(code('INVALID_ARGUMENT')).to.equal(2);
    expect(code('OUT_OF_RANGE')).to.equal(7);
    expect(code('RESOURCE_EXHAUSTED')).to.equal(8);
    expect(code('INTERNAL')).to.equal(1);
    expect(exitCodeOf(new UsageError('x'))).to.equal(2);
    expect(exitCodeOf(new Error('x'))).to.equal(1);
    for (const status of Object.keys(STATUS) as StatusCode[]) expect(code(status, 'unknown')).to.equal(5);
  });

  it('come with a message that says what is open', () => {
    const error = new TidemarkError('UNAVAILABLE', 'NO_LEADER', 'bucket 7 has no leader', { outcome: 'unknown' });
    expect(describeError(error, false)).to.equal(
      'tidemark: bucket 7 has no leader (UNAVAILABLE, NO_LEADER) The write may or may not have taken effect.',
    );
    expect(JSON.parse(describeError(error, true))).to.deep.equal({
      error: {
        code: 'UNAVAILABLE',
        reason: 'NO_LEADER',
        message: 'bucket 7 has no leader',
        outcome: 'unknown',
        retriable: false,
        details: {},
      },
    });
  });
});

describe('output', () => {
  it('aligns text to the left and numbers to the right', () => {
    const text = table(['name', 'count', 'note'], [['a', '1', '-'], ['bcdef', '1000', '-']]);
    expect(text).to.equal('name   count  note\na          1  -\nbcdef   1000  -\n');
  });

  it('shows the heat of a cluster', () => {
    const rates = { reads: 9000, writes: 12, bytes: 1_234_567 };
    const text = describeHeat({
      epoch: 3,
      node: 2,
      hotReadsPerSecond: 2000,
      nodes: [{ id: 1, ...rates, readReplicas: 0 }, { id: 2, reads: 0, writes: 0, bytes: 0, readReplicas: 1 }],
      buckets: [{ id: 17, ...rates, leader: 1, voters: [1, 3, 4], readReplicas: [2, 5] }, { id: 4, reads: 9, writes: 0, bytes: 1, leader: 0, voters: [1], readReplicas: [] }],
      keys: [{ key: Buffer.from('hot'), bucket: 17, reads: 8100, share: 0.9 }],
    });
    expect(text).to.equal(
      [
        '9,000 reads/s, 12 writes/s, 1,234,567 bytes/s; placement epoch 3, as node 2 was told',
        '',
        'node  reads/s  writes/s    bytes/s  read replicas',
        '   1    9,000        12  1,234,567              0',
        '   2        0         0          0              1',
        '',
        'bucket  reads/s  writes/s    bytes/s  leader  on nodes  read replicas  reads/s for each replica',
        '    17    9,000        12  1,234,567       1  1 3 4     2 5            ███████████████████████████   | 1,800',
        '     4        9         0          1       -  1         -                                            | 9',
        '',
        'key  bucket  reads/s  of its bucket',
        'hot      17    8,100  90 %',
        '',
      ].join('\n'),
    );
  });

  it('shows the status of a cluster', () => {
    const node = { id: 1, address: '127.0.0.1:7101', zone: '', host: 'm1', reachable: true, replicas: 256, leaders: 86 };
    const status = {
      clusterId: 'demo',
      epoch: 3,
      node: 1,
      buckets: 256,
      timestamp: 4_096_002,
      version: '0.1.0',
      uptimeMs: 61_000,
      nodes: [node, { ...node, id: 2, address: '127.0.0.1:7102', reachable: false, leaders: 0 }],
    };
    const head = [
      'cluster demo: 256 buckets, placement epoch 3',
      'answered by node 1, version 0.1.0, up 61 s, clock 2020-01-01T00:00:01.000Z+2',
    ];
    expect(describeStatus(status)).to.equal(
      [
        ...head,
        '',
        'node  address         zone  host  state        replicas  leads, as far as node 1 knows',
        '   1  127.0.0.1:7101  -     m1    reachable         256                             86',
        '   2  127.0.0.1:7102  -     m1    UNREACHABLE       256                              0',
        '',
      ].join('\n'),
    );
    // Who plans was told by each node how much it leads.
    const wanted = { tooFewVoters: 0, tooManyVoters: 0, onDraining: 0, onLost: 0, crowded: 0, short: 0, steps: 0 };
    const placed = { epoch: 3, replicas: 2, bucketReplicas: [], moving: [], leaderless: [], wanted, unreachable: [2] };
    const nodes = [86, 170].map((leads, at) => ({ id: at + 1, replicas: 257, draining: at === 1, leads }));
    expect(describeStatus(status, { ...placed, nodes })).to.equal(
      [
        ...head,
        'placement: everything is in its place',
        '',
        'node  address         zone  host  state                  replicas  leads',
        '   1  127.0.0.1:7101  -     m1    reachable                   256     86',
        '   2  127.0.0.1:7102  -     m1    UNREACHABLE, draining       256    170',
        '',
      ].join('\n'),
    );
  });
});
