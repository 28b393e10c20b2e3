#!/usr/bin/env node
/**
 * `npm test`: everything that must hold before a change may land, from a fresh clone on. Installs and builds first; then all
 * checks run, also after one of them failed, so that one run shows all there is to mend. Exit code 0 only if all passed.
 */
import { readFileSync, readdirSync } from 'node:fs';
import { posix } from 'node:path';
import { build, checkNode, install, installNeeded, root, run, tool, toolBeside } from './prepare.mjs';

const MOCHA = 'mocha/bin/mocha.js';
/** Their tests run processes, sockets and disks, whose deadlines are real time: nothing else may run beside them. */
const REAL = ['cli', 'client', 'contract', 'env', 'faults', 'hostile', 'network', 'services', 'sidecar'];
/** Runs tests of other files, which it imports, as well: what catches the planted bugs. */
const PLANTED = 'test/sim/mutants.test.ts';

const results = [];

async function step(name, work) {
  console.log(`\n── ${name} ${'─'.repeat(Math.max(0, 70 - name.length))}`);
  const start = performance.now();
  const code = await work();
  results.push({ name, code, seconds: (performance.now() - start) / 1000 });
  return code === 0;
}

/** Of what runs at the same time: 0 if all of it passed. */
async function firstFailure(codes) {
  return (await Promise.all(codes)).find((code) => code !== 0) ?? 0;
}

function testFiles() {
  const files = readdirSync(`${root}/test`, { recursive: true }).map((name) => `test/${name.replaceAll('\\', '/')}`);
  return files.filter((name) => name.endsWith('.test.ts')).sort();
}

function isReal(file) {
  return REAL.includes(file.split('/')[1]);
}

/** In two processes, each of which keeps a core busy: the time in these tests is simulated. */
async function simulated() {
  const imports = readFileSync(`${root}/${PLANTED}`, 'utf8').matchAll(/^import '(.*\.test)\.js';$/gm);
  const planted = [PLANTED, ...Array.from(imports, ([, path]) => posix.join(posix.dirname(PLANTED), `${path}.ts`))];
  const others = testFiles().filter((file) => !isReal(file) && !planted.includes(file));
  return firstFailure([tool(MOCHA, [PLANTED]), toolBeside(MOCHA, others)]);
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
    const types = () => tool('typescript/bin/tsc', ['-p', 'tsconfig.json', '--noEmit']);
    const lint = () => toolBeside('eslint/bin/eslint.js', ['--max-warnings', '0', '.']);
    await step('types, lint', () => firstFailure([types(), lint()]));
    await step('house', () => run(process.execPath, [`${root}/scripts/check-house.mjs`]));
    await step('simulated', simulated);
    await step('real', () => tool(MOCHA, testFiles().filter(isReal)));
  }
  summary();
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
