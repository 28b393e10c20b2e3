import { dependenciesOf, KIND, type Dependencies } from './dependencies.js';
import { describe, type Operation } from './history.js';
import { Findings, type Result } from './result.js';
import { Lists, transactionOf, type Transaction } from './transactions.js';
import type { Work } from './work.js';

/**
 * Transactions that append to lists and read them, as Elle checks them: the lists tell which version followed which, hence which
 * transaction must come before which, and a cycle among these is an anomaly. Its name is that of the weakest kind of cycle:
 *
 * - `G0`: only `ww`; `G1c`: `ww` and at least one `wr`;
 * - `G-single`: exactly one `rw`; `G-nonadjacent`: several, no two of them next to each other; `G2-item`: any other with `rw`;
 * - with `-process` or `-realtime` where it takes such an edge.
 *
 * What each level forbids:
 *
 * - `read-uncommitted`: G0, and lists that no order of appends gives: incompatible-order, duplicate-elements,
 *   unexpected-element;
 * - `read-committed`: also G1a (aborted read), G1b (intermediate read), G1c;
 * - `snapshot-isolation`: also G-single, G-nonadjacent, lost-update, internal (a transaction that contradicts itself);
 * - `serializable`: also G2-item;
 * - `strong-session-serializable`: the same with `process` edges; `strict-serializable`: with `realtime` edges, too.
 */
export const LEVELS = [
  'read-uncommitted',
  'read-committed',
  'snapshot-isolation',
  'serializable',
  'strong-session-serializable',
  'strict-serializable',
] as const;

export type Level = (typeof LEVELS)[number];

/** From which level on something that is no cycle is forbidden; what is not here, always. */
const FORBIDDEN_FROM: Readonly<Record<string, Level>> = {
  G1a: 'read-committed',
  G1b: 'read-committed',
  internal: 'snapshot-isolation',
  'lost-update': 'snapshot-isolation',
};

interface CycleKind {
  readonly name: string;
  readonly from: Level;
  /** Every such cycle has an edge of this kind, and else only edges of `path`. */
  readonly edge: number;
  readonly path: number;
  readonly apart: boolean;
}

const bit = (kind: number): number => 1 << kind;
const WW = bit(KIND.ww);
const WR = bit(KIND.wr);
const RW = bit(KIND.rw);

/** The worst first: of a knot of transactions only the worst is told. */
const CYCLES: readonly CycleKind[] = [
  { name: 'G0', from: 'read-uncommitted', edge: KIND.ww, path: WW, apart: false },
  { name: 'G1c', from: 'read-committed', edge: KIND.wr, path: WW | WR, apart: false },
  { name: 'G-single', from: 'snapshot-isolation', edge: KIND.rw, path: WW | WR, apart: false },
  { name: 'G-nonadjacent', from: 'snapshot-isolation', edge: KIND.rw, path: WW | WR | RW, apart: true },
  { name: 'G2-item', from: 'serializable', edge: KIND.rw, path: WW | WR | RW, apart: false },
];

/** How many cycles are compared for the shortest. */
const TRIED_IN_A_KNOT = 100;

export class ListAppendChecker {
  readonly #level: Level;
  readonly #operations: Operation[] = [];

  constructor(level: Level = 'strict-serializable') {
    this.#level = level;
  }

  add(operation: Operation): void {
    this.#operations.push(operation);
  }

