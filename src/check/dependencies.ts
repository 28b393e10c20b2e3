import { Graph } from './graph.js';
import type { Element, Lists, Transaction } from './transactions.js';

/**
 * Which transaction must come before which (Adya, 1999; Kingsbury and Alvaro, 2020, for how lists reveal it):
 *
 * - `ww`: its append stands directly before the other's;
 * - `wr`: the other read a list that ends with its append;
 * - `rw`: it read a list without the next element, which the other appended;
 * - `process`: the same process ran it before the other;
 * - `realtime`: it had ended before the other began.
 *
 * An append that was acknowledged but never read stands behind all that were read: lists do not lose elements.
 */
export const KIND = { ww: 0, wr: 1, rw: 2, process: 3, realtime: 4 } as const;

export type Dependencies = Graph<Element | undefined>;

export function dependenciesOf(transactions: readonly Transaction[], lists: Lists, times: boolean): Dependencies {
  const graph: Dependencies = new Graph(transactions.length);
  const add = (from: Transaction, to: Transaction, kind: number, about: Element | undefined): void => {
    // What failed has no effects, and what it read was promised to nobody; but real time goes through it.
    const failed = from.operation.outcome === 'fail' || to.operation.outcome === 'fail';
    if (from !== to && (about === undefined || !failed)) graph.add(from.node, to.node, kind, about);
  };
  const next = new Map<string, readonly Element[][]>();
  for (const [key, order] of lists.orders) {
    const known = order.map((name) => lists.element(key, name)).filter((element) => element !== undefined);
    if (known.length < order.length) continue;
    const read = new Set(order);
    const unread = [...lists.elements(key)].filter(({ name, writer }) => !read.has(name) && writer.operation.outcome === 'ok');
    /** Behind each length of the list: what comes next. */
    const behind = [...known.map((element) => [element]), unread];
    next.set(key, behind);
    for (const [at, element] of known.entries()) {
      for (const after of behind[at + 1] ?? []) add(element.writer, after.writer, KIND.ww, after);
    }
  }
  for (const { reader, key, list } of lists.externalReads) {
    const behind = next.get(key);
    if (behind === undefined) continue;
    const last = lists.element(key, list.at(-1) ?? '');
    if (last !== undefined) add(last.writer, reader, KIND.wr, last);
    for (const after of behind[list.length] ?? []) add(reader, after.writer, KIND.rw, after);
  }
  if (times) addTimes(transactions, add);
  return graph;
}

/** Only what does not follow from others: a transaction comes after those that ended since the begin of the last to end. */
function addTimes(
  transactions: readonly Transaction[],
  add: (from: Transaction, to: Transaction, kind: number, about: undefined) => void,
): void {
  const events = transactions.flatMap((transaction) => {
    const { begin, end } = transaction.operation;
    const begins = { at: begin, transaction, begins: true };
    return end === Infinity ? [begins] : [begins, { at: end, transaction, begins: false }];
  });
  events.sort((a, b) => a.at - b.at);
  const lastOf = new Map<number, Transaction>();
  const before = new Map<Transaction, readonly Transaction[]>();
  let front: readonly Transaction[] = [];
  for (const { transaction, begins } of events) {
    const { process: client } = transaction.operation;
    if (begins) {
      for (const earlier of front) add(earlier, transaction, KIND.realtime, undefined);
      const own = lastOf.get(client);
      if (own !== undefined) add(own, transaction, KIND.process, undefined);
      before.set(transaction, front);
    } else {
      const covered = new Set(before.get(transaction));
      front = [...front.filter((earlier) => !covered.has(earlier)), transaction];
      before.delete(transaction);
      lastOf.set(client, transaction);
    }
  }
}
