/**
 * Errors as users meet them. Every error that leaves a node is a TidemarkError; anything else that is thrown is a bug and
 * stops the node (see lib/assert.ts).
 *
 * - `code` is the canonical gRPC status, so that any client in any language can act on it.
 * - `reason` is a stable upper-case word for programs (`NOT_LEADER`, `KEY_TOO_LARGE`); it travels in the trailers.
 * - `outcome` says whether the request may have taken effect. `none`: it certainly did not. `unknown`: it may have, or may
 *   still. An unknown outcome is never reported as `none`.
 * - `retriable`: the same request may succeed later, or elsewhere, unchanged.
 */
export const STATUS = {
  OK: 0,
  CANCELLED: 1,
  UNKNOWN: 2,
  INVALID_ARGUMENT: 3,
  DEADLINE_EXCEEDED: 4,
  NOT_FOUND: 5,
  ALREADY_EXISTS: 6,
  PERMISSION_DENIED: 7,
  RESOURCE_EXHAUSTED: 8,
  FAILED_PRECONDITION: 9,
  ABORTED: 10,
  OUT_OF_RANGE: 11,
  UNIMPLEMENTED: 12,
  INTERNAL: 13,
  UNAVAILABLE: 14,
  DATA_LOSS: 15,
  UNAUTHENTICATED: 16,
} as const;

export type StatusCode = keyof typeof STATUS;
export type Outcome = 'none' | 'unknown';

export interface ErrorOptions {
  readonly outcome?: Outcome;
  readonly retriable?: boolean;
  /** Facts for programs, as short strings: `earliestReadable`, `limit`, `leader`. */
  readonly details?: Readonly<Record<string, string>>;
  readonly cause?: unknown;
}

export class TidemarkError extends Error {
  override readonly name = 'TidemarkError';
  readonly code: StatusCode;
  readonly reason: string;
  readonly outcome: Outcome;
  readonly retriable: boolean;
  readonly details: Readonly<Record<string, string>>;

  constructor(code: StatusCode, reason: string, message: string, options: ErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.reason = reason;
    this.outcome = options.outcome ?? 'none';
    this.retriable = options.retriable ?? false;
    this.details = options.details ?? {};
  }
}

/**
 * For errors that are answers, made by the thousand while a cluster has no leader: where in this process one was made says
 * nothing, and noting it costs more than all else about it.
 */
export function withoutStack<E extends Error>(make: () => E): E {
  const { stackTraceLimit } = Error;
  Error.stackTraceLimit = 0;
  try {
    return make();
  } finally {
    Error.stackTraceLimit = stackTraceLimit;
  }
}

export function isTidemarkError(error: unknown): error is TidemarkError {
  return error instanceof TidemarkError;
}

/** The text of anything that was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
