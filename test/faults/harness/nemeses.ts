import { setTimeout as sleep } from 'node:timers/promises';
import type { SimRandom } from '../../../src/sim/random.js';
import type { Fleet } from './fleet.js';
import type { NodeClocks } from './clocks.js';
import type { NodeDisks } from './disks.js';
import { HotKey } from './hot.js';
import { changePlacement, renewMembers, restorePlacement } from './membership.js';
import type { NodeNetwork, Way } from './network.js';

/**
 * The faults. Each begins at once, says what it did to whom, and is healed by whoever began it: after `heal()` every node runs,
 * every way is open, every clock is true. A fault may go on by itself in between, until its signal is aborted.
 */
export interface Fault {
  /** For people: `kill -9 of 2 and 5`. */
  readonly what: string;
  heal(): Promise<void>;
}

export interface Nemesis {
  readonly name: string;
  readonly help: string;
  /** What of the world must be there. */
  readonly needs?: 'network' | 'clocks' | 'disks' | 'block disks';
  begin(fleet: Fleet, random: SimRandom): Promise<Fault>;
}

/** Fewer than half of the nodes: the others must go on without them. */
function minority({ ids }: Fleet, random: SimRandom): number[] {
  return shuffled(ids, random).slice(0, 1 + random.below(Math.floor((ids.length - 1) / 2)));
}

function shuffled(ids: readonly number[], random: SimRandom): number[] {
  return ids.map((id) => ({ id, luck: random.float() })).sort((a, b) => a.luck - b.luck).map(({ id }) => id);
}

const kill: Nemesis = {
  name: 'kill',
  help: 'SIGKILL to one or two nodes, started again later',
  begin: async (fleet, random) => {
    const ids = minority(fleet, random);
    await fleet.kill(...ids);
    return { what: `killed ${list(ids)}`, heal: () => fleet.start(...ids) };
  },
};

const killAll: Nemesis = {
  name: 'kill-all',
  help: 'SIGKILL to all nodes at once',
  begin: async (fleet) => {
    await fleet.kill(...fleet.ids);
    return { what: 'killed all', heal: () => fleet.start(...fleet.ids) };
  },
};

const pause: Nemesis = {
  name: 'pause',
  help: 'SIGSTOP to one or two nodes, often to the one that leads most',
  begin: async (fleet, random) => {
    const ids = random.chance(0.5) ? [await fleet.leader()] : minority(fleet, random);
    fleet.signal('SIGSTOP', ids);
    return { what: `stopped ${list(ids)}`, heal: async () => fleet.signal('SIGCONT', ids) };
  },
};

const restartStorm: Nemesis = {
  name: 'restart-storm',
  help: 'nodes in random order, one after the other without rest, are killed or told to stop, and started again',
  begin: async (fleet, random) => {
    const ending = new AbortController();
    let restarts = 0;
    const storm = async (): Promise<void> => {
      while (!ending.signal.aborted) {
        const id = random.pick(fleet.ids);
        if (random.chance(0.5)) await fleet.kill(id);
        else await fleet.terminate(id);
        await fleet.start(id);
        restarts += 1;
      }
    };
    const over = storm();
    over.catch(() => undefined);
    return {
      get what() {
        return `${restarts} restarts`;
      },
      heal: async () => {
        ending.abort();
        await over;
      },
    };
  },
};

/** Cuts the ways that the choice names. */
function partition(
  name: string,
  help: string,
  choose: (fleet: Fleet, random: SimRandom) => Promise<{ readonly what: string; readonly ways: readonly Way[] }>,
): Nemesis {
  return {
    name,
    help,
    needs: 'network',
    begin: async (fleet, random) => {
      const network = networkOf(fleet);
      const { what, ways } = await choose(fleet, random);
      await network.cut(ways);
      return { what, heal: () => network.heal() };
    },
  };
}

