#!/usr/bin/env node
import { runCommand } from './program.js';

const { stdin, stdout, stderr } = process;

// Whoever read the output has gone (`tidemark scan | head`): nothing is left to do, and that is no error.
stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error;
  process.exit();
});

process.exitCode = await runCommand(process.argv.slice(2), { stdin, stdout, stderr });
