import type { Json } from '../../../src/check/history.js';
import type { Record } from '../../../src/bucket/requests.js';
import type { Change, Position } from '../../../src/changes/change.js';
import { bucketOf } from '../../../src/placement/map.js';
import type { Told } from '../../../src/sim/swarm/check-streams.js';

/**
 * What a change stream told, as JSON in a history; keys and values are text.
 *
 *     ["m", timestamp]                                                      a mark
 *     ["e", timestamp, key, value, version]                                 a key of a snapshot
 *     ["c", timestamp, [bucket, index, position], key, value, id, before]   a change; before: [version, value] or null
 *
 * A deleted key has the value null. Plain gRPC does not name the positions of changes: then it is null.
 */
export function encodeMark(timestamp: number): Json {
  return ['m', timestamp];
}

export function encodeEntry(timestamp: number, { key, value, version }: Record): Json {
  return ['e', timestamp, key.toString(), value.toString(), version];
}

/** `at` may be no more than the timestamp. */
export function encodeChange({ at, key, deleted, value, before, transaction }: Omit<Change, 'at'> & { readonly at: Place }): Json {
  const place = 'bucket' in at ? [at.bucket, at.index, at.position] : null;
  const was = before === undefined ? null : [before.version, before.value.toString()];
  return ['c', at.timestamp, place, key.toString(), deleted ? null : value.toString(), transaction.toString('base64url'), was];
}

type Place = Position | { readonly timestamp: number };

type Encoded =
  | readonly ['m', timestamp: number]
  | readonly ['e', timestamp: number, key: string, value: string, version: number]
  | EncodedChange;

type EncodedChange = readonly [
  'c',
  timestamp: number,
  place: readonly [bucket: number, index: number, position: number] | null,
  key: string,
  value: string | null,
  id: string,
  before: readonly [version: number, value: string] | null,
];

/** Decodes what all connections of all chains were told: the positions that one names are those of all. */
export class ToldDecoder {
  readonly #buckets: number;
  readonly #positions = new Map<string, Position>();

  constructor(told: readonly (readonly Json[])[], buckets: number) {
    this.#buckets = buckets;
    for (const event of told.flat() as unknown as readonly Encoded[]) {
      if (event[0] !== 'c') continue;
      const [, timestamp, place, key] = event;
      if (place !== null) this.#positions.set(`${timestamp} ${key}`, { timestamp, bucket: place[0], index: place[1], position: place[2] });
    }
  }

  decode(told: readonly Json[]): Told[] {
    return (told as unknown as readonly Encoded[]).map((event, count): Told => {
      switch (event[0]) {
        case 'm':
          return { kind: 'mark', timestamp: event[1] };
        case 'e': {
          const [, timestamp, key, value, version] = event;
          return { kind: 'entries', timestamp, entries: [{ key: Buffer.from(key), value: Buffer.from(value), version }] };
        }
        case 'c':
          return { kind: 'changes', changes: [this.#changeOf(event, count)] };
      }
    });
  }

  #changeOf([, timestamp, place, name, value, id, was]: EncodedChange, count: number): Change {
    const key = Buffer.from(name);
    const known = this.#positions.get(`${timestamp} ${name}`);
    const named = place === null ? undefined : { timestamp, bucket: place[0], index: place[1], position: place[2] };
    // In the order in which they came, if nobody has named it.
    const at = named ?? known ?? { timestamp, bucket: bucketOf(key, this.#buckets), index: 0, position: count };
    if (known === undefined) this.#positions.set(`${timestamp} ${name}`, at);
    return {
      at,
      key,
      deleted: value === null,
      value: Buffer.from(value ?? ''),
      before: was === null ? undefined : { version: was[0], value: Buffer.from(was[1]) },
      transaction: Buffer.from(id, 'base64url'),
    };
  }
}
