#!/usr/bin/env node
/**
 * Holds the rules of the house that no compiler knows:
 *
 *   direction   imports between the folders of src/ go downward only, along ALLOWED
 *   cycle       no file imports itself through others
 *   package     each npm package and node: module is used only where PACKAGES and BUILTINS say
 *   global      clocks, timers, randomness, sockets, files, process and console only where the world is built
 *   pure        the pure layers have no await, async or Promise
 *   dead        every file of src/ is reached from an entry point; sim and the helpers of test/ from a test
 *   barrel      no file that only re-exports, except the public API
 *   length      files up to 600 lines (aim: 400; a note is printed above it); lines up to 130 columns (aim: 120)
 *               except in test/, where tables of long messages are easier to read unbroken
 *   mutant      planted bugs are switched on by sim and tests only; the rest of src/ may ask for one, and nothing else
 *   todo        a TODO names an issue and a reason: TODO(#12): what is missing and why
 *
 * It reads the syntax tree, so strings and comments never count as code. `--root DIR` checks another tree. The exit code is 1
 * if anything was found.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { isBuiltin } from 'node:module';
import { dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import ts from 'typescript';

const PURE = ['raft', 'mvcc', 'placement', 'txn', 'views'];
/** Layers without anything asynchronous. */
const SYNCHRONOUS = [...PURE, 'check'];
const CORE = ['lib', 'env', 'bucket', ...PURE];

/** Layer -> the layers that it may import besides itself. `env/real` and `env` are two layers. */
const ALLOWED = {
  lib: [],
  check: ['lib'],
  env: ['lib'],
  'env/real': ['lib', 'env'],
  raft: ['lib', 'env'],
  mvcc: ['lib', 'env'],
  placement: ['lib', 'env'],
  txn: ['lib', 'env', 'mvcc', 'placement'],
  views: ['lib', 'env', 'mvcc'],
  bucket: ['lib', 'env', ...PURE],
  changes: CORE,
  router: [...CORE, 'changes'],
  node: [...CORE, 'changes', 'router'],
  // The public API is where a program enters: `connect` builds the world for it.
  client: [...CORE, 'changes', 'router', 'env/real'],
  sidecar: [...CORE, 'changes', 'router', 'node'],
  sources: [...CORE, 'changes', 'router', 'node', 'client'],
  relay: [...CORE, 'changes', 'router', 'node', 'client'],
  sim: [...CORE, 'check', 'changes', 'router', 'node', 'client', 'sidecar', 'sources', 'relay'],
  cli: [...CORE, 'check', 'env/real', 'changes', 'router', 'node', 'client', 'sidecar', 'sources', 'relay', 'sim'],
};

/** Where the outside world may be touched. */
const WORLD = ['env/real', 'sim', 'cli'];
/** node: modules that only compute, fit for every layer. */
const BUILTINS = ['node:zlib', 'node:buffer', 'node:util'];
/** npm packages outside WORLD, sources and relay (which exist to wrap them). */
const PACKAGES = { msgpackr: [...PURE, 'bucket', 'changes', 'router', 'node', 'client', 'sidecar'] };

const GLOBALS = new Set([
  'AbortSignal.timeout',
  'Date',
  'EventSource',
  'Math.random',
  'MessageChannel',
  'WebSocket',
  'Worker',
  'clearImmediate',
  'clearInterval',
  'clearTimeout',
  'console',
  'crypto',
  'fetch',
  'global',
  'globalThis',
  'performance',
  'process',
  'setImmediate',
  'setInterval',
  'setTimeout',
]);

