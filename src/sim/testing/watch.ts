/**
 * Counts what code under test waits for, so that a test which waits for nothing that can ever happen is told so instead of
 * waiting. And hears every call, so that one from outside of the world is refused.
 */
export class Watch {
  readonly #insist: (what: string) => void;
  readonly #failed: (what: string, error: unknown) => void;
  readonly #pending = new Set<object>();

  constructor(insist: (what: string) => void, failed: (what: string, error: unknown) => void = () => undefined) {
    this.#insist = insist;
    this.#failed = failed;
  }

  /** Requests and timers under way. */
  get pending(): number {
    return this.#pending.size;
  }

  /** Something began that will end by itself; call what this gives when it has, or will not. */
  begin(): () => void {
    const it = {};
    this.#pending.add(it);
    return () => void this.#pending.delete(it);
  }

  /** Whoever was waited for is gone. */
  forget(): void {
    this.#pending.clear();
  }

  promise<T>(promise: Promise<T>): Promise<T> {
    const end = this.begin();
    promise.then(end, end);
    return promise;
  }

  /** The same object, with every call of its methods, and of what they give, watched. */
  over<T extends object>(object: T, name: string): T {
    return new Proxy(object, {
      get: (target, property) => {
        const value: unknown = Reflect.get(target, property, target);
        if (typeof value !== 'function') return value;
        return (...args: unknown[]): unknown => {
          const what = `${name}.${String(property)}()`;
          this.#insist(what);
          const result: unknown = value.apply(target, args);
          return this.#watched(result, what);
        };
      },
    });
  }

  #watched(result: unknown, what: string): unknown {
    if (result instanceof Promise) {
      result.catch((error: unknown) => this.#failed(what, error));
      return this.promise(result);
    }
    return isAlive(result) ? this.over(result, what) : result;
  }
}

/** Something with methods of its own, such as a generator or a snapshot, and no value. */
function isAlive(value: unknown): value is object {
  if (typeof value !== 'object' || value === null || Buffer.isBuffer(value)) return false;
  return Symbol.asyncIterator in value || Object.values(value).some((member) => typeof member === 'function');
}
