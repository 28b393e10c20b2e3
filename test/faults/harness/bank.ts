import { describe, type Operation } from '../../../src/check/history.js';
import { Findings, type Result } from '../../../src/check/result.js';
import type { Work } from '../../../src/check/work.js';

/**
 * Judges a bank whose readers say as of which moment their answer is the truth:
 *
 * - `wrong-total`: a reader saw half of a transfer: money is neither made nor lost;
 * - `missing`: an account lacks a transfer that committed at or before that moment, whenever that was acknowledged;
 * - `future`: it shows one that committed after it;
 * - `invented`: it shows a version that no transfer made, neither an acknowledged one nor one of unknown outcome, or another
 *   balance than that transfer left;
 * - `changed`: it had been read otherwise as of the same moment;
 * - `stale`: a scan or a strict read, which choose their moment, chose one before something that had been acknowledged.
 */
export const FIRST_BALANCE = 100;

/** What a transfer was to do, and, once it is acknowledged, what it left. */
interface Transfer {
  readonly from: string;
  readonly to: string;
  readonly left?: number;
  readonly grown?: number;
}

/** `asOf` is null if no account was found. An account that nobody has written has version 0. */
interface Reading {
  readonly asOf: number | null;
  readonly accounts: readonly (readonly [account: string, balance: number, version: number])[];
}

interface Change {
  readonly version: number;
  readonly balance: number;
  readonly operation: Operation;
}

class Bank {
  readonly reads: Operation[] = [];
  readonly acknowledged: Operation[] = [];
  /** Account -> what acknowledged transfers left on it. */
  readonly changes = new Map<string, Change[]>();
  /** Account -> the first begin of a transfer of unknown outcome. */
  readonly doubtful = new Map<string, number>();
  /** Moment -> what was first read as of it. */
  readonly firstRead = new Map<number, Operation>();
}

export class BankChecker {
  readonly #banks = new Map<string, Bank>();
  #count = 0;

  add(operation: Operation): void {
    const { key, f, outcome } = operation;
    this.#count += 1;
    let bank = this.#banks.get(key);
    if (bank === undefined) this.#banks.set(key, (bank = new Bank()));
    if (f !== 'transfer') {
      if (outcome === 'ok') bank.reads.push(operation);
      return;
    }
    const { from, to, left = NaN, grown = NaN } = (operation.output ?? operation.input) as unknown as Transfer;
    if (outcome === 'ok') {
      bank.acknowledged.push(operation);
      const version = operation.version ?? NaN;
      for (const [account, balance] of [[from, left], [to, grown]] as const) {
        const changes = bank.changes.get(account);
        if (changes === undefined) bank.changes.set(account, [{ version, balance, operation }]);
        else changes.push({ version, balance, operation });
      }
    } else if (outcome === 'info') {
      for (const account of [from, to]) bank.doubtful.set(account, Math.min(operation.begin, bank.doubtful.get(account) ?? Infinity));
    }
  }

  *check(): Work<Result> {
    const findings = new Findings();
    let done = 0;
    for (const [name, bank] of this.#banks) {
      checkBank(name, bank, findings);
      done += 1;
      yield { stage: 'Banks', done, total: this.#banks.size };
    }
    return findings.result({ operations: this.#count, banks: this.#banks.size });
  }
}

function checkBank(name: string, bank: Bank, findings: Findings): void {
  for (const changes of bank.changes.values()) changes.sort((a, b) => a.version - b.version);
  bank.acknowledged.sort((a, b) => a.end - b.end);
  const lastEnd = bank.acknowledged.at(-1)?.end ?? -1;
  if (!bank.reads.some(({ begin }) => begin > lastEnd)) findings.unknown.push(`${name} was not read after the last acknowledged transfer`);
  for (const read of bank.reads) {
    const { asOf, accounts } = read.output as unknown as Reading;
    const total = accounts.reduce((sum, [, balance]) => sum + balance, 0);
    if (total !== accounts.length * FIRST_BALANCE) {
      findings.add('wrong-total', name, `${total} in ${accounts.length} accounts instead of ${accounts.length * FIRST_BALANCE}`, [describe(read)]);
    }
    for (const account of accounts) checkAccount(bank, read, asOf ?? 0, account, findings);
    if (read.f !== 'as-of') checkFresh(name, bank, read, asOf ?? 0, findings);
    if (asOf !== null) checkSame(name, bank, read, asOf, findings);
  }
}

function checkAccount(bank: Bank, read: Operation, asOf: number, [account, balance, version]: Reading['accounts'][number], findings: Findings): void {
  const changes = bank.changes.get(account) ?? [];
  const due = changes[firstAbove(changes, asOf) - 1];
  if (due !== undefined && version < due.version) {
    findings.add('missing', account, `version ${version} as of ${asOf}, though ${due.version} had committed`, [describe(read), describe(due.operation)]);
  }
  if (version > asOf) findings.add('future', account, `version ${version} as of ${asOf}`, [describe(read)]);
  const made = changes[firstAbove(changes, version) - 1];
  if (made?.version === version) {
    if (made.balance === balance) return;
    const title = `${balance} at version ${version}, which left ${made.balance}`;
    findings.add('invented', account, title, [describe(read), describe(made.operation)]);
  } else if (version === 0 ? balance !== FIRST_BALANCE : (bank.doubtful.get(account) ?? Infinity) > read.end) {
    findings.add('invented', account, `${balance} at version ${version}, which no transfer made`, [describe(read)]);
  }
}

function checkFresh(name: string, bank: Bank, read: Operation, asOf: number, findings: Findings): void {
  const late = bank.acknowledged.find(({ end, version = 0 }) => end < read.begin && version > asOf);
  if (late === undefined) return;
  const title = `a read chose ${asOf}, before ${late.version}, which had been acknowledged when it began`;
  findings.add('stale', name, title, [describe(read), describe(late)]);
}

function checkSame(name: string, bank: Bank, read: Operation, asOf: number, findings: Findings): void {
  const first = bank.firstRead.get(asOf);
  if (first === undefined) bank.firstRead.set(asOf, read);
  else if (accountsOf(first) !== accountsOf(read)) {
    findings.add('changed', name, `two reads as of ${asOf} differ`, [describe(first), describe(read)]);
  }
}

function accountsOf(read: Operation): string {
  return JSON.stringify((read.output as unknown as Reading).accounts);
}

/** Where those above the version begin. */
function firstAbove(changes: readonly Change[], version: number): number {
  let [low, high] = [0, changes.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((changes[middle]?.version ?? Infinity) > version) high = middle;
    else low = middle + 1;
  }
  return low;
}
