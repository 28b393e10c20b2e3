import { describe, type Json, type Operation } from './history.js';
import { unfit } from './register.js';
import type { Findings } from './result.js';

/** Transactions over lists: what they appended and read, the order of each list, and what is wrong without any cycle. */
export interface Transaction {
  /** Its node in the graph. */
  readonly node: number;
  readonly operation: Operation;
  readonly steps: readonly Step[];
}

type Step =
  | { readonly kind: 'append'; readonly key: string; readonly element: string }
  | { readonly kind: 'read'; readonly key: string; readonly list: readonly string[] };

/** An element of a list, of which there is one, since nothing is appended to one key twice. */
export interface Element {
  readonly key: string;
  /** Its JSON. */
  readonly name: string;
  readonly writer: Transaction;
  /** True unless its transaction appended another to the same key behind it. */
  final: boolean;
}

/** What a transaction saw of a list before it appended to it itself. */
export interface ExternalRead {
  readonly reader: Transaction;
  readonly key: string;
  readonly list: readonly string[];
}

export function transactionOf(operation: Operation, node: number): Transaction {
  const { f, key, input, output, outcome } = operation;
  const value = outcome === 'ok' ? (output ?? input) : input;
  switch (f) {
    case 'append':
      return { node, operation, steps: [{ kind: 'append', key, element: JSON.stringify(input ?? null) }] };
    case 'read':
      return { node, operation, steps: outcome === 'ok' ? [{ kind: 'read', key, list: listOf(operation, output) }] : [] };
    case 'txn':
      if (!Array.isArray(value)) throw unfit(operation, 'the value of a txn is a list of steps');
      if (outcome === 'ok') checkAnswer(operation);
      return { node, operation, steps: (value as readonly Json[]).flatMap((step) => stepOf(operation, step)) };
    default:
      throw unfit(operation, 'lists have txn, append and read');
  }
}

/**
 * An answer has every step that was asked for, with what was read. One that leaves steps out would hide what they did: a history
 * that nobody can find anything wrong with.
 */
function checkAnswer(operation: Operation): void {
  const { input, output } = operation;
  if (!Array.isArray(input)) throw unfit(operation, 'the value of a txn is a list of steps');
  const asked = (input as readonly Json[]).map(requestOf);
  if (output === undefined || output === null) {
    if (asked.some((step) => step.startsWith('["r"'))) throw unfit(operation, 'it ended with ok, but without what it has read');
    return;
  }
  const answered = (output as readonly Json[]).map(requestOf);
  const at = asked.findIndex((step, index) => step !== answered[index]);
  if (at < 0 && answered.length === asked.length) return;
  const step = at < 0 ? asked.length : at;
  const difference = `step ${step + 1} was ${asked[step] ?? 'not there'}, and the answer has ${answered[step] ?? 'none'}`;
  throw unfit(operation, `its answer must have the steps that were asked for; ${difference}`);
}

/** A step as it is asked: without what a read answers. */
function requestOf(step: Json): string {
  const isRead = Array.isArray(step) && step[0] === 'r';
  return JSON.stringify(isRead ? (step as readonly Json[]).slice(0, 2) : step);
}

function stepOf(operation: Operation, step: Json): Step[] {
  const [f, key, value] = Array.isArray(step) ? (step as readonly Json[]) : [];
  if ((typeof key !== 'string' && typeof key !== 'number') || (f !== 'append' && f !== 'r')) {
    throw unfit(operation, `${JSON.stringify(step)} is neither ["append", key, value] nor ["r", key, list]`);
  }
  if (f === 'append') return [{ kind: 'append', key: String(key), element: JSON.stringify(value ?? null) }];
  return operation.outcome === 'ok' ? [{ kind: 'read', key: String(key), list: listOf(operation, value) }] : [];
}

function listOf(operation: Operation, value: Json | undefined): string[] {
  if (value === null || value === undefined) return [];
  if (!Array.isArray(value)) throw unfit(operation, 'a read of a list answers a list');
  return (value as readonly Json[]).map((element) => JSON.stringify(element));
}

export class Lists {
  readonly externalReads: ExternalRead[] = [];
  /** The longest list that was read of each key, where all reads agree. */
  readonly orders = new Map<string, readonly string[]>();
  readonly #elements = new Map<string, Map<string, Element>>();
  readonly #findings: Findings;

  constructor(transactions: readonly Transaction[], findings: Findings) {
    this.#findings = findings;
    for (const transaction of transactions) this.#noteAppends(transaction);
    const reads: ExternalRead[] = [];
    for (const transaction of transactions) {
      if (transaction.operation.outcome === 'ok') this.#look(transaction, reads);
    }
    this.#findOrders(reads);
  }

