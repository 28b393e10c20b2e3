import type { Timestamp } from '../../bucket/requests.js';
import type { Command, Done } from './record.js';

/** How things are called in the report of a failed run. */
export function nameOf({ number, changes, attempts }: Command): string {
  const what = changes.map(({ key, value }) => (value === undefined ? `delete ${key}` : `put ${key}`)).join(', ');
  return `command ${number} (${what}; ${attempts[0]?.client}, ${attempts[0]?.invokeMs.toFixed(1)} ms)`;
}

export function nameOfRead(read: Done): string {
  const how = read.kind === 'history' ? 'history' : `${read.asked.kind} ${read.kind}`;
  const what = read.kind === 'scan' ? `[${read.start}, ${read.end})` : read.key;
  const node = read.kind === 'scan' ? read.proofs[0]?.node : read.proof.node;
  return `${how} of ${what} (${read.client}, node ${node}, ${read.invokeMs.toFixed(1)} to ${read.retMs.toFixed(1)} ms)`;
}

interface Shown {
  readonly version: Timestamp;
  readonly value?: string;
  readonly deleted?: boolean;
}

export function brief(version: Shown | undefined): string {
  if (version === undefined) return 'nothing';
  return `${version.deleted === true ? 'a delete' : (version.value ?? '').slice(0, 12)}@${version.version}`;
}
