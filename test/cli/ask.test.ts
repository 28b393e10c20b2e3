import { expect } from 'chai';
import { ask } from '../../src/cli/cluster/ask.js';
import { TidemarkError } from '../../src/lib/errors.js';
import { TestNetwork } from '../network/support.js';

const NOWHERE = '127.0.0.1:1';

describe('a question to the cluster', () => {
  let net: TestNetwork;
  let asked: string[];
  const nodes: object[] = [];

  beforeEach(() => {
    net = new TestNetwork();
    asked = [];
  });

  afterEach(() => net.close());

  async function serve(name: string, answer: () => object): Promise<string> {
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
  }

  /** Says that it is another that leads. */
  const sendsTo = (leader: number) => (): never => {
    throw new TidemarkError('UNAVAILABLE', 'NOT_LEADER', `node ${leader} leads`, { retriable: true, details: { leader: String(leader) } });
  };

  function areAt(...addresses: string[]): void {
    nodes.splice(0, nodes.length, ...addresses.map((address, at) => ({ id: at + 1, address, zone: '', host: '', reachable: true })));
  }

  it('is not sent to and fro without a pause by nodes that take each other for the leader', async () => {
    const first = await serve('first', sendsTo(2));
    areAt(first, await serve('second', sendsTo(1)));
    const failed = await ask({ endpoint: [first], timeout: 1000, json: false }, 'PlacementProgress', {}).catch((error: unknown) => error);
    expect(failed).to.include({ reason: 'NOT_LEADER' });
    expect(asked.length).to.be.within(4, 24);
  });

  it('reaches the one node that can answer, though others name one that is dead', async () => {
    const misled = await serve('misled', sendsTo(2));
    const able = await serve('able', () => ({ epoch: 7 }));
    areAt(misled, NOWHERE, misled, able);
    const options = { endpoint: [misled], timeout: 5000, json: false };
    expect(await ask(options, 'PlacementProgress', {})).to.include({ epoch: 7 });
    expect(asked).to.deep.equal(['misled', 'misled', 'able']);
  });
});
