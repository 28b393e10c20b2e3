import { expect } from 'chai';
import { pack, unpack } from 'msgpackr';
import type { Env, FrameStream, StreamHandlers } from '../../src/env/env.js';
import { DEFAULT_LIMITS } from '../../src/env/limits.js';
import type { Bytes } from '../../src/lib/bytes.js';
import { TidemarkError } from '../../src/lib/errors.js';
import { acceptJoin, joinCluster } from '../../src/node/join.js';
import { PEER_PROTOCOL } from '../../src/node/peer-hello.js';
import { joined, type Applicant } from '../../src/placement/record.js';
import { encodeRecordOf } from '../../src/placement/record-format.js';
import { SimDisk } from '../../src/sim/disk.js';
import { SimLoop } from '../../src/sim/loop.js';
import { clusterOf } from '../placement/support.js';
import { ListLogger } from './support.js';

describe('a node that wants to join', () => {
  it('is sent to other members by one that finds its own records bad, and does not take that for its own end', async () => {
    const closed: unknown[] = [];
    const stream = { send: () => true, close: (error: unknown) => closed.push(error) } as unknown as FrameStream;
    const timing = { heartbeatMs: 400, electionTimeoutMs: 1200, electionJitterMs: 300, driftBound: 0.1, leaseReads: true };
    acceptJoin(pack(['join', PEER_PROTOCOL, 'test', 'u', '10.0.0.9:7100', '', '']), stream, {
      clusterId: 'test',
      founding: { buckets: 4, replicas: 3, members: [1, 2, 3] },
      settings: { timing, limits: DEFAULT_LIMITS },
      record: () => clusterOf(3, 4),
      change: () => Promise.reject(new TidemarkError('DATA_LOSS', 'STATE_CORRUPT', 'a record fails its checksum')),
    });
    await new Promise((resolve) => setImmediate(resolve));
    expect(closed).to.have.lengthOf(1);
    expect(closed[0]).to.include({ code: 'UNAVAILABLE', reason: 'BAD_RECORD', retriable: true });
  });

  it('asks everybody whom a member names as the leader, also where another one names somebody else', async () => {
    // Found by the swarm (seed 222300): who hosts the system bucket no more went on naming a former leader, and was asked last.
    const loop = new SimLoop(1);
    const asked: string[] = [];
    const hints: Record<string, string> = { 'a:1': 'leader:1', 'b:1': 'a:1' };
    const connect = (address: string, _: string, hello: Bytes, handlers: StreamHandlers): FrameStream => {
      asked.push(address);
      loop.timers.after(1, () => {
        if (address === 'leader:1') {
          const record = encodeRecordOf(joined(clusterOf(3, 4), applicantOf(hello)).record);
          handlers.frame(pack(['joined', 'test', 4, 4, 3, [1, 2, 3], record, undefined]));
          return;
        }
        const details = hints[address] === undefined ? {} : { address: hints[address] };
        handlers.closed(new TidemarkError('UNAVAILABLE', 'NOT_LEADER', 'somebody else leads', { retriable: true, details }));
      });
      return { send: () => true, close: () => undefined } as unknown as FrameStream;
    };
    const { clock, timers } = loop.process('n4');
    const disk = await new SimDisk({ timers, random: loop.random.fork('disk'), place: 'n4' }).open();
    const env = { clock, timers, disk, random: loop.random, log: new ListLogger(() => undefined), network: { connect } } as unknown as Env;
    const options = { seeds: ['a:1', 'b:1', 'gone:1'], clusterId: 'test', address: 'd:1', zone: '', host: '', deadlineMs: 3000 };
    const { nodeId } = await loop.runUntilSettled(joinCluster(env, options), 5000);
    expect(nodeId).to.equal(4);
    expect(asked).to.deep.equal(['a:1', 'leader:1']);
  });
});

function applicantOf(hello: Bytes): Applicant {
  const [, , , uuid, address, zone, host] = unpack(hello) as string[];
  return { uuid, address, zone, host } as Applicant;
}
