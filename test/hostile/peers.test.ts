import { expect } from 'chai';
import { pack } from 'msgpackr';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parse, stringify } from 'yaml';
import { DEFAULT_LIMITS } from '../../src/env/limits.js';
import type { ChannelName } from '../../src/env/network.js';
import { BinaryWriter } from '../../src/lib/binary.js';
import type { TidemarkError } from '../../src/lib/errors.js';
import { later } from '../../src/mvcc/timestamp.js';
import { encodeHello as peerHello, PEER_PROTOCOL } from '../../src/node/peer-hello.js';
import { encodeHello as pipelineHello, PROTOCOL_VERSION } from '../../src/router/wire.js';
import { encodeRequest, type Request } from '../../src/router/wire-calls.js';
import { decodePushes } from '../../src/router/wire-pushes.js';
import { EPOCH_LEAD_MAX } from '../../src/placement/epoch.js';
import { bucketOf } from '../../src/placement/map.js';
import { freePorts, TestCluster } from '../faults/cluster.js';
import { tagOf } from '../faults/load.js';
import { run, tidemark } from '../faults/process.js';
import { Canary } from './canary.js';

const BUCKETS = 8;
const FOUNDING = { members: [1, 2, 3], buckets: BUCKETS, replicas: 3 };
const UUID = '00000000-00000000-00000000-00000000';
const KEY = Buffer.from(`{${tagOf(0, BUCKETS)}}`);

