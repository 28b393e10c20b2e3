import { AssertionError } from '../lib/assert.js';
import { isTidemarkError, messageOf, type StatusCode, type TidemarkError } from '../lib/errors.js';

/** What the command tells its caller by its exit code. Scripts rely on these numbers: none ever changes its meaning. */
export const EXIT = {
  OK: 0,
  /** Anything that is none of the others; the message says what. */
  ERROR: 1,
  /** The arguments, the input or the configuration are wrong: the same call will never succeed. */
  USAGE: 2,
  /** The key, or the pin, does not exist. */
  NOT_FOUND: 3,
  /** A condition did not hold; nothing was written. */
  CONDITION_FAILED: 4,
  /** The write may or may not have taken effect. */
  OUTCOME_UNKNOWN: 5,
  /** Nobody could serve the request in time, and it took no effect; or replicas cannot go where they should for now. */
  UNAVAILABLE: 6,
  /** The timestamp is outside what can be read. */
  OUT_OF_RANGE: 7,
  /** A limit was reached; later it may work. */
  RESOURCE_EXHAUSTED: 8,
  /** This node is no member of its cluster any more; it is not to be started again. */
  REMOVED: 9,
  INTERRUPTED: 130,
} as const;

export type ExitCode = (typeof EXIT)[keyof typeof EXIT];

export const EXIT_CODES_HELP = `
Exit codes:
  0  done                        5  outcome unknown: it may have taken effect
  1  error                       6  unavailable: it took no effect, or replicas are not in their places yet
  2  wrong arguments or input    7  timestamp out of the readable range
  3  key or pin not found        8  a limit was reached, try again later
  4  condition failed            9  this node was removed from its cluster
                               130  interrupted`;

/** Wrong use of the command line; ends in EXIT.USAGE. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
}

/** Ends the command with this code when all there was to say is said already. */
export class Exit extends Error {
  override readonly name = 'Exit';
  readonly code: ExitCode;

  constructor(code: ExitCode) {
    super(`exit ${code}`);
    this.code = code;
  }
}

const BY_STATUS: Partial<Readonly<Record<StatusCode, ExitCode>>> = {
  INVALID_ARGUMENT: EXIT.USAGE,
  UNIMPLEMENTED: EXIT.USAGE,
  NOT_FOUND: EXIT.NOT_FOUND,
  UNAVAILABLE: EXIT.UNAVAILABLE,
  DEADLINE_EXCEEDED: EXIT.UNAVAILABLE,
  OUT_OF_RANGE: EXIT.OUT_OF_RANGE,
  RESOURCE_EXHAUSTED: EXIT.RESOURCE_EXHAUSTED,
  CANCELLED: EXIT.INTERRUPTED,
};

export function exitCodeOf(error: unknown): ExitCode {
  if (error instanceof Exit) return error.code;
  if (error instanceof UsageError) return EXIT.USAGE;
  if (!isTidemarkError(error)) return EXIT.ERROR;
  if (error.outcome === 'unknown') return EXIT.OUTCOME_UNKNOWN;
  if (error.reason === 'CONFIG_NOT_FOUND') return EXIT.USAGE;
  if (error.reason === 'NODE_REMOVED') return EXIT.REMOVED;
  return BY_STATUS[error.code] ?? EXIT.ERROR;
}

/** The error as one line for people, or as JSON for programs. Bugs show their stack. */
export function describeError(error: unknown, json: boolean): string {
  if (json) return JSON.stringify({ error: errorFields(error) });
  if (isTidemarkError(error)) return describeTidemarkError(error);
  if (error instanceof UsageError) return `tidemark: ${error.message}`;
  const unexpected = error instanceof AssertionError || error instanceof TypeError || error instanceof RangeError;
  return `tidemark: ${unexpected ? (error.stack ?? error.message) : messageOf(error)}`;
}

function describeTidemarkError(error: TidemarkError): string {
  const outcome = error.outcome === 'unknown' ? ' The write may or may not have taken effect.' : '';
  return `tidemark: ${error.message} (${error.code}, ${error.reason})${outcome}`;
}

function errorFields(error: unknown): Readonly<Record<string, unknown>> {
  if (!isTidemarkError(error)) {
    const code = error instanceof UsageError ? 'INVALID_ARGUMENT' : 'UNKNOWN';
    return { code, reason: error instanceof UsageError ? 'USAGE' : 'UNKNOWN', message: messageOf(error), outcome: 'none' };
  }
  const { code, reason, message, outcome, retriable, details } = error;
  return { code, reason, message, outcome, retriable, details };
}
