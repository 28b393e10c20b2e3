import { TidemarkError } from '../lib/errors.js';
import { describe, type Json, type Operation } from './history.js';
import { linearize, type Witness } from './linearize.js';
import { Findings, type Result } from './result.js';
import type { Call, State, Step } from './search.js';
import type { Work } from './work.js';

/**
 * Linearizability (Herlihy and Wing, 1990) of objects that are named by keys: each key by itself, since a history is
 * linearizable if and only if that of each of its objects is.
 *
 * A model says what an operation means: the step that it takes, or undefined if it neither changes nor tells anything.
 */
export interface Model {
  readonly initial: State;
  step(operation: Operation): Step | undefined;
}

/** A value as the state of a register. */
function stateOf(value: Json | undefined): State {
  return JSON.stringify(value ?? null);
}

/**
 * `write` of any JSON value, `read` of it (null while nothing was written), `cas` of `[old, new]`. A `cas` that failed may carry
 * `mismatch: true`: it was compared, so the register did not hold `old`; without it, nothing is known but that it had no effect.
 */
export function registerModel(initial: Json = null): Model {
  return { initial: stateOf(initial), step: registerStep };
}

function registerStep(operation: Operation): Step | undefined {
  const { f, input, output, outcome, mismatch } = operation;
  switch (f) {
    case 'read': {
      if (outcome !== 'ok') return undefined;
      const wants = stateOf(output);
      return { name: `read ${wants}`, kind: 'read', wants, apply: (state) => (state === wants ? state : undefined) };
    }
    case 'write': {
      if (outcome === 'fail') return undefined;
      const value = stateOf(input);
      return { name: `write ${value}`, kind: 'blind', result: value, apply: () => value };
    }
    case 'cas': {
      if (!Array.isArray(input) || input.length !== 2) throw unfit(operation, 'the value of a cas is [old, new]');
      const [wants, to] = (input as readonly Json[]).map(stateOf);
      if (wants === undefined || to === undefined) return undefined;
      if (outcome !== 'fail') {
        const apply = (state: State): State | undefined => (state === wants ? to : undefined);
        return { name: `cas ${wants} ${to}`, kind: 'update', wants, result: to, apply };
      }
      if (!mismatch) return undefined;
      return { name: `not ${wants}`, kind: 'read', apply: (state) => (state === wants ? undefined : state) };
    }
    default:
      throw unfit(operation, 'a register has read, write and cas');
  }
}

/** An operation that the chosen checker cannot understand. */
export function unfit({ f, begin }: Operation, expected: string): TidemarkError {
  return new TidemarkError('INVALID_ARGUMENT', 'BAD_HISTORY', `event ${begin}: '${f}' does not fit: ${expected}`);
}

interface OperationCall extends Call {
  readonly operation: Operation;
}

/** Add all operations in any order, then check. */
export class LinearizabilityChecker {
  readonly #model: Model;
  readonly #calls = new Map<string, OperationCall[]>();
  /** Equal steps are one object, as there may be a million operations. */
  readonly #steps = new Map<string, Step>();
  #count = 0;

  constructor(model: Model = registerModel()) {
    this.#model = model;
  }

  add(operation: Operation): void {
    this.#count += 1;
    let calls = this.#calls.get(operation.key);
    if (calls === undefined) this.#calls.set(operation.key, (calls = []));
    const own = this.#model.step(operation);
    if (own === undefined) return;
    const step = this.#steps.get(own.name) ?? own;
    this.#steps.set(own.name, step);
    calls.push({ step, call: operation.begin, return: operation.end, operation });
  }

  /** The keys with few operations first: one hard key does not hide what is wrong with the others. */
  *check(): Work<Result> {
    const findings = new Findings();
    const keys = [...this.#calls].sort(([, a], [, b]) => a.length - b.length);
    const total = keys.reduce((sum, [, calls]) => sum + calls.length, 0);
    let done = 0;
    let gaveUp = false;
    for (const [at, [key, calls]] of keys.entries()) {
      if (gaveUp) {
        findings.unknown.push(`${keys.length - at} more keys were not looked at`);
        break;
      }
      const search = linearize(calls, this.#model.initial);
      let step = search.next();
      while (step.done !== true) {
        gaveUp = (yield { stage: 'Linearizability', done: done + step.value.done, total }) === true;
        step = search.next(gaveUp);
      }
      const answer = step.value;
      if (answer.verdict === 'unknown') findings.unknown.push(`${nameOf(key)} (${calls.length} operations): ${answer.why}`);
      if (answer.verdict === 'invalid') addWitness(findings, key, answer.witness);
      done += calls.length;
      if (!gaveUp) gaveUp = (yield { stage: 'Linearizability', done, total }) === true;
    }
    return findings.result({ operations: this.#count, keys: keys.length });
  }
}

function nameOf(key: string): string {
  return key === '' ? 'the register' : `key ${JSON.stringify(key)}`;
}

function addWitness(findings: Findings, key: string, { stuck, first, order }: Witness<OperationCall>): void {
  const lines = (calls: readonly OperationCall[]): string[] => calls.map(({ operation }) => `  ${describe(operation)}`);
  const name = nameOf(key);
  const details = first
    ? [`all that ended before it can be explained; this cannot: ${describe(stuck.operation)}`]
    : [`when this ended, something could not be explained: ${describe(stuck.operation)}`, 'finding the first such was given up'];
  if (order !== undefined) {
    const { placed, placedCount, state, underWay } = order;
    if (placed.length > 0) {
      details.push(`one order that explains what came before, the last ${placed.length} of ${placedCount}:`, ...lines(placed));
    }
    details.push(`it leaves ${name} with ${state}`);
    if (underWay.length > 0) details.push('under way or of unknown outcome, which does not help:', ...lines(underWay));
  }
  findings.add('not-linearizable', key, `${name}: no order of its operations explains all answers`, details);
}