describe('strangers at the door of a node', function () {
  this.timeout(30_000);
  let cluster: TestCluster;
  let canary: Canary;

  before(async () => {
    cluster = await TestCluster.start({ buckets: BUCKETS });
    canary = new Canary(await cluster.connect());
  });

  after(async () => {
    try {
      await canary.stop();
      expect(cluster.runningIds).to.deep.equal([1, 2, 3]);
      await cluster.converged();
    } finally {
      await cluster.close();
    }
  });

  /** What ends a stream that begins so, and the frames that came before. */
  function knock(channel: ChannelName, hello: Buffer, ...frames: readonly Buffer[]): Promise<TidemarkError | undefined> {
    return new Promise((resolve) => {
      const stream = cluster.network.connect(cluster.address(1), channel, hello, { frame: () => {}, closed: resolve });
      for (const frame of frames) stream.send(frame);
    });
  }

  async function refusal(channel: ChannelName, hello: Buffer, ...frames: readonly Buffer[]): Promise<TidemarkError> {
    const error = await knock(channel, hello, ...frames);
    if (error === undefined) throw new Error('the stream ended well');
    return error;
  }

  const hello = (change: Partial<Parameters<typeof peerHello>[0]>): Buffer =>
    peerHello({ clusterId: cluster.id, from: 2, uuid: UUID, to: 1, founding: FOUNDING, epoch: 1, ...change });

  it('a node of another cluster is refused, by name', async () => {
    const error = await refusal('peer', hello({ clusterId: 'elsewhere' }));
    expect(error).to.include({ code: 'FAILED_PRECONDITION', reason: 'WRONG_CLUSTER' });
    expect(error.message).to.match(new RegExp(`node 2 of cluster 'elsewhere' .* called node 1 of cluster '${cluster.id}'`));
    await cluster.eventually('the refusal is in the log', async () => /refused a peer.*|WRONG_CLUSTER/.test(cluster.log(1)));
  });

  it('a node that wants another one, or says that it is this one, is refused', async () => {
    const other = await refusal('peer', hello({ to: 3 }));
    expect(other).to.include({ code: 'FAILED_PRECONDITION', reason: 'WRONG_NODE' });
    expect(other.message).to.match(/called node 3, but this is node 1/);
    const double = await refusal('peer', hello({ from: 1 }));
    expect(double).to.include({ code: 'FAILED_PRECONDITION', reason: 'WRONG_NODE' });
    expect(double.message).to.match(/another process .* says that it is node 1/);
  });

  it('a node that is no member is refused', async () => {
    const error = await refusal('peer', hello({ from: 9 }));
    expect(error).to.include({ code: 'FAILED_PRECONDITION', reason: 'UNKNOWN_NODE' });
    expect(error.message).to.match(/node 9 .* is no member of cluster/);
  });

  it('a node that knows another founding of the cluster is refused, with what differs', async () => {
    const error = await refusal('peer', hello({ founding: { ...FOUNDING, buckets: 256 } }));
    expect(error).to.include({ code: 'FAILED_PRECONDITION', reason: 'WRONG_FOUNDING' });
    expect(error.message).to.match(/node 2 says .* founded with 3 replicas of 256 buckets .*, node 1 with 3 replicas of 8 buckets/);
    expect(error.message).to.match(/cluster\.buckets must be as they were .* set them back, or give a new cluster an id of its own/);
  });

  it('an epoch that no placement can have reached is refused, an older or newer one is not', async () => {
    const absurd = await refusal('peer', hello({ epoch: EPOCH_LEAD_MAX + 2 }));
    expect(absurd).to.include({ code: 'FAILED_PRECONDITION', reason: 'WRONG_EPOCH' });
    expect(absurd.message).to.match(/node 2 says that the placement is at epoch 1000002; here it is known at epoch 1, /);
    for (const epoch of [0, -1, 1.5, 2 ** 53, '1' as unknown as number]) {
      const error = await refusal('peer', hello({ epoch }));
      expect(error, String(epoch)).to.include({ code: 'INVALID_ARGUMENT', reason: 'MALFORMED_HELLO' });
      expect(error.message).to.match(/names no epoch of a placement/);
    }
    // What is looked at next is the identity.
    expect(await refusal('peer', hello({ epoch: 7 }))).to.include({ reason: 'NODE_IDENTITY_CHANGED' });
  });

  it('a new node with a longer list of members stops at once, and says why', async () => {
    const config = parse(readFileSync(cluster.file, 'utf8')) as { cluster: { nodes: object[] } };
    const [grpc, http] = await freePorts(2);
    config.cluster.nodes.push({ id: 4, address: `127.0.0.1:${grpc}`, http: `127.0.0.1:${http}` });
    const file = join(cluster.folder, 'longer.yaml');
    writeFileSync(file, stringify(config));
    const { code, stderr } = await run(tidemark('node', '--config', file, '--id', '4'));
    expect(code, stderr).to.equal(1);
    expect(stderr).to.match(/tidemark: node \d refuses this node: node 4 .* do not mean the same cluster .*cluster\.nodes must.*WRONG_FOUNDING/);
  });

  it('a member with another identity is refused, and the true one goes on', async () => {
    const error = await refusal('peer', hello({}));
    expect(error).to.include({ code: 'FAILED_PRECONDITION', reason: 'NODE_IDENTITY_CHANGED' });
    expect(error.message).to.match(/now it comes as 00000000.*data directory was lost or replaced/);
  });

  it('a hello in another protocol, or none, is refused', async () => {
    const future = await refusal('peer', pack([PEER_PROTOCOL + 1, cluster.id, 2, UUID, 1]));
    expect(future).to.include({ code: 'FAILED_PRECONDITION', reason: 'PROTOCOL_MISMATCH' });
    for (const garbage of [Buffer.alloc(0), Buffer.from('hello'), pack([PEER_PROTOCOL]), pack({ a: 1 }), Buffer.alloc(4000, 0xff)]) {
      const error = await refusal('peer', garbage);
      expect(error.code, error.message).to.equal('INVALID_ARGUMENT');
    }
  });

  it('a router of another cluster or protocol is refused', async () => {
    const wrong = await refusal('pipeline', pipelineHello({ protocol: PROTOCOL_VERSION, clusterId: 'elsewhere', role: 'client' }));
    expect(wrong).to.include({ code: 'FAILED_PRECONDITION', reason: 'WRONG_CLUSTER' });
    expect(wrong.message).to.match(new RegExp(`this is cluster ${cluster.id}; the caller wants elsewhere`));
    const future = await refusal('pipeline', pipelineHello({ protocol: PROTOCOL_VERSION + 1, clusterId: '', role: 'client' }));
    expect(future).to.include({ code: 'FAILED_PRECONDITION', reason: 'PROTOCOL_MISMATCH' });
    const garbage = await refusal('pipeline', Buffer.alloc(100, 0xff));
    expect(garbage.code).to.equal('INVALID_ARGUMENT');
    const client = await cluster.connect({ clusterId: 'elsewhere' }).then(() => undefined, (error: unknown) => error);
    expect(client).to.include({ code: 'FAILED_PRECONDITION', reason: 'WRONG_CLUSTER' });
  });

  it('a stream of garbage frames is ended', async () => {
    const good = pipelineHello({ protocol: PROTOCOL_VERSION, clusterId: cluster.id, role: 'client' });
    for (const frame of [Buffer.alloc(1000, 0xff), Buffer.from([0]), Buffer.from('GET / HTTP/1.1\r\n\r\n')]) {
      const error = await refusal('pipeline', good, frame);
      expect(error.code, error.message).to.equal('INVALID_ARGUMENT');
    }
  });

  it('well-formed operations with impossible contents are refused one by one', async () => {
    const now = (await cluster.connect()).now();
    const id = { session: 1, born: now, sequence: 1, lowest: 1 };
    const put = (key: Buffer, value = Buffer.alloc(0)) => ({ kind: 'put', key, value }) as const;
    const write = (change: object): Request['operation'] =>
      ({ kind: 'write', bucket: 0, request: { id, conditions: [], mutations: [put(KEY)], ...change } });
    const far = later(now, 3_600_000);
    const reserved = Buffer.from('!x');
    const cases: readonly (readonly [Partial<Request> & Pick<Request, 'operation'>, string])[] = [
      [{ operation: { kind: 'get', bucket: 1, key: KEY, anyReplica: false, consistency: { kind: 'linearizable' } } }, 'WRONG_BUCKET'],
      [{ operation: { kind: 'get', bucket: 99, key: KEY, anyReplica: false, consistency: { kind: 'local' } } }, 'WRONG_BUCKET'],
      [{ operation: write({ mutations: [put(Buffer.alloc(0))] }) }, 'EMPTY_KEY'],
      [{ operation: { ...write({ mutations: [put(reserved)] }), bucket: bucketOf(reserved, BUCKETS) } as Request['operation'] }, 'RESERVED_KEY'],
      [{ operation: write({ mutations: [put(KEY, Buffer.alloc(DEFAULT_LIMITS.valueBytesMax + 1))] }) }, 'VALUE_TOO_LARGE'],
      [{ operation: write({ id: { ...id, born: far } }) }, 'CLOCK_TOO_FAR_AHEAD'],
      [{ operation: write({}), seen: far }, 'CLOCK_TOO_FAR_AHEAD'],
      [{ operation: { kind: 'get', bucket: 0, key: KEY, anyReplica: false, consistency: { kind: 'asOf', timestamp: far } } }, 'CLOCK_TOO_FAR_AHEAD'],
      [{ operation: { kind: 'readTimestamp', buckets: [] } }, 'NO_BUCKETS'],
      [{ operation: { kind: 'readTimestamp', buckets: [3, 2] } }, 'WRONG_BUCKET'],
    ];
    const requests = cases.map(([part], number) => ({ number, epoch: 1, remainingMs: 5000, hops: 0, seen: 0, ...part }));
    const reasons = await answersTo(requests);
    expect([...reasons.entries()].sort(([a], [b]) => a - b).map(([, reason]) => reason)).to.deep.equal(cases.map(([, reason]) => reason));
  });

  it('a request with another epoch is served, for the bucket decides; one with an epoch that cannot be is refused', async () => {
    const operation = { kind: 'get', bucket: 0, key: KEY, anyReplica: false, consistency: { kind: 'local' } } as const;
    const epochs = [0, 1, 2, 1 + EPOCH_LEAD_MAX, 2 + EPOCH_LEAD_MAX, Number.MAX_SAFE_INTEGER];
    const answers = await answersTo(epochs.map((epoch, number) => ({ number, epoch, remainingMs: 5000, hops: 0, seen: 0, operation })));
    const inOrder = epochs.map((_, number) => answers.get(number));
    expect(inOrder).to.deep.equal(['answer', 'answer', 'answer', 'answer', 'WRONG_EPOCH', 'WRONG_EPOCH']);
  });

  /** Number of the request -> the reason of its refusal, or `answer`. */
  function answersTo(requests: readonly Request[]): Promise<ReadonlyMap<number, string>> {
    return new Promise((resolve, reject) => {
      const answers = new Map<number, string>();
      const opening = pipelineHello({ protocol: PROTOCOL_VERSION, clusterId: cluster.id, role: 'client' });
      const stream = cluster.network.connect(cluster.address(1), 'pipeline', opening, {
        frame: (frame) => {
          for (const push of decodePushes(frame)) {
            if (push.kind === 'error') answers.set(push.number, push.error.reason);
            if (push.kind === 'answer') answers.set(push.number, 'answer');
          }
          if (answers.size < requests.length) return;
          stream.close();
          resolve(answers);
        },
        closed: (error) => reject(error ?? new Error('closed before all was answered')),
      });
      const out = new BinaryWriter();
      for (const request of requests) encodeRequest(out, request);
      stream.send(out.take());
    });
  }
});