  element(key: string, name: string): Element | undefined {
    return this.#elements.get(key)?.get(name);
  }

  *elements(key: string): Iterable<Element> {
    yield* this.#elements.get(key)?.values() ?? [];
  }

  #noteAppends(writer: Transaction): void {
    const last = new Map<string, Element>();
    for (const step of writer.steps) {
      if (step.kind !== 'append') continue;
      const { key, element: name } = step;
      let elements = this.#elements.get(key);
      if (elements === undefined) this.#elements.set(key, (elements = new Map<string, Element>()));
      const other = elements.get(name);
      if (other !== undefined) {
        const by = `event ${other.writer.operation.begin}`;
        throw unfit(writer.operation, `nothing is appended to one key twice, and ${by} appends ${name} to ${key} too`);
      }
      const element: Element = { key, name, writer, final: true };
      elements.set(name, element);
      const before = last.get(key);
      if (before !== undefined) before.final = false;
      last.set(key, element);
    }
  }

  /** What a transaction shows by itself. */
  #look(reader: Transaction, reads: ExternalRead[]): void {
    /** What it must see next: all of it, or, before its first read, at least its own appends at the end. */
    const expected = new Map<string, Expected>();
    for (const step of reader.steps) {
      const known = expected.get(step.key);
      if (step.kind === 'append') {
        if (known === undefined) expected.set(step.key, { whole: false, list: [step.element] });
        else known.list.push(step.element);
        continue;
      }
      const { key, list } = step;
      reads.push({ reader, key, list });
      if (known === undefined) this.externalReads.push({ reader, key, list });
      else if (!fits(list, known)) {
        const due = `${known.whole ? '' : '..., '}${known.list.join(', ')}`;
        const title = `a transaction reads [${list.join(', ')}] of ${key}, though for itself it is [${due}]`;
        this.#findings.add('internal', key, title, [describe(reader.operation)]);
      }
      expected.set(key, { whole: true, list: [...list] });
      this.#lookAt(reader, key, list);
    }
  }

  #lookAt(reader: Transaction, key: string, list: readonly string[]): void {
    const seen = new Set<string>();
    const reading = `the read: ${describe(reader.operation)}`;
    for (const name of list) {
      if (seen.has(name)) {
        this.#findings.add('duplicate-elements', key, `${name} is in one read of ${key} more than once`, [reading]);
      }
      seen.add(name);
      const writer = this.element(key, name)?.writer;
      if (writer === undefined) {
        this.#findings.add('unexpected-element', key, `${name} was read of ${key}, and nobody appended it`, [reading]);
      } else if (writer.operation.outcome === 'fail') {
        const details = [reading, `the append: ${describe(writer.operation)}`];
        this.#findings.add('G1a', key, `${name} was read of ${key}, though its transaction failed (aborted read)`, details);
      }
    }
    const last = this.element(key, list.at(-1) ?? '');
    if (last === undefined || last.final || last.writer === reader) return;
    const title = `a read of ${key} ends with ${last.name}, behind which the same transaction appended more (intermediate read)`;
    this.#findings.add('G1b', key, title, [reading, `the appends: ${describe(last.writer.operation)}`]);
  }

  #findOrders(reads: readonly ExternalRead[]): void {
    const longest = new Map<string, ExternalRead>();
    for (const read of reads) if (read.list.length > (longest.get(read.key)?.list.length ?? -1)) longest.set(read.key, read);
    const broken = new Set<string>();
    for (const { key, list, reader } of reads) {
      const most = longest.get(key);
      if (new Set(list).size < list.length) broken.add(key);
      if (most === undefined || list.every((name, at) => name === most.list[at])) continue;
      broken.add(key);
      const [own, other] = [list.join(', '), most.list.join(', ')];
      const title = `two reads of ${key} disagree about the order: [${own}] is no beginning of [${other}]`;
      this.#findings.add('incompatible-order', key, title, [describe(reader.operation), describe(most.reader.operation)]);
    }
    for (const [key, { list }] of longest) if (!broken.has(key)) this.orders.set(key, list);
  }
}

interface Expected {
  /** Else the end of it. */
  readonly whole: boolean;
  readonly list: string[];
}

function fits(list: readonly string[], { whole, list: due }: Expected): boolean {
  if (whole && list.length !== due.length) return false;
  const skip = list.length - due.length;
  return skip >= 0 && due.every((name, at) => name === list[skip + at]);
}
