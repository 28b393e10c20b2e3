import { isTidemarkError, TidemarkError } from '../lib/errors.js';
import type { BucketId } from '../placement/map.js';
import type { Call } from './call.js';
import type { Dispatcher } from './dispatch.js';
import type { PinAction, PinSeen, Result } from './operations.js';
import { scatter } from './scatter.js';

/**
 * Pins over all buckets. Adding one is not atomic over them: it is acknowledged when every bucket keeps it, and if one cannot, it
 * is taken back from the others: nothing was done if all of them say that it is gone. What an interruption leaves shows in the
 * list as held by only some of the buckets, and can be added again, or removed. A change that failed, but may have been made in
 * some, is told with an unknown outcome.
 */
export async function pinsOverBuckets(
  dispatcher: Dispatcher,
  buckets: readonly BucketId[],
  action: PinAction,
  call: Call,
): Promise<Result['pins'] & { readonly node: number }> {
  const ask = async (what: PinAction): Promise<Result['pins'] & { readonly node: number }> => {
    const parts = await scatter(dispatcher, buckets, 'leader', (some) => ({ kind: 'pins', buckets: some, action: what }), call);
    const horizon = Math.max(0, ...parts.map(({ answer }) => answer.result.horizon));
    return { pins: mergePins(parts.map(({ answer }) => answer.result.pins)), horizon, node: parts[0]?.node ?? 0 };
  };
  if (action.kind !== 'add') return ask(action);
  const present = (await ask({ kind: 'list' })).pins.some(({ name }) => name === action.name);
  try {
    return await ask(action);
  } catch (error) {
    // What was pinned under that name before stays.
    if (present || !isTidemarkError(error)) throw error;
    // Not what somebody else has pinned under that name meanwhile, and was told that it holds.
    const undone = await ask({ kind: 'takeBack', name: action.name, timestamp: action.timestamp }).then(
      () => true,
      () => false,
    );
    const { code, reason, message, retriable, details } = error;
    if (undone) {
      if (error.outcome === 'none') throw error;
      const text = `${message} (what was kept was taken back)`;
      throw new TidemarkError(code, reason, text, { retriable, details, cause: error });
    }
    const text = `${message} (some buckets may keep pin ${action.name}: add it again, or remove it)`;
    throw new TidemarkError(code, reason, text, { retriable, details, outcome: 'unknown', cause: error });
  }
}

/** By name; a pin counts as lost where one bucket has lost it. */
export function mergePins(lists: readonly (readonly PinSeen[])[]): PinSeen[] {
  const byName = new Map<string, PinSeen>();
  for (const { name, timestamp, expires, lost, buckets } of lists.flat()) {
    const known = byName.get(name);
    byName.set(name, {
      name,
      timestamp: known?.timestamp ?? timestamp,
      expires: known?.expires ?? expires,
      lost: lost || known?.lost === true || (known !== undefined && known.timestamp !== timestamp),
      buckets: buckets + (known?.buckets ?? 0),
    });
  }
  return [...byName.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
}
