import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect as connectTcp } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { TidemarkError } from '../../src/lib/errors.js';
import type { TlsFiles } from '../../src/env/real/network.js';
import { echo, failureOf, Recorder, TestNetwork } from './support.js';

describe('mutual TLS', () => {
  let dir: string;
  let ours: TlsFiles;
  let theirs: TlsFiles;

  before(function () {
    this.timeout(30_000);
    dir = mkdtempSync(join(tmpdir(), 'tidemark-tls-'));
    ours = makeCertificate(join(dir, 'ours'), 'DNS:localhost,IP:127.0.0.1');
    theirs = makeCertificate(join(dir, 'theirs'), 'DNS:localhost,IP:127.0.0.1');
  });

  after(() => {
    rmSync(dir, { recursive: true });
  });

  async function served(tls: TlsFiles): Promise<{ net: TestNetwork; address: string }> {
    const net = new TestNetwork({}, { tls });
    const put = { kind: 'unary', handle: async () => ({ version: 7 }) } as const;
    const services = { 'tidemark.v1.Commands': { Put: put } };
    const { address } = await net.serve({ accept: (_channel, _hello, stream) => echo(stream), services });
    return { net, address };
  }

  it('joins streams and calls whose both ends have a certificate of one authority', async () => {
    const { net, address } = await served(ours);
    const here = new Recorder();
    const stream = net.network.connect(address, 'peer', Buffer.from('hello'), here);
    stream.send(Buffer.alloc(100_000));
    await here.until(() => here.frames.length === 1);
    stream.close();
    const rpc = net.network.rpcClient(address);
    expect(await rpc.unary('tidemark.v1.Commands', 'Put', { key: Buffer.from('k') })).to.deep.include({ version: 7 });
    rpc.close();
    const byName = net.network.rpcClient(address.replace('127.0.0.1', 'localhost'));
    expect(await byName.unary('tidemark.v1.Commands', 'Put', { key: Buffer.from('k') })).to.deep.include({ version: 7 });
    byName.close();
    await net.close();
    expect(net.bugs).to.deep.equal([]);
  });

  it('refuses who has none, or one of another authority, or a name that the certificate does not hold', async () => {
    const { net, address } = await served(ours);
    const elsewhere = await served(makeCertificate(join(dir, 'elsewhere'), 'DNS:elsewhere.invalid', join(dir, 'ours')));
    const byName = await served(makeCertificate(join(dir, 'by-name'), 'DNS:localhost,DNS:address.invalid', join(dir, 'ours')));
    const strangers: [TlsFiles | undefined, string][] = [
      [ours, byName.address],
      [undefined, address],
      [theirs, address],
      [{ ...theirs, ca: ours.ca }, address],
      [ours, elsewhere.address],
    ];
    for (const [tls, to] of strangers) {
      const stranger = new TestNetwork({}, { tls, connectTimeoutMs: 500 });
      const here = new Recorder();
      stranger.network.connect(to, 'peer', Buffer.alloc(0), here).send(Buffer.from('x'));
      const error = await here.end;
      expect([error?.code, error?.reason]).to.deep.equal(['UNAVAILABLE', 'STREAM_LOST']);
      const rpc = stranger.network.rpcClient(to);
      const refused = await failureOf(rpc.unary('tidemark.v1.Commands', 'Put', { key: Buffer.from('k') }, 500));
      expect(refused.code).to.be.oneOf(['UNAVAILABLE', 'DEADLINE_EXCEEDED']);
      expect(here.frames).to.deep.equal([]);
      rpc.close();
    }
    await elsewhere.net.close();
    await byName.net.close();
    await net.close();
  });

  it('is not disturbed by garbage and by plain HTTP/2', async () => {
    const { net, address } = await served(ours);
    const here = new Recorder();
    const stream = net.network.connect(address, 'peer', Buffer.alloc(0), here);
    stream.send(Buffer.from('before'));
    await here.until(() => here.frames.length === 1);
    for (const garbage of [Buffer.alloc(1000, 0x5a), Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n')]) {
      await new Promise<void>((resolve) => {
        const socket = connectTcp(Number(address.split(':')[1]), '127.0.0.1', () => socket.end(garbage));
        socket.on('error', () => undefined).on('close', () => resolve());
        socket.resume();
      });
    }
    stream.send(Buffer.from('after'));
    await here.until(() => here.frames.length === 2);
    stream.close();
    await net.close();
    expect(net.bugs).to.deep.equal([]);
  });

  it('says at once that certificates cannot be used', () => {
    const broken = { ...ours, key: Buffer.from('no key') };
    expect(() => new TestNetwork({}, { tls: broken })).to.throw(TidemarkError, 'the TLS certificates cannot be used');
    expect(() => new TestNetwork({}, { tls: { ...ours, key: theirs.key } })).to.throw(TidemarkError, 'cannot be used');
  });
});

/** An authority, unless one is given, and a certificate that it signed. */
function makeCertificate(base: string, names: string, authority = base): TlsFiles {
  const curve = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-sha256'];
  const openssl = (...args: string[]): void => void execFileSync('openssl', args, { stdio: 'ignore' });
  const ca = ['-keyout', `${authority}-ca.key`, '-out', `${authority}-ca.pem`];
  if (authority === base) openssl('req', '-x509', ...curve, '-days', '2', '-subj', '/CN=authority', ...ca);
  openssl('req', ...curve, '-subj', '/CN=node', '-keyout', `${base}.key`, '-out', `${base}.csr`);
  writeFileSync(`${base}.ext`, `subjectAltName=${names}\nextendedKeyUsage=serverAuth,clientAuth\n`);
  const signer = ['-CA', `${authority}-ca.pem`, '-CAkey', `${authority}-ca.key`, '-CAcreateserial'];
  openssl('x509', '-req', '-days', '2', '-in', `${base}.csr`, ...signer, '-extfile', `${base}.ext`, '-out', `${base}.pem`);
  return { ca: readFileSync(`${authority}-ca.pem`), cert: readFileSync(`${base}.pem`), key: readFileSync(`${base}.key`) };
}
