/** What `import ... from 'tidemark/testing'` gives. */
export { simulate, simulateMany, SimulationError, type SimulateManyOptions, type SimulateOptions } from './simulate.js';
export type { ClusterOptions, Faults, Seed } from './options.js';
export type { Body, Simulation } from './run.js';
export { StrayError } from './strays.js';
export type { Who, World } from './world.js';
export type { ConnectOptions, Machine, MachineOptions } from './machine.js';
export type { Fault } from '../swarm/plan.js';
export type { DiskFaults } from '../disk.js';
export type { Latency } from '../network.js';
