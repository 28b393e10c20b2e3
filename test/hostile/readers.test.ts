import { readFileSync } from 'node:fs';
import { connect, constants } from 'node:http2';
import { Client, credentials, type ClientReadableStream, type ServiceError } from '@grpc/grpc-js';
import { expect } from 'chai';
import type { Database } from '../../src/client/index.js';
import { methodNamed } from '../../src/env/real/grpc/protos.js';
import { TestCluster } from '../faults/cluster.js';

/**
 * Memory of a node under queries whose answers are large. It is what Linux says of the process: the highest resident size so
 * far, of which about 150 MiB are there with nothing to do.
 */
const MIB = 1024 * 1024;
const RESIDENT_BYTES_MAX = 700 * MIB;
const VALUES = 12;

function peakBytes(pid: number): number {
  const line = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'));
  return Number(line?.[1] ?? NaN) * 1024;
}

const same = (bytes: Buffer): Buffer => bytes;

describe('queries with large answers', function () {
  this.timeout(180_000);
  let cluster: TestCluster;
  let database: Database;
  let client: Client;

  before(async function () {
    if (process.platform !== 'linux') this.skip();
    cluster = await TestCluster.start({ nodes: 1, buckets: 4 });
    database = await cluster.connect();
    for (let n = 0; n < VALUES; n += 1) await database.put(`large/${n}`, Buffer.alloc(MIB, n));
    await database.put('small', 'x');
    client = new Client(cluster.address(1), credentials.createInsecure(), { 'grpc.max_receive_message_length': -1 });
  });

  after(async () => {
    client?.close();
    await cluster?.close();
  });

  function stream(method: string, request: object, seconds: number): ClientReadableStream<Buffer> {
    const { path, requestSerialize } = methodNamed('tidemark.v1.Queries', method);
    const deadline = Date.now() + seconds * 1000;
    return client.makeServerStreamRequest(path, same, same, requestSerialize(request), { deadline });
  }

  /** How many bytes came, or the error. */
  function read(call: ClientReadableStream<Buffer>): Promise<number | ServiceError> {
    return new Promise((resolve) => {
      let bytes = 0;
      call.on('data', (reply: Buffer) => (bytes += reply.length));
      call.on('end', () => resolve(bytes));
      call.on('error', (error) => resolve(error as ServiceError));
    });
  }

  it('hundreds at a time wait for room and are answered', async () => {
    const scans = Array.from({ length: 200 }, () => read(stream('Scan', { prefix: Buffer.from('large/'), limit: 3 }, 120)));
    const many = Array.from({ length: 10 }, () => {
      return read(stream('GetMany', { keys: Array.from({ length: VALUES }, (_, n) => Buffer.from(`large/${n}`)) }, 120));
    });
    for (const got of await Promise.all(scans)) expect(got).to.be.above(3 * MIB);
    for (const got of await Promise.all(many)) expect(got).to.be.above(VALUES * MIB);
    expect(peakBytes(cluster.process(1).pid)).to.be.below(RESIDENT_BYTES_MAX);
  });

  it('that nobody reads hold no more than their room, and are cut off when others need it', async () => {
    const { path, requestSerialize } = methodNamed('tidemark.v1.Queries', 'Scan');
    const request = requestSerialize({ prefix: Buffer.from('large/') });
    const session = connect(`http://${cluster.address(1)}`);
    const codes: number[] = [];
    for (let n = 0; n < 100; n += 1) {
      const idle = session.request({ ':method': 'POST', ':path': path, 'content-type': 'application/grpc', te: 'trailers' });
      const head = Buffer.alloc(5);
      head.writeUInt32BE(request.length, 1);
      // Without a listener for its data it is never read.
      idle.on('error', () => undefined);
      idle.on('close', () => codes.push(idle.rstCode));
      idle.end(Buffer.concat([head, request]));
    }
    expect(await read(stream('Scan', { prefix: Buffer.from('large/'), limit: 3 }, 120))).to.be.above(3 * MIB);
    expect((await database.get('small')).value?.toString()).to.equal('x');
    expect(codes).to.include(constants.NGHTTP2_ENHANCE_YOUR_CALM);
    expect(peakBytes(cluster.process(1).pid)).to.be.below(RESIDENT_BYTES_MAX);
    session.destroy();
  });
});
