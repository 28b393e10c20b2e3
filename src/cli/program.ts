import { Command, CommanderError } from 'commander';
import { addBench } from './bench/command.js';
import { addCheck } from './check.js';
import { addHeat } from './cluster/heat.js';
import { addInspection } from './cluster/inspect.js';
import { addPlacement } from './cluster/placement.js';
import { addClusterStart } from './cluster/start.js';
import { addData } from './data.js';
import { describeError, EXIT, EXIT_CODES_HELP, exitCodeOf, Exit, UsageError, type ExitCode } from './exit.js';
import { addServers } from './serve.js';
import { addSim } from './sim/command.js';
import type { Terminal } from './terminal.js';
import { addTime } from './time.js';
import { addTransfer } from './transfer.js';
import { addTxn } from './txn.js';
import { VERSION } from './version.js';
import { addWatch } from './watch.js';

/** Runs one command line (without the program's name) and says how it ended. Throws nothing. */
export async function runCommand(args: readonly string[], terminal: Terminal): Promise<ExitCode> {
  const json = args.includes('--json') && !args.slice(0, args.indexOf('--json')).includes('--');
  try {
    await buildProgram(terminal, json).parseAsync(args, { from: 'user' });
    return EXIT.OK;
  } catch (error) {
    // Commander has printed the help that was asked for, or what is wrong to people.
    if (error instanceof CommanderError) {
      if (error.exitCode === 0) return EXIT.OK;
      if (json) terminal.stderr.write(`${describeError(new UsageError(error.message.replace(/^error: /, '')), json)}\n`);
      return EXIT.USAGE;
    }
    if (!(error instanceof Exit)) terminal.stderr.write(`${describeError(error, json)}\n`);
    return exitCodeOf(error);
  }
}

function buildProgram(terminal: Terminal, json: boolean): Command {
  const program = new Command('tidemark')
    .description('A distributed, replicated key-value store with a timeline.')
    .version(VERSION)
    .configureOutput({
      writeOut: (text) => terminal.stdout.write(text),
      writeErr: (text) => json || terminal.stderr.write(text),
    })
    .showHelpAfterError('(--help tells more)')
    .exitOverride()
    .addHelpText('after', EXIT_CODES_HELP);
  addServers(program);
  const cluster = program.command('cluster').description('run a local cluster, look at a running one');
  addClusterStart(cluster, terminal);
  addInspection(cluster, terminal);
  addHeat(cluster, terminal);
  addPlacement(cluster, terminal);
  addData(program, terminal);
  addTxn(program, terminal);
  addTransfer(program, terminal);
  addTime(program, terminal);
  addWatch(program, terminal);
  addBench(program, terminal);
  addCheck(program, terminal);
  addSim(program, terminal);
  for (const command of [program, ...program.commands]) if (command.commands.length > 0) addHelp(command);
  return program;
}

/** Commander's own shows what there is, and succeeds, when there is no such command. */
function addHelp(group: Command): void {
  group
    .command('help')
    .argument('[command...]')
    .description('help for a command')
    .action((names: string[]) => {
      let shown = group;
      for (const name of names) {
        shown = shown.commands.find((command) => command.name() === name) ?? group.error(`error: unknown command '${name}'`);
      }
      shown.help();
    });
}
