import { pack, unpack } from 'msgpackr';
import type { Bytes } from '../lib/bytes.js';
import { TidemarkError } from '../lib/errors.js';
import { mutant } from '../lib/mutants.js';
import { formatTimestamp, type Timestamp } from '../mvcc/timestamp.js';

/**
 * How far back a bucket can be read: its horizon, and the pins that hold it back. Both are replicated: they change by log entries
 * alone, so that every replica refuses the same moments and none removes what another still promises.
 *
 *     [100, 0, horizon, now, pinFloor]              raise the horizon, as far as the pins allow
 *     [100, 1, name, timestamp, expires, most]      hold a moment, until `expires` (0: for ever) or until it is let go
 *     [100, 2, name]                                let it go
 *
 * An entry that finds things other than its leader did changes nothing that it must not: a pin below the horizon is not taken,
 * and a horizon stops at the lowest pin. So a leader may propose both without waiting for what is in flight.
 *
 * `pinFloor` is the budget of the pins: whatever they hold below it is lost, and stays in the list as lost until it is removed.
 *
 * Example: horizon 100, pin `audit` at 150. Raising to 200 stops at 150; the pin is removed; raising to 200 now does.
 */
export interface Pin {
  readonly name: string;
  readonly timestamp: Timestamp;
  /** 0: never. */
  readonly expires: Timestamp;
  /** The horizon has passed it, for it held back more than it may. */
  readonly lost: boolean;
}

export interface Retained {
  /** The earliest timestamp that can be read. */
  readonly horizon: Timestamp;
  readonly pins: readonly Pin[];
}

export type RetentionEntry =
  | { readonly kind: 'raise'; readonly horizon: Timestamp; readonly now: Timestamp; readonly pinFloor: Timestamp }
  | {
      readonly kind: 'pin';
      readonly name: string;
      readonly timestamp: Timestamp;
      readonly expires: Timestamp;
      readonly most: number;
    }
  | { readonly kind: 'unpin'; readonly name: string };

/** The first field of every data entry is its format; this is that of these. */
const FORMAT = 100;
const RAISE = 0;
const PIN = 1;
const UNPIN = 2;

export type PinTuple = [name: string, timestamp: number, expires: number, lost: 0 | 1];

export function pinToTuple({ name, timestamp, expires, lost }: Pin): PinTuple {
  return [name, timestamp, expires, lost ? 1 : 0];
}

export function pinFromTuple([name, timestamp, expires, lost]: PinTuple): Pin {
  return { name, timestamp, expires, lost: lost === 1 };
}

export function encodeRetention(entry: RetentionEntry): Bytes {
  switch (entry.kind) {
    case 'raise':
      return pack([FORMAT, RAISE, entry.horizon, entry.now, entry.pinFloor]);
    case 'pin':
      return pack([FORMAT, PIN, entry.name, entry.timestamp, entry.expires, entry.most]);
    case 'unpin':
      return pack([FORMAT, UNPIN, entry.name]);
  }
}

/** A data entry is a msgpack array of fewer than 16 fields, the first of them a small number: its second byte. */
export function isRetention(data: Bytes): boolean {
  return data[1] === FORMAT;
}

/** Throws FAILED_PRECONDITION / NEWER_FORMAT for an entry that a newer release wrote. */
export function decodeRetention(data: Bytes): RetentionEntry {
  const [, kind, ...fields] = unpack(data) as [number, number, ...unknown[]];
  switch (kind) {
    case RAISE: {
      const [horizon, now, pinFloor] = fields as [number, number, number];
      return { kind: 'raise', horizon, now, pinFloor };
    }
    case PIN: {
      const [name, timestamp, expires, most] = fields as [string, number, number, number];
      return { kind: 'pin', name, timestamp, expires, most };
    }
    case UNPIN:
      return { kind: 'unpin', name: (fields as [string])[0] };
    default:
      throw new TidemarkError('FAILED_PRECONDITION', 'NEWER_FORMAT', `a retention entry is of the unknown kind ${kind}`);
  }
}

/** What an entry makes of what there was: the same on every replica. */
export function applyRetention({ horizon, pins }: Retained, entry: RetentionEntry): Retained {
  switch (entry.kind) {
    case 'raise': {
      const left = pins.filter(({ expires }) => expires === 0 || expires > entry.now);
      const holding = left.filter(({ lost, timestamp }) => !lost && timestamp >= entry.pinFloor);
      const lowest = mutant('pins-ignored') ? Infinity : Math.min(...holding.map(({ timestamp }) => timestamp));
      const raised = Math.max(horizon, Math.min(entry.horizon, lowest));
      return { horizon: raised, pins: left.map((pin) => (pin.timestamp < raised ? { ...pin, lost: true } : pin)) };
    }
    case 'pin': {
      const { name, timestamp, expires, most } = entry;
      const others = pins.filter((pin) => pin.name !== name);
      const same = pins.find((pin) => pin.name === name);
      const isFree = same === undefined ? pins.length < most : same.timestamp === timestamp && !same.lost;
      if (timestamp < horizon || !isFree) return { horizon, pins };
      return { horizon, pins: [...others, { name, timestamp, expires, lost: false }] };
    }
    case 'unpin':
      return { horizon, pins: pins.filter(({ name }) => name !== entry.name) };
  }
}

/** Throws BEFORE_HORIZON, which names the earliest moment that can be read of all of these buckets. */
export function checkReadable(asked: Timestamp, replicas: readonly { readonly state: Pick<Retained, 'horizon'> }[]): void {
  const horizon = Math.max(0, ...replicas.map(({ state }) => state.horizon));
  if (asked < horizon) throw beforeHorizon(asked, horizon);
}

/** Reads below the horizon are refused with this; it names the earliest moment that can be read. */
export function beforeHorizon(asked: Timestamp, horizon: Timestamp): TidemarkError {
  const message =
    `history before ${formatTimestamp(horizon)} is gone; asked for ${formatTimestamp(asked)}; ` +
    `the earliest readable timestamp is ${horizon}`;
  return new TidemarkError('OUT_OF_RANGE', 'BEFORE_HORIZON', message, { details: { earliestReadable: String(horizon) } });
}
