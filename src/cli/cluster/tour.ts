import type { Served } from '../../bucket/requests.js';
import { formatTimestamp } from '../../mvcc/timestamp.js';
import type { Database, ReadOptions } from '../../client/index.js';
import { write, type Terminal } from '../terminal.js';

/** A few queries on the sample data, each shown with what it answered, who served it, and how long it took. */
const CITY = 'city/IS/39/Reykjavík/0';
const COUNTRY = 'city/IS/';
const NOTE = 'demo/note';

export async function tour(db: Database, terminal: Terminal): Promise<void> {
  const show = async (title: string, ask: () => Promise<{ answer: string; served: Served }>): Promise<void> => {
    const startedMs = performance.now();
    const { answer, served } = await ask();
    const ms = (performance.now() - startedMs).toFixed(1);
    const hops = served.hops === 1 ? '1 hop' : `${served.hops} hops`;
    const proof = `${ms} ms, ${served.consistency}, node ${served.node}, ${hops}`;
    await write(terminal.stdout, `  ${title}\n    ${answer}\n    ${proof}\n`);
  };
  const value = async (key: string, options: ReadOptions): Promise<{ answer: string; served: Served }> => {
    const entry = await db.get(key, options);
    return { answer: entry.text() ?? '(not there)', served: entry.served };
  };

  await show(`get ${CITY}`, () => value(CITY, {}));
  await show(`get ${CITY} --consistency bounded`, () => value(CITY, { maxStalenessMs: 5000 }));
  await show(`scan ${COUNTRY} --keys-only`, async () => {
    const names: string[] = [];
    let last: Served | undefined;
    for await (const { key, served } of db.scan({ prefix: COUNTRY, keysOnly: true })) {
      names.push(key.toString('utf8').split('/')[3] ?? '');
      last = served;
    }
    if (last === undefined) throw new Error(`there are no keys under ${COUNTRY}`);
    return { answer: `${names.length} cities: ${names.slice(0, 6).join(', ')}, ...`, served: last };
  });
  const first = await db.put(NOTE, 'the first version');
  await db.put(NOTE, 'the second version');
  await show(`get ${NOTE}`, () => value(NOTE, {}));
  await show(`get ${NOTE} --as-of ${formatTimestamp(first.version)}`, () =>
    value(NOTE, { asOf: first.version }),
  );
}
