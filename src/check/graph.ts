/**
 * A directed graph of numbered nodes whose edges have a kind, fit for a million edges: plain lists of numbers, searches that do
 * not recurse. `kinds` in the questions is a set of kinds as bits, `1 << kind`.
 */
export class Graph<D> {
  readonly nodes: number;
  readonly from: number[] = [];
  readonly to: number[] = [];
  readonly kind: number[] = [];
  /** What an edge is about. */
  readonly about: D[] = [];
  /** Edges by the node that they leave: those of node n stand from #first[n] to before #first[n + 1] in #leaving. */
  #first = new Int32Array(0);
  #leaving = new Int32Array(0);
  #indexed = -1;

  constructor(nodes: number) {
    this.nodes = nodes;
  }

  add(from: number, to: number, kind: number, about: D): void {
    this.from.push(from);
    this.to.push(to);
    this.kind.push(kind);
    this.about.push(about);
  }

  /** The number of the strongly connected component of each node (Tarjan, 1972); -1 where a component is a single node. */
  components(kinds: number): Int32Array {
    this.#index();
    const order = new Int32Array(this.nodes).fill(-1);
    const low = new Int32Array(this.nodes);
    const component = new Int32Array(this.nodes).fill(-1);
    const open = new Uint8Array(this.nodes);
    const stack: number[] = [];
    const path: number[] = [];
    const next = this.#first.slice();
    let visited = 0;
    let count = 0;
    for (let root = 0; root < this.nodes; root += 1) {
      if (order[root] !== -1) continue;
      path.push(root);
      while (path.length > 0) {
        const node = path.at(-1) ?? 0;
        if (order[node] === -1) {
          order[node] = low[node] = visited++;
          stack.push(node);
          open[node] = 1;
        }
        const edge = this.#nextEdge(node, next, kinds);
        if (edge !== undefined) {
          const target = this.to[edge] ?? 0;
          if (order[target] === -1) path.push(target);
          else if (open[target] === 1) low[node] = Math.min(low[node] ?? 0, order[target] ?? 0);
          continue;
        }
        path.pop();
        const parent = path.at(-1);
        if (parent !== undefined) low[parent] = Math.min(low[parent] ?? 0, low[node] ?? 0);
        if (low[node] !== order[node]) continue;
        const members = stack.splice(stack.lastIndexOf(node));
        for (const member of members) {
          open[member] = 0;
          if (members.length > 1) component[member] = count;
        }
        count += 1;
      }
    }
    return component;
  }

  /**
   * The edges of a shortest path within one component, undefined if there is none. With `apart` set, no two edges of that kind
   * follow each other, and neither the first nor the last edge is of it.
   */
  shortestPath(from: number, to: number, kinds: number, component: Int32Array, apart?: number): number[] | undefined {
    this.#index();
    // A state is a node and whether the edge that led there was of the kind to be kept apart.
    const reachedBy = new Map<number, readonly [edge: number, before: number]>();
    const start = from * 2 + 1;
    const queue = [start];
    for (const state of queue) {
      const node = Math.floor(state / 2);
      for (let at = this.#first[node] ?? 0; at < (this.#first[node + 1] ?? 0); at += 1) {
        const edge = this.#leaving[at] ?? 0;
        const [kind, target] = [this.kind[edge] ?? 0, this.to[edge] ?? 0];
        const restricted = kind === apart;
        if ((kinds & (1 << kind)) === 0 || component[target] !== component[from]) continue;
        if (apart !== undefined && restricted && (state % 2 === 1 || target === to)) continue;
        const reached = target * 2 + (restricted ? 1 : 0);
        if (reachedBy.has(reached)) continue;
        reachedBy.set(reached, [edge, state]);
        if (target === to) return this.#pathTo(reached, start, reachedBy);
        queue.push(reached);
      }
    }
    return undefined;
  }

  #pathTo(end: number, start: number, reachedBy: ReadonlyMap<number, readonly [edge: number, before: number]>): number[] {
    const edges: number[] = [];
    let state = end;
    do {
      const [edge, before] = reachedBy.get(state) ?? [0, start];
      edges.push(edge);
      state = before;
    } while (state !== start);
    return edges.reverse();
  }

  #nextEdge(node: number, next: Int32Array, kinds: number): number | undefined {
    for (let at = next[node] ?? 0; at < (this.#first[node + 1] ?? 0); at += 1) {
      const edge = this.#leaving[at] ?? 0;
      if ((kinds & (1 << (this.kind[edge] ?? 0))) === 0) continue;
      next[node] = at + 1;
      return edge;
    }
    next[node] = this.#first[node + 1] ?? 0;
    return undefined;
  }

  #index(): void {
    if (this.#indexed === this.from.length) return;
    this.#indexed = this.from.length;
    this.#first = new Int32Array(this.nodes + 1);
    for (const node of this.from) this.#first[node + 1] = (this.#first[node + 1] ?? 0) + 1;
    for (let node = 0; node < this.nodes; node += 1) {
      this.#first[node + 1] = (this.#first[node + 1] ?? 0) + (this.#first[node] ?? 0);
    }
    const free = this.#first.slice();
    this.#leaving = new Int32Array(this.from.length);
    for (const [edge, node] of this.from.entries()) {
      const at = free[node] ?? 0;
      this.#leaving[at] = edge;
      free[node] = at + 1;
    }
  }
}
