/** What `import ... from 'tidemark/check'` gives: checkers of histories, and the format that they read. */
export {
  describe,
  formatEvent,
  HistoryReader,
  NEMESIS,
  type EventType,
  type HistoryEvent,
  type Json,
  type Operation,
} from './history.js';
export { run, type Progress, type Work } from './work.js';
export type { Finding, Result, Verdict } from './result.js';
export { LinearizabilityChecker, registerModel, type Model } from './register.js';
export { linearize, type Linearization, type Witness } from './linearize.js';
export type { Call, Order, State, Step } from './search.js';
export { SetChecker } from './set.js';
export { CounterChecker } from './counter.js';
export { LEVELS, ListAppendChecker, type Level } from './list-append.js';
export { WindowChecker, type KeyVersion } from './window.js';
