import { TidemarkError } from '../lib/errors.js';

/**
 * What an epoch of the placement that somebody names is worth. The highest epoch wins wherever it is heard, so maps spread in any
 * order and an older one never comes back:
 *
 *   older    no fault: whoever has it is told the present placement, and what it asks for is done if it can be done here
 *   newer    no fault: this process is the one that is behind, and does what it can do by what it holds
 *   absurd   further ahead than EPOCH_LEAD_MAX: refused and never believed, for nothing could outdo it later
 */
export const EPOCH_LEAD_MAX = 1_000_000;

/** Throws FAILED_PRECONDITION / WRONG_EPOCH if an epoch is absurd where `known` is the present one. `who` claims it. */
export function checkEpoch(epoch: number, known: number, who: string): void {
  if (epoch <= known + EPOCH_LEAD_MAX) return;
  const message =
    `${who} says that the placement is at epoch ${epoch}; here it is known at epoch ${known}, and nobody is believed who is ` +
    `more than ${EPOCH_LEAD_MAX} ahead: ask both sides for their epoch (tidemark cluster status), and mend the wrong one`;
  throw new TidemarkError('FAILED_PRECONDITION', 'WRONG_EPOCH', message, { details: { epoch: String(known) } });
}
