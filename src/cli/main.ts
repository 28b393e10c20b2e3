#!/usr/bin/env node
import { EXIT } from './exit.js';
import { runCommand } from './program.js';

const { stdin, stdout, stderr } = process;

// Whoever read the output has gone (`tidemark scan | head`): nothing is left to do, and that is no error. Anything else, such as
// a full disk, is one: what was asked for is not there.
stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit();
  stderr.write(`tidemark: standard output cannot be written: ${error.message}\n`);
  process.exit(EXIT.ERROR);
});

process.exitCode = await runCommand(process.argv.slice(2), { stdin, stdout, stderr });
