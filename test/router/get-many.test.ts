import { expect } from 'chai';
import { TidemarkError } from '../../src/lib/errors.js';
import type { Router } from '../../src/router/router.js';
import { FakeCluster, bytes, collect, failureOf } from './support.js';

const VALUE_BYTES = 4096;
const AT_ONCE = 16;
/** As many as have room where no value is above 1 KiB. */
const WINDOW = (AT_ONCE * VALUE_BYTES) / 1024;

describe('router: many keys at a time', () => {
  let cluster: FakeCluster;
  let router: Router;
  let open = 0;
  let mostOpen = 0;

  beforeEach(async () => {
    cluster = new FakeCluster(3, { valueBytesMax: VALUE_BYTES });
    await cluster.startAll(1);
    router = cluster.router({ role: 'sidecar' });
    [open, mostOpen] = [0, 0];
    const node = cluster.node(1);
    node.behave = async (operation, { hops, signal }) => {
      if (operation.kind !== 'get') throw new Error('nothing else is asked for');
      const [what] = operation.key.toString().split(' ');
      open += 1;
      mostOpen = Math.max(mostOpen, open);
      await new Promise<void>((resolve) => {
        if (what === 'waits') signal?.addEventListener('abort', resolve);
        else cluster.time.after(1, resolve);
      });
      open -= 1;
      if (what === 'bad') throw new TidemarkError('OUT_OF_RANGE', 'BEFORE_HORIZON', 'it is gone');
      const answer = node.answer(operation, hops);
      const value = Buffer.alloc(what === 'large' ? VALUE_BYTES : 10);
      return { ...answer, result: { record: what === 'none' ? undefined : { key: operation.key, value, version: 1 } } };
    };
    await cluster.time.run(router.ready());
  });

  afterEach(async () => {
    await router.close();
    expect(cluster.bugs).to.deep.equal([]);
  });

  const keysOf = (...parts: [string, number][]): Buffer[] =>
    parts.flatMap(([what, count], part) => Array.from({ length: count }, (_, n) => bytes(`${what} ${part} ${n}`)));

  it('come in their order, in batches that have room, whatever came before', async () => {
    const keys = keysOf(['none', 400], ['large', 100], ['small', 100], ['none', 100], ['large', 20]);
    const batches = await cluster.time.run(collect(router.getMany(keys)));
    const entries = batches.flat();
    expect(entries.map(({ index }) => index)).to.deep.equal([...keys.keys()]);
    for (const { index, record } of entries) {
      const expected = keys[index]?.toString();
      expect(record?.key.toString()).to.equal(expected?.startsWith('none') === true ? undefined : expected);
    }
    const sizes = batches.map((batch) => batch.reduce((sum, { record }) => sum + (record?.value.length ?? 0), 0));
    // What was reserved, and what was under way when it was full.
    expect(Math.max(...sizes)).to.be.at.most(2 * AT_ONCE * VALUE_BYTES);
    expect(batches.length, 'small ones come in large batches').to.be.below(30);
    expect(mostOpen).to.equal(AT_ONCE);
    expect(router.answers.bytes).to.equal(0);
  });

  it('are called off when one fails, and none is under way any more when that is told', async () => {
    const keys = keysOf(['waits', 5], ['bad', 1], ['waits', 5]);
    const failure = await cluster.time.run(failureOf(collect(router.getMany(keys))), 1000);
    expect(failure).to.include({ code: 'OUT_OF_RANGE', reason: 'BEFORE_HORIZON' });
    expect([router.inFlight, router.answers.bytes]).to.deep.equal([0, 0]);
    await cluster.time.pass(10);
    expect(open).to.equal(0);
  });

  it('are asked for a window at a time by a client, for which far nodes are the slower the more often it asks', async () => {
    const client = cluster.router();
    await cluster.time.run(client.ready());
    await cluster.time.run(collect(client.getMany(keysOf(['small', 16], ['small', 2 * WINDOW]))));
    expect(mostOpen).to.equal(WINDOW);
    await client.close();
  });
});