  *check(): Work<Result> {
    const stage = 'Transactions';
    const total = CYCLES.length * 3 + 1;
    const findings = new Findings((kind) => this.#forbids(FORBIDDEN_FROM[kind] ?? 'read-uncommitted'));
    const transactions = this.#operations.map(transactionOf);
    const lists = new Lists(transactions, findings);
    addLostUpdates(lists, findings);
    const committed = transactions.filter(({ operation }) => operation.outcome !== 'fail');
    const counts = { transactions: transactions.length, lists: lists.orders.size };
    const times = this.#forbids('strong-session-serializable');
    const graph = dependenciesOf(transactions, lists, times);
    const extras = [
      { suffix: '', kinds: 0 },
      ...(times ? [{ suffix: '-process', kinds: bit(KIND.process) }] : []),
      ...(this.#forbids('strict-serializable') ? [{ suffix: '-realtime', kinds: bit(KIND.process) | bit(KIND.realtime) }] : []),
    ];
    const told = new Set<number>();
    let done = 1;
    for (const { suffix, kinds } of extras) {
      const knots = graph.components(WW | WR | RW | kinds);
      for (const cycle of CYCLES.filter(({ from }) => this.#forbids(from))) {
        const search = findCycles(graph, { ...cycle, path: cycle.path | kinds }, knots, told);
        for (let step = search.next(); ; step = search.next()) {
          if (step.done === true) break;
          if (step.value !== undefined) {
            addCycle(graph, transactions, `${cycle.name}${suffix}`, step.value, findings);
          } else if ((yield { stage, done, total }) === true) {
            findings.unknown.push('not all kinds of cycles were looked for: the check was given up');
            return findings.result({ ...counts, committed: committed.length });
          }
        }
        done += 1;
      }
    }
    return findings.result({ ...counts, committed: committed.length });
  }

  #forbids(level: Level): boolean {
    return LEVELS.indexOf(this.#level) >= LEVELS.indexOf(level);
  }
}

/** Yields the shortest cycle of each knot, and nothing now and then. A node of a knot that was told is not looked at again. */
function* findCycles(
  graph: Dependencies,
  { edge: kind, path, apart }: CycleKind,
  knots: Int32Array,
  told: Set<number>,
): Generator<readonly number[] | undefined> {
  const component = graph.components(path | bit(kind));
  const best = new Map<number, readonly number[]>();
  const tried = new Map<number, number>();
  for (const [edge, from] of graph.from.entries()) {
    const to = graph.to[edge] ?? 0;
    const knot = knots[from] ?? -1;
    if (graph.kind[edge] !== kind || component[from] === -1 || component[from] !== component[to] || told.has(from)) continue;
    if (best.has(knot) && (tried.get(knot) ?? 0) >= TRIED_IN_A_KNOT) continue;
    yield undefined;
    tried.set(knot, (tried.get(knot) ?? 0) + 1);
    const way = graph.shortestPath(to, from, path, component, apart ? kind : undefined);
    const known = best.get(knot);
    if (way !== undefined && (known === undefined || way.length + 1 < known.length)) best.set(knot, [edge, ...way]);
  }
  if (best.size === 0) return;
  for (const [node, knot] of knots.entries()) if (best.has(knot)) told.add(node);
  yield* best.values();
}

function addCycle(
  graph: Dependencies,
  transactions: readonly Transaction[],
  name: string,
  cycle: readonly number[],
  findings: Findings,
): void {
  const names = new Map<number, string>();
  for (const edge of cycle) names.set(graph.from[edge] ?? 0, `T${names.size + 1}`);
  const details = [...names].flatMap(([node, label]) => {
    const transaction = transactions[node];
    return transaction === undefined ? [] : [`${label}: ${describe(transaction.operation)}`];
  });
  for (const edge of cycle) {
    const [from, to] = [names.get(graph.from[edge] ?? 0) ?? '', names.get(graph.to[edge] ?? 0) ?? ''];
    details.push(`${from} must come before ${to}: ${because(graph, edge, from, to)}`);
  }
  const size = `${names.size} transactions that must each come before the next, and the last before the first`;
  findings.add(name, undefined, `a cycle of ${size}`, details);
}

function because(graph: Dependencies, edge: number, from: string, to: string): string {
  const element = graph.about[edge];
  const [name, key] = [element?.name ?? '', element?.key ?? ''];
  switch (graph.kind[edge]) {
    case KIND.ww:
      return `${to} appended ${name} to ${key} behind what ${from} had appended`;
    case KIND.wr:
      return `${to} read ${name} of ${key}, which ${from} had appended`;
    case KIND.rw:
      return `${from} read ${key} without ${name}, which ${to} appended`;
    case KIND.process:
      return `the same process ran ${from} first`;
    default:
      return `${from} had ended before ${to} began`;
  }
}

/** Two transactions that read the same version of a list and then both appended to it: neither saw the other. */
function addLostUpdates(lists: Lists, findings: Findings): void {
  const updates = new Map<string, Transaction[]>();
  for (const { reader, key, list } of lists.externalReads) {
    if (!lists.orders.has(key) || !reader.steps.some((step) => step.kind === 'append' && step.key === key)) continue;
    const version = JSON.stringify([key, list.length]);
    const others = updates.get(version);
    if (others === undefined) updates.set(version, [reader]);
    else others.push(reader);
  }
  for (const [version, writers] of updates) {
    if (writers.length < 2) continue;
    const [key, length] = JSON.parse(version) as [string, number];
    const title = `${writers.length} transactions read the same ${length} elements of ${key} and then appended to it`;
    findings.add('lost-update', key, title, writers.map(({ operation }) => describe(operation)));
  }
}