/** Both ways of every pair that the test says yes to. */
function between(ids: readonly number[], isCut: (a: number, b: number) => boolean): Way[] {
  return ids.flatMap((a) => ids.filter((b) => a !== b && (isCut(a, b) || isCut(b, a))).map((b): Way => [a, b]));
}

const halves = partition('partition-halves', 'a random minority and the majority do not hear each other', async (fleet, random) => {
  const { ids } = fleet;
  const few = new Set(shuffled(ids, random).slice(0, Math.floor(ids.length / 2)));
  return { what: `${list([...few])} apart from the others`, ways: between(ids, (a, b) => few.has(a) !== few.has(b)) };
});

const ring = partition('partition-ring', 'every node hears only its two neighbours of a ring: all see a majority, each another one', async (fleet, random) => {
  const circle = shuffled(fleet.ids, random);
  const near = (a: number, b: number): boolean => {
    const apart = Math.abs(circle.indexOf(a) - circle.indexOf(b));
    return apart === 1 || apart === circle.length - 1;
  };
  return { what: `ring ${circle.join('-')}`, ways: between(fleet.ids, (a, b) => !near(a, b)) };
});

const bridge = partition('partition-bridge', 'two halves that hear each other only through one node in the middle', async (fleet, random) => {
  const [middle = 0, ...others] = shuffled(fleet.ids, random);
  const left = new Set(others.slice(0, Math.floor(others.length / 2)));
  const ways = between(others, (a, b) => left.has(a) !== left.has(b));
  return { what: `${list([...left])} reach the others only through ${middle}`, ways };
});

const isolateLeader = partition('partition-leader', 'the node that leads most is cut off from all others, and goes on serving clients', async (fleet) => {
  const leader = await fleet.leader();
  return { what: `${leader}, which leads most, alone`, ways: between(fleet.ids, (a) => a === leader) };
});

const oneWay = partition('partition-one-way', 'a node is heard but does not hear, or hears but is not heard', async (fleet, random) => {
  const id = random.chance(0.5) ? await fleet.leader() : random.pick(fleet.ids);
  const others = fleet.ids.filter((other) => other !== id);
  const isDeaf = random.chance(0.5);
  const ways = others.map((other): Way => (isDeaf ? [other, id] : [id, other]));
  return { what: isDeaf ? `${id} hears nobody` : `nobody hears ${id}`, ways };
});

const clockJump: Nemesis = {
  name: 'clock-jump',
  help: 'the wall clocks of one or two nodes jump, ahead or back, within the tolerated second or far beyond, and later back',
  needs: 'clocks',
  begin: async (fleet, random) => {
    const clocks = clocksOf(fleet);
    const ids = minority(fleet, random);
    const sizeMs = random.pick([300, 900, 5000, 60_000]) * (random.chance(0.5) ? 1 : -1);
    for (const id of ids) clocks.set(id, sizeMs);
    return {
      what: `clocks of ${list(ids)} ${sizeMs > 0 ? '+' : ''}${sizeMs} ms`,
      heal: async () => ids.forEach((id) => clocks.set(id, 0)),
    };
  },
};

const STEP_MS = 1000;

const clockDrift: Nemesis = {
  name: 'clock-drift',
  help: 'the wall clock of every node runs too fast or too slow, each by up to a tenth',
  needs: 'clocks',
  begin: async (fleet, random) => {
    const clocks = clocksOf(fleet);
    const rates = fleet.ids.map((id) => ({ id, rate: random.between(-0.1, 0.1) }));
    const begunMs = performance.now();
    const drift = setInterval(() => {
      for (const { id, rate } of rates) clocks.set(id, Math.round(rate * (performance.now() - begunMs)));
    }, STEP_MS);
    return {
      what: rates.map(({ id, rate }) => `${id}: ${rate > 0 ? '+' : ''}${(100 * rate).toFixed(1)} %`).join(', '),
      heal: async () => {
        clearInterval(drift);
        for (const id of fleet.ids) clocks.set(id, 0);
      },
    };
  },
};

