/** Thrown when the program's own reasoning is wrong; never for bad input. It is fatal to the process that meets it. */
export class AssertionError extends Error {
  override readonly name = 'AssertionError';
}

/**
 * States an invariant. Stays on in production: a wrong answer costs more than a stopped node. Where it is asked all the time, a
 * message that has to be put together is a function: it costs more than the question.
 */
export function assert(condition: unknown, message: string | (() => string)): asserts condition {
  if (!condition) throw new AssertionError(typeof message === 'string' ? message : message());
}

/** For the default branch of a switch over a union: compiles only while every case is handled. */
export function unreachable(value: never): never {
  throw new AssertionError(`unreachable case: ${JSON.stringify(value)}`);
}
