import { expect } from 'chai';
import { Database } from '../../src/client/database.js';
import { TransactionConflict, type TransactionOptions } from '../../src/client/run-transaction.js';
import type { Transaction } from '../../src/client/transaction.js';
import type { Limits } from '../../src/env/limits.js';
import { TidemarkError } from '../../src/lib/errors.js';
import type { SimCluster } from '../../src/sim/cluster.js';
import { SimRandom } from '../../src/sim/random.js';
import { TransactionLoad } from '../../src/sim/swarm/transactions.js';
import { bucketOf } from '../../src/placement/map.js';
import { leadingReplica } from './transaction-support.js';
import { bytes, failure, leaderOf, startCluster, untilLed } from './support.js';

interface World {
  readonly cluster: SimCluster;
  readonly db: Database;
  /** Another client. */
  readonly other: Database;
}

function clientOf(cluster: SimCluster, name: string): Database {
  const { env } = cluster.machine(name, cluster.loop.clock());
  return new Database(env, { endpoints: cluster.endpoints, limits: cluster.limits });
}

async function start(seed: string, limits: Partial<Limits> = {}, buckets = 4): Promise<World> {
  const cluster = await startCluster({ seed, nodes: 3, buckets, limits });
  await untilLed(cluster);
  const [db, other] = [clientOf(cluster, 'c1'), clientOf(cluster, 'c2')];
  await cluster.settle(Promise.all([db.ready(), other.ready()]));
  return { cluster, db, other };
}

/** Two that go on together, once. */
function meeting(): () => Promise<void> {
  let waiting: (() => void) | undefined;
  let met = false;
  return () => {
    if (met) return Promise.resolve();
    if (waiting === undefined) return new Promise((resolve) => (waiting = resolve));
    met = true;
    waiting();
    return Promise.resolve();
  };
}

/** A key of that bucket. */
function keyOf(bucket: number, buckets: number): string {
  for (let n = 0; ; n += 1) if (bucketOf(bytes(`k${n}`), buckets) === bucket) return `k${n}`;
}

async function texts(entries: AsyncIterable<{ readonly key: Buffer; text(): string | undefined }>): Promise<string[]> {
  const found: string[] = [];
  for await (const entry of entries) found.push(`${entry.key.toString()}=${entry.text() ?? '-'}`);
  return found;
}

