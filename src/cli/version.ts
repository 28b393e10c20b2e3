import { createRequire } from 'node:module';
import { z } from 'zod';

/** Of the package that this file belongs to. */
export const VERSION = z.object({ version: z.string() }).parse(createRequire(import.meta.url)('../../package.json')).version;
