import type { Limits } from '../env/limits.js';
import { isTidemarkError, TidemarkError } from '../lib/errors.js';
import { mutant } from '../lib/mutants.js';
import type { Replica } from '../bucket/replica.js';
import { beforeHorizon } from '../bucket/retention.js';
import { earlier, formatTimestamp, later, type Timestamp } from '../mvcc/timestamp.js';
import type { PinAction, Result } from '../router/operations.js';
import { mergePins } from '../router/pins.js';

/**
 * Pins in the buckets that this node leads. A pin is kept in every bucket by itself (bucket/retention.ts), so that no bucket asks
 * anybody before it raises its horizon. Adding one again with the same timestamp, and removing what is not there, succeed: so a
 * router may ask again until all buckets have it.
 */
export async function changePins(
  action: PinAction,
  replicas: readonly Replica[],
  { limits, now, deadlineMs }: { readonly limits: Limits; readonly now: Timestamp; readonly deadlineMs: number },
): Promise<Result['pins']> {
  if (action.kind === 'add') {
    const floor = earlier(now, limits.pinMsMax);
    if (action.timestamp < floor) {
      const message = `a pin holds at most ${limits.pinMsMax} ms: the earliest timestamp that can be pinned is ${floor}`;
      throw new TidemarkError('OUT_OF_RANGE', 'PIN_TOO_OLD', message, { details: { earliestReadable: String(floor) } });
    }
    checkExpires(action, limits);
  }
  const changes = await Promise.allSettled(
    replicas.map(async (replica) => {
      // A leader that has lost its office unawares may know pins that are gone, and not know those that are there.
      if (!mutant('pins-unconfirmed')) await replica.reads.open({ kind: 'linearizable' }, deadlineMs);
      if (action.kind === 'add') await add(replica, action, limits.pinsMax);
      else if (action.kind !== 'list') await remove(replica, action);
      return replica.state.meta.pins.filter(({ expires }) => expires === 0 || expires > now);
    }),
  );
  // When all have ended: whoever takes a refused pin back must not be overtaken by what is in flight.
  const isPartlyDone = action.kind !== 'list' && changes.some(({ status }) => status === 'fulfilled');
  const seen = changes.map((change) => {
    if (change.status === 'rejected') throw isPartlyDone ? inDoubt(change.reason) : change.reason;
    return change.value.map((pin) => ({ ...pin, buckets: 1 }));
  });
  return { pins: mergePins(seen), horizon: Math.max(0, ...replicas.map(({ state }) => state.horizon)) };
}

type Addition = Extract<PinAction, { kind: 'add' }>;

/** Whoever is told when a pin expires relies on it until then. */
function checkExpires({ timestamp, expires }: Addition, { pinMsMax }: Limits): void {
  const last = later(timestamp, pinMsMax);
  if (expires <= last) return;
  const message =
    `the pin would expire at ${formatTimestamp(expires)}, but holds at most ${pinMsMax} ms (limits.pinMsMax) from its moment ` +
    `on: until ${formatTimestamp(last)}`;
  const details = { limit: String(pinMsMax), latest: String(last) };
  throw new TidemarkError('INVALID_ARGUMENT', 'PIN_TOO_LONG', message, { details });
}

async function add(replica: Replica, { name, timestamp, expires }: Addition, most: number): Promise<void> {
  check(replica, name, timestamp, most);
  const present = replica.state.meta.pins.find((pin) => pin.name === name);
  if (present?.expires === expires) return;
  await replica.commands.retain({ kind: 'pin', name, timestamp, expires, most });
  // Whatever was in flight before may have changed what there was.
  check(replica, name, timestamp, most);
  if (replica.state.meta.pins.some((pin) => pin.name === name && pin.timestamp === timestamp && !pin.lost)) return;
  const message = `bucket ${replica.bucket} did not keep pin ${name}`;
  throw new TidemarkError('UNAVAILABLE', 'LEADERSHIP_LOST', message, { retriable: true });
}

/** Whoever added it may have given up while its entry is in flight: what is not there yet must not come later. */
async function remove(replica: Replica, action: Exclude<PinAction, { kind: 'list' | 'add' }>): Promise<void> {
  const { name } = action;
  if (action.kind === 'takeBack') {
    const timestampOf = (): Timestamp | undefined => replica.state.meta.pins.find((pin) => pin.name === name)?.timestamp;
    // An entry that changes nothing, behind all that are in flight.
    if (timestampOf() === undefined) await replica.commands.retain({ kind: 'raise', horizon: 0, now: 0, pinFloor: 0 });
    if (timestampOf() !== action.timestamp) return;
  }
  await replica.commands.retain({ kind: 'unpin', name });
}

/** Some of the buckets that were asked have done it. */
function inDoubt(error: unknown): unknown {
  if (!isTidemarkError(error) || error.outcome === 'unknown') return error;
  const { code, reason, message, retriable, details } = error;
  return new TidemarkError(code, reason, message, { retriable, details, outcome: 'unknown', cause: error });
}

function check({ bucket, state }: Replica, name: string, timestamp: Timestamp, most: number): void {
  const { horizon, pins } = state.meta;
  if (timestamp < horizon) throw beforeHorizon(timestamp, horizon);
  const same = pins.find((pin) => pin.name === name);
  if (same === undefined && pins.length >= most) {
    const message = `there are ${pins.length} pins, and at most ${most} may be; remove one first`;
    throw new TidemarkError('RESOURCE_EXHAUSTED', 'TOO_MANY_PINS', message, { details: { limit: String(most) } });
  }
  if (same === undefined || (same.timestamp === timestamp && !same.lost)) return;
  const what = same.lost ? 'is there and lost' : `holds ${formatTimestamp(same.timestamp)} (${same.timestamp})`;
  const message = `pin ${name} ${what}, in bucket ${bucket}; remove it first`;
  throw new TidemarkError('ALREADY_EXISTS', 'PIN_EXISTS', message, { details: { timestamp: String(same.timestamp) } });
}
