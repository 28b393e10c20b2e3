import { fromMapKey, toMapKey, type Bytes } from '../lib/bytes.js';

/** Entries in one block; a block that reaches twice that is split. */
const BLOCK_ENTRIES = 256;

interface Block {
  readonly keys: string[];
  readonly values: Bytes[];
}

/**
 * A sorted map from bytes to bytes: sorted blocks in a sorted list. Keys are held as strings that are ordered as their bytes
 * are. What goes in is its own from then on, and what comes out is a copy: nobody shares memory with it.
 */
export class OrderedMap {
  #blocks: Block[] = [];
  #size = 0;
  #bytes = 0;

  get size(): number {
    return this.#size;
  }

  /** Of all keys and values. */
  get bytes(): number {
    return this.#bytes;
  }

  get(key: Bytes): Bytes | undefined {
    const mapKey = toMapKey(key);
    const block = this.#blocks[this.#blockFor(mapKey)];
    if (block === undefined) return undefined;
    const at = lowerBound(block.keys, mapKey);
    const value = block.keys[at] === mapKey ? block.values[at] : undefined;
    return value === undefined ? undefined : Buffer.from(value);
  }

  set(key: Bytes, value: Bytes): void {
    this.put(toMapKey(key), value);
  }

  /** By the name that a key has here (toMapKey). */
  put(mapKey: string, value: Bytes): void {
    const blockAt = this.#blockFor(mapKey);
    let block = this.#blocks[blockAt];
    if (block === undefined) {
      block = { keys: [], values: [] };
      this.#blocks.push(block);
    }
    const at = lowerBound(block.keys, mapKey);
    const old = block.keys[at] === mapKey ? block.values[at] : undefined;
    if (old !== undefined) {
      block.values[at] = value;
      this.#bytes += value.length - old.length;
      return;
    }
    block.keys.splice(at, 0, mapKey);
    block.values.splice(at, 0, value);
    this.#size += 1;
    this.#bytes += mapKey.length + value.length;
    if (block.keys.length >= 2 * BLOCK_ENTRIES) {
      const upper = { keys: block.keys.splice(BLOCK_ENTRIES), values: block.values.splice(BLOCK_ENTRIES) };
      this.#blocks.splice(blockAt + 1, 0, upper);
    }
  }

  delete(key: Bytes): void {
    this.remove(toMapKey(key));
  }

  remove(mapKey: string): void {
    const blockAt = this.#blockFor(mapKey);
    const block = this.#blocks[blockAt];
    if (block === undefined) return;
    const at = lowerBound(block.keys, mapKey);
    const old = block.values[at];
    if (block.keys[at] !== mapKey || old === undefined) return;
    block.keys.splice(at, 1);
    block.values.splice(at, 1);
    this.#size -= 1;
    this.#bytes -= mapKey.length + old.length;
    if (block.keys.length === 0) this.#blocks.splice(blockAt, 1);
  }

  clear(): void {
    this.#blocks = [];
    this.#size = 0;
    this.#bytes = 0;
  }

  /** The entries with gte <= key < lt, in order; an empty `lt` is the end. Not to be held over a change. */
  *range(gte: Bytes, lt: Bytes, reverse = false): Generator<[key: Bytes, value: Bytes]> {
    const from = toMapKey(gte);
    const to = lt.length === 0 ? undefined : toMapKey(lt);
    if (reverse) yield* this.#down(from, to);
    else yield* this.#up(from, to);
  }

  *#up(from: string, to: string | undefined): Generator<[key: Bytes, value: Bytes]> {
    for (let blockAt = this.#blockFor(from); ; blockAt += 1) {
      const block = this.#blocks[blockAt];
      if (block === undefined) return;
      for (let at = lowerBound(block.keys, from); ; at += 1) {
        const [key, value] = [block.keys[at], block.values[at]];
        if (key === undefined || value === undefined) break;
        if (to !== undefined && key >= to) return;
        yield [fromMapKey(key), Buffer.from(value)];
      }
    }
  }

  *#down(from: string, to: string | undefined): Generator<[key: Bytes, value: Bytes]> {
    for (let blockAt = to === undefined ? this.#blocks.length - 1 : this.#blockFor(to); ; blockAt -= 1) {
      const block = this.#blocks[blockAt];
      if (block === undefined) return;
      for (let at = (to === undefined ? block.keys.length : lowerBound(block.keys, to)) - 1; ; at -= 1) {
        const [key, value] = [block.keys[at], block.values[at]];
        if (key === undefined || value === undefined) break;
        if (key < from) return;
        yield [fromMapKey(key), Buffer.from(value)];
      }
    }
  }

  /** The last block that begins at or below the key, or the first one. */
  #blockFor(mapKey: string): number {
    let low = 0;
    let high = this.#blocks.length;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if ((this.#blocks[middle]?.keys[0] ?? '') <= mapKey) low = middle;
      else high = middle;
    }
    return low;
  }
}

/** The first place whose key is not below `key`. */
function lowerBound(keys: readonly string[], key: string): number {
  let low = 0;
  let high = keys.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((keys[middle] ?? '') < key) low = middle + 1;
    else high = middle;
  }
  return low;
}
