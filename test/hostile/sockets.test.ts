import { expect } from 'chai';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { TestCluster } from '../faults/cluster.js';
import { Canary } from './canary.js';

const PREFACE = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');
const SETTINGS = frame(4, 0, 0, Buffer.alloc(0));
const IDLE_SOCKETS = 100;
const GARBAGE_ENDS_MS = 10_000;

describe('garbage on the gRPC port', function () {
  this.timeout(30_000);
  let cluster: TestCluster;
  let canary: Canary;
  const sockets = new Set<Socket>();

  before(async () => {
    cluster = await TestCluster.start({ nodes: 1, buckets: 8 });
    canary = new Canary(await cluster.connect());
  });

  after(async () => {
    for (const socket of sockets) socket.destroy();
    try {
      await canary.stop();
      expect(cluster.log(1)).not.to.match(/"level":"(error|fatal)"/);
      expect(cluster.runningIds).to.deep.equal([1]);
    } finally {
      await cluster.close();
    }
  });

  async function open(): Promise<Socket> {
    const [host = '', port] = cluster.address(1).split(':');
    const socket = connect(Number(port), host);
    sockets.add(socket);
    socket.on('error', () => undefined);
    socket.on('data', () => undefined);
    socket.once('close', () => sockets.delete(socket));
    await once(socket, 'connect');
    return socket;
  }

  /** Resolves when the node has closed a connection on which these bytes came. */
  async function closedAfter(...parts: readonly Buffer[]): Promise<void> {
    const socket = await open();
    const closed = once(socket, 'close', { signal: AbortSignal.timeout(GARBAGE_ENDS_MS) });
    for (const part of parts) socket.write(part);
    await closed;
  }

  const GARBAGE: Readonly<Record<string, readonly Buffer[]>> = {
    'random bytes': [randomBytes(10_000)],
    'a request in HTTP/1': [Buffer.from('GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n')],
    'the hello of TLS': [Buffer.from(`1603010200010001fc0303${'00'.repeat(506)}`, 'hex')],
    'HTTP/2 and then noise': [PREFACE, SETTINGS, randomBytes(5000)],
    'a frame over the frame size': [PREFACE, SETTINGS, Buffer.from([0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]), randomBytes(100_000)],
    'data for a stream that nobody opened': [PREFACE, SETTINGS, frame(0, 0, 77, Buffer.alloc(100))],
    'headers that are no HPACK': [PREFACE, SETTINGS, frame(1, 4, 1, Buffer.alloc(50, 0xff))],
    'a window that overflows': [PREFACE, SETTINGS, frame(8, 0, 0, Buffer.from([0x7f, 0xff, 0xff, 0xff]))],
  };

  it(`ends the connection: ${Object.keys(GARBAGE).join(', ')}`, async () => {
    const closing = Object.entries(GARBAGE).map(async ([what, parts]) => {
      await closedAfter(...parts).catch((error: unknown) => {
        throw new Error(`the node did not close the connection after ${what}`, { cause: error });
      });
    });
    await Promise.all(closing);
  });

  it('sockets on which nothing comes, or half of a greeting, are closed, and hold nobody up', async () => {
    const idle = await Promise.all(Array.from({ length: IDLE_SOCKETS }, () => open()));
    const closed = idle.map((socket) => once(socket, 'close', { signal: AbortSignal.timeout(GARBAGE_ENDS_MS) }));
    for (const [index, socket] of idle.entries()) if (index % 2 === 0) socket.write(PREFACE.subarray(0, 10));
    const rounds = canary.rounds;
    await cluster.eventually('the canary sings', async () => canary.rounds > rounds + 10);
    await Promise.all(closed);
  });

  it('a flood of opened and reset streams is cut off or borne, and hurts nobody', async () => {
    const socket = await open();
    socket.write(Buffer.concat([PREFACE, SETTINGS]));
    // :method POST, :scheme http, :path /, without the rest: never a gRPC call.
    const headers = Buffer.from([0x83, 0x86, 0x84]);
    const burst: Buffer[] = [];
    for (let stream = 1; stream < 8000; stream += 2) {
      burst.push(frame(1, 5, stream, headers), frame(3, 0, stream, Buffer.from([0, 0, 0, 8])));
    }
    socket.write(Buffer.concat(burst));
    const rounds = canary.rounds;
    await cluster.eventually('the canary sings', async () => canary.rounds > rounds + 20);
    socket.destroy();
  });
});

/** A frame of HTTP/2. */
function frame(type: number, flags: number, stream: number, payload: Buffer): Buffer {
  const head = Buffer.alloc(9);
  head.writeUIntBE(payload.length, 0, 3);
  head.writeUInt8(type, 3);
  head.writeUInt8(flags, 4);
  head.writeUInt32BE(stream, 5);
  return Buffer.concat([head, payload]);
}
