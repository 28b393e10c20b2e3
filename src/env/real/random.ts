import { randomFillSync } from 'node:crypto';
import type { Random } from '../time.js';

const POOL_BYTES = 4096;

/** The operating system's randomness, drawn a page at a time: identities made from it never meet. */
export function systemRandom(): Random {
  const pool = Buffer.alloc(POOL_BYTES);
  let at = POOL_BYTES;
  const uint32 = (): number => {
    if (at === POOL_BYTES) {
      randomFillSync(pool);
      at = 0;
    }
    at += 4;
    return pool.readUInt32LE(at - 4);
  };
  // 53 random bits: as many as the fraction of a number holds.
  return { uint32, float: () => (Math.floor(uint32() / 32) * 2 ** 26 + Math.floor(uint32() / 64)) / 2 ** 53 };
}
