import { fromMapKey, toMapKey, type Bytes } from '../lib/bytes.js';
import { SortedSet } from '../lib/sorted-set.js';

/**
 * A sorted map from bytes to bytes. Keys are held as strings that are ordered as their bytes are. What goes in is its own from
 * then on, and what comes out is a copy: nobody shares memory with it.
 */
export class OrderedMap {
  readonly #values = new Map<string, Bytes>();
  readonly #names = new SortedSet();
  #bytes = 0;

  get size(): number {
    return this.#values.size;
  }

  /** Of all keys and values. */
  get bytes(): number {
    return this.#bytes;
  }

  get(key: Bytes): Bytes | undefined {
    const value = this.#values.get(toMapKey(key));
    return value === undefined ? undefined : Buffer.from(value);
  }

  set(key: Bytes, value: Bytes): void {
    this.put(toMapKey(key), value);
  }

  /** By the name that a key has here (toMapKey). */
  put(mapKey: string, value: Bytes): void {
    const old = this.#values.get(mapKey);
    if (old === undefined) this.#names.add(mapKey);
    this.#values.set(mapKey, value);
    this.#bytes += value.length - (old === undefined ? -mapKey.length : old.length);
  }

  delete(key: Bytes): void {
    this.remove(toMapKey(key));
  }

  remove(mapKey: string): void {
    const old = this.#values.get(mapKey);
    if (old === undefined) return;
    this.#names.delete(mapKey);
    this.#values.delete(mapKey);
    this.#bytes -= mapKey.length + old.length;
  }

  /** The entries with gte <= key < lt, in order; an empty `lt` is the end. Not to be held over a change. */
  *range(gte: Bytes, lt: Bytes, reverse = false): Generator<[key: Bytes, value: Bytes]> {
    for (const name of this.#names.range(toMapKey(gte), lt.length === 0 ? undefined : toMapKey(lt), reverse)) {
      const value = this.#values.get(name);
      if (value !== undefined) yield [fromMapKey(name), Buffer.from(value)];
    }
  }
}
