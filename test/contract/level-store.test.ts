import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openDisk } from '../../src/env/real/disk.js';
import { describeStoreContract } from './store.js';

describeStoreContract('LevelDB in a directory', () => {
  const directory = mkdtempSync(join(tmpdir(), 'tidemark-store-'));
  return {
    open: () => openDisk(join(directory, 'data')),
    remove: async () => rmSync(directory, { recursive: true }),
    settle: (promise) => promise,
  };
});
