#!/usr/bin/env node
/**
 * `npm start`: from a fresh clone to a running local cluster. Installs and builds what is missing or out of date, then becomes
 * `tidemark cluster start` in this same process, so that signals reach it directly. Arguments are passed on:
 * `npm start -- --base-port 8100 --nodes 5`.
 */
import { pathToFileURL } from 'node:url';
import { build, buildNeeded, checkNode, install, installNeeded, root } from './prepare.mjs';
import { endWithRunner } from './runner.mjs';

async function prepare() {
  checkNode();
  if (installNeeded()) {
    console.log('Installing packages ...');
    if ((await install()) !== 0) throw new Error('npm ci failed; its messages are above');
  }
  if (buildNeeded()) {
    console.log('Building ...');
    if ((await build()) !== 0) throw new Error('the build failed; its messages are above');
  }
}

try {
  endWithRunner();
  await prepare();
  const main = `${root}/dist/cli/main.js`;
  process.argv = [process.execPath, main, 'cluster', 'start', ...process.argv.slice(2)];
  await import(pathToFileURL(main).href);
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
