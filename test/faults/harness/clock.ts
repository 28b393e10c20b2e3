/** Milliseconds of a monotonic clock that all processes of one machine share: that of the kernel (CLOCK_MONOTONIC). */
export function sharedNowMs(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}