const diskFull: Nemesis = {
  name: 'disk-full',
  help: 'no free block is left on the disks of one or two nodes; they end, and are started again when there is room',
  needs: 'disks',
  begin: async (fleet, random) => {
    const disks = disksOf(fleet);
    const ids = minority(fleet, random);
    for (const id of ids) fleet.allowEnd(id);
    await Promise.all(ids.map((id) => disks.fill(id)));
    return {
      what: `no room on ${list(ids)}`,
      heal: async () => {
        for (const id of ids) disks.drain(id);
        // One that did not need a block meanwhile may meet the full disk in what it does right now.
        await fleet.kill(...ids);
        await fleet.start(...ids);
      },
    };
  },
};

const diskStall: Nemesis = {
  name: 'disk-stall',
  help: 'the file systems of one or two nodes are frozen: every write and fsync waits until they are thawed',
  needs: 'block disks',
  begin: async (fleet, random) => {
    const disks = disksOf(fleet);
    const ids = random.chance(0.5) ? [await fleet.leader()] : minority(fleet, random);
    await Promise.all(ids.map((id) => disks.freeze(id)));
    return {
      what: `disks of ${list(ids)} stand still`,
      heal: async () => {
        await Promise.all(ids.map((id) => disks.thaw(id)));
      },
    };
  },
};

const diskFail: Nemesis = {
  name: 'disk-fail',
  help: 'the file system of a node aborts: every write and fsync fails, what was not synced is gone; it is repaired and the node started again',
  needs: 'block disks',
  begin: async (fleet, random) => {
    const disks = disksOf(fleet);
    const id = random.chance(0.5) ? await fleet.leader() : random.pick(fleet.ids);
    fleet.allowEnd(id);
    await disks.abort(id);
    return {
      what: `the disk of ${id} failed`,
      heal: async () => {
        await fleet.kill(id);
        await disks.repair(id);
        await fleet.start(id);
      },
    };
  },
};

const FEWER_REPLICAS = 3;

const membership: Nemesis = {
  name: 'membership',
  help: 'every bucket gets fewer copies, nodes are drained one after the other, replicas move; then all get back what they had',
  begin: async (fleet, random) => {
    const ending = new AbortController();
    const { signal } = ending;
    const done: string[] = [];
    const change = async (what: string, request: object): Promise<void> => {
      if (await changePlacement(fleet, request, signal)) done.push(what);
    };
    const storm = async (): Promise<void> => {
      await change(`${FEWER_REPLICAS} copies`, { replicas: FEWER_REPLICAS });
      while (!signal.aborted) {
        const node = fleet.cluster.memberAt(random.pick(fleet.ids));
        await change(`drain ${node}`, { drain: node });
        await sleep(random.between(500, 2000), undefined, { signal }).catch(() => undefined);
        await change(`undrain ${node}`, { undrain: node });
        const [from = 0, to = 0] = shuffled(fleet.ids, random).map((id) => fleet.cluster.memberAt(id));
        const bucket = random.below(fleet.cluster.buckets);
        await change(`move ${bucket} from ${from} to ${to}`, { move: { bucket, from, to } });
      }
    };
    const over = storm();
    over.catch(() => undefined);
    return {
      get what() {
        return done.length === 0 ? 'nothing could be changed' : done.join(', ');
      },
      heal: async () => {
        ending.abort();
        await over;
        await restorePlacement(fleet, fleet.ids.length);
      },
    };
  },
};

const joinLeave: Nemesis = {
  name: 'join-leave',
  help: 'new nodes join at free places, some killed while they do, and get their share; as many others are removed, and so on',
  begin: async (fleet, random) => {
    const ending = new AbortController();
    const done: string[] = [];
    const count = fleet.ids.length;
    const storm = async (): Promise<void> => {
      // At least once, however short the fault.
      do await renewMembers(fleet, random, (what) => done.push(what));
      while (!ending.signal.aborted);
    };
    const over = storm();
    over.catch(() => undefined);
    return {
      get what() {
        return done.join(', ');
      },
      heal: async () => {
        ending.abort();
        await over;
        await restorePlacement(fleet, count);
      },
    };
  },
};

