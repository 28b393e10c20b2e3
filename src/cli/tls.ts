import { readFileSync } from 'node:fs';
import { Option, type Command } from 'commander';
import type { TlsFiles } from '../env/real/network.js';
import { messageOf } from '../lib/errors.js';
import { UsageError } from './exit.js';

/** Mutual TLS on the command line: all three files or none. */
export interface TlsArguments {
  readonly tlsCa?: string;
  readonly tlsCert?: string;
  readonly tlsKey?: string;
}

export function withTls(command: Command): Command {
  return command
    .addOption(new Option('--tls-ca <file>', 'PEM: the authority of the cluster').env('TIDEMARK_TLS_CA'))
    .addOption(new Option('--tls-cert <file>', 'PEM: the certificate to show').env('TIDEMARK_TLS_CERT'))
    .addOption(new Option('--tls-key <file>', 'PEM: its key').env('TIDEMARK_TLS_KEY'));
}

export function tlsFilesOf({ tlsCa, tlsCert, tlsKey }: TlsArguments): TlsFiles | undefined {
  if (tlsCa === undefined && tlsCert === undefined && tlsKey === undefined) return undefined;
  if (tlsCa === undefined || tlsCert === undefined || tlsKey === undefined) {
    throw new UsageError('--tls-ca, --tls-cert and --tls-key are needed together');
  }
  return { ca: readPem(tlsCa), cert: readPem(tlsCert), key: readPem(tlsKey) };
}

function readPem(path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (error) {
    throw new UsageError(`a TLS file cannot be read: ${messageOf(error)}`);
  }
}
