import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { pack } from 'msgpackr';
import type { Env, FrameStream, Logger, StreamHandlers, Timer } from '../../src/env/env.js';
import { DEFAULT_LIMITS } from '../../src/env/limits.js';
import { openDisk } from '../../src/env/real/disk.js';
import type { Bytes } from '../../src/lib/bytes.js';
import { TidemarkError } from '../../src/lib/errors.js';
import { acceptJoin, joinCluster } from '../../src/node/join.js';
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

  it('says once that the address may be wrong, when nobody answers', async () => {
    let nowMs = 0;
    const said: unknown[] = [];
    const warned: unknown[] = [];
    const nothing = (): void => undefined;
    const log: Logger = { debug: nothing, info: (_text, fields) => said.push(fields), warn: (_text, fields) => warned.push(fields), error: nothing, child: () => log };
    const directory = mkdtempSync(join(tmpdir(), 'tidemark-join-'));
    const disk = await openDisk(directory);
    const lost = new TidemarkError('UNAVAILABLE', 'STREAM_LOST', 'nobody listens there', { retriable: true });
    const env = {
      clock: { wallMs: () => 0, monotonicMs: () => nowMs },
      timers: {
        after(delayMs: number, callback: () => void): Timer {
          const due = setImmediate(() => {
            nowMs += delayMs;
            callback();
          });
          return { cancel: () => clearImmediate(due) };
        },
      },
      random: { uint32: () => 1, float: () => 0 },
      network: {
        connect: (_address: string, _service: string, _hello: Bytes, handlers: StreamHandlers) =>
          queueMicrotask(() => handlers.closed(lost)),
      },
      log,
      disk,
    } as unknown as Env;
    const place = { clusterId: '', address: '10.0.0.9:7100', zone: '', host: '' };
    try {
      const failure: unknown = await joinCluster(env, { ...place, seeds: ['a:1', 'b:2'], deadlineMs: 60_000 }).catch((error: unknown) => error);
      expect(failure).to.include({ code: 'UNAVAILABLE', reason: 'JOIN_FAILED' });
      expect(said).to.deep.equal([{ reason: 'nobody listens there' }]);
      expect(warned).to.deep.equal([{ asked: 'a:1, b:2' }]);
    } finally {
      await disk.close();
      rmSync(directory, { recursive: true });
    }
  });
});
