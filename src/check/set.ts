import { describe, shown, type Json, type Operation } from './history.js';
import { unfit } from './register.js';
import { Findings, type Result } from './result.js';
import type { Work } from './work.js';

/**
 * Sets that only grow, one for each key: `add` of an element (any JSON value, added once at most), `read` of all elements as a
 * list. An element is *known* from the moment on at which its add was acknowledged or a read that had it ended. What begins later
 * must have it.
 *
 * - `lost`: known, and missing from a read that began later and from all after that.
 * - `stale`: known, missing from a read that began later, and there again afterwards.
 * - `unexpected`: in a read though nobody had begun to add it before the read ended, or its add failed.
 * - `duplicated`: twice in one read.
 *
 * Acknowledged elements after which no read began were never looked for: that makes a verdict unknown. Let a run end with reads.
 */
interface Element {
  readonly add: Operation | undefined;
  /** The event index since which everybody must see it; Infinity as long as nobody knows. */
  knownSince: number;
  lastSeen: number;
}

interface KeyedSet {
  readonly adds: Map<string, Operation>;
  readonly reads: Operation[];
}

const ELEMENTS_A_YIELD = 100_000;

export class SetChecker {
  readonly #sets = new Map<string, KeyedSet>();
  #count = 0;

  add(operation: Operation): void {
    this.#count += 1;
    const { f, key, input, outcome, output } = operation;
    let set = this.#sets.get(key);
    if (set === undefined) this.#sets.set(key, (set = { adds: new Map(), reads: [] }));
    if (f === 'add') {
      const element = JSON.stringify(input ?? null);
      const other = set.adds.get(element);
      if (other !== undefined) throw unfit(operation, `each element is added once, and event ${other.begin} adds ${element} too`);
      set.adds.set(element, operation);
    } else if (f !== 'read') {
      throw unfit(operation, 'a set has add and read');
    } else if (outcome === 'ok') {
      if (!Array.isArray(output)) throw unfit(operation, 'a read of a set answers a list');
      set.reads.push(operation);
    }
  }

  *check(): Work<Result> {
    const findings = new Findings();
    let neverRead = 0;
    const total = [...this.#sets.values()].reduce((sum, { reads }) => sum + reads.length, 0);
    let done = 0;
    for (const [key, { adds, reads }] of this.#sets) {
      reads.sort((a, b) => a.begin - b.begin);
      const elements = new Map<string, Element>();
      for (const [element, add] of adds) {
        elements.set(element, { add, knownSince: add.outcome === 'ok' ? add.end : Infinity, lastSeen: -1 });
      }
      for (const read of reads) this.#take(read, key, elements, findings);
      const missing = new Map<string, Operation>();
      let looked = 0;
      for (const read of reads) {
        const found = new Set((read.output as readonly Json[]).map((element) => JSON.stringify(element)));
        for (const [element, { knownSince }] of elements) {
          if (knownSince < read.begin && !found.has(element) && !missing.has(element)) missing.set(element, read);
        }
        done += 1;
        looked += elements.size;
        if (looked < ELEMENTS_A_YIELD) continue;
        looked = 0;
        if ((yield { stage: 'Sets', done, total }) !== true) continue;
        findings.unknown.push(`${total - done} reads were not compared: the check was given up`);
        return findings.result({ operations: this.#count, sets: this.#sets.size, reads: done });
      }
      for (const [element, read] of missing) reportMissing(key, element, elements.get(element), read, findings);
      const lastBegin = reads.at(-1)?.begin ?? -1;
      for (const { add, lastSeen } of elements.values()) {
        if (add?.outcome === 'ok' && add.end > lastBegin && lastSeen < 0) neverRead += 1;
      }
    }
    if (neverRead > 0) findings.unknown.push(`${neverRead} acknowledged elements were never read: no read began later`);
    return findings.result({ operations: this.#count, sets: this.#sets.size, reads: total });
  }

  /** What one read shows by itself. */
  #take(read: Operation, key: string, elements: Map<string, Element>, findings: Findings): void {
    const own = new Set<string>();
    for (const item of read.output as readonly Json[]) {
      const name = JSON.stringify(item);
      let element = elements.get(name);
      if (element === undefined) elements.set(name, (element = { add: undefined, knownSince: Infinity, lastSeen: -1 }));
      if (own.has(name)) {
        findings.add('duplicated', key, `${shown(item)} is in one read more than once`, [describe(read)]);
        continue;
      }
      own.add(name);
      const { add, lastSeen } = element;
      const possible = add !== undefined && add.outcome !== 'fail' && add.begin < read.end;
      if (!possible && lastSeen < 0) {
        const why =
          add === undefined ? 'nobody added it'
          : add.outcome === 'fail' ? `its add failed: ${describe(add)}`
          : `its add began later: ${describe(add)}`;
        findings.add('unexpected', key, `${shown(item)} was read though ${why}`, [describe(read)]);
      }
      element.lastSeen = Math.max(lastSeen, read.begin);
      if (possible) element.knownSince = Math.min(element.knownSince, read.end);
    }
  }
}

function reportMissing(key: string, name: string, element: Element | undefined, read: Operation, findings: Findings): void {
  if (element?.add === undefined) return;
  const { add, knownSince, lastSeen } = element;
  const known = add.end === knownSince ? 'it was acknowledged' : 'an earlier read had it';
  const details = [describe(add), `missing from: ${describe(read)}`];
  const again = lastSeen > read.begin;
  const what = again ? 'was missing for a while' : 'is lost';
  findings.add(again ? 'stale' : 'lost', key, `${name} ${what}, though ${known} (event ${knownSince})`, details);
}
