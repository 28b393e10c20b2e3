import { TidemarkError, messageOf } from '../../lib/errors.js';

/**
 * What LevelDB and the file system report, as Tidemark's errors.
 *
 * - RESOURCE_EXHAUSTED / DISK_FULL: no space, or no quota, was left, or a file reached the size that this process may write.
 *   Fatal for the process all the same: it is not known how much of the batch is in the log file.
 * - DATA_LOSS / DISK_FAILED: a write or sync failed. After a failed fsync the kernel may have dropped the dirty pages and
 *   marked them clean, so a retry could succeed without the data.
 * - DATA_LOSS / STORE_CORRUPT: the stored bytes are not what was written.
 * - FAILED_PRECONDITION / DATA_DIRECTORY_IN_USE, DATA_DIRECTORY_UNUSABLE: before anything was read or written.
 */
export function toDiskError(error: unknown, what: string): TidemarkError {
  if (error instanceof TidemarkError) return error;
  const message = rootMessage(error);
  const options = { outcome: 'unknown', cause: error } as const;
  if (isFull(error, message)) return new TidemarkError('RESOURCE_EXHAUSTED', 'DISK_FULL', `${what}: ${message}`, options);
  if (isCorrupt(error, message)) return new TidemarkError('DATA_LOSS', 'STORE_CORRUPT', `${what}: ${message}`, options);
  return new TidemarkError('DATA_LOSS', 'DISK_FAILED', `${what}: ${message}`, options);
}

/** For errors met while reading: a file that should be there and is not is damage, too. */
export function toReadError(error: unknown, what: string): TidemarkError {
  if (error instanceof TidemarkError) return error;
  const message = rootMessage(error);
  if (!/No such file/i.test(message)) return toDiskError(error, what);
  return new TidemarkError('DATA_LOSS', 'STORE_CORRUPT', `${what}: ${message}`, { outcome: 'unknown', cause: error });
}

/** For errors met while a directory is opened, when nothing was promised yet. */
export function toOpenError(error: unknown, place: string): TidemarkError {
  if (error instanceof TidemarkError) return error;
  const codes = codesOf(error);
  if (codes.includes('LEVEL_LOCKED')) {
    const message = `data directory ${place} is in use by another process`;
    return new TidemarkError('FAILED_PRECONDITION', 'DATA_DIRECTORY_IN_USE', message, { cause: error });
  }
  const message = rootMessage(error);
  const unusable = ['EACCES', 'EPERM', 'EROFS', 'ENOENT', 'ENOTDIR', 'EEXIST', 'ENAMETOOLONG', 'ELOOP'];
  if (codes.some((code) => unusable.includes(code)) || /Permission denied|Not a directory|Read-only/.test(message)) {
    const text = `data directory ${place} cannot be used: ${message}`;
    return new TidemarkError('FAILED_PRECONDITION', 'DATA_DIRECTORY_UNUSABLE', text, { cause: error });
  }
  return toReadError(error, `opening ${place}`);
}

function isFull(error: unknown, message: string): boolean {
  const codes = ['ENOSPC', 'EDQUOT', 'EFBIG'];
  return codesOf(error).some((code) => codes.includes(code)) || /No space left|quota exceeded|File too large/i.test(message);
}

function isCorrupt(error: unknown, message: string): boolean {
  return codesOf(error).includes('LEVEL_CORRUPTION') || /Corruption:|CURRENT file/i.test(message);
}

/** The codes of an error and of its causes: abstract-level wraps the reason of a failed open. */
function codesOf(error: unknown): string[] {
  const codes: string[] = [];
  for (let at = error; at instanceof Error; at = at.cause) {
    if ('code' in at && typeof at.code === 'string') codes.push(at.code);
  }
  return codes;
}

function rootMessage(error: unknown): string {
  let at = error;
  while (at instanceof Error && at.cause instanceof Error) at = at.cause;
  return messageOf(at);
}
