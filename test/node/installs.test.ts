import { expect } from 'chai';
import type { Replica } from '../../src/bucket/replica.js';
import { Installs, type InstallOptions } from '../../src/node/installs.js';
import type { SnapshotTransfer } from '../../src/node/snapshots.js';

type Progress = Partial<ReturnType<Replica['raft']['progress']>[number]>;

const BUCKET = 9;
const RECEIVER = 2 * 65_536 + 2;

/** A replica as far as sending needs one: what raft knows of its receivers, and what it was told of snapshots. */
class Sender {
  readonly bucket = BUCKET;
  readonly told: boolean[] = [];
  readonly raft = { progress: (): Progress[] => this.peers };
  peers: Progress[] = [{ id: RECEIVER, state: 'snapshot' }];

  snapshotSent(_to: number, _index: number, delivered: boolean): void {
    this.told.push(delivered);
  }
}

/** Transfers that wait until the test gives them their turn. */
class Transfers {
  readonly #waiting: (() => void)[] = [];

  get count(): number {
    return this.#waiting.length;
  }

  send: SnapshotTransfer['send'] = (_to, _bucket, _receiver, open) =>
    new Promise((resolve, reject) => {
      this.#waiting.push(() => {
        try {
          open().close();
          resolve();
        } catch (error) {
          reject(error instanceof Error ? error : new Error(String(error)));
        }
      });
    });

  async giveTurns(): Promise<void> {
    for (const begin of this.#waiting.splice(0)) begin();
    await new Promise(setImmediate);
  }
}

describe('a snapshot that waits for its turn', () => {
  let transfers: Transfers;
  let installs: Installs;
  let replicas: Map<number, Replica>;
  let warnings: object[];

  const host = (): Sender => {
    const sender = new Sender();
    replicas.set(BUCKET, sender as unknown as Replica);
    return sender;
  };
  const send = (sender: Sender): void => installs.send(sender as unknown as Replica, RECEIVER);

  beforeEach(() => {
    transfers = new Transfers();
    replicas = new Map();
    warnings = [];
    const log = { info: () => undefined, warn: (_message: string, fields: object) => warnings.push(fields) };
    installs = new Installs({
      hosting: { replicas },
      log,
      transfer: () => transfers,
      now: () => 0,
      onBug: (error: unknown) => {
        throw error;
      },
    } as unknown as InstallOptions);
  });

  it('is not made when its replica does not lead any more: the receiver would give up what the leader sends', async () => {
    const sender = host();
    send(sender);
    send(sender);
    expect(transfers.count, 'once').to.equal(1);
    sender.peers = [];
    await transfers.giveTurns();
    expect(sender.told).to.deep.equal([false]);
    expect(warnings).to.have.lengthOf(1);
  });

  it('is not that for which another replica of the bucket asks, which came to this node later', async () => {
    const before = host();
    send(before);
    const after = host();
    send(after);
    expect(transfers.count).to.equal(2);
    after.peers = [];
    await transfers.giveTurns();
    expect([before.told, after.told]).to.deep.equal([[false], [false]]);
    after.peers = [{ id: RECEIVER, state: 'snapshot' }];
    send(after);
    expect(transfers.count, 'it may ask again').to.equal(1);
  });
});
