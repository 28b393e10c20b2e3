import { expect } from 'chai';
import { createLogger } from '../../src/env/real/log.js';
import { createMetrics } from '../../src/env/real/metrics.js';

describe('logger', () => {
  it('writes one JSON line with level, time, message and the fields of all its ancestors', () => {
    const lines: string[] = [];
    const log = createLogger({ write: (line) => lines.push(line), fields: { node: 1 } });
    log.child({ bucket: 7 }).warn('disk is slow', { syncMs: 12.5, path: undefined });
    expect(lines).to.have.length(1);
    expect(lines[0]?.endsWith('\n')).to.equal(true);
    const { time, ...rest } = JSON.parse(lines[0] ?? '') as Record<string, unknown>;
    expect(rest).to.deep.equal({ level: 'warn', node: 1, bucket: 7, syncMs: 12.5, message: 'disk is slow' });
    expect(time).to.match(/^\d{4}-\d\d-\d\dT.*Z$/);
  });

  it('writes readable lines when asked to', () => {
    const lines: string[] = [];
    const log = createLogger({ write: (line) => lines.push(line), pretty: true });
    log.info('listening', { address: '127.0.0.1:7101', node: 1 });
    log.info('ready');
    expect(lines[0]).to.match(/^\d\d:\d\d:\d\d\.\d{3} info {2}listening {2}address="127\.0\.0\.1:7101" node=1\n$/);
    expect(lines[1]).to.match(/info {2}ready\n$/);
  });

  it('keeps what is below its level to itself', () => {
    const lines: string[] = [];
    const write = (line: string): void => void lines.push(line);
    createLogger({ write }).debug('detail');
    createLogger({ write, level: 'error' }).warn('hm');
    createLogger({ write, level: 'debug' }).debug('detail');
    expect(lines).to.have.length(1);
  });
});

describe('metrics', () => {
  it('exposes counters, gauges and histograms as Prometheus text', async () => {
    const metrics = createMetrics();
    try {
      metrics.counter('tidemark_puts_total', 'Puts', { bucket: '1' }).add();
      metrics.counter('tidemark_puts_total', 'Puts', { bucket: '1' }).add(2);
      metrics.counter('tidemark_puts_total', 'Puts', { bucket: '2' }).add(5);
      metrics.gauge('tidemark_overlay_bytes', 'Overlay').set(42);
      metrics.histogram('tidemark_log_sync_seconds', 'Sync', [0.001, 0.01]).observe(0.005);
      for (let scrape = 0; scrape < 2; scrape += 1) {
        const text = await metrics.text();
        expect(text).to.include('tidemark_puts_total{bucket="1"} 3\n');
        expect(text).to.include('tidemark_puts_total{bucket="2"} 5\n');
        expect(text).to.include('tidemark_overlay_bytes 42\n');
        expect(text).to.include('tidemark_log_sync_seconds_bucket{le="0.01"} 1\n');
        expect(text).to.match(/process_resident_memory_bytes \d{7,}\n/);
        expect(text).to.match(/nodejs_eventloop_lag_max_seconds [\d.e-]+\n/);
      }
      expect(metrics.contentType).to.match(/^text\/plain/);
    } finally {
      metrics.close();
    }
  });

  it('has a registry of its own in every env', async () => {
    const one = createMetrics();
    const two = createMetrics();
    one.counter('tidemark_x_total', 'X').add(1);
    two.counter('tidemark_x_total', 'X').add(2);
    expect(await one.text()).to.include('tidemark_x_total 1\n');
    expect(await two.text()).to.include('tidemark_x_total 2\n');
    one.close();
    two.close();
  });
});
