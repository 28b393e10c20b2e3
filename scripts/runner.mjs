import { clearInterval, setInterval } from 'node:timers';

const LOOK_MS = 500;

/**
 * Sends SIGTERM to this process when the package runner that started it is gone. A signal to npm alone, from a process manager
 * for instance, ends npm and its shell, which pass it on to nobody; what they ran would go on, out of reach of any Ctrl-C.
 */
export function endWithRunner() {
  if (process.env.npm_lifecycle_event === undefined) return;
  const runner = process.ppid;
  const timer = setInterval(() => {
    if (process.ppid === runner) return;
    clearInterval(timer);
    process.kill(process.pid, 'SIGTERM');
  }, LOOK_MS);
  timer.unref();
}
