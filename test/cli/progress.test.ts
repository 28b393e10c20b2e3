import { PassThrough } from 'node:stream';
import { expect } from 'chai';
import { showProgress } from '../../src/cli/progress.js';

describe('progress on no terminal', () => {
  const now = performance.now.bind(performance);
  let nowMs = 0;

  beforeEach(() => {
    nowMs = 0;
    performance.now = () => nowMs;
  });

  afterEach(() => {
    performance.now = now;
  });

  it('is a line every few seconds and one at the end, with what is known now; no line twice', () => {
    const stderr = new PassThrough();
    const progress = showProgress({ stdin: new PassThrough(), stdout: new PassThrough(), stderr }, { title: 'moving', total: 2, unit: 'replicas' });
    progress.update(1);
    nowMs = 5000;
    progress.update(1, { total: 4, note: '; nothing moves' });
    nowMs = 6000;
    progress.update(4, { total: 4, note: '' });
    nowMs = 10_000;
    progress.update(4, { total: 4, note: '' });
    progress.end();
    expect(String(stderr.read())).to.equal('moving: 25%, 1 of 4 replicas, 0/s; nothing moves\nmoving: 100%, 4 of 4 replicas, 0/s\n');
  });
});
