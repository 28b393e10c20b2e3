export type Fields = Readonly<Record<string, string | number | boolean | undefined>>;

/** Structured logs: a sentence that is always the same, and the facts as fields. */
export interface Logger {
  debug(message: string, fields?: Fields): void;
  info(message: string, fields?: Fields): void;
  warn(message: string, fields?: Fields): void;
  error(message: string, fields?: Fields): void;
  /** A logger that adds these fields to every line. */
  child(fields: Fields): Logger;
}

export interface Counter {
  add(value?: number): void;
}

export interface Gauge {
  set(value: number): void;
}

export interface Histogram {
  observe(value: number): void;
}

/** Names are Prometheus names with their unit last: `tidemark_log_sync_seconds`. Asking twice for a name gives the same one. */
export interface Metrics {
  counter(name: string, help: string, labels?: Readonly<Record<string, string>>): Counter;
  gauge(name: string, help: string, labels?: Readonly<Record<string, string>>): Gauge;
  histogram(name: string, help: string, bounds: readonly number[]): Histogram;
}
