import { expect } from 'chai';
import { DEFAULT_LIMITS } from '../../src/env/limits.js';
import { later } from '../../src/mvcc/timestamp.js';
import { startService, type Service } from '../services/support.js';
import { tidemark, type Outcome } from './support.js';

interface Served {
  readonly timestamp: number;
}

/** Commands that read and write, at one real node. */
describe('the commands for keys', function () {
  this.timeout(30_000);
  let service: Service;

  before(async () => {
    service = await startService(DEFAULT_LIMITS);
  });

  after(async () => service.close());

  const run = (args: readonly string[], input = ''): Promise<Outcome> => tidemark([...args, '--endpoint', service.address], input);
  const versionOf = async (...args: string[]): Promise<number> =>
    (JSON.parse((await run([...args, '--json'])).out) as { version: number }).version;

  it('tell as of when there was nothing', async () => {
    const before = await versionOf('put', 'some', '1');
    const scanned = await run(['scan', 'room/', '--json']);
    expect(scanned).to.include({ code: 0, out: '' });
    const { served } = JSON.parse(scanned.err) as { served: Served };
    expect(served.timestamp).to.be.at.least(before);
    expect(await run(['scan', 'room/'])).to.deep.equal({ code: 0, out: '', err: '' });

    const exported = await run(['export', 'room/', '--json']);
    expect(exported).to.include({ code: 0, out: '' });
    const { asOf, exported: count } = JSON.parse(exported.err) as { asOf: number; exported: number };
    expect(count).to.equal(0);
    expect(asOf).to.be.at.least(before);
    const past = await run(['export', 'some', '--as-of', String(before - 1)]);
    expect(past.err).to.match(new RegExp(`^exported 0 records as of ${before - 1} \\(20\\d\\d-`));

    const book = [{ if: 'unchanged', prefix: 'room/', since: served.timestamp }, { put: 'room/1', value: 'taken' }];
    const lines = book.map((line) => JSON.stringify(line)).join('\n');
    expect((await run(['txn'], lines)).code).to.equal(0);
    expect((await run(['txn'], lines)).code, 'somebody was there').to.equal(4);
  });

  it('commit above the token of a session', async () => {
    let token = await versionOf('put', 'mine', '1');
    const writes: [args: string[], input?: string][] = [
      [['put', 'mine', '2']],
      [['put', 'mine', '3', '--if-exists']],
      [['delete', 'mine']],
      [['txn'], '{"put":"mine","value":"4"}'],
    ];
    for (const [args, input] of writes) {
      token = later(token, 100);
      const { code, out } = await run([...args, '--at-least', String(token), '--json'], input);
      expect(code).to.equal(0);
      expect((JSON.parse(out) as { version: number }).version, args.join(' ')).to.be.above(token);
    }
    expect((await run(['get', 'mine', '--at-least', String(token)])).out).to.equal('4\n');
    const future = await run(['delete', 'mine', '--at-least', String(later(token, 3_600_000))]);
    expect([future.code, future.out]).to.deep.equal([2, '']);
    expect(future.err).to.include('at_least').and.to.include('CLOCK_TOO_FAR_AHEAD');
  });
});
