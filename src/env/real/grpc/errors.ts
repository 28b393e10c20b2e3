import { Metadata, type StatusObject } from '@grpc/grpc-js';
import { STATUS, TidemarkError, type Outcome, type StatusCode } from '../../../lib/errors.js';
import { messageNamed } from './protos.js';

/** Errors on the wire: the canonical status, its text, and the typed detail in a trailer (`ErrorDetail` of common.proto). */
const TRAILER = 'tidemark-error-bin';
const detailCodec = messageNamed('tidemark.v1.ErrorDetail');

/** Trailers share their space with other headers, which peers commonly limit to 8 KiB. */
const TEXT_MAX = 1500;

const NAMES = new Map<number, StatusCode>(
  Object.entries(STATUS).map(([name, number]) => [number, name as StatusCode]),
);

export interface ErrorDetail {
  readonly code: string;
  readonly reason: string;
  readonly outcome: string;
  readonly retriable: boolean;
  readonly details: Readonly<Record<string, string>>;
  readonly message: string;
}

export function detailOf(error: TidemarkError): ErrorDetail {
  return {
    code: error.code,
    reason: error.reason,
    outcome: error.outcome === 'none' ? 'OUTCOME_NONE' : 'OUTCOME_UNKNOWN',
    retriable: error.retriable,
    details: error.details,
    message: wellFormed(error.message),
  };
}

export function errorOfDetail(detail: ErrorDetail): TidemarkError {
  const code: StatusCode = Object.hasOwn(STATUS, detail.code) ? (detail.code as StatusCode) : 'UNKNOWN';
  const outcome: Outcome = detail.outcome === 'OUTCOME_NONE' ? 'none' : 'unknown';
  const { retriable, details } = detail;
  return new TidemarkError(code, detail.reason, detail.message, { outcome, retriable, details });
}

export function statusOf(error: TidemarkError): StatusObject {
  const metadata = new Metadata();
  metadata.set(TRAILER, detailCodec.encode(detailOf(error)));
  return { code: STATUS[error.code], details: wellFormed(error.message), metadata };
}

/** No lone surrogates, which cannot be sent, and of bounded length. */
function wellFormed(text: string): string {
  return Buffer.from(text.length > TEXT_MAX ? `${text.slice(0, TEXT_MAX)}…` : text).toString();
}

const NOT_STARTED: ReadonlySet<StatusCode> = new Set([
  'INVALID_ARGUMENT',
  'UNIMPLEMENTED',
  'UNAUTHENTICATED',
  'PERMISSION_DENIED',
]);

/** The system's own words for why there is no connection, without what grpc-js wraps around them. */
export function causeOf(details: string): string {
  return /Last error: (?:Error: )?(.+?)\.? Resolution note/.exec(details)?.[1] ?? details;
}

/** The error behind a status that came from the other side, or that grpc-js made up when the connection broke. */
export function errorOfStatus(status: StatusObject, remote: string): TidemarkError {
  const [trailer] = status.metadata.get(TRAILER);
  if (Buffer.isBuffer(trailer)) {
    try {
      return errorOfDetail(detailCodec.decode(trailer) as ErrorDetail);
    } catch {
      // Not ours after all: the status itself must do.
    }
  }
  const code = NAMES.get(status.code) ?? 'UNKNOWN';
  const outcome = NOT_STARTED.has(code) ? 'none' : 'unknown';
  const retriable = code === 'UNAVAILABLE';
  return new TidemarkError(code, 'RPC_FAILED', `${remote}: ${causeOf(status.details)}`, { outcome, retriable });
}
