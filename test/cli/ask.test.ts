import { expect } from 'chai';
import { ask } from '../../src/cli/cluster/ask.js';
import { TidemarkError } from '../../src/lib/errors.js';
import { TestNetwork } from '../network/support.js';

const NOWHERE = '127.0.0.1:1';

describe('a question to the cluster', () => {
  it('reaches the one node that can answer, though others name one that is dead', async () => {
    const net = new TestNetwork();
    const asked: string[] = [];
    const nodes: object[] = [];
    const serve = async (name: string, answer: () => object): Promise<string> => {
      const PlacementProgress = {
        kind: 'unary',
        handle: async () => {
          asked.push(name);
          return answer();
        },
      } as const;
      const Status = { kind: 'unary', handle: async () => ({ clusterId: 'c', epoch: 1, node: 1, buckets: 8, nodes }) } as const;
      const server = await net.serve({ services: { 'tidemark.v1.Cluster': { Status, PlacementProgress } } });
      return server.address;
    };
    try {
      const details = { leader: '2' };
      const misled = await serve('misled', () => {
        throw new TidemarkError('UNAVAILABLE', 'NOT_LEADER', 'node 2 leads', { retriable: true, details });
      });
      const able = await serve('able', () => ({ epoch: 7 }));
      const addresses = [misled, NOWHERE, misled, able];
      nodes.push(...addresses.map((address, at) => ({ id: at + 1, address, zone: '', host: '', reachable: true })));
      const options = { endpoint: [misled], timeout: 5000, json: false };
      expect(await ask(options, 'PlacementProgress', {})).to.include({ epoch: 7 });
      expect(asked).to.deep.equal(['misled', 'misled', 'able']);
    } finally {
      await net.close();
    }
  });
});
