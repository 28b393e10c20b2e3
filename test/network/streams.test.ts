import { once } from 'node:events';
import { connect as connectHttp2, constants } from 'node:http2';
import { connect as connectTcp, createServer, type Socket } from 'node:net';
import { expect } from 'chai';
import { TidemarkError } from '../../src/lib/errors.js';
import type { Bytes } from '../../src/lib/bytes.js';
import type { FrameStream } from '../../src/env/network.js';
import { echo, failureOf, Recorder, TestNetwork } from './support.js';

describe('frame streams', () => {
  let net: TestNetwork;
  beforeEach(() => {
    net = new TestNetwork();
  });
  afterEach(async () => {
    await net.close();
    expect(net.bugs).to.deep.equal([]);
  });

  it('carry the hello and frames of any size in order, both ways', async () => {
    const hellos: [string, string][] = [];
    const server = await net.serve({
      accept: (channel, hello, stream) => {
        hellos.push([channel, hello.toString('hex')]);
        return echo(stream);
      },
    });
    const recorder = new Recorder();
    const stream = net.network.connect(server.address, 'peer', Buffer.from('00ff10', 'hex'), recorder);
    const sizes = [0, 1, 127, 128, 16_383, 16_384, 70_000, 2_097_152, 5_000_000, 3];
    for (const [index, size] of sizes.entries()) stream.send(Buffer.alloc(size, index));
    await recorder.until(() => recorder.frames.length === sizes.length);
    expect(hellos).to.deep.equal([['peer', '00ff10']]);
    expect(recorder.frames.map((frame) => frame.length)).to.deep.equal(sizes);
    expect(recorder.frames.every((frame, index) => frame.every((byte) => byte === index))).to.equal(true);
    stream.close();
    expect(await recorder.end).to.equal(undefined);
  });

  it('tell both sides once when one ends in order', async () => {
    const there = new Recorder();
    const server = await net.serve({ accept: () => there });
    const here = new Recorder();
    const stream = net.network.connect(server.address, 'pipeline', Buffer.alloc(0), here);
    stream.send(Buffer.from('last'));
    stream.close();
    stream.close(new TidemarkError('INTERNAL', 'TOO_LATE', 'ignored'));
    expect(here.closings).to.equal(0);
    expect(stream.send(Buffer.from('more'))).to.equal(false);
    expect(await here.end).to.equal(undefined);
    expect(await there.end).to.equal(undefined);
    expect(there.frames.map(String)).to.deep.equal(['last']);
    expect([here.closings, there.closings]).to.deep.equal([1, 1]);
  });

  it('carry the reason of a close from the client to the server, and from the server to the client', async () => {
    const reason = new TidemarkError('FAILED_PRECONDITION', 'WRONG_CLUSTER', 'cluster a, not b — ü', {
      outcome: 'none',
      retriable: true,
      details: { cluster: 'a' },
    });
    const there = new Recorder();
    const streams: FrameStream[] = [];
    const server = await net.serve({
      accept: (_channel, _hello, stream) => {
        streams.push(stream);
        return there;
      },
    });
    const first = new Recorder();
    net.network.connect(server.address, 'peer', Buffer.alloc(0), first).close(reason);
    const second = new Recorder();
    net.network.connect(server.address, 'peer', Buffer.alloc(0), second).send(Buffer.from('x'));
    await there.until(() => there.frames.length === 1);
    streams.at(-1)?.close(reason);
    for (const error of [await first.end, await there.end, await second.end]) {
      expect(error).to.be.instanceOf(TidemarkError);
      expect({ ...error, message: error?.message }).to.deep.equal({ ...reason, message: reason.message });
    }
  });

  it('are refused by an accept that throws', async () => {
    const server = await net.serve({
      accept: () => {
        throw new TidemarkError('FAILED_PRECONDITION', 'WRONG_EPOCH', 'epoch 3 is not 4');
      },
    });
    const recorder = new Recorder();
    const stream = net.network.connect(server.address, 'peer', Buffer.alloc(0), recorder);
    stream.send(Buffer.from('x'));
    const error = await recorder.end;
    expect([error?.code, error?.reason, error?.message]).to.deep.equal([
      'FAILED_PRECONDITION',
      'WRONG_EPOCH',
      'epoch 3 is not 4',
    ]);
  });

  it('end with UNAVAILABLE where nobody listens', async () => {
    const recorder = new Recorder();
    net.network.connect('127.0.0.1:1', 'peer', Buffer.alloc(0), recorder);
    const error = await recorder.end;
    expect([error?.code, error?.reason, error?.outcome]).to.deep.equal(['UNAVAILABLE', 'STREAM_LOST', 'unknown']);
    expect(error?.message).to.include('127.0.0.1:1');
  });

  it('end with UNAVAILABLE where somebody listens and never speaks', async () => {
    const sockets: Socket[] = [];
    const silent = createServer((socket) => sockets.push(socket.on('error', () => undefined)));
    await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
    const { port } = silent.address() as { port: number };
    const impatient = new TestNetwork({}, { connectTimeoutMs: 200 });
    const recorder = new Recorder();
    impatient.network.connect(`127.0.0.1:${port}`, 'peer', Buffer.alloc(0), recorder);
    const error = await recorder.end;
    expect([error?.code, error?.message]).to.deep.equal([
      'UNAVAILABLE',
      `the stream with 127.0.0.1:${port} is lost: no answer within 200 ms`,
    ]);
    for (const socket of sockets) socket.destroy();
    await new Promise((resolve) => silent.close(resolve));
  });

  it('notice on both sides that the line between them went silent', async () => {
    const there = new Recorder();
    const server = await net.serve({ accept: () => there });
    const line = await proxy(Number(server.address.split(':')[1]));
    const here = new Recorder();
    const stream = net.network.connect(line.address, 'peer', Buffer.alloc(0), here);
    stream.send(Buffer.from('x'));
    await there.until(() => there.frames.length === 1);
    const start = performance.now();
    line.freeze();
    const error = await here.end;
    expect(error?.code).to.equal('UNAVAILABLE');
    expect((await there.end)?.code).to.equal('UNAVAILABLE');
    expect(performance.now() - start).to.be.lessThan(5000);
    await line.close();
  });

  it('hold the sender back beyond the buffer limit and release it', async () => {
    const small = new TestNetwork({ streamBufferBytesMax: 100_000 });
    const there = new Recorder();
    const server = await small.serve({ accept: () => there });
    const here = new Recorder();
    const stream = small.network.connect(server.address, 'peer', Buffer.alloc(0), here);
    const frame = Buffer.alloc(10_000);
    let sent = 0;
    for (let open = true; open; sent += 1) open = stream.send(frame);
    expect(sent).to.equal(10);
    await here.until(() => here.drains === 1);
    expect(stream.send(frame)).to.equal(true);
    await there.until(() => there.frames.length === sent + 1);
    stream.close();
    await there.end;
    await small.close();
  });

  it('cut off a sender that does not wait for a reader who is too slow', async () => {
    const small = new TestNetwork({ streamBufferBytesMax: 10_000, peerQueueBytesMax: 100_000, messageBytesMax: 40_000 });
    const server = await small.serve({ accept: (_channel, _hello, stream) => echo(stream) });
    const here = new Recorder();
    const stream = small.network.connect(server.address, 'peer', Buffer.alloc(0), here);
    for (let i = 0; i < 20; i += 1) stream.send(Buffer.alloc(10_000));
    const error = await here.end;
    expect([error?.code, error?.reason]).to.deep.equal(['RESOURCE_EXHAUSTED', 'STREAM_OVERFLOW']);
    await small.close();
  });

  it('are reset when their client does not read the end of them, however well it answers pings', async () => {
    const patient = new TestNetwork({}, { connectTimeoutMs: 300, keepaliveTimeMs: 100, keepaliveTimeoutMs: 100 });
    const streams: FrameStream[] = [];
    const there = new Recorder();
    const server = await patient.serve({
      accept: (_channel, _hello, stream) => {
        streams.push(stream);
        return there;
      },
    });
    const session = connectHttp2(`http://${server.address}`);
    const headers = { 'content-type': 'application/grpc', te: 'trailers', 'tidemark-hello-bin': 'AA==' };
    const call = session.request({ ':method': 'POST', ':path': '/tidemark.v1.Pipeline/Exchange', ...headers }, { endStream: false });
    let code: number | undefined;
    call.on('aborted', () => (code = call.rstCode));
    call.on('error', () => undefined);
    await once(call, 'response');
    // More than the window of a client that takes nothing.
    for (let i = 0; i < 4; i += 1) streams[0]?.send(Buffer.alloc(1_000_000));
    streams[0]?.close(new TidemarkError('RESOURCE_EXHAUSTED', 'SLOW_CONSUMER', 'read faster'));
    expect((await there.end)?.reason).to.equal('SLOW_CONSUMER');
    const early = code;
    await new Promise((resolve) => setTimeout(resolve, 1000));
    const isConnected = !session.closed && !session.destroyed;
    session.destroy();
    await patient.close();
    expect([early, code, isConnected]).to.deep.equal([undefined, constants.NGHTTP2_ENHANCE_YOUR_CALM, true]);
    expect(patient.bugs).to.deep.equal([]);
  });

  it('end with RESOURCE_EXHAUSTED at a frame over the message limit, whoever sends it', async () => {
    const small = new TestNetwork({ messageBytesMax: 10_000 });
    const server = await small.serve({ accept: (_channel, _hello, stream) => echo(stream) });
    const here = new Recorder();
    small.network.connect(server.address, 'peer', Buffer.alloc(0), here).send(Buffer.alloc(10_000));
    const error = await here.end;
    expect([error?.code, error?.reason]).to.deep.equal(['RESOURCE_EXHAUSTED', 'MESSAGE_TOO_LARGE']);
    expect(error?.message).to.include('10000');

    const unbounded = new Recorder();
    net.network.connect(server.address, 'peer', Buffer.alloc(0), unbounded).send(Buffer.alloc(20_000));
    expect((await unbounded.end)?.code).to.equal('RESOURCE_EXHAUSTED');
    await small.close();
  });

  it('end with the error that a handler throws; a bug is reported and ends them with INTERNAL', async () => {
    const buggy = new TestNetwork();
    const server = await buggy.serve({
      accept: () => ({
        frame: (frame: Bytes) => {
          if (frame.length === 0) throw new TidemarkError('INVALID_ARGUMENT', 'EMPTY', 'an empty frame');
          throw new Error('oops');
        },
        closed: () => undefined,
      }),
    });
    const first = new Recorder();
    net.network.connect(server.address, 'peer', Buffer.alloc(0), first).send(Buffer.alloc(0));
    expect((await first.end)?.reason).to.equal('EMPTY');
    const second = new Recorder();
    net.network.connect(server.address, 'peer', Buffer.alloc(0), second).send(Buffer.alloc(1));
    expect((await second.end)?.code).to.equal('INTERNAL');
    expect(buggy.bugs.map(String)).to.deep.equal(['Error: oops']);
    await buggy.close();
  });

  it('end with SHUTTING_DOWN when their server closes', async () => {
    const server = await net.serve({ accept: (_channel, _hello, stream) => echo(stream) });
    const here = new Recorder();
    net.network.connect(server.address, 'peer', Buffer.alloc(0), here).send(Buffer.alloc(1));
    await here.until(() => here.frames.length === 1);
    await server.close(0);
    const error = await here.end;
    expect([error?.code, error?.reason]).to.deep.equal(['UNAVAILABLE', 'SHUTTING_DOWN']);
  });

  it('are not disturbed by garbage on the same port', async () => {
    const server = await net.serve({ accept: (_channel, _hello, stream) => echo(stream) });
    const here = new Recorder();
    const stream = net.network.connect(server.address, 'peer', Buffer.alloc(0), here);
    stream.send(Buffer.from('before'));
    await here.until(() => here.frames.length === 1);
    const port = Number(server.address.split(':')[1]);
    const preface = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');
    for (const garbage of [
      Buffer.from('GET / HTTP/1.1\r\n\r\n'),
      Buffer.alloc(100_000, 0xa5),
      Buffer.concat([preface, Buffer.alloc(1000, 0xff)]),
      Buffer.concat([preface, Buffer.from('000000040000000000', 'hex'), Buffer.from('0000ff0104000000015a5a5a', 'hex')]),
    ]) {
      await sendAndWaitForEnd(port, garbage);
    }
    stream.send(Buffer.from('after'));
    await here.until(() => here.frames.length === 2);
    expect(here.closings).to.equal(0);
    stream.close();
  });

  it('name the address of a port in use', async () => {
    const server = await net.serve({});
    const error = await failureOf(net.serve({ address: server.address }));
    expect([error.code, error.reason]).to.deep.equal(['FAILED_PRECONDITION', 'ADDRESS_IN_USE']);
    expect(error.message).to.include(server.address);
    const http = await failureOf(net.network.serveHttp(server.address, () => Promise.reject(new Error('never'))));
    expect([http.code, http.reason, http.message.includes(server.address)]).to.deep.equal([
      'FAILED_PRECONDITION',
      'ADDRESS_IN_USE',
      true,
    ]);
    for (const address of ['nonsense', '127.0.0.1', '127.0.0.1:99999', '1.2.3.4.5:7', '192.0.2.1:0', 'no-such-host.invalid:0']) {
      const refused = await failureOf(net.serve({ address }));
      expect(refused.code, address).to.equal('INVALID_ARGUMENT');
      expect(refused.message).to.include(address);
    }
  });

  it('listen on every address of a name', async () => {
    const server = await net.serve({ address: 'localhost:0', accept: (_channel, _hello, stream) => echo(stream) });
    expect(server.address).to.match(/^localhost:\d+$/);
    const here = new Recorder();
    net.network.connect(`127.0.0.1:${server.address.split(':')[1]}`, 'peer', Buffer.alloc(0), here).send(Buffer.alloc(1));
    await here.until(() => here.frames.length === 1);
  });
});

/** Sends bytes and waits until the server has ended the connection (or, where it waits for more, ends it itself). */
async function sendAndWaitForEnd(port: number, data: Buffer): Promise<void> {
  await new Promise<void>((resolve) => {
    const socket = connectTcp(port, '127.0.0.1', () => socket.end(data));
    socket.on('error', () => undefined);
    socket.on('close', () => resolve());
    socket.resume();
  });
}

/** A line whose traffic can be stopped in both directions while its connections stay open. */
async function proxy(port: number): Promise<{ address: string; freeze(): void; close(): Promise<void> }> {
  const sockets: Socket[] = [];
  const server = createServer((near) => {
    const far = connectTcp(port, '127.0.0.1');
    sockets.push(near.on('error', () => undefined), far.on('error', () => undefined));
    near.pipe(far).pipe(near);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    address: `127.0.0.1:${(server.address() as { port: number }).port}`,
    freeze: () => {
      for (const socket of sockets) socket.unpipe().pause();
    },
    close: async () => {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
