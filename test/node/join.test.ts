import { expect } from 'chai';
import { pack } from 'msgpackr';
import type { FrameStream } from '../../src/env/env.js';
import { DEFAULT_LIMITS } from '../../src/env/limits.js';
import { TidemarkError } from '../../src/lib/errors.js';
import { acceptJoin } from '../../src/node/join.js';
import { PEER_PROTOCOL } from '../../src/node/peer-hello.js';
import { clusterOf } from '../placement/support.js';

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
});