const hot: Nemesis = {
  name: 'hot',
  help: 'every bucket gets fewer copies, one key is read so much that its bucket gets read replicas, then by nobody, until they vanish',
  begin: async (fleet, random) => {
    const count = fleet.ids.length;
    const key = new HotKey(fleet, random.below(fleet.cluster.buckets), FEWER_REPLICAS);
    const over = key.heat();
    over.catch(() => undefined);
    return {
      get what() {
        return key.what;
      },
      heal: async () => {
        await key.cool();
        await over;
        await restorePlacement(fleet, count);
      },
    };
  },
};

const ALONE: readonly Nemesis[] = [
  kill,
  killAll,
  pause,
  restartStorm,
  halves,
  ring,
  bridge,
  isolateLeader,
  oneWay,
  clockJump,
  clockDrift,
  diskFull,
  diskStall,
  diskFail,
  membership,
  joinLeave,
  hot,
];

/** Pairs whose parts do not undo each other. */
const PAIRS: readonly (readonly [Nemesis, Nemesis])[] = [
  [halves, kill],
  [halves, clockJump],
  [ring, pause],
  [ring, restartStorm],
  [isolateLeader, clockDrift],
  [oneWay, kill],
  [oneWay, diskStall],
  [bridge, diskFull],
  [bridge, clockJump],
  [clockJump, kill],
  [clockJump, restartStorm],
  [clockDrift, pause],
  [membership, kill],
  [membership, restartStorm],
  [membership, halves],
  [membership, pause],
  [joinLeave, kill],
  [joinLeave, restartStorm],
  [joinLeave, halves],
  [joinLeave, isolateLeader],
  [joinLeave, pause],
  [hot, kill],
  [hot, halves],
  [hot, pause],
  // Healed in the opposite order: nobody may come or go any more when all is to be in its place.
  [hot, joinLeave],
];

const combination: Nemesis = {
  name: 'combination',
  help: 'two of the others at once',
  begin: async (fleet, random) => {
    const pairs = PAIRS.filter((pair) => pair.every(({ needs }) => missingPart(fleet, needs) === undefined));
    const [first, second] = random.pick(pairs);
    const one = await first.begin(fleet, random);
    const two = await second.begin(fleet, random);
    return {
      get what() {
        return `${first.name} (${one.what}) with ${second.name} (${two.what})`;
      },
      heal: async () => {
        await two.heal();
        await one.heal();
      },
    };
  },
};

export const NEMESES: ReadonlyMap<string, Nemesis> = new Map([...ALONE, combination].map((each) => [each.name, each]));

/** What is not there though the nemesis needs it; undefined if all is. */
export function missingPart(fleet: Fleet, needs: Nemesis['needs']): string | undefined {
  if (needs === 'network' && fleet.network === undefined) return 'network namespaces';
  if (needs === 'clocks' && fleet.clocks === undefined) return 'libfaketime';
  if ((needs === 'disks' || needs === 'block disks') && fleet.disks === undefined) return 'mounts';
  if (needs === 'block disks' && fleet.disks?.isBlock !== true) return 'loop devices';
  return undefined;
}

function networkOf({ network }: Fleet): NodeNetwork {
  if (network === undefined) throw new Error('this world has no network of its own');
  return network;
}

function clocksOf({ clocks }: Fleet): NodeClocks {
  if (clocks === undefined) throw new Error('this world has no clocks of its own');
  return clocks;
}

function disksOf({ disks }: Fleet): NodeDisks {
  if (disks === undefined) throw new Error('this world has no disks of its own');
  return disks;
}

function list(ids: readonly number[]): string {
  return [...ids].sort((a, b) => a - b).join(' and ');
}
