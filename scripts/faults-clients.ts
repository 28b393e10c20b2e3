import { Load, type FromClients, type ToClients } from '../test/faults/harness/load.js';

/** A client process of scripts/faults, which starts it and talks to it over its IPC channel. */
const tell = (message: FromClients): void => void process.send?.(message);
const failed = (error: unknown): void => tell({ kind: 'failed', why: String((error as Error).stack ?? error) });
let load: Load | undefined;

process.on('message', (message: ToClients) => {
  void take(message).catch(failed);
});
// The harness is gone, and everything else goes with it.
process.once('disconnect', () => process.exit(1));

async function take(message: ToClients): Promise<void> {
  if (message.kind === 'start') {
    load = await Load.start(message.plan, tell);
    tell({ kind: 'started' });
    return;
  }
  await load?.take(message);
  if (message.kind === 'end') process.exit(0);
}
