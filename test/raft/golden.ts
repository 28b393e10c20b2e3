import { isTidemarkError } from '../../src/lib/errors.js';
import type { Entry, Message, ReplicaId } from '../../src/raft/types.js';
import { Network, type Replica } from './network.js';

/**
 * Runs a script of commands against replicas without jitter and returns the trace: each command, indented under it what it
 * caused. Time moves and messages arrive only where the script says so.
 *
 *     group 1 2 3 [spare 4 5]      replicas with empty disks; the spares belong to nothing yet
 *     campaign 1                   stand for election
 *     tick 250                     time passes for all replicas
 *     deliver [from>to ...]        everything under way arrives (only on these links), and what that causes, until it is quiet
 *     step [from>to ...]           only what is under way now arrives; the answers wait
 *     drop [from>to ...]           everything under way is lost
 *     sync [1 2] / lazy 1 / eager 1    disks write what is queued / only when told / at once (the beginning)
 *     propose 1 text / config 1 +4 ~5 -2 / transfer 1 2 / read 2 / lease 1 / promise 1 / unreachable 1 3 / suspect 3
 *     stuck 3 4 / unstuck 3 4      their disks take no higher ceiling for floors, and so they promise no later ones; they do again
 *     crash 1 / restart 1 / compact 1 20 / snapshot [ok|fail]
 *     status [1 2]
 */
const QUIET = { rounds: 200 };
const OPTIONS = {
  electionTimeoutMs: 1000,
  electionJitterMs: 0,
  heartbeatMs: 250,
  driftBound: 0.1,
  appendBytesMax: 150,
  appendsInFlightMax: 3,
  appendBytesInFlightMax: 10_000,
  logCacheBytesMax: 10_000,
};

export function runScript(script: string): string {
  return new Script().run(script);
}

class Script {
  private readonly network: Network;
  private readonly lazy = new Set<ReplicaId>();
  private readonly out: string[] = [];
  private contexts = 0;

  constructor() {
    this.network = new Network({
      ...OPTIONS,
      random: () => 0,
      observer: {
        applied: (replica, entry) => this.say(`${replica.id} applies ${shortEntry(entry)}`),
        read: (replica, { context, index }) =>
          this.say(index === 0 ? `${replica.id} read ${context} fails` : `${replica.id} reads ${context} at ${index}`),
      },
    });
  }

  run(script: string): string {
    for (const line of script.split('\n')) {
      if (line.startsWith('  ')) continue;
      this.out.push(line);
      const [command = '', ...args] = line.split(' ');
      if (command === '' || command === '#') continue;
      try {
        this.command(command, args);
      } catch (error) {
        if (!isTidemarkError(error)) throw new Error(`at "${line}"`, { cause: error });
        this.say(`refused: ${error.code} ${error.reason}: ${error.message}`);
      }
      this.collect();
    }
    return this.out.join('\n');
  }

  private say(text: string): void {
    this.out.push(`  ${text}`);
  }

  private get all(): Replica[] {
    return [...this.network.replicas.values()];
  }

  private some(ids: readonly string[]): Replica[] {
    return ids.length === 0 ? this.all : ids.map((id) => this.network.replica(Number(id)));
  }

  private command(command: string, args: string[]): void {
    const { network } = this;
    const one = (): Replica => network.replica(Number(args[0]));
    switch (command) {
      case 'group':
        return this.group(args);
      case 'campaign':
        return one().live.campaign(one().now);
      case 'tick':
        network.timeMs += Number(args[0]);
        for (const replica of this.all) replica.tick();
        return;
      case 'deliver':
        for (let round = 0; this.arrive(args); round += 1) if (round > QUIET.rounds) throw new Error('never quiet');
        return;
      case 'step':
        this.arrive(args);
        return;
      case 'drop':
        for (const message of this.take(args)) this.say(`lost ${shortMessage(message)}`);
        return;
      case 'sync':
        for (const replica of this.some(args)) if (replica.raft !== undefined) replica.sync();
        return;
      case 'lazy':
        for (const replica of this.some(args)) this.lazy.add(replica.id);
        return;
      case 'eager':
        for (const replica of this.some(args)) this.lazy.delete(replica.id);
        return;
      case 'stuck':
      case 'unstuck':
        for (const replica of this.some(args)) replica.ceilingStuck = command === 'stuck';
        return;
      case 'propose':
        this.say(`index ${one().live.propose(Buffer.from(args.slice(1).join(' ')), one().now)}`);
        return;
      case 'config':
        this.say(`index ${one().live.proposeConfig(args.slice(1).map(change), one().now)}`);
        return;
      case 'transfer':
        return one().live.transferLeadership(Number(args[1]), one().now);
      case 'read':
        this.contexts += 1;
        this.say(`read ${this.contexts}`);
        return one().live.readIndex(this.contexts, one().now);
      case 'unreachable':
        return one().live.unreachable(Number(args[1]), one().now);
      case 'suspect':
        return one().live.suspectLeader(0, one().now);
      case 'askAgain':
        return one().live.askAgain();
      case 'lease':
        this.say(one().live.leaseValid(one().now) ? 'valid' : 'not valid');
        return;
      case 'promise':
        this.say(`promised up to ${one().live.quorumFloor()}, elected above ${one().live.electedFloor}`);
        return;
      case 'crash':
        return one().crash(0);
      case 'restart':
        return one().start(true);
      case 'compact':
        return one().compact(Number(args[1]));
      case 'snapshot':
        return this.snapshot(args[0] !== 'fail');
      case 'status':
        for (const replica of this.some(args)) this.status(replica);
        return;
      default:
        throw new Error(`no such command: ${command}`);
    }
  }

