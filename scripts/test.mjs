#!/usr/bin/env node
/**
 * `npm test`: everything that must hold before a change may land, from a fresh clone on. Installs and builds first; then all
 * checks run, also after one of them failed, so that one run shows all there is to mend. Exit code 0 only if all passed.
 */
import { build, checkNode, install, installNeeded, root, run, tool } from './prepare.mjs';

const results = [];

async function step(name, work) {
  console.log(`\n── ${name} ${'─'.repeat(Math.max(0, 70 - name.length))}`);
  const start = performance.now();
  const code = await work();
  results.push({ name, code, seconds: (performance.now() - start) / 1000 });
  return code === 0;
}

function summary() {
  console.log(`\n── summary ${'─'.repeat(63)}`);
  for (const { name, code, seconds } of results) {
    console.log(`${code === 0 ? 'passed' : 'FAILED'}  ${name.padEnd(12)} ${seconds.toFixed(1).padStart(7)} s`);
  }
  process.exitCode = results.every(({ code }) => code === 0) ? 0 : 1;
}

try {
  checkNode();
  const ready = (!installNeeded() || (await step('install', install))) && (await step('build', build));
  if (ready) {
    await step('types', () => tool('typescript/bin/tsc', ['-p', 'tsconfig.json', '--noEmit']));
    await step('lint', () => tool('eslint/bin/eslint.js', ['--max-warnings', '0', '.']));
    await step('house', () => run(process.execPath, [`${root}/scripts/check-house.mjs`]));
    await step('tests', () => tool('mocha/bin/mocha.js', ['test/**/*.test.ts']));
  }
  summary();
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
