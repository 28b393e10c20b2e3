import { execFile } from 'node:child_process';

/** Runs a system command to its end while everything else goes on; rejects with what it said if it fails. */
export function run(command: string, args: readonly string[], input = ''): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = execFile(command, args, (error, _stdout, stderr) => {
      if (error === null) resolve();
      else reject(new Error(`${[command, ...args].join(' ')}: ${stderr.trim() || error.message}`, { cause: error }));
    });
    // A command that ends without reading it says itself what is wrong.
    child.stdin?.once('error', () => {}).end(input);
  });
}
