import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import { DEFAULT_LIMITS } from '../../src/env/limits.js';
import { TidemarkError } from '../../src/lib/errors.js';
import { loadConfig, nodeSettings, parseConfig, readTls, sidecarSettings } from '../../src/cli/config.js';

const SHIPPED = fileURLToPath(new URL('../../cluster-configs/', import.meta.url));

const GOOD = `
cluster:
  id: test
  replicas: 1
  nodes:
    - id: 1
      address: 127.0.0.1:7101
      http: 127.0.0.1:7201
    - id: 2
      address: '[::1]:7102'
node:
  dataDir: data/{id}
`;

/** The lines of the refusal, without the name of the file, which each of them must begin with. */
function complaints(run: () => unknown): string[] {
  try {
    run();
  } catch (error) {
    if (!(error instanceof TidemarkError)) throw error;
    expect([error.code, error.reason]).to.deep.equal(['INVALID_ARGUMENT', 'CONFIG_INVALID']);
    return error.message.split('\n').map((line) => {
      expect(line).to.match(/^c\.yaml: /);
      return line.slice('c.yaml: '.length);
    });
  }
  throw new Error('the configuration was accepted');
}

const wrong = (text: string): string[] => complaints(() => parseConfig(text, 'c.yaml'));

describe('the configuration', () => {
  it('loads every file that is shipped', () => {
    const files = readdirSync(SHIPPED);
    expect(files.sort()).to.deep.equal(['five-local.yaml', 'single.yaml', 'three-hosts-mtls.yaml', 'three-local.yaml']);
    for (const file of files) {
      const config = loadConfig(join(SHIPPED, file));
      for (const { id } of config.nodes) expect(nodeSettings(config, id).id).to.equal(id);
      if (file !== 'single.yaml') expect(sidecarSettings(config).listen).to.equal('127.0.0.1:7100');
      expect(config.limits).to.deep.equal(DEFAULT_LIMITS);
      expect(config.timing).to.deep.equal({
        heartbeatMs: 400,
        electionTimeoutMs: 1200,
        electionJitterMs: 400,
        driftBound: 0.1,
        leaseReads: true,
      });
    }
  });

  it('resolves a node from the shared file', () => {
    const config = loadConfig(join(SHIPPED, 'three-local.yaml'));
    expect(nodeSettings(config, 2)).to.deep.equal({
      id: 2,
      dataDir: resolve(SHIPPED, '../data/three-local/node-2'),
      listen: '127.0.0.1:7102',
      http: '127.0.0.1:7202',
    });
    expect(nodeSettings(loadConfig(join(SHIPPED, 'single.yaml'))).id).to.equal(1);
    expect(nodeSettings(loadConfig(join(SHIPPED, 'three-hosts-mtls.yaml')), 3).listen).to.equal('0.0.0.0:7101');
  });

  it('makes certificates with the commands that its file tells', function () {
    this.timeout(30_000);
    const dir = mkdtempSync(join(tmpdir(), 'tidemark-config-'));
    try {
      const lines = readFileSync(join(SHIPPED, 'three-hosts-mtls.yaml'), 'utf8').split('\n');
      const commands = lines.filter((line) => /^# {3}(?: *(?:openssl|printf|-|for|done))/.test(line) && !line.includes('tidemark node --'));
      const script = commands.map((line) => line.slice(4)).join('\n');
      execFileSync('sh', ['-ec', script], { cwd: dir, stdio: 'ignore' });
      const text = readFileSync(join(SHIPPED, 'three-hosts-mtls.yaml'), 'utf8').replaceAll('/etc/tidemark/', '');
      const tls = readTls(parseConfig(text, join(dir, 'cluster.yaml')), 2);
      expect(tls?.cert.toString()).to.include('BEGIN CERTIFICATE');
      expect(tls?.key.toString()).to.include('PRIVATE KEY');
    } finally {
      rmSync(dir, { recursive: true });
    }
  });

  it('fills in what is left out and takes what is given', () => {
    const config = parseConfig(`${GOOD}\nlimits: { valueBytesMax: 5 }\nraft: { readMode: read-index }\nlog: { level: warn }`, 'c.yaml');
    expect([config.clusterId, config.buckets, config.replicas, config.logLevel]).to.deep.equal(['test', 256, 1, 'warn']);
    expect(config.limits).to.deep.equal({ ...DEFAULT_LIMITS, valueBytesMax: 5 });
    expect(config.timing.leaseReads).to.equal(false);
    expect(config.nodes[1]).to.deep.equal({ id: 2, address: '[::1]:7102', zone: '', host: '' });
    expect(readTls(config)).to.equal(undefined);
  });

  it('names the file that is not there', () => {
    expect(() => loadConfig('/no/such/cluster.yaml')).to.throw(TidemarkError, '/no/such/cluster.yaml');
  });

  it('says where the file is no YAML', () => {
    expect(wrong('cluster:\n  id: [1\nnode: 2')[0]).to.match(/^line 3, column \d+: not valid YAML: /);
    expect(wrong(`${GOOD}\ncluster: {}`)[0]).to.match(/^line \d+, column \d+: not valid YAML: /);
    expect(wrong(`${GOOD}---\n${GOOD}`)).to.deep.equal(['line 13, column 1: not valid YAML: a second document begins here; expected one']);
    expect(wrong(GOOD.replace('id: test', 'id: *name'))[0]).to.match(/^not valid YAML: Unresolved alias .*: name$/);
    expect(wrong(GOOD.replace('id: test', 'id: !name test'))[0]).to.match(/^line 3, column 7: not valid YAML: Unresolved tag: !name/);
    expect(wrong(`${GOOD}? [a]\n: x\n`)[0]).to.match(/^line 13, column 3: not valid YAML: .*all keys must be strings/);
    expect(wrong('')).to.deep.equal(['the file: expected a mapping with some of cluster, node, sidecar, tls, limits, raft, log, got null']);
  });

  it('names the field, what was expected, and what was found', () => {
    const cases: [change: (text: string) => string, complaint: string][] = [
      [(t) => t.replace('  id: test\n', ''), `cluster.id: is missing; expected a name of 1 to 63 lower-case letters, digits and hyphens that begins with a letter`],
      [(t) => t.replace('id: test', 'id: A B'), `cluster.id: expected a name of 1 to 63 lower-case letters, digits and hyphens that begins with a letter, got 'A B'`],
      [(t) => t.replace('replicas: 1', 'replicas: 3'), 'cluster.replicas: expected at most the number of nodes, 2, got 3'],
      [(t) => t.replace('replicas: 1', 'replicas: one'), `cluster.replicas: expected a whole number from 1 to 7, got 'one'`],
      [(t) => t.replace('replicas: 1', 'replicas: 1\n  buckets: 0'), 'cluster.buckets: expected a whole number from 1 to 65536, got 0'],
      [(t) => t.replace('replicas: 1', 'replicas: 1\n  buckets: 1.5'), 'cluster.buckets: expected a whole number from 1 to 65536, got 1.5'],
      [(t) => t.replace('replicas: 1', 'replicas: 1\n  buckets: .inf'), 'cluster.buckets: expected a whole number from 1 to 65536, got Infinity'],
      [(t) => t.replace('replicas: 1', 'replicas: 1\n  bucket: 8'), 'cluster.bucket: unknown field; expected one of id, buckets, replicas, nodes'],
      [(t) => t.replace('127.0.0.1:7101', 'host-2'), `cluster.nodes[0].address: expected host:port or [ipv6]:port with a port from 1 to 65535, got 'host-2'`],
      [(t) => t.replace('127.0.0.1:7101', 'host:0'), `cluster.nodes[0].address: expected host:port or [ipv6]:port with a port from 1 to 65535, got 'host:0'`],
      [(t) => t.replace(`'[::1]:7102'`, '127.0.0.1:7101'), `cluster.nodes[1].address: expected another than that of nodes[0], got '127.0.0.1:7101'`],
      [(t) => t.replace('7201', '7101'), `cluster.nodes[0].http: expected another than the address of nodes[0], got '127.0.0.1:7101'`],
      [(t) => `${t}  http: '[::1]:7102'\n`, `node.http: expected another than the address of nodes[1], got '[::1]:7102'`],
      [(t) => `${t}  listen: 'h:1'\n  http: 'h:1'\n`, `node.http: expected another than node.listen, got 'h:1'`],
      [(t) => `${t}sidecar: { listen: '127.0.0.1:7101' }\n`, `sidecar.listen: expected another than the address of nodes[0], got '127.0.0.1:7101'`],
      [(t) => `${t}sidecar: { listen: 'h:1', http: 'h:1' }\n`, `sidecar.http: expected another than sidecar.listen, got 'h:1'`],
      [(t) => t.replace('id: 2', 'id: 1'), 'cluster.nodes[1].id: expected another than that of nodes[0], got 1'],
      [(t) => t.replace('id: 2', 'id: 2\n      zones: x'), 'cluster.nodes[1].zones: unknown field; expected one of id, address, http, zone, host'],
      [(t) => t.replace('id: 2', `id: 2\n      host: ''`), `cluster.nodes[1].host: expected a text that is not empty, got ''`],
      [(t) => t.replace('id: 2', 'id: 2\n      host: 7'), 'cluster.nodes[1].host: expected a text, got 7'],
      [(t) => t.replace('dataDir: data/{id}', 'datadir: x'), 'node.dataDir: is missing; expected a text'],
      [(t) => `${t}  id: 9\n`, 'node.id: expected the id of one of cluster.nodes: 1, 2, got 9'],
      [(t) => `${t}sidecar: { http: '127.0.0.1:1' }\n`, 'sidecar.listen: is missing; expected host:port'],
      [(t) => `${t}sidecar: { listen: 7100 }\n`, 'sidecar.listen: expected host:port, got 7100'],
      [(t) => `${t}sidecar: { listen: 'h:1', endpoints: [h] }\n`, `sidecar.endpoints[0]: expected host:port or [ipv6]:port with a port from 1 to 65535, got 'h'`],
      [(t) => `${t}sidecar: { listen: 'h:1', endpoints: [] }\n`, 'sidecar.endpoints: expected at least one host:port, got []'],
      [(t) => `${t}sidecar: { listen: 'h:1', hedging: { share: 2 } }\n`, 'sidecar.hedging.share: expected a number from 0 to 1, got 2'],
      [(t) => `${t}tls: { ca: ca.pem, cert: c.pem }\n`, 'tls.key: is missing; expected a text'],
      [(t) => `${t}limits: { valueBytesMax: -1 }\n`, 'limits.valueBytesMax: expected a whole number from 1 to 1099511627776, got -1'],
      [(t) => `${t}limits: { valueBytesMax: 9000000 }\n`, 'limits.valueBytesMax: expected at most limits.writeBytesMax, 8388608, got 9000000'],
      [(t) => `${t}limits: { writeBytesMax: 16777216 }\n`, 'limits.writeBytesMax: expected at most limits.messageBytesMax less 2162688, 14614528, got 16777216'],
      [(t) => `${t}limits: { valueBytesMax: 8388608 }\n`, 'limits.messageBytesMax: expected at least limits.pageBytesMax, twice limits.valueBytesMax and 2161152 together, 19986944, got 16777216'],
      [(t) => `${t}limits: { pageBytesMax: 16777216 }\n`, 'limits.messageBytesMax: expected at least limits.pageBytesMax, twice limits.valueBytesMax and 2161152 together, 21035520, got 16777216'],
      [(t) => `${t}limits: { sessionResultsMax: 100000 }\n`, 'limits.sessionBytesPerBucketMax: expected at least 3200224, what a session with limits.sessionResultsMax results takes, got 3145728'],
      [(t) => `${t}limits: { retentionMs: 5000 }\n`, 'limits.retentionMs: expected at least 10000: shorter ones would end running transactions and scans, got 5000'],
      [(t) => `${t}limits: { pinMsMax: 60000 }\n`, 'limits.pinMsMax: expected at least limits.retentionMs, 86400000: a pin holds more than is kept without it, got 60000'],
      [(t) => `${t}limits: { keyBytesMax: 65536 }\n`, 'limits.keyBytesMax: expected a whole number from 1 to 65535, got 65536'],
      [(t) => `${t}limits: { writeMutationsMax: 65536 }\n`, 'limits.writeMutationsMax: expected a whole number from 1 to 65535, got 65536'],
      [(t) => `${t}limits: { appendBytesMax: 16777216 }\n`, 'limits.appendBytesMax: expected at most half of limits.messageBytesMax, 8388608, got 16777216'],
      [(t) => `${t}limits: { peerQueueBytesMax: 1000000 }\n`, 'limits.peerQueueBytesMax: expected at least limits.messageBytesMax, 16777216, got 1000000'],
      [(t) => `${t}limits: { snapshotBytesPerSecond: 1000000 }\n`, 'limits.snapshotBytesPerSecond: expected at least limits.snapshotsAtOnceMax times limits.snapshotChunkBytes, 2097152: each snapshot must get on, got 1000000'],
      [(t) => `${t}raft: { electionTimeoutMs: 300 }\n`, 'raft.electionTimeoutMs: expected at least three heartbeats, 1200, got 300'],
      [(t) => `${t}raft: { readMode: leases }\n`, `raft.readMode: expected one of lease, read-index, got 'leases'`],
      [(t) => `${t}log: { level: loud }\n`, `log.level: expected one of debug, info, warn, error, silent, got 'loud'`],
      [(t) => `${t}logs: {}\n`, 'logs: unknown field; expected one of cluster, node, sidecar, tls, limits, raft, log'],
    ];
    for (const [change, complaint] of cases) expect(wrong(change(GOOD))).to.include(complaint);
  });

  it('tells every mistake at once', () => {
    expect(wrong(GOOD.replace('replicas: 1', 'replicas: 0').replace('id: test', 'id: 7'))).to.have.lengthOf(2);
    expect(wrong(GOOD.replace('replicas: 1', 'replicas: 99999999999999999999'))).to.have.lengthOf(1);
  });

  it('has a sidecar ask the nodes of the cluster first, unless it names others', () => {
    const sidecar = (more: string): object => sidecarSettings(parseConfig(`${GOOD}sidecar: { listen: 'h:1'${more} }\n`, 'c.yaml'));
    expect(sidecar('')).to.include({ listen: 'h:1', zone: undefined }).and.to.deep.include({ endpoints: ['127.0.0.1:7101', '[::1]:7102'] });
    const hedging = { share: 0, afterMsMin: 20 };
    expect(sidecar(', zone: a, endpoints: [n:1], hedging: { share: 0, afterMsMin: 20 }')).to.deep.include({ zone: 'a', endpoints: ['n:1'], hedging });
  });

  it('needs a section and an id to start from', () => {
    const config = parseConfig(GOOD, 'c.yaml');
    expect(complaints(() => nodeSettings(config))).to.deep.equal(['node.id: is missing; give --id or node.id, one of 1, 2']);
    expect(complaints(() => nodeSettings(config, 3))).to.deep.equal(['node id 3 is none of cluster.nodes: expected one of 1, 2']);
    expect(complaints(() => sidecarSettings(config))[0]).to.match(/^sidecar: is missing/);
    const bare = parseConfig(GOOD.slice(0, GOOD.indexOf('node:\n')), 'c.yaml');
    expect(complaints(() => nodeSettings(bare, 1))[0]).to.match(/^node: is missing/);
    const tls = parseConfig(`${GOOD}tls: { ca: ca.pem, cert: c.pem, key: k.pem }\n`, 'c.yaml');
    expect(complaints(() => readTls(tls, 1))[0]).to.match(/^tls\.ca: cannot be read: .*ca\.pem/);
  });

  it('keeps relative paths beside the file', () => {
    const dir = mkdtempSync(join(tmpdir(), 'tidemark-config-'));
    try {
      writeFileSync(join(dir, 'c.yaml'), GOOD);
      expect(nodeSettings(loadConfig(join(dir, 'c.yaml')), 2).dataDir).to.equal(join(dir, 'data/2'));
    } finally {
      rmSync(dir, { recursive: true });
    }
  });
});
