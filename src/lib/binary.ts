import { toBytes, type Bytes } from './bytes.js';
import { TidemarkError } from './errors.js';

/**
 * Fixed-order binary messages for bytes that come from anywhere. There are no type tags, no nesting and no counts that reserve
 * memory before the bytes behind them have arrived: reading hostile input costs at most its own length, and either yields a
 * value or throws INVALID_ARGUMENT / MALFORMED_MESSAGE.
 *
 * Whole numbers below 2^53 are base-128, lowest digits first, with the top bit set on all bytes but the last.
 */
const SCRATCH_BYTES = 4096;
const SCRATCH_KEPT_BYTES = 1024 * 1024;
const UINT_BYTES_MAX = 8;

/** Builds one message after the other in a buffer that it reuses. */
export class BinaryWriter {
  #buffer = Buffer.allocUnsafeSlow(SCRATCH_BYTES);
  #at = 0;

  /** Bytes written since the last `take`. */
  get length(): number {
    return this.#at;
  }

  byte(value: number): void {
    this.#reserve(1);
    this.#buffer[this.#at++] = value;
  }

  uint(value: number): void {
    this.#reserve(UINT_BYTES_MAX);
    let rest = value;
    while (rest >= 128) {
      this.#buffer[this.#at++] = (rest % 128) + 128;
      rest = Math.floor(rest / 128);
    }
    this.#buffer[this.#at++] = rest;
  }

  bytes(value: Bytes): void {
    this.uint(value.length);
    this.#reserve(value.length);
    value.copy(this.#buffer, this.#at);
    this.#at += value.length;
  }

  text(value: string): void {
    const length = Buffer.byteLength(value);
    this.uint(length);
    this.#reserve(length);
    this.#at += this.#buffer.write(value, this.#at, length, 'utf8');
  }

  /** What was written, as bytes of its own; the writer starts over. */
  take(): Bytes {
    const message = Buffer.from(this.#buffer.subarray(0, this.#at));
    this.#at = 0;
    if (this.#buffer.length > SCRATCH_KEPT_BYTES) this.#buffer = Buffer.allocUnsafeSlow(SCRATCH_BYTES);
    return message;
  }

  #reserve(count: number): void {
    const need = this.#at + count;
    if (need <= this.#buffer.length) return;
    const larger = Buffer.allocUnsafeSlow(Math.max(need, this.#buffer.length * 2));
    this.#buffer.copy(larger, 0, 0, this.#at);
    this.#buffer = larger;
  }
}

export class BinaryReader {
  readonly #data: Bytes;
  readonly #what: string;
  #at = 0;

  /** `what` names the message in errors. */
  constructor(data: Uint8Array, what: string) {
    this.#data = toBytes(data);
    this.#what = what;
  }

  get done(): boolean {
    return this.#at >= this.#data.length;
  }

  byte(): number {
    const value = this.#data[this.#at];
    if (value === undefined) throw this.malformed('it ends too early');
    this.#at += 1;
    return value;
  }

  /** A byte below `count`. */
  choice(count: number, name: string): number {
    const value = this.byte();
    if (value >= count) throw this.malformed(`${name} is ${value}, expected less than ${count}`);
    return value;
  }

  uint(): number {
    let value = 0;
    let scale = 1;
    for (let count = 0; count < UINT_BYTES_MAX; count += 1) {
      const digit = this.byte();
      value += (digit % 128) * scale;
      if (digit < 128) {
        if (value > Number.MAX_SAFE_INTEGER) break;
        return value;
      }
      scale *= 128;
    }
    throw this.malformed('a number is not below 2^53');
  }

  /** A view of the message, not a copy. */
  bytes(): Bytes {
    const length = this.uint();
    const end = this.#at + length;
    if (end > this.#data.length) throw this.malformed('it ends too early');
    const value = this.#data.subarray(this.#at, end);
    this.#at = end;
    return value;
  }

  text(): string {
    return this.bytes().toString('utf8');
  }

  /** As many items as the message says. */
  list<T>(item: (index: number) => T): T[] {
    const count = this.uint();
    const items: T[] = [];
    for (let index = 0; index < count; index += 1) {
      if (this.done) throw this.malformed('it ends too early');
      items.push(item(index));
    }
    return items;
  }

  /** States that everything was read. */
  end(): void {
    if (!this.done) throw this.malformed(`${this.#data.length - this.#at} bytes are left over`);
  }

  malformed(detail: string): TidemarkError {
    const where = `byte ${this.#at} of ${this.#data.length}`;
    return new TidemarkError('INVALID_ARGUMENT', 'MALFORMED_MESSAGE', `${this.#what} is malformed at ${where}: ${detail}`);
  }
}
