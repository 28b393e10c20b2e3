/** Names in one block; a block that reaches twice that is split. */
const BLOCK_NAMES = 256;

/** A set of strings in order: sorted blocks in a sorted list. */
export class SortedSet {
  readonly #blocks: string[][] = [];

  add(name: string): void {
    const blockAt = this.#blockFor(name);
    const block = this.#blocks[blockAt];
    if (block === undefined) {
      this.#blocks.push([name]);
      return;
    }
    const at = lowerBound(block, name);
    if (block[at] === name) return;
    block.splice(at, 0, name);
    if (block.length >= 2 * BLOCK_NAMES) this.#blocks.splice(blockAt + 1, 0, block.splice(BLOCK_NAMES));
  }

  delete(name: string): void {
    const blockAt = this.#blockFor(name);
    const block = this.#blocks[blockAt];
    if (block === undefined) return;
    const at = lowerBound(block, name);
    if (block[at] !== name) return;
    block.splice(at, 1);
    if (block.length === 0) this.#blocks.splice(blockAt, 1);
  }

  /** The names with from <= name < to, in order; no `to` is the end. Not to be held over a change. */
  range(from: string, to: string | undefined, reverse = false): Generator<string> {
    return reverse ? this.#down(from, to) : this.#up(from, to);
  }

  *#up(from: string, to: string | undefined): Generator<string> {
    for (let blockAt = this.#blockFor(from); ; blockAt += 1) {
      const block = this.#blocks[blockAt];
      if (block === undefined) return;
      for (let at = lowerBound(block, from); ; at += 1) {
        const name = block[at];
        if (name === undefined) break;
        if (to !== undefined && name >= to) return;
        yield name;
      }
    }
  }

  *#down(from: string, to: string | undefined): Generator<string> {
    for (let blockAt = to === undefined ? this.#blocks.length - 1 : this.#blockFor(to); ; blockAt -= 1) {
      const block = this.#blocks[blockAt];
      if (block === undefined) return;
      for (let at = (to === undefined ? block.length : lowerBound(block, to)) - 1; ; at -= 1) {
        const name = block[at];
        if (name === undefined) break;
        if (name < from) return;
        yield name;
      }
    }
  }

  /** The last block that begins at or below the name, or the first one. */
  #blockFor(name: string): number {
    let low = 0;
    let high = this.#blocks.length;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if ((this.#blocks[middle]?.[0] ?? '') <= name) low = middle;
      else high = middle;
    }
    return low;
  }
}

/** The first place in a sorted list whose name is not below `name`. */
export function lowerBound(names: readonly string[], name: string): number {
  let low = 0;
  let high = names.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((names[middle] ?? '') < name) low = middle + 1;
    else high = middle;
  }
  return low;
}
