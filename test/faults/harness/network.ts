import { mkdirSync } from 'node:fs';
import { run } from './command.js';

/**
 * A network namespace for each node, all on one bridge in the namespace of this process, where the clients are:
 *
 *     clients 10.77.0.254 -- bridge -- 10.77.0.1  node 1
 *                                 `--- 10.77.0.2  node 2  ...
 *
 * Every node has a permanent entry for the hardware address of every other. To cut the way from one node to another, the
 * entry is turned to an address that nobody has: packets leave and arrive nowhere, in this one direction, and nobody is told,
 * as with a broken switch. It takes no packet filter. Clients are not cut off.
 *
 * It must run in private namespaces (scripts/faults), with which everything vanishes; `/run` is covered, so that the names of
 * network namespaces are private too.
 */
const SUBNET = '10.77.0';
const CLIENTS = 254;
const NOBODY = '02:00:00:00:00:ff';

export type Way = readonly [from: number, to: number];

export class NodeNetwork {
  readonly #ids: readonly number[];

  private constructor(ids: readonly number[]) {
    this.#ids = ids;
  }

  static async create(ids: readonly number[]): Promise<NodeNetwork> {
    await run('mount', ['-t', 'tmpfs', 'tmpfs', '/run']);
    mkdirSync('/run/netns');
    await batch([], ['link set lo up', 'link add nodes type bridge', `addr add ${SUBNET}.${CLIENTS}/24 dev nodes`, 'link set nodes up']);
    for (const id of ids) {
      const name = nameOf(id);
      await run('ip', ['netns', 'add', name]);
      await batch([], [
        `link add port${id} type veth peer name eth0 address ${hardwareOf(id)} netns ${name}`,
        `link set port${id} master nodes up`,
      ]);
      const own = ['link set lo up', `addr add ${SUBNET}.${id}/24 dev eth0`, 'link set eth0 up'];
      const others = ids.filter((other) => other !== id);
      await batch(inside(id), [...own, ...others.map((other) => neighbour(other, hardwareOf(other)))]);
    }
    return new NodeNetwork(ids);
  }

  hostOf(id: number): string {
    return `${SUBNET}.${id}`;
  }

  /** The beginning of a command line that runs in the namespace of the node. */
  enter(id: number): string[] {
    return inside(id);
  }

  /** From now on nothing that the first node of each pair sends reaches the second. */
  async cut(ways: readonly Way[]): Promise<void> {
    await Promise.all(
      this.#ids.map(async (from) => {
        const lines = ways.filter((way) => way[0] === from).map(([, to]) => neighbour(to, NOBODY));
        if (lines.length > 0) await batch(inside(from), lines);
      }),
    );
  }

  async heal(): Promise<void> {
    await Promise.all(
      this.#ids.map((from) => {
        return batch(inside(from), this.#ids.filter((to) => to !== from).map((to) => neighbour(to, hardwareOf(to))));
      }),
    );
  }
}

function nameOf(id: number): string {
  return `node${id}`;
}

function hardwareOf(id: number): string {
  return `02:00:00:00:00:${id.toString(16).padStart(2, '0')}`;
}

function inside(id: number): string[] {
  return ['nsenter', `--net=/run/netns/${nameOf(id)}`];
}

function neighbour(id: number, hardware: string): string {
  return `neigh replace ${SUBNET}.${id} lladdr ${hardware} nud permanent dev eth0`;
}

async function batch(prefix: readonly string[], lines: readonly string[]): Promise<void> {
  const [command = '', ...args] = [...prefix, 'ip', '-batch', '-'];
  await run(command, args, `${lines.join('\n')}\n`);
}