describe('a transaction', () => {
  it('loses no update: two that read the same and both write do so one after the other', async () => {
    const { cluster, db, other } = await start('lost-update');
    await cluster.settle(db.put('{c}n', '0'));
    const meet = meeting();
    const attempts: number[] = [];
    const increment = async (tx: Transaction): Promise<void> => {
      const count = Number((await tx.get('{c}n')).text());
      await meet();
      tx.put('{c}n', String(count + 1));
      attempts.push(tx.attempt);
    };
    await cluster.settle(Promise.all([db.transaction(increment), other.transaction(increment)]));
    expect((await cluster.settle(db.get('{c}n'))).text()).to.equal('2');
    expect(attempts.sort()).to.deep.equal([1, 1, 2]);
  });

  it('lets no write skew happen: of two on call, who both see the other, one stays', async () => {
    const { cluster, db, other } = await start('write-skew');
    await cluster.settle(db.write({ mutations: ['a', 'b'].map((name) => ({ kind: 'put', key: `{call}${name}`, value: 'on' })) }));
    const meet = meeting();
    const leave = (name: string) => async (tx: Transaction): Promise<boolean> => {
      const [a, b] = await Promise.all([tx.get('{call}a'), tx.get('{call}b')]);
      await meet();
      if (a.text() !== 'on' || b.text() !== 'on') return false;
      tx.put(`{call}${name}`, 'off');
      return true;
    };
    const left = await cluster.settle(Promise.all([db.transaction(leave('a')), other.transaction(leave('b'))]));
    expect(left.filter(Boolean).length).to.equal(1);
  });

  it('lets no write skew happen over several buckets either, nor to three in a circle', async () => {
    for (let seed = 1; seed <= 6; seed += 1) {
      const buckets = 4;
      const { cluster, db, other } = await start(`write-skew-${seed}`, {}, buckets);
      const keys = [0, 1, 2].map((bucket) => keyOf(bucket, buckets));
      await cluster.settle(db.write({ mutations: keys.map((key) => ({ kind: 'put', key, value: 'on' })) }));
      // Each leaves if the next one stays: serially, never all three.
      const leave = (at: number) => async (tx: Transaction): Promise<boolean> => {
        const next = await tx.get(keys[(at + 1) % 3] ?? '');
        if (tx.attempt === 1) await new Promise<void>((resolve) => cluster.loop.timers.after(5, resolve));
        if (next.text() !== 'on') return false;
        tx.put(keys[at] ?? '', 'off');
        return true;
      };
      const all = keys.map((_, at) => (at === 1 ? other : db).transaction(leave(at)));
      const left = await cluster.settle(Promise.all(all));
      const values = await cluster.settle(db.transaction(async (tx) => texts(tx.getMany(keys))));
      expect(values.filter((text) => text.endsWith('=off')).length).to.equal(left.filter(Boolean).length);
      expect(left.filter(Boolean).length, `seed ${seed}`).to.be.within(1, 2);
    }
  });

  it('shows independent writes in one order to all: of two readers, none sees only the one and none only the other', async () => {
    for (let seed = 1; seed <= 6; seed += 1) {
      const buckets = 4;
      const { cluster, db, other } = await start(`long-fork-${seed}`, {}, buckets);
      const [x, y] = [keyOf(0, buckets), keyOf(1, buckets)];
      const seen: string[] = [];
      const read = async (client: Database, first: string, second: string): Promise<void> => {
        for (let run = 0; run < 12; run += 1) {
          const found = await client.transaction(async (tx) => {
            const [a, b] = [await tx.get(first), await tx.get(second)];
            return new Map([[first, a.found], [second, b.found]]);
          });
          seen.push(`${found.get(x)} ${found.get(y)}`);
        }
      };
      const write = async (client: Database, key: string): Promise<void> => {
        await new Promise<void>((resolve) => cluster.loop.timers.after(3 + seed, resolve));
        await client.put(key, 'there');
      };
      await cluster.settle(Promise.all([read(db, x, y), read(other, y, x), write(db, x), write(other, y)]));
      expect(seen.includes('true false') && seen.includes('false true'), seen.join('; ')).to.equal(false);
      expect(seen).to.include('true true');
    }
  });

  it('lets no phantom in: of two that find a range empty, and each put their own key there, one does', async () => {
    const { cluster, db, other } = await start('phantom');
    const meet = meeting();
    const book = (name: string) => async (tx: Transaction): Promise<boolean> => {
      const taken = await texts(tx.scan({ prefix: '{room}/' }));
      await meet();
      if (taken.length > 0) return false;
      tx.put(`{room}/${name}`, 'booked');
      return true;
    };
    const booked = await cluster.settle(Promise.all([db.transaction(book('a')), other.transaction(book('b'))]));
    expect(booked.filter(Boolean).length).to.equal(1);
    expect((await cluster.settle(texts(db.scan({ prefix: '{room}/' })))).length).to.equal(1);
  });

  it('keeps phantoms out over several buckets too: of three that find a range empty, and each book in two buckets, one does', async () => {
    for (let seed = 1; seed <= 4; seed += 1) {
      const { cluster, db, other } = await start(`phantom-${seed}`);
      const meet = meeting();
      const book = (name: string) => async (tx: Transaction): Promise<boolean> => {
        const taken = await texts(tx.scan({ prefix: 'room/' }));
        await meet();
        if (taken.length > 0) return false;
        tx.put(`room/${name}/from`, 'booked');
        tx.put(`room/${name}/to`, 'booked');
        return true;
      };
      const all = ['a', 'b', 'c'].map((name) => (name === 'a' ? db : other).transaction(book(name)));
      const booked = await cluster.settle(Promise.all(all));
      expect(booked.filter(Boolean).length).to.equal(1);
      expect((await cluster.settle(texts(db.scan({ prefix: 'room/' })))).length).to.equal(2);
      expect(cluster.fatal).to.deep.equal([]);
    }
  });

  it('reads one moment, whatever others commit meanwhile, and commits a read only if that is still so', async () => {
    const { cluster, db, other } = await start('read-skew');
    const both = (value: string) => ['{r}x', '{r}y'].map((key) => ({ kind: 'put' as const, key, value }));
    await cluster.settle(db.write({ mutations: both('old') }));
    const seen: string[][] = [];
    const look = async (tx: Transaction): Promise<string[]> => {
      const x = await tx.get('{r}x');
      if (tx.attempt === 1) await other.write({ mutations: both('new') });
      const y = await tx.get('{r}y');
      const pair = [x.text() ?? '', y.text() ?? ''];
      seen.push(pair);
      return pair;
    };
    expect(await cluster.settle(db.transaction(look))).to.deep.equal(['new', 'new']);
    expect(seen).to.deep.equal([['old', 'old'], ['new', 'new']]);
    const snapshot = await cluster.settle(
      db.transaction(
        async (tx) => {
          const x = await tx.get('{r}x');
          await other.write({ mutations: both('newest') });
          return [x.text(), ...(await texts(tx.scan({ prefix: '{r}' }))), ...(await texts(tx.getMany(['{r}y'])))];
        },
        { snapshot: true },
      ),
    );
    expect(snapshot).to.deep.equal(['new', '{r}x=new', '{r}y=new', '{r}y=new']);
  });

  it('begins at the present, though what it reads first is at rest: it neither reads that twice nor misses what was just written', async () => {
    const buckets = 4;
    const { cluster, db, other } = await start('at-rest', {}, buckets);
    const [quiet, busy] = [keyOf(0, buckets), keyOf(1, buckets)];
    await cluster.settle(Promise.all([db.put(quiet, 'q'), db.put(busy, '0')]));
    const { reads } = leadingReplica(cluster, quiet);
    const openKey = reads.openKey.bind(reads);
    let opened = 0;
    reads.openKey = (...args) => {
      opened += 1;
      return openKey(...args);
    };
    // At moments all over a heartbeat.
    for (let run = 1; run <= 20; run += 1) {
      await cluster.loop.runFor(500 + run * 7);
      const writer = run % 2 === 0 ? db : other;
      const { version } = await cluster.settle(writer.put(busy, String(run)));
      opened = 0;
      const attempts = await cluster.settle(
        db.transaction(async (tx) => {
          await tx.get(quiet);
          expect(tx.timestamp).to.be.at.least(version);
          expect((await tx.get(busy)).text()).to.equal(String(run));
          tx.put(busy, `${run}!`);
          return tx.attempt;
        }),
      );
      expect([attempts, opened], `run ${run}`).to.deep.equal([1, 1]);
    }
    expect(cluster.fatal).to.deep.equal([]);
  });

  it('sees what it has written itself: by key, among others, in scans of both directions', async () => {
    const { cluster, db } = await start('own-writes', { pageEntriesMax: 2 });
    const stored = ['b', 'd', 'f', 'h'].map((name) => ({ kind: 'put' as const, key: `{o}${name}`, value: 'stored' }));
    await cluster.settle(db.write({ mutations: stored }));
    await cluster.settle(
      db.transaction(async (tx) => {
        for (const name of ['a', 'd', 'g', 'i']) tx.put(`{o}${name}`, 'own');
        tx.put('{o}z', 'own');
        tx.delete('{o}z');
        tx.delete('{o}f');
        tx.delete('{o}none');
        const all = ['{o}a=own', '{o}b=stored', '{o}d=own', '{o}g=own', '{o}h=stored', '{o}i=own'];
        expect(await texts(tx.scan({ prefix: '{o}' }))).to.deep.equal(all);
        expect(await texts(tx.scan({ prefix: '{o}', reverse: true }))).to.deep.equal([...all].reverse());
        expect(await texts(tx.scan({ prefix: '{o}', limit: 4 }))).to.deep.equal(all.slice(0, 4));
        expect(await texts(tx.scan({ start: '{o}e', end: '{o}h' }))).to.deep.equal(['{o}g=own']);
        expect(await texts(tx.getMany(['{o}f', '{o}b', '{o}a']))).to.deep.equal(['{o}f=-', '{o}b=stored', '{o}a=own']);
        expect((await tx.get('{o}f')).found).to.equal(false);
        expect(await tx.get('{o}a')).to.include({ found: true, version: 0 });
      }),
    );
    const after = ['{o}a=own', '{o}b=stored', '{o}d=own', '{o}g=own', '{o}h=stored', '{o}i=own'];
    expect(await cluster.settle(texts(db.scan({ prefix: '{o}' })))).to.deep.equal(after);
  });

  it('keeps what it has written to a key when it is refused a larger value for it, and goes on', async () => {
    const { cluster, db } = await start('refused-write', { writeBytesMax: 1000, writeMutationsMax: 3 });
    await cluster.settle(
      db.transaction(async (tx) => {
        tx.put('{r}a', 'first');
        tx.put('{r}b', 'x'.repeat(900));
        for (const key of ['{r}a', '{r}c']) {
          expect(() => tx.put(key, 'y'.repeat(100))).to.throw().that.includes({ reason: 'TRANSACTION_TOO_LARGE' });
        }
        expect((await tx.get('{r}a')).text()).to.equal('first');
        tx.put('{r}b', 'second');
        tx.put('{r}c', 'y'.repeat(100));
        expect(() => tx.put('{r}d', ''), 'too many').to.throw().that.includes({ reason: 'TRANSACTION_TOO_LARGE' });
        tx.put('{r}a', 'third');
      }),
    );
    expect(await cluster.settle(texts(db.scan({ prefix: '{r}' })))).to.deep.equal([
      '{r}a=third',
      '{r}b=second',
      `{r}c=${'y'.repeat(100)}`,
    ]);
  });

  it('writes what it was given, whatever becomes of the memory in which that was', async () => {
    const { cluster, db, other } = await start('memory');
    await cluster.settle(db.put('{m}gone', 'x'));
    const attempts = await cluster.settle(
      db.transaction(async (tx) => {
        const [key, value] = [Buffer.from('{m}?'), Buffer.alloc(1)];
        for (const name of ['a', 'b', 'c']) {
          key.write(name, 3);
          value.write(name);
          tx.put(key, new Uint8Array(value.buffer, value.byteOffset, 1));
        }
        const gone = Buffer.from('{m}gone');
        tx.delete(gone);
        (await tx.get('{m}a')).value?.fill('x');
        for await (const entry of tx.scan({ start: key, end: '{m}d' })) entry.value.fill('x');
        key.write('x', 3);
        gone.fill('x');
        if (tx.attempt === 1) await other.put('{m}c1', 'a phantom');
        return tx.attempt;
      }),
    );
    expect(attempts).to.equal(2);
    expect(await cluster.settle(texts(db.scan({ prefix: '{m}' })))).to.deep.equal(['{m}a=a', '{m}b=b', '{m}c=c', '{m}c1=a phantom']);
  });

  it('that broke a scan off has read no further: what appears behind is no phantom, what appears before is one', async () => {
    const { cluster, db, other } = await start('broken-off');
    for (const name of ['b', 'd', 'f']) await cluster.settle(db.put(`{s}${name}`, 'x'));
    const first = (reverse: boolean, meanwhile: string): Promise<number> =>
      cluster.settle(
        db.transaction(async (tx) => {
          for await (const entry of tx.scan({ prefix: '{s}', reverse })) {
            if (entry.key.toString() === '{s}d') break;
          }
          if (tx.attempt === 1) await other.put(`{s}${meanwhile}`, 'y');
          tx.put('{s}~', 'done');
          return tx.attempt;
        }),
      );
    expect(await first(false, 'e')).to.equal(1);
    expect(await first(false, 'c')).to.equal(2);
    await cluster.settle(db.delete('{s}~'));
    expect(await first(true, 'c2')).to.equal(1);
    await cluster.settle(db.delete('{s}~'));
    expect(await first(true, 'e2')).to.equal(2);
  });

  it('that met others too often is a conflict, which names what and how often', async () => {
    const { cluster, db, other } = await start('conflict');
    const disturb = (key: string) => async (tx: Transaction): Promise<void> => {
      await tx.get('{d}k');
      await texts(tx.scan({ prefix: '{d}range/' }));
      await other.put(key, String(tx.attempt));
      tx.put('{d}out', 'x');
    };
    const onKey = await failure(cluster.settle(db.transaction(disturb('{d}k'), { attemptsMax: 3 })));
    expect(onKey).to.be.instanceOf(TransactionConflict);
    expect(onKey).to.include({ code: 'ABORTED', reason: 'TRANSACTION_CONFLICT', outcome: 'none', retriable: true, attempts: 3 });
    expect(onKey.details).to.include({ key: '{d}k', attempts: '3' });
    const onRange = await failure(cluster.settle(db.transaction(disturb('{d}range/1'), { attemptsMax: 2 })));
    expect(onRange.details).to.include({ start: '{d}range/', end: '{d}range0', attempts: '2' });
    expect(onRange.message).to.include("the range from '{d}range/' to '{d}range0'");
    expect((await cluster.settle(db.get('{d}out'))).found).to.equal(false);
  });

  it('writes nothing when its function throws, and throws that only if what it read was so', async () => {
    const { cluster, db, other } = await start('throws');
    const thrown = new Error('no');
    const failing = db.transaction(async (tx) => {
      await tx.get('{t}a');
      tx.put('{t}a', 'x');
      throw thrown;
    });
    expect(await cluster.settle(failing.catch((error: unknown) => error))).to.equal(thrown);
    expect((await cluster.settle(db.get('{t}a'))).found).to.equal(false);
    const attempts = await cluster.settle(
      db.transaction(async (tx) => {
        const [a, b] = [await tx.get('{t}a'), await tx.get('{t}b')];
        if (tx.attempt === 1) await other.write({ mutations: ['{t}a', '{t}b'].map((key) => ({ kind: 'put', key, value: 'now' })) });
        if (!a.found || !b.found) throw thrown;
        return tx.attempt;
      }),
    );
    expect(attempts).to.equal(2);
  });

  it('throws what its function threw only if what it read was so, also where that has made light of a refusal', async () => {
    const { cluster, db, other } = await start('throws-behind-a-refusal');
    const keys = ['{t}a', '{t}b'];
    const attempts = await cluster.settle(
      db.transaction(async (tx) => {
        const entries = await Promise.all(keys.map((key) => tx.get(key)));
        const tooMany = Array.from({ length: cluster.limits.writeMutationsMax + 1 }, (_, at) => `{t}${at}`);
        expect(() => tooMany.forEach((key) => tx.put(key, 'x'))).to.throw().that.includes({ reason: 'TRANSACTION_TOO_LARGE' });
        if (tx.attempt === 1) await other.write({ mutations: keys.map((key) => ({ kind: 'put', key, value: 'now' })) });
        if (entries.some(({ found }) => !found)) throw new Error('nothing is there');
        return tx.attempt;
      }),
    );
    expect(attempts).to.equal(2);
  });

  it('throws what its function threw only if what that read could be checked', async () => {
    const { cluster, db, other } = await start('throws-unchecked');
    const keys = ['{t}a', '{t}b'];
    const { commands } = leadingReplica(cluster, '{t}a');
    const write = commands.write.bind(commands);
    const thrown = new Error('no');
    const overloaded = new TidemarkError('RESOURCE_EXHAUSTED', 'BUCKET_OVERLOADED', 'too much', { retriable: true });
    // The next one, which is the check.
    const refuse = (): void => {
      commands.write = () => {
        commands.write = write;
        return Promise.reject(overloaded);
      };
    };
    const attempts = await cluster.settle(
      db.transaction(async (tx) => {
        const entries = await Promise.all(keys.map((key) => tx.get(key)));
        if (tx.attempt === 1) {
          await other.write({ mutations: keys.map((key) => ({ kind: 'put', key, value: 'now' })) });
          refuse();
        }
        if (entries.some(({ found }) => !found)) throw thrown;
        return tx.attempt;
      }),
    );
    expect(attempts, 'it is called again').to.equal(2);
    const failing = (options: TransactionOptions, next: () => void): Promise<TidemarkError> => {
      const work = async (tx: Transaction): Promise<void> => {
        await Promise.all(keys.map((key) => tx.get(key)));
        next();
        throw thrown;
      };
      return failure(cluster.settle(db.transaction(work, options)));
    };
    const refused = await failing({ attemptsMax: 2 }, refuse);
    expect(refused).to.include({ reason: 'BUCKET_OVERLOADED', outcome: 'none', retriable: true, cause: thrown });
    expect(refused.message).to.include('what it had read could not be checked: ');
    const silent = await failing({ timeoutMs: 500 }, () => (commands.write = () => new Promise(() => undefined)));
    expect(silent, 'nothing is written, whatever becomes of it').to.include({ outcome: 'none', cause: thrown });
  });

  it('is over when its function is: later operations are errors', async () => {
    const { cluster, db } = await start('over');
    let escaped: Transaction | undefined;
    await cluster.settle(
      db.transaction(async (tx) => {
        escaped = tx;
        await tx.get('{e}a');
        tx.put('{e}a', 'x');
      }),
    );
    const tx = escaped as unknown as Transaction;
    const uses: (() => unknown)[] = [() => tx.get('{e}a'), () => texts(tx.scan()), () => texts(tx.getMany(['{e}a']))];
    for (const use of uses) expect(await failure(Promise.resolve(use()))).to.include({ reason: 'TRANSACTION_ENDED' });
    for (const use of [() => tx.put('{e}a', 'y'), () => tx.delete('{e}a')]) expect(use).to.throw('the transaction is over');
    const readOnly = await failure(cluster.settle(db.transaction((inner) => inner.put('{e}a', 'y'), { snapshot: true })));
    expect(readOnly).to.include({ reason: 'READ_ONLY' });
  });

  it('takes many operations at once, and another transaction inside', async () => {
    const { cluster, db } = await start('nested');
    const names = Array.from({ length: 20 }, (_, n) => `{n}${String(n).padStart(2, '0')}`);
    await cluster.settle(
      db.transaction(async (tx) => {
        const [found, scanned] = await Promise.all([Promise.all(names.map((name) => tx.get(name))), texts(tx.scan({ prefix: '{n}' }))]);
        expect(found.every((entry) => !entry.found) && scanned.length === 0).to.equal(true);
        await db.transaction(async (inner) => {
          await inner.get('{other}');
          inner.put('{other}', 'inner');
        });
        await Promise.all(names.map(async (name) => tx.put(name, (await tx.get('{n}none')).found ? 'there' : 'not')));
      }),
    );
    expect((await cluster.settle(texts(db.scan({ prefix: '{n}' })))).length).to.equal(20);
    expect((await cluster.settle(db.get('{other}'))).text()).to.equal('inner');
  });

  it('has limits, which are said before it commits', async () => {
    const { cluster, db } = await start('limits', { writeMutationsMax: 5, writeRangesMax: 2, writeBytesMax: 60, valueBytesMax: 40 });
    const many = db.transaction((tx) => {
      for (let n = 0; n < 6; n += 1) tx.put(`{l}${n}`, '');
    });
    expect(await failure(cluster.settle(many))).to.include({ reason: 'TRANSACTION_TOO_LARGE' });
    const large = db.transaction((tx) => {
      for (const name of ['a', 'b']) tx.put(`{l}${name}`, 'x'.repeat(30));
    });
    expect((await failure(cluster.settle(large))).message).to.include('more than 60 bytes');
    const scans = db.transaction(async (tx) => {
      for (let n = 0; n < 3; n += 1) await texts(tx.scan({ prefix: `{l}${n}` }));
    });
    expect(await failure(cluster.settle(scans))).to.include({ reason: 'TRANSACTION_TOO_LARGE' });
    const both = (puts: number) => async (tx: Transaction): Promise<void> => {
      for (let n = 0; n < 2; n += 1) await texts(tx.scan({ prefix: `{l}${n}` }));
      for (let n = 0; n < puts; n += 1) tx.put(`{l}${n}`, '');
    };
    await cluster.settle(db.transaction(both(3)));
    expect((await failure(cluster.settle(db.transaction(both(4))))).message).to.include('more than 5 keys (a scan counts as one)');
    const again = db.transaction((tx) => {
      for (let n = 0; n < 50; n += 1) tx.put('{l}same', String(n));
    });
    await cluster.settle(again);
    expect((await cluster.settle(db.get('{l}same'))).text()).to.equal('49');
  });

  it('whose commit is not answered in time is of unknown outcome; in time, it is found out under the same id', async () => {
    const { cluster, db } = await start('unknown', {}, 1);
    await cluster.settle(db.put('{u}n', '0'));
    const increment = (timeoutMs: number, fault: (leader: number) => void): Promise<number> =>
      db.transaction(
        async (tx) => {
          const count = Number((await tx.get('{u}n')).text());
          tx.put('{u}n', String(count + 1));
          const leader = leaderOf(cluster, '{u}n', 1);
          // When the commit is on its way.
          cluster.loop.timers.after(1, () => fault(leader));
          return count + 1;
        },
        { timeoutMs },
      );
    const cutOff = increment(700, (leader) => cluster.network.isolate(`n${leader}`));
    expect(await failure(cluster.settle(cutOff))).to.include({ outcome: 'unknown' });
    cluster.network.heal();
    await cluster.loop.runFor(3000);
    await untilLed(cluster);
    const before = Number((await cluster.settle(db.get('{u}n'))).text());
    expect(before).to.be.oneOf([0, 1]);
    let crashed = 0;
    const counted = await cluster.settle(
      increment(20_000, (leader) => {
        if (crashed === 0) cluster.crash((crashed = leader));
      }),
    );
    expect(counted).to.equal(before + 1);
    expect((await cluster.settle(db.get('{u}n'))).text()).to.equal(String(before + 1));
  });

  const loads = (['no fault', 'crashes', 'partitions', 'changes of leaders'] as const).flatMap((fault) => {
    return [false, true].map((spread) => ({ fault, spread }));
  });
  for (const { fault, spread } of loads) {
    const where = spread ? 'over several buckets' : 'of one bucket';
    it(`keeps the money of a bank and the order of lists ${where}, with ${fault}`, async function () {
      this.timeout(60_000);
      const { cluster, db, other } = await start(`load-${fault}`, { logEntriesKept: 20 }, 2);
      const load = new TransactionLoad({
        loop: cluster.loop,
        random: new SimRandom(`load/${fault}`),
        databases: [db, other],
        workers: 2,
        thinkMs: 25,
        waves: { atWork: () => Promise.resolve() },
        spread,
        excuses: ({ code }) => fault !== 'no fault' && code === 'UNAVAILABLE',
      });
      load.start();
      for (let round = 0; round < 2; round += 1) {
        await cluster.loop.runFor(1000);
        const leader = leaderOf(cluster, '{txn}', 2);
        if (fault === 'crashes') cluster.crash(leader);
        if (fault === 'partitions') cluster.network.isolate(`n${leader}`);
        if (fault === 'changes of leaders') for (const id of cluster.ids) handOver(cluster, id);
        await cluster.loop.runFor(1000);
        cluster.network.heal();
        if (fault === 'crashes') await cluster.restart(leader);
        await untilLed(cluster);
      }
      await cluster.settle(load.stop());
      expect(await cluster.settle(load.finish())).to.deep.equal([]);
      const count = (what: string): number => load.counts.get(what) ?? 0;
      expect(count('transfer ok')).to.be.above(20);
      expect(count('audit ok')).to.be.above(20);
      expect(count('lists ok')).to.be.above(20);
      expect(cluster.fatal).to.deep.equal([]);
    });
  }
});

function handOver(cluster: SimCluster, id: number): void {
  for (const replica of cluster.node(id).hosting.replicas.values()) {
    const heir = replica.raft.progress()[0]?.id;
    if (replica.raft.canServe() && heir !== undefined) replica.transferLeadership(heir);
  }
}
