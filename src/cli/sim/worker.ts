import { runJob, type Job } from './job.js';

/** A process that runs one seed after the other as it is told (pool.ts), until nobody is there to tell it. */
export type Reply = Awaited<ReturnType<typeof runJob>>;

process.on('message', (job: Job) => {
  // An error ends the process, and the pool says of which seed it was.
  void runJob(job).then((reply: Reply) => process.send?.(reply));
});
process.on('disconnect', () => process.exit());
// A terminal tells all processes of a command to stop; it is for the first of them to decide.
process.on('SIGINT', () => undefined);
