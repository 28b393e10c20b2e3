import { expect } from 'chai';
import { Gate } from '../../src/env/real/gate.js';

/** Jobs that run until they are told to end; `running` names those that do. */
class Jobs {
  readonly running = new Set<string>();
  readonly started: string[] = [];
  readonly #ends = new Map<string, () => void>();

  job(name: string): () => Promise<void> {
    return () => {
      this.running.add(name);
      this.started.push(name);
      return new Promise((resolve) => this.#ends.set(name, resolve));
    };
  }

  async end(...names: string[]): Promise<void> {
    for (const name of names) {
      this.running.delete(name);
      this.#ends.get(name)?.();
    }
    await new Promise<void>((resolve) => setImmediate(resolve));
  }
}

describe('gate', () => {
  let gate: Gate;
  let jobs: Jobs;
  beforeEach(() => {
    gate = new Gate(3);
    jobs = new Jobs();
  });
  const write = (name: string): void => void gate.exclusive(jobs.job(name));
  const read = (name: string): void => void gate.shared(jobs.job(name));
  const running = (): string => [...jobs.running].join(' ');

  it('runs batches one at a time in the order of their calls, and at once if nothing else runs', async () => {
    ['A', 'B', 'C'].forEach(write);
    expect(running()).to.equal('A');
    await jobs.end('A');
    expect(running()).to.equal('B');
    await jobs.end('B');
    expect(running()).to.equal('C');
  });

  it('runs pages together, up to its limit', async () => {
    ['1', '2', '3', '4'].forEach(read);
    expect(running()).to.equal('1 2 3');
    await jobs.end('2');
    expect(running()).to.equal('1 3 4');
  });

  it('alternates while both wait: a batch, the pages that wait by then, a batch', async () => {
    write('A');
    ['1', '2'].forEach(read);
    write('B');
    read('3');
    expect(running()).to.equal('A');
    await jobs.end('A');
    expect(running()).to.equal('1 2 3');
    read('4');
    await jobs.end('1', '2');
    expect(running()).to.equal('3');
    write('C');
    await jobs.end('3');
    expect(running()).to.equal('B');
    await jobs.end('B');
    expect(running()).to.equal('4');
    await jobs.end('4');
    expect(running()).to.equal('C');
  });

  it('lets a batch pass after one phase of pages, however many wait', async () => {
    write('A');
    ['1', '2', '3', '4', '5'].forEach(read);
    write('B');
    await jobs.end('A');
    expect(running()).to.equal('1 2 3');
    await jobs.end('1', '2', '3');
    expect(running()).to.equal('B');
    await jobs.end('B');
    expect(running()).to.equal('4 5');
  });

  it('goes on after a job that failed, and answers with its failure', async () => {
    const failed = gate.exclusive(() => Promise.reject(new Error('disk'))).catch((error: unknown) => error);
    write('B');
    expect(await failed).to.have.property('message', 'disk');
    expect(running()).to.equal('B');
  });

  it('is idle when nothing runs and nothing waits', async () => {
    await gate.idle();
    write('A');
    read('1');
    let idle = false;
    void gate.idle().then(() => (idle = true));
    await jobs.end('A');
    expect(idle).to.equal(false);
    await jobs.end('1');
    expect(idle).to.equal(true);
  });
});
