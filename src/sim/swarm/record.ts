import type { Condition, Consistency, Record, RequestId, Timestamp, WriteResult } from '../../bucket/requests.js';

/**
 * What the clients of a simulated run asked and were answered, for the checker.
 *
 * `invoke` and `ret` are numbers of one sequence over all clients, given out as things happen: a.ret < b.invoke says that b
 * began when a was over. An answer that never came has ret Infinity. Times are true milliseconds.
 */
export interface Span {
  readonly client: string;
  readonly invoke: number;
  readonly invokeMs: number;
  ret: number;
  retMs: number;
}

export interface Change {
  readonly key: string;
  /** Undefined: deleted. Every value is written by one command only. */
  readonly value: string | undefined;
}

/** One try of a command. `unknown`: it may have applied, or may still. `none`: it certainly did not. */
export interface Attempt extends Span {
  outcome: 'ok' | 'unknown' | 'none';
  result: WriteResult | undefined;
  reason: string;
}

/** A command, perhaps tried several times under one request id. */
export interface Command {
  readonly kind: 'command';
  readonly number: number;
  readonly conditions: readonly Condition[];
  readonly changes: readonly Change[];
  /** Only of commands that are retried by their client; else the router gives one. */
  readonly id: RequestId | undefined;
  readonly attempts: Attempt[];
}

/** `timestamp` is what the reply claims to be the truth as of. */
export interface Proof {
  readonly consistency: Consistency['kind'];
  readonly timestamp: Timestamp;
  readonly node: number;
}

export interface Found {
  readonly key: string;
  readonly value: string;
  readonly version: Timestamp;
}

export function foundOf({ key, value, version }: Record): Found {
  return { key: key.toString(), value: value.toString(), version };
}

export interface GetDone extends Span {
  readonly kind: 'get';
  readonly key: string;
  readonly asked: Consistency;
  readonly proof: Proof;
  readonly found: Found | undefined;
}

export interface ScanDone extends Span {
  readonly kind: 'scan';
  readonly start: string;
  readonly end: string;
  readonly reverse: boolean;
  /** 0: none. */
  readonly limit: number;
  readonly asked: Consistency;
  readonly proofs: readonly Proof[];
  readonly found: readonly Found[];
}

export interface VersionSeen {
  readonly version: Timestamp;
  readonly deleted: boolean;
  readonly value: string;
}

export interface HistoryDone extends Span {
  readonly kind: 'history';
  readonly key: string;
  readonly asked: Extract<Consistency, { kind: 'linearizable' | 'asOf' }>;
  readonly proof: Proof;
  /** Newest first. */
  readonly versions: readonly VersionSeen[];
}

export type Done = GetDone | ScanDone | HistoryDone;

export class Recorder {
  readonly commands: Command[] = [];
  readonly reads: Done[] = [];
  /** Reads that failed, by reason. */
  readonly failures = new Map<string, number>();
  /** What no fault can explain. */
  readonly broken: string[] = [];
  readonly #nowMs: () => number;
  #order = 0;

  constructor(nowMs: () => number) {
    this.#nowMs = nowMs;
  }

  begin(client: string): Span {
    this.#order += 1;
    return { client, invoke: this.#order, invokeMs: this.#nowMs(), ret: Infinity, retMs: Infinity };
  }

  end(span: Span): void {
    this.#order += 1;
    span.ret = this.#order;
    span.retMs = this.#nowMs();
  }

  command(parts: Pick<Command, 'conditions' | 'changes' | 'id'>): Command {
    const command: Command = { kind: 'command', number: this.commands.length, attempts: [], ...parts };
    this.commands.push(command);
    return command;
  }

  failed(reason: string): void {
    this.failures.set(reason, (this.failures.get(reason) ?? 0) + 1);
  }
}
