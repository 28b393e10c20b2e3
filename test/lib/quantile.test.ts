import { expect } from 'chai';
import { Quantile } from '../../src/lib/quantile.js';

describe('a quantile of durations', () => {
  it('is as good as a fifth, says nothing before it has seen enough, and follows what changes', () => {
    const quantile = new Quantile(0.95, 50);
    for (let n = 0; n < 49; n += 1) quantile.add(1);
    expect(quantile.ms).to.equal(Infinity);
    for (let n = 0; n < 1000; n += 1) quantile.add(n % 100 < 90 ? 2 : 40);
    expect(quantile.ms).to.be.within(40, 48);
    for (let n = 0; n < 20_000; n += 1) quantile.add(5);
    expect(quantile.ms).to.be.within(5, 6);
  });
});
