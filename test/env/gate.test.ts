import { expect } from 'chai';
import { Gate, Queue } from '../../src/env/real/gate.js';

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

describe('the queue of a gate', () => {
  it('holds those that wait, and few more, though it never is empty', () => {
    const queue = new Queue();
    const order: number[] = [];
    const push = (n: number): void => queue.push(() => order.push(n));
    const waiting = 10;
    for (let n = 0; n < waiting; n += 1) push(n);
    let most = 0;
    for (let n = waiting; n < 10_000; n += 1) {
      push(n);
      queue.shift()?.();
      most = Math.max(most, queue.slots);
    }
    expect(most).to.be.below(100);
    while (!queue.empty) queue.shift()?.();
    expect(order).to.deep.equal(Array.from({ length: 10_000 }, (_, n) => n));
    expect([queue.shift(), queue.slots]).to.deep.equal([undefined, 0]);
  });

  it('moves the rest seldom: a long one is worked off in time that grows with its length', () => {
    const queue = new Queue();
    for (let n = 0; n < 1000; n += 1) queue.push(() => undefined);
    const lengths = new Set<number>();
    while (!queue.empty) {
      queue.shift();
      lengths.add(queue.slots);
    }
    expect(lengths.size).to.be.below(12);
  });
});
