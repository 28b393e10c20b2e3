import { EXIT } from './exit.js';

/**
 * How a long-running command lives and ends. The first SIGINT or SIGTERM asks it to stop in order, a later one ends it at
 * once. A process that a launcher started also stops when its launcher is gone (its IPC channel closes).
 */
export interface Lifetime {
  /** Aborted when the command should stop; the reason is a phrase such as `SIGTERM`. */
  readonly signal: AbortSignal;
  /** Tells a launcher, if there is one, that this process serves. */
  ready(): void;
  /** Stops listening for signals. */
  end(): void;
}

/** Package runners pass on the Ctrl-C that the terminal has already sent to everybody: that is still the first one. */
const SAME_SIGNAL_MS = 500;

export function beginLifetime(): Lifetime {
  const controller = new AbortController();
  let askedMs = Infinity;
  const ask = (reason: string): void => {
    if (performance.now() - askedMs > SAME_SIGNAL_MS) process.exit(EXIT.INTERRUPTED);
    askedMs = Math.min(askedMs, performance.now());
    controller.abort(reason);
  };
  const interrupted = (): void => ask('SIGINT');
  const terminated = (): void => ask('SIGTERM');
  const orphaned = (): void => {
    if (!controller.signal.aborted) controller.abort('the process that started it is gone');
  };
  process.on('SIGINT', interrupted);
  process.on('SIGTERM', terminated);
  process.on('disconnect', orphaned);
  return {
    signal: controller.signal,
    ready: () => process.send?.({ ready: true }),
    end: () => {
      process.off('SIGINT', interrupted);
      process.off('SIGTERM', terminated);
      process.off('disconnect', orphaned);
      if (process.connected) process.disconnect();
    },
  };
}

/** Resolves with the reason when the signal is aborted. */
export function aborted(signal: AbortSignal): Promise<string> {
  return new Promise((done) => {
    if (signal.aborted) done(String(signal.reason));
    else signal.addEventListener('abort', () => done(String(signal.reason)), { once: true });
  });
}
