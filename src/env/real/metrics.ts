import { monitorEventLoopDelay, type IntervalHistogram } from 'node:perf_hooks';
import { Counter as PromCounter, Gauge as PromGauge, Histogram as PromHistogram, Registry } from 'prom-client';
import { assert } from '../../lib/assert.js';
import type { Counter, Gauge, Histogram, Metrics } from '../telemetry.js';

type Labels = Readonly<Record<string, string>>;

/** The event loop's delay is sampled this often: an idle process should hardly wake for it. */
const LOOP_SAMPLE_MS = 250;

export interface PromMetrics extends Metrics {
  /** Of `text()`, for the HTTP answer. */
  readonly contentType: string;
  /** The Prometheus text exposition. */
  text(): Promise<string>;
  /** Stops to sample the event loop. */
  close(): void;
}

/** Metrics with a registry of their own, so that several nodes in one process do not share numbers. */
export function createMetrics(): PromMetrics {
  return new RegistryMetrics();
}

class RegistryMetrics implements PromMetrics {
  readonly #registry = new Registry();
  readonly #families = new Map<string, Family>();
  readonly #histograms = new Map<string, PromHistogram>();
  readonly #loopDelay: IntervalHistogram;

  constructor() {
    this.#loopDelay = monitorEventLoopDelay({ resolution: LOOP_SAMPLE_MS });
    this.#loopDelay.enable();
    this.#addProcessMetrics();
  }

  get contentType(): string {
    return this.#registry.contentType;
  }

  text(): Promise<string> {
    return this.#registry.metrics();
  }

  close(): void {
    this.#loopDelay.disable();
  }

  counter(name: string, help: string, labels: Labels = {}): Counter {
    return this.#family('counter', name, help, labels).cell(labels);
  }

  gauge(name: string, help: string, labels: Labels = {}): Gauge {
    return this.#family('gauge', name, help, labels).cell(labels);
  }

  histogram(name: string, help: string, bounds: readonly number[]): Histogram {
    let histogram = this.#histograms.get(name);
    if (histogram === undefined) {
      histogram = new PromHistogram({ name, help, buckets: [...bounds], registers: [this.#registry] });
      this.#histograms.set(name, histogram);
    }
    return histogram;
  }

  #family(kind: Family['kind'], name: string, help: string, labels: Labels): Family {
    let family = this.#families.get(name);
    if (family === undefined) {
      family = new Family(kind, name, help, Object.keys(labels), this.#registry);
      this.#families.set(name, family);
    }
    assert(family.kind === kind, `metric ${name} is a ${family.kind}`);
    return family;
  }

  #addProcessMetrics(): void {
    const registers = [this.#registry];
    const gauge = (name: string, help: string, read: () => number): void => {
      const metric: PromGauge = new PromGauge({ name, help, registers, collect: () => metric.set(read()) });
    };
    gauge('process_resident_memory_bytes', 'Resident memory', () => process.memoryUsage.rss());
    gauge('nodejs_heap_used_bytes', 'Memory used by JavaScript objects', () => process.memoryUsage().heapUsed);
    gauge('process_start_time_seconds', 'Start of the process', () => performance.timeOrigin / 1000);
    const delaySeconds = (ns: number): number => (Number.isFinite(ns) ? Math.max(0, ns / 1e9 - LOOP_SAMPLE_MS / 1000) : 0);
    const p99 = (): number => delaySeconds(this.#loopDelay.percentile(99));
    gauge('nodejs_eventloop_lag_p99_seconds', 'Delay of the event loop since the last scrape, 99th percentile', p99);
    gauge('nodejs_eventloop_lag_max_seconds', 'Longest delay of the event loop since the last scrape', () => {
      const seconds = delaySeconds(this.#loopDelay.max);
      // Metrics are collected in the order in which they were made: this is the last that reads the histogram.
      this.#loopDelay.reset();
      return seconds;
    });
    const cpu: PromCounter = new PromCounter({
      name: 'process_cpu_seconds_total',
      help: 'User and system time of the process',
      registers,
      collect: () => {
        const { user, system } = process.cpuUsage();
        cpu.reset();
        cpu.inc((user + system) / 1e6);
      },
    });
  }
}

/** All label values of one name. Numbers live in plain cells, so that counting in a hot path is one addition. */
class Family {
  readonly kind: 'counter' | 'gauge';
  readonly #labelNames: readonly string[];
  readonly #cells = new Map<string, Cell>();

  constructor(kind: 'counter' | 'gauge', name: string, help: string, labelNames: readonly string[], registry: Registry) {
    this.kind = kind;
    this.#labelNames = labelNames;
    const cells = this.#cells;
    const base = { name, help, labelNames: [...labelNames], registers: [registry] };
    if (kind === 'counter') {
      const metric: PromCounter = new PromCounter({
        ...base,
        collect: () => {
          metric.reset();
          for (const cell of cells.values()) metric.inc(cell.labels, cell.value);
        },
      });
    } else {
      const metric: PromGauge = new PromGauge({
        ...base,
        collect: () => {
          for (const cell of cells.values()) metric.set(cell.labels, cell.value);
        },
      });
    }
  }

  cell(labels: Labels): Cell {
    const names = Object.keys(labels);
    const same = names.length === this.#labelNames.length && names.every((name) => this.#labelNames.includes(name));
    assert(same, `a metric has the same label names everywhere: ${this.#labelNames.join(', ')}`);
    const key = JSON.stringify(this.#labelNames.map((name) => labels[name]));
    let cell = this.#cells.get(key);
    if (cell === undefined) {
      cell = new Cell(labels);
      this.#cells.set(key, cell);
    }
    return cell;
  }
}

class Cell implements Counter, Gauge {
  readonly labels: Labels;
  value = 0;

  constructor(labels: Labels) {
    this.labels = labels;
  }

  add(value = 1): void {
    assert(value >= 0, 'a counter only grows');
    this.value += value;
  }

  set(value: number): void {
    this.value = value;
  }
}
