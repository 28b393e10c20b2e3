import { expect } from 'chai';
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { stringify } from 'yaml';
import { freePorts } from '../faults/cluster.js';
import { run, TestProcess, tidemark } from '../faults/process.js';
import { connect } from '../../src/client/index.js';

/** What a node says, and how it ends, when it cannot start as it is told to. */
interface Failure {
  readonly exitCode: number;
  readonly says: RegExp;
}

describe('a node that cannot start', function () {
  this.timeout(30_000);
  let folder = '';
  let ports: number[] = [];

  /** A configuration that works, in whose data directory there is a key; each test changes one thing. */
  const working = (change: (config: Config) => void = () => undefined): Config => {
    const config: Config = {
      cluster: { id: 'home', buckets: 4, replicas: 1, nodes: [{ id: 1, address: `127.0.0.1:${ports[0]}`, http: `127.0.0.1:${ports[1]}` }] },
      node: { dataDir: './data' },
      log: { level: 'warn' },
    };
    change(config);
    return config;
  };

  const write = (config: object | string): string => {
    const file = join(folder, 'cluster.yaml');
    writeFileSync(file, typeof config === 'string' ? config : stringify(config));
    return file;
  };

  const start = async (): Promise<TestProcess> => {
    const args = tidemark('node', '--config', write(working()));
    const node = new TestProcess({ name: 'node 1', args, logPath: join(folder, 'node.log') });
    await node.ready();
    return node;
  };

  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'tidemark-startup-'));
    ports = await freePorts(2);
    const node = await start();
    await using database = await connect({ endpoints: [`127.0.0.1:${ports[0]}`] });
    await database.put('key', 'kept');
    node.signal('SIGTERM');
    expect(await node.ended).to.deep.equal({ code: 0, signal: null });
  });

  after(async () => {
    try {
      const node = await start();
      await using database = await connect({ endpoints: [`127.0.0.1:${ports[0]}`] });
      expect((await database.get('key')).text()).to.equal('kept');
      await node.kill();
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });

  /** One message on stderr, no stack, and the exit code. */
  async function fails(args: readonly string[], { exitCode, says }: Failure): Promise<void> {
    const { code, stderr } = await run(tidemark(...args));
    const messages = stderr.split('\n').filter((line) => line !== '' && !line.startsWith('{'));
    expect(messages, stderr).to.have.lengthOf(1);
    expect(messages[0]).to.match(/^tidemark: /);
    expect(messages[0]).to.match(says);
    expect(code, stderr).to.equal(exitCode);
  }

  const failsWith = (config: object | string, failure: Failure, ...more: readonly string[]): Promise<void> =>
    fails(['node', '--config', write(config), ...more], failure);

  describe('because of its configuration', () => {
    it('no such file', () => fails(['node', '--config', join(folder, 'none.yaml')], { exitCode: 2, says: /none\.yaml: the configuration cannot be read: .*ENOENT/ }));
    it('no YAML', () => failsWith('cluster: [', { exitCode: 2, says: /cluster\.yaml: line 1, column \d+: not valid YAML/ }));
    it('a field of another type', () =>
      failsWith(working((config) => (config.cluster.buckets = 'many')), { exitCode: 2, says: /cluster\.buckets: expected a whole number from 1 to 65536, got 'many'/ }));
    it('an unknown node id', () => failsWith(working(), { exitCode: 2, says: /node id 7 is none of cluster\.nodes: expected one of 1/ }, '--id', '7'));
    it('an id that is no number', async () => {
      const { code, stderr } = await run(tidemark('node', '--config', write(working()), '--id', 'x'));
      expect(code).to.equal(2);
      expect(stderr).to.match(/'--id <n>' argument 'x' is invalid\. Expected a whole number from 1 to 65535/);
    });
    it('certificates that are not there', () =>
      failsWith({ ...working(), tls: { ca: 'ca.pem', cert: 'cert.pem', key: 'key.pem' } }, { exitCode: 2, says: /tls\.ca: cannot be read: .*ca\.pem/ }));
    it('certificates that are none', () => {
      for (const name of ['ca.pem', 'cert.pem', 'key.pem']) writeFileSync(join(folder, name), 'not PEM');
      return failsWith({ ...working(), tls: { ca: 'ca.pem', cert: 'cert.pem', key: 'key.pem' } }, { exitCode: 2, says: /TLS certificates cannot be used: / });
    });
  });

  describe('because of its data directory', () => {
    const refused = (change: (config: Config) => void, says: RegExp): Promise<void> => failsWith(working(change), { exitCode: 1, says });

    it('of another cluster', () =>
      refused((config) => (config.cluster.id = 'abroad'), /data directory .*\/data belongs to cluster 'home', not to 'abroad'.*WRONG_CLUSTER/));
    it('of another node', () =>
      refused((config) => config.cluster.nodes.forEach((node) => (node.id = 2)), /\/data belongs to node 1, not to node 2.*WRONG_NODE/));
    it('with another number of buckets', () =>
      refused((config) => (config.cluster.buckets = 8), /created with 4 buckets; the configuration says 8.*WRONG_BUCKETS/));

    it('with other members', () => {
      const config = working(({ cluster }) => cluster.nodes.push({ id: 2, address: '127.0.0.1:1', http: '127.0.0.1:2' }));
      const says = /created for .* 1 replicas on nodes 1; the configuration says 1 replicas on nodes 1, 2, .*WRONG_MEMBERS/;
      return failsWith(config, { exitCode: 1, says }, '--id', '1');
    });

    it('of a newer format', async () => {
      changeIdentity((text) => text.replace(/"format": \d+/, '"format": 99'));
      await refusedCopy(/copy has format 99; this release reads format \d+: use a newer one.*NEWER_FORMAT/);
    });
    it('of an older format', async () => {
      changeIdentity((text) => text.replace(/"format": \d+/, '"format": 1'));
      await refusedCopy(/copy has format 1; this release reads format \d+ only: export the data with the release that wrote it.*OLDER_FORMAT/);
    });
    it('with an identity that cannot be read', async () => {
      changeIdentity((text) => text.slice(0, 20));
      await refusedCopy(/identity\.json in .*copy cannot be read: .*STATE_CORRUPT/);
    });
    it('with an identity that lacks a field', async () => {
      changeIdentity((text) => text.replace('"uuid"', '"other"'));
      await refusedCopy(/identity\.json in .*copy cannot be read: a field is missing or wrong/);
    });
    it('that has lost its identity', async () => {
      rmSync(join(copy(), 'identity.json'));
      await refusedCopy(/copy holds data, but its file identity\.json is gone.*IDENTITY_MISSING/);
      expect(existsSync(join(copy(), 'identity.json'))).to.equal(false);
    });
    for (const store of ['log', 'state']) {
      it(`that has lost its ${store}`, async () => {
        rmSync(join(copy(), store), { recursive: true });
        await refusedCopy(new RegExp(`copy is not whole: its store '${store}' has lost its contents; remove node 1.*STORE_LOST`));
      });
    }
    it('whose log is damaged', async () => {
      writeFileSync(join(copy(), 'log', 'CURRENT'), 'MANIFEST-999999\n');
      await refusedCopy(/copy.*(DATA_LOSS|FAILED_PRECONDITION)/);
    });
    it('that is a file', async () => {
      writeFileSync(join(folder, 'file'), '');
      await refused((config) => (config.node.dataDir = './file'), /data directory .*file cannot be used: /);
    });
    it('that cannot be made', () => refused((config) => (config.node.dataDir = '/proc/tidemark'), /data directory \/proc\/tidemark cannot be used: /));

    it('in use', async () => {
      const node = await start();
      const others = await freePorts(2);
      await refused((config) => {
        config.cluster.nodes.forEach((each) => Object.assign(each, { address: `127.0.0.1:${others[0]}`, http: `127.0.0.1:${others[1]}` }));
      }, /data directory .*\/data is in use by another process.*DATA_DIRECTORY_IN_USE/);
      await using database = await connect({ endpoints: [`127.0.0.1:${ports[0]}`] });
      expect((await database.get('key')).text()).to.equal('kept');
      await node.kill();
    });

    /** Another one of the same contents, to be spoilt. */
    function copy(): string {
      return join(folder, 'copy');
    }

    beforeEach(() => cpSync(join(folder, 'data'), copy(), { recursive: true }));
    afterEach(() => rmSync(copy(), { recursive: true, force: true }));

    function refusedCopy(says: RegExp): Promise<void> {
      return refused((config) => (config.node.dataDir = './copy'), says);
    }

    function changeIdentity(change: (text: string) => string): void {
      const file = join(copy(), 'identity.json');
      writeFileSync(file, change(readFileSync(file, 'utf8')));
    }
  });

  describe('because of its ports', () => {
    const taken: Server[] = [];

    afterEach(() => {
      for (const server of taken.splice(0)) server.close();
    });

    for (const [what, index] of [['gRPC', 0], ['HTTP', 1]] as const) {
      it(`in use: ${what}`, async () => {
        const server = createServer();
        taken.push(server);
        await new Promise<void>((resolve) => server.listen(ports[index], '127.0.0.1', resolve));
        await failsWith(working(), { exitCode: 1, says: new RegExp(`cannot listen on 127\\.0\\.0\\.1:${ports[index]}: the port is in use.*ADDRESS_IN_USE`) });
      });
    }

    it('on a host that is not here', () =>
      failsWith(working((config) => (config.node.listen = '192.0.2.1:7101')), { exitCode: 2, says: /cannot listen on 192\.0\.2\.1:7101: .*EADDRNOTAVAIL/ }));
  });
});

interface Config {
  readonly cluster: { id: string; buckets: number | string; replicas: number; nodes: { id: number; address: string; http: string }[] };
  readonly node: { dataDir: string; listen?: string };
  readonly log: object;
}
