import { lookup } from 'node:dns/promises';
import { isIP } from 'node:net';
import { messageOf, TidemarkError } from '../../lib/errors.js';

export interface HostPort {
  readonly host: string;
  readonly port: number;
}

/** `host:port` or `[ipv6]:port`; undefined if the text is neither. */
export function parseAddress(text: string): HostPort | undefined {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9_.-]+)):(\d{1,5})$/.exec(text);
  const host = match?.[1] ?? match?.[2];
  const port = Number(match?.[3]);
  if (host === undefined || port > 65_535) return undefined;
  if (match?.[1] !== undefined && isIP(host) !== 6) return undefined;
  return { host, port };
}

export function formatAddress({ host, port }: HostPort): string {
  return isIP(host) === 6 ? `[${host}]:${port}` : `${host}:${port}`;
}

/** The IP addresses to listen at. Throws INVALID_ARGUMENT / ADDRESS_MALFORMED or ADDRESS_NOT_AVAILABLE. */
export async function resolveListener(address: string): Promise<HostPort[]> {
  const parsed = parseAddress(address);
  if (parsed === undefined) {
    const message = `cannot listen on '${address}': expected host:port or [ipv6]:port`;
    throw new TidemarkError('INVALID_ARGUMENT', 'ADDRESS_MALFORMED', message);
  }
  if (isIP(parsed.host) !== 0) return [parsed];
  try {
    const found = await lookup(parsed.host, { all: true });
    return found.map((one) => ({ host: one.address, port: parsed.port }));
  } catch (error) {
    throw listenError(address, error);
  }
}

/** Names the address in every failure to listen. */
export function listenError(address: string, error: unknown): TidemarkError {
  const text = messageOf(error);
  const options = { cause: error, details: { address } };
  if (text.includes('EADDRINUSE')) {
    const message = `cannot listen on ${address}: the port is in use by another process`;
    return new TidemarkError('FAILED_PRECONDITION', 'ADDRESS_IN_USE', message, options);
  }
  if (text.includes('EACCES')) {
    const message = `cannot listen on ${address}: this user may not use the port`;
    return new TidemarkError('PERMISSION_DENIED', 'ADDRESS_NOT_ALLOWED', message, options);
  }
  const message = `cannot listen on ${address}: ${text}`;
  return new TidemarkError('INVALID_ARGUMENT', 'ADDRESS_NOT_AVAILABLE', message, options);
}