const ENTRIES = ['src/cli/main.ts', 'src/client/index.ts'];
const MUTANTS = 'src/lib/mutants.ts';
const BARRELS = ['src/check/index.ts', 'src/client/index.ts', 'src/sim/testing/index.ts'];
const LINES_WARN = 400;
const LINES_MAX = 600;
const COLUMNS_MAX = 130;
// Spelled in two halves, so that this file does not find itself.
const LEFTOVER = new RegExp(`\\b(${['TO' + 'DO', 'FIX' + 'ME', 'X' + 'XX', 'HA' + 'CK'].join('|')})\\b`);
const EXCUSED = new RegExp(`\\b${'TO' + 'DO'}\\(#\\d+\\): \\S+ \\S+`);

const { values: options } = parseArgs({ options: { root: { type: 'string' } } });
const root = resolve(options.root ?? join(dirname(fileURLToPath(import.meta.url)), '..'));
const errors = [];
const notes = [];

function report(rule, path, line, message) {
  errors.push(`${path}${line > 0 ? `:${line}` : ''}  ${rule}: ${message}`);
}

function filesUnder(folder) {
  if (!existsSync(join(root, folder))) return [];
  return readdirSync(join(root, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && /\.(ts|mjs|js)$/.test(entry.name))
    .map((entry) => relative(root, join(entry.parentPath, entry.name)).replaceAll('\\', '/'))
    .filter((path) => !path.includes('/generated/'))
    .sort();
}

function layerOf(path) {
  const [top, folder, next, ...rest] = path.split('/');
  if (top !== 'src') return undefined;
  return folder === 'env' && next === 'real' && rest.length > 0 ? 'env/real' : folder;
}

/** Everything that a file imports, with `import()` and `export ... from`, types included. */
function importsOf(source) {
  const found = [];
  const add = (node, names) => {
    if (node === undefined || !ts.isStringLiteralLike(node)) return;
    found.push({ specifier: node.text, line: lineOf(source, node), names });
  };
  walk(source, (node) => {
    if (ts.isImportDeclaration(node)) add(node.moduleSpecifier, valuesOf(node.importClause));
    else if (ts.isExportDeclaration(node)) add(node.moduleSpecifier);
    else if (ts.isCallExpression(node) && node.expression.kind === ts.SyntaxKind.ImportKeyword) add(node.arguments[0]);
    else if (ts.isImportTypeNode(node) && ts.isLiteralTypeNode(node.argument)) add(node.argument.literal);
  });
  return found;
}

/** The values that an import names, under their own names; undefined if it takes the whole module. */
function valuesOf(clause) {
  const named = clause?.namedBindings;
  if (clause?.isTypeOnly || clause?.phaseModifier === ts.SyntaxKind.TypeKeyword) return [];
  if (named === undefined || !ts.isNamedImports(named)) return undefined;
  return named.elements.filter((each) => !each.isTypeOnly).map((each) => (each.propertyName ?? each.name).text);
}

function walk(node, visit) {
  visit(node);
  ts.forEachChild(node, (child) => walk(child, visit));
}

function lineOf(source, node) {
  return source.getLineAndCharacterOfPosition(node.getStart(source)).line + 1;
}

/** The file of this tree that a relative specifier names, if there is one. */
function resolveImport(from, specifier) {
  const path = join(dirname(from), specifier).replaceAll('\\', '/');
  for (const candidate of [path.replace(/\.js$/, '.ts'), path]) if (existsSync(join(root, candidate))) return candidate;
  return undefined;
}

function checkDirection(path, imports) {
  const layer = layerOf(path);
  const allowed = ALLOWED[layer];
  if (allowed === undefined) {
    report('direction', path, 0, `src/${layer} is no folder of the house; the folders are ${Object.keys(ALLOWED).join(', ')}`);
    return;
  }
  for (const { specifier, line, target } of imports) {
    if (target !== undefined) {
      const other = layerOf(target);
      if (other === undefined) report('direction', path, line, `imports ${target}, which is outside src/`);
      else if (other !== layer && !allowed.includes(other)) {
        report('direction', path, line, `${layer} may not import ${other} (${specifier})`);
      }
    } else if (!specifier.startsWith('.')) {
      checkPackage(path, layer, specifier, line);
    }
  }
}

/** Outside of sim `mutant` and types are all that may come from lib/mutants: nobody else can plant one. */
function checkMutants(path, layer, imports) {
  if (layer === 'sim') return;
  for (const { line, names, target } of imports) {
    if (target !== MUTANTS || names?.every((name) => name === 'mutant') === true) continue;
    report('mutant', path, line, `only sim and tests may import more than mutant() from ${MUTANTS}`);
  }
}

function checkPackage(path, layer, specifier, line) {
  if (WORLD.includes(layer)) return;
  if (isBuiltin(specifier)) {
    const name = specifier.startsWith('node:') ? specifier : `node:${specifier}`;
    const wrapper = layer === 'sources' || layer === 'relay' || layer === 'client';
    if (!BUILTINS.includes(name) && !wrapper) report('package', path, line, `${name} belongs in ${WORLD.join(', ')}: use env`);
    return;
  }
  if (layer === 'sources' || layer === 'relay') return;
  const name = specifier.split('/').slice(0, specifier.startsWith('@') ? 2 : 1).join('/');
  if (!(PACKAGES[name] ?? []).includes(layer)) report('package', path, line, `${layer} may not use the package ${name}`);
}

/** True if this identifier stands for a value or type of that name, not for a member, label or key called so. */
function isReference(node) {
  const parent = node.parent;
  if (ts.isPropertyAccessExpression(parent) || ts.isQualifiedName(parent)) return (parent.expression ?? parent.left) === node;
  if (ts.isBindingElement(parent)) return parent.propertyName !== node;
  if (ts.isImportSpecifier(parent) || ts.isExportSpecifier(parent)) return false;
  const named =
    ts.isPropertyAssignment(parent) || ts.isPropertySignature(parent) || ts.isPropertyDeclaration(parent) ||
    ts.isMethodDeclaration(parent) || ts.isMethodSignature(parent) || ts.isGetAccessor(parent) || ts.isSetAccessor(parent);
  return !(named && parent.name === node);
}

function checkGlobals(path, source) {
  walk(source, (node) => {
    if (!ts.isIdentifier(node)) return;
    const parent = node.parent;
    const member = ts.isPropertyAccessExpression(parent) && parent.expression === node ? `${node.text}.${parent.name.text}` : '';
    const name = GLOBALS.has(member) ? member : node.text;
    if (GLOBALS.has(name) && isReference(node)) {
      report('global', path, lineOf(source, node), `${name} is banned outside ${WORLD.join(', ')}: use env`);
    }
  });
}

function checkPure(path, source) {
  walk(source, (node) => {
    const name =
      node.kind === ts.SyntaxKind.AsyncKeyword ? 'async'
      : node.kind === ts.SyntaxKind.AwaitExpression || (ts.isForOfStatement(node) && node.awaitModifier) ? 'await'
      : ts.isIdentifier(node) && /^(Promise|PromiseLike|queueMicrotask)$/.test(node.text) && isReference(node) ? node.text
      : undefined;
    if (name !== undefined) report('pure', path, lineOf(source, node), `${layerOf(path)} is synchronous: no ${name}`);
  });
}

function checkComments(path, source) {
  const seen = new Set();
  const text = source.text;
  const look = (ranges) => {
    for (const range of ranges ?? []) {
      if (seen.has(range.pos)) continue;
      seen.add(range.pos);
      const comment = text.slice(range.pos, range.end);
      for (const [offset, line] of comment.split('\n').entries()) {
        if (!LEFTOVER.test(line) || EXCUSED.test(line)) continue;
        const at = source.getLineAndCharacterOfPosition(range.pos).line + 1 + offset;
        report('todo', path, at, `left over without an issue and a reason: ${line.trim()}`);
      }
    }
  };
  walk(source, (node) => {
    look(ts.getLeadingCommentRanges(text, node.getFullStart()));
    look(ts.getTrailingCommentRanges(text, node.getEnd()));
  });
}

function checkLength(path, text) {
  const lines = text.split('\n');
  const count = lines.length - (text.endsWith('\n') ? 1 : 0);
  if (count > LINES_MAX) report('length', path, 0, `${count} lines; at most ${LINES_MAX}, better ${LINES_WARN}`);
  else if (count > LINES_WARN) notes.push(`${path}  ${count} lines; does it still have one subject?`);
  if (path.startsWith('test/')) return;
  for (const [at, line] of lines.entries()) {
    const columns = [...line].length;
    if (columns > COLUMNS_MAX) report('length', path, at + 1, `${columns} columns; at most ${COLUMNS_MAX}`);
  }
}

function checkBarrel(path, source) {
  const only = source.statements.every((statement) => ts.isExportDeclaration(statement) && statement.moduleSpecifier);
  if (only && !BARRELS.includes(path)) report('barrel', path, 1, 'only re-exports; import the files themselves');
}

/** Reports each cycle once, from the first of its files in alphabetical order. */
function checkCycles(graph) {
  const done = new Set();
  const trail = [];
  const visit = (path) => {
    const at = trail.indexOf(path);
    if (at >= 0) {
      const cycle = trail.slice(at);
      report('cycle', cycle[0], 0, [...cycle, path].join(' -> '));
      return;
    }
    if (done.has(path)) return;
    trail.push(path);
    for (const target of graph.get(path) ?? []) visit(target);
    trail.pop();
    done.add(path);
  };
  for (const path of [...graph.keys()].sort()) visit(path);
}

function reachedFrom(starts, graph) {
  const reached = new Set(starts);
  for (const path of reached) for (const target of graph.get(path) ?? []) reached.add(target);
  return reached;
}

function checkDead(graph) {
  const entries = ENTRIES.filter((path) => graph.has(path));
  for (const path of ENTRIES) if (!graph.has(path)) report('dead', path, 0, 'this entry point is missing');
  const tests = [...graph.keys()].filter((path) => path.endsWith('.test.ts'));
  const product = reachedFrom(entries, graph);
  const tested = reachedFrom([...entries, ...tests], graph);
  for (const path of graph.keys()) {
    const layer = layerOf(path);
    if (layer === undefined && !path.startsWith('test/')) continue;
    const byTests = layer === undefined || layer === 'sim';
    if (!(byTests ? tested : product).has(path)) {
      report('dead', path, 0, byTests ? 'no test reaches it' : `reached neither from ${ENTRIES.join(' nor from ')}`);
    }
  }
}

const graph = new Map();
for (const path of [...filesUnder('src'), ...filesUnder('test'), ...filesUnder('scripts')]) {
  const text = readFileSync(join(root, path), 'utf8');
  const source = ts.createSourceFile(path, text, ts.ScriptTarget.Latest, true);
  checkLength(path, text);
  checkComments(path, source);
  const imports = importsOf(source).map((found) => ({
    ...found,
    target: found.specifier.startsWith('.') ? resolveImport(path, found.specifier) : undefined,
  }));
  graph.set(path, new Set(imports.map(({ target }) => target).filter((target) => target !== undefined)));
  const layer = layerOf(path);
  if (layer === undefined) continue;
  checkDirection(path, imports);
  checkMutants(path, layer, imports);
  checkBarrel(path, source);
  if (!WORLD.includes(layer)) checkGlobals(path, source);
  if (SYNCHRONOUS.includes(layer)) checkPure(path, source);
}
checkCycles(graph);
checkDead(graph);

for (const note of notes) console.log(`note: ${note}`);
for (const error of errors) console.error(error);
console.log(errors.length > 0 ? `${errors.length} findings in ${graph.size} files` : `${graph.size} files, nothing found`);
process.exitCode = errors.length > 0 ? 1 : 0;
