import { describe, type Json, type Operation } from '../../../src/check/history.js';
import { Findings, type Result } from '../../../src/check/result.js';
import type { Work } from '../../../src/check/work.js';

/**
 * What must hold for every list by itself, since all its elements are unique: the longest read gives the order, and
 *
 * - every read is a beginning of it (else two transactions saw different orders), without an element twice;
 * - no element of a transaction that failed is in it, and every element of one that was acknowledged;
 * - a read that begins after an element was known to be there, by an acknowledgement or another read, has it.
 */
type Micro = readonly [f: string, key: string, value: Json];
type Element = number;

interface ListRead {
  readonly operation: Operation;
  readonly elements: readonly Element[];
}

interface ListHistory {
  readonly appends: Map<Element, Operation>;
  readonly reads: ListRead[];
}

export class ListChecker {
  readonly #lists = new Map<string, ListHistory>();
  #count = 0;

  add(operation: Operation): void {
    this.#count += 1;
    for (const [f, key, value] of operation.input as unknown as readonly Micro[]) {
      if (f === 'append') this.#listOf(key).appends.set(value as Element, operation);
    }
    if (operation.outcome !== 'ok') return;
    // What a transaction itself appended before it read is in the read, but not yet there for others.
    const own = new Set<Element>();
    for (const [f, key, value] of operation.output as unknown as readonly Micro[]) {
      if (f === 'append') own.add(value as Element);
      else this.#listOf(key).reads.push({ operation, elements: (value as readonly Element[]).filter((each) => !own.has(each)) });
    }
  }

  *check(): Work<Result> {
    const findings = new Findings();
    let done = 0;
    for (const [key, list] of this.#lists) {
      checkList(key, list, findings);
      done += 1;
      yield { stage: 'Lists', done, total: this.#lists.size };
    }
    return findings.result({ operations: this.#count, lists: this.#lists.size });
  }

  #listOf(key: string): ListHistory {
    let list = this.#lists.get(key);
    if (list === undefined) this.#lists.set(key, (list = { appends: new Map(), reads: [] }));
    return list;
  }
}

function checkList(key: string, { appends, reads }: ListHistory, findings: Findings): void {
  const longest = reads.reduce<readonly Element[]>((most, { elements }) => (elements.length > most.length ? elements : most), []);
  const positions = new Map(longest.map((element, index) => [element, index]));
  if (positions.size < longest.length) findings.add('duplicated', key, `${key} has an element twice: ${JSON.stringify(longest)}`);
  for (const { operation, elements } of reads) {
    const at = elements.findIndex((element, index) => element !== longest[index]);
    if (at >= 0) findings.add('incompatible-order', key, `${key} was read in two orders, which differ at ${at}`, [describe(operation)]);
  }
  // Position -> the first event after which everybody must see it.
  const knownSince = longest.map(() => Infinity);
  for (const [element, operation] of appends) {
    const position = positions.get(element);
    if (position !== undefined) {
      if (operation.outcome === 'fail') findings.add('aborted-read', key, `${element} is there`, [describe(operation)]);
      knownSince[position] = Math.min(knownSince[position] ?? Infinity, operation.end);
    } else if (operation.outcome === 'ok') {
      const isRead = reads.some((read) => read.operation.begin > operation.end);
      if (isRead) findings.add('lost', key, `${element} is in no read`, [describe(operation)]);
      else findings.unknown.push(`${key} was not read after ${element} had been appended`);
    }
  }
  for (const { operation, elements } of reads) {
    const last = elements.length - 1;
    if (last >= 0) knownSince[last] = Math.min(knownSince[last] ?? Infinity, operation.end);
  }
  // Who is known to be there proves all before it.
  for (let position = knownSince.length - 2; position >= 0; position -= 1) {
    knownSince[position] = Math.min(knownSince[position] ?? Infinity, knownSince[position + 1] ?? Infinity);
  }
  for (const { operation, elements } of reads) {
    const since = knownSince[elements.length];
    if (since !== undefined && since < operation.begin) {
      findings.add('stale', key, `a read lacks ${longest[elements.length]}, known since event ${since}`, [describe(operation)]);
    }
  }
}