  private group(args: readonly string[]): void {
    const spare = args.indexOf('spare');
    const founders = (spare < 0 ? args : args.slice(0, spare)).map(Number);
    const spares = (spare < 0 ? [] : args.slice(spare + 1)).map(Number);
    for (const id of [...founders, ...spares]) this.network.add(id, founders).start(false);
  }

  /** Lets every replica do what is due, and disks write unless they are lazy. */
  private collect(): void {
    for (let work = true; work; ) {
      work = false;
      for (const replica of this.all) {
        work ||= replica.raft?.hasReady() === true;
        replica.collect();
        if (replica.isSyncing && !this.lazy.has(replica.id)) {
          replica.sync();
          work = true;
        }
      }
    }
  }

  private take(links: readonly string[]): Message[] {
    const isMeant = (m: Message): boolean => links.length === 0 || links.includes(`${m.from}>${m.to}`);
    const taken = this.network.wire.filter(isMeant);
    this.network.wire = this.network.wire.filter((m) => !isMeant(m));
    return taken;
  }

  private arrive(links: readonly string[]): boolean {
    this.collect();
    const messages = this.take(links);
    for (const message of messages) {
      this.say(shortMessage(message));
      this.network.replica(message.to).step(message);
      this.collect();
    }
    return messages.length > 0;
  }

  private snapshot(ok: boolean): void {
    for (const { from, to, meta, state } of this.network.snapshots.splice(0)) {
      const installed = ok && this.network.replica(to).install(meta, state);
      this.say(`${from}>${to} snapshot ${meta.index}/${meta.term} ${ok ? (installed ? 'installed' : 'not needed') : 'lost'}`);
      const sender = this.network.replica(from);
      sender.raft?.snapshotSent(to, meta.index, ok, sender.now);
    }
  }

  private status({ id, raft, state }: Replica): void {
    if (raft === undefined) return this.say(`${id} is down`);
    const { config } = raft;
    const lists = [config.voters, config.outgoing, config.learners].map((ids) => ids.join(' ') || '-');
    const log = `log ${raft.firstIndex}..${raft.lastIndex} durable ${raft.durableIndex} commit ${raft.commitIndex}`;
    this.say(`${id} ${raft.role} term ${raft.term} leader ${raft.leader} ${log} applied ${state.index} config ${lists.join(' | ')}`);
    for (const { id: peer, match, next, state: how } of raft.progress()) this.say(`  ${peer}: match ${match} next ${next} ${how}`);
  }
}

function change(text: string): { addVoter: number } | { addLearner: number } | { remove: number } {
  const id = Number(text.slice(1));
  if (text.startsWith('+')) return { addVoter: id };
  return text.startsWith('~') ? { addLearner: id } : { remove: id };
}

function shortEntry({ index, term, kind, data }: Entry): string {
  return `${index}/${term} ${kind === 'data' ? `"${data.toString()}"` : kind}`;
}

function shortMessage(m: Message): string {
  const head = `${m.from}>${m.to} ${m.type} term ${m.term}`;
  switch (m.type) {
    case 'append': {
      const entries = m.entries.map(shortEntry).join(', ');
      return `${head} after ${m.prevIndex}/${m.prevTerm} [${entries}] commit ${m.commit} round ${m.round}`;
    }
    case 'appendReply':
      return m.rejected
        ? `${head} rejects ${m.index} hint ${m.hintIndex}/${m.hintTerm} round ${m.round}`
        : `${head} has ${m.index} round ${m.round}`;
    case 'heartbeat':
      return `${head} commit ${m.commit} round ${m.round}`;
    case 'heartbeatReply':
      return `${head} round ${m.round}`;
    case 'vote':
    case 'preVote':
      return `${head} log ${m.lastIndex}/${m.lastTerm}${m.transfer ? ' transfer' : ''}`;
    case 'voteReply':
    case 'preVoteReply':
      return `${head} ${m.granted ? 'granted' : 'refused'}${m.floor > 0 ? ` floor ${m.floor}` : ''}`;
    case 'timeoutNow':
      return head;
    case 'readIndex':
      return head;
    case 'readIndexReply':
      return `${head} index ${m.index}`;
  }
}
