import { InvalidArgumentError, Option, type Command } from 'commander';
import { parseTimestamp, TIMESTAMP_MAX } from '../mvcc/timestamp.js';
import { withTls, type TlsArguments } from './tls.js';

/** Parsers of option values, and the options that many commands share. A parser throws what commander reports as wrong use. */
export function integer(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^\d+$/.test(text) || value < min || value > max) {
      throw new InvalidArgumentError(`Expected a whole number from ${min} to ${max}.`);
    }
    return value;
  };
}

export function share(text: string): number {
  const value = Number(text);
  if (text.trim() === '' || !(value >= 0 && value <= 1)) throw new InvalidArgumentError('Expected a number from 0 to 1.');
  return value;
}

const UNIT_MS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** Milliseconds from `250ms`, `10s`, `1.5m`, `1h`, `2d`; also 0. */
export function durationOrNone(text: string): number {
  const match = /^(\d+(?:\.\d+)?)(ms|s|m|h|d)$/.exec(text);
  if (match === null) throw new InvalidArgumentError('Expected a duration like 250ms, 10s, 5m, 1h, 2d.');
  return Math.round(Number(match[1]) * (UNIT_MS[match[2] ?? ''] ?? 0));
}

/** One in which something can happen. */
export function duration(text: string): number {
  const ms = durationOrNone(text);
  if (ms < 1) throw new InvalidArgumentError('Expected a duration of at least 1ms.');
  return ms;
}

export function integers(min: number, max: number): (text: string) => number[] {
  const one = integer(min, max);
  return (text) => text.split(',').map((part) => one(part.trim()));
}

export function words<W extends string>(allowed: readonly W[]): (text: string) => W[] {
  return (text) =>
    text.split(',').map((part) => {
      const word = allowed.find((candidate) => candidate === part.trim());
      if (word === undefined) throw new InvalidArgumentError(`Expected some of ${allowed.join(', ')}, with commas between.`);
      return word;
    });
}

/**
 * A moment, which stays text: only the cluster's clock says what a span before now is. What can be none on any clock is refused
 * here, before anybody is asked.
 */
export function moment(option: string): (text: string) => string {
  return (text) => {
    parseTimestamp(text, TIMESTAMP_MAX, option);
    return text;
  };
}

/** `host:port`, an IPv6 host in brackets; several with commas between. */
export function endpoints(text: string): string[] {
  return text.split(',').map((part) => {
    const endpoint = part.trim();
    const port = Number(/^(?:\[[0-9a-fA-F:.]+\]|[^\s:[\]]+):(\d{1,5})$/.exec(endpoint)?.[1] ?? '0');
    if (port < 1 || port > 65_535) throw new InvalidArgumentError(`'${endpoint}' is not host:port.`);
    return endpoint;
  });
}

export const DEFAULT_ENDPOINT = '127.0.0.1:7100';

export interface ConnectionArguments extends TlsArguments {
  readonly endpoint: string[];
  readonly timeout: number;
  readonly json: boolean;
}

/** For every command that talks to a cluster. */
export function withConnection(command: Command): Command {
  return withTls(command)
    .addOption(
      new Option('-e, --endpoint <host:port>', 'a node or the sidecar; several with commas between')
        .default([DEFAULT_ENDPOINT], DEFAULT_ENDPOINT)
        .env('TIDEMARK_ENDPOINT')
        .argParser(endpoints),
    )
    .addOption(new Option('--timeout <duration>', 'give up after').default(10_000, '10s').argParser(duration))
    .option('--json', 'print JSON', false);
}
