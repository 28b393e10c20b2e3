const MARGIN_MS_MAX = 200;
const MARGIN_PART = 0.1;
/** A node looks every tenth of a second for commands whose time to wait is up. */
const LOCK_MARGIN_MS_MIN = 150;
const TRY_MS_MIN = 250;

/** When a router gives up, so that whoever asked hears why before his own clock says that nobody has answered. Infinity stays. */
export function marginBefore(deadlineMs: number, nowMs: number): number {
  return deadlineMs - marginOf(deadlineMs - nowMs);
}

/**
 * Until when a command waits for locks. Silence would leave it open whether it was carried out, so the way back of the news that
 * nothing was done gets more of a short time.
 */
export function lockWaitBefore(deadlineMs: number, nowMs: number): number {
  const leftMs = Math.max(0, deadlineMs - nowMs);
  return deadlineMs - Math.min(leftMs / 2, Math.max(LOCK_MARGIN_MS_MIN, marginOf(leftMs)));
}

/** There is no time for another try that may have to wait for locks: the answer to the one before is the last. */
export function isTooLate(deadlineMs: number, nowMs: number): boolean {
  return deadlineMs - nowMs < TRY_MS_MIN;
}

function marginOf(leftMs: number): number {
  return Math.min(MARGIN_MS_MAX, Math.max(0, leftMs) * MARGIN_PART);
}
