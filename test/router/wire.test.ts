import { expect } from 'chai';
import fc from 'fast-check';
import { BinaryWriter } from '../../src/lib/binary.js';
import { STATUS, TidemarkError, isTidemarkError, type StatusCode } from '../../src/lib/errors.js';
import type { Condition, Consistency, Mutation, Record } from '../../src/bucket/requests.js';
import type { Change } from '../../src/changes/change.js';
import type { Answer, Operation, OperationKind } from '../../src/router/operations.js';
import { decodeHello, encodeHello, OPERATIONS } from '../../src/router/wire.js';
import { decodeCalls, encodeCancel, encodeRequest, type Request } from '../../src/router/wire-calls.js';
import {
  decodePushes,
  encodeAnswer,
  encodeError,
  encodeLeaders,
  encodePlacement,
  encodeWelcome,
  type Push,
} from '../../src/router/wire-pushes.js';
import { placementOf } from './support.js';

const uint = fc.maxSafeNat();
const data = fc.uint8Array({ maxLength: 40 }).map((array) => Buffer.from(array));
const bucket = fc.nat(65_535);

const consistency: fc.Arbitrary<Consistency> = fc.oneof(
  fc.constant({ kind: 'linearizable' } as const),
  fc.constant({ kind: 'local' } as const),
  uint.map((maxStalenessMs) => ({ kind: 'bounded', maxStalenessMs }) as const),
  uint.map((timestamp) => ({ kind: 'asOf', timestamp }) as const),
);

const condition: fc.Arbitrary<Condition> = fc.oneof(
  fc.record({ kind: fc.constant('exists' as const), key: data }),
  fc.record({ kind: fc.constant('absent' as const), key: data }),
  fc.record({ kind: fc.constant('version' as const), key: data, version: uint }),
  fc.record({ kind: fc.constant('value' as const), key: data, value: data }),
  fc.record({ kind: fc.constant('unchanged' as const), range: fc.record({ start: data, end: data }), since: uint }),
);

const mutation: fc.Arbitrary<Mutation> = fc.oneof(
  fc.record({ kind: fc.constant('put' as const), key: data, value: data }),
  fc.record({ kind: fc.constant('delete' as const), key: data }),
);

const transactionId = fc.record({ session: uint, sequence: uint, attempt: uint });
const side = fc.record({ value: data, version: uint });
const needs = fc.record({ stream: uint, above: uint });
const position = fc.record({ timestamp: uint, bucket, index: uint, position: fc.nat(65_535) });

const change: fc.Arbitrary<Change> = fc
  .record({
    at: position,
    key: data,
    deleted: fc.boolean(),
    value: data,
    before: fc.option(fc.record({ version: uint, value: data }), { nil: undefined }),
    transaction: data,
  })
  .map((fields) => (fields.deleted ? { ...fields, value: Buffer.alloc(0) } : fields));

const owner = fc.record({ first: uint.filter((first) => first > 0), reservation: uint });

const operation: fc.Arbitrary<Operation> = fc.oneof(
  fc.record({
    kind: fc.constant('write' as const),
    bucket,
    request: fc.record({
      id: fc.record({ session: uint, born: uint, sequence: uint, lowest: uint }),
      conditions: fc.array(condition, { maxLength: 4 }),
      mutations: fc.array(mutation, { maxLength: 4 }),
      owner: fc.option(owner, { nil: undefined }),
    }),
  }),
  fc.record({ kind: fc.constant('get' as const), bucket, key: data, anyReplica: fc.boolean(), consistency }),
  fc.record({
    kind: fc.constant('history' as const),
    bucket,
    key: data,
    from: uint,
    to: uint,
    limit: uint,
    consistency: fc.oneof(
      fc.constant({ kind: 'linearizable' } as const),
      uint.map((timestamp) => ({ kind: 'asOf', timestamp }) as const),
    ),
  }),
  fc.record({
    kind: fc.constant('diff' as const),
    buckets: fc.array(bucket, { maxLength: 10 }),
    range: fc.record({ start: data, end: data }),
    from: uint,
    to: uint,
    limit: uint,
  }),
  fc.record({
    kind: fc.constant('pins' as const),
    buckets: fc.array(bucket, { maxLength: 10 }),
    action: fc.oneof(
      fc.constant({ kind: 'list' } as const),
      fc.record({ kind: fc.constant('remove' as const), name: fc.string() }),
      fc.record({ kind: fc.constant('takeBack' as const), name: fc.string(), timestamp: uint }),
      fc.record({ kind: fc.constant('add' as const), name: fc.string(), timestamp: uint, expires: uint }),
    ),
  }),
  fc.record({
    kind: fc.constant('scan' as const),
    buckets: fc.array(bucket, { maxLength: 10 }),
    range: fc.record({ start: data, end: data }),
    reverse: fc.boolean(),
    limit: uint,
    keysOnly: fc.boolean(),
    consistency,
  }),
  fc.record({ kind: fc.constant('readTimestamp' as const), buckets: fc.array(bucket, { maxLength: 10 }) }),
  fc.record({
    kind: fc.constant('prepare' as const),
    bucket,
    request: fc.record({
      id: transactionId,
      home: bucket,
      start: uint,
      first: uint,
      reservation: uint,
      conditions: fc.array(fc.record({ position: uint, condition }), { maxLength: 4 }),
      mutations: fc.array(mutation, { maxLength: 4 }),
    }),
  }),
  fc.record({
    kind: fc.constant('resolve' as const),
    bucket,
    request: fc.record({ id: transactionId, start: uint, commit: uint }),
  }),
  fc.record({ kind: fc.constant('outcomes' as const), bucket, ids: fc.array(transactionId, { maxLength: 10 }), asOf: uint }),
  fc.record({
    kind: fc.constant('changes' as const),
    buckets: fc.array(bucket, { maxLength: 10 }),
    range: fc.record({ start: data, end: data }),
    after: position,
    before: fc.boolean(),
    limit: uint,
    needs,
  }),
  fc.record({
    kind: fc.constant('awaitMark' as const),
    buckets: fc.array(bucket, { maxLength: 10 }),
    above: uint,
    waitMs: fc.nat(10_000),
    needs,
  }),
  fc.record({
    kind: fc.constant('reserve' as const),
    bucket,
    request: fc.record({
      owner,
      claim: fc.record({ writes: fc.array(data), reads: fc.array(data), ranges: fc.array(fc.record({ start: data, end: data })) }),
      forMs: fc.nat(10_000),
    }),
  }),
);

const request: fc.Arbitrary<Request> = fc.record({
  number: uint,
  epoch: uint,
  remainingMs: fc.nat(86_400_000),
  hops: fc.nat(9),
  seen: uint,
  operation,
});

const record: fc.Arbitrary<Record> = fc.record({ key: data, value: data, version: uint });
const writeResult = fc.oneof(
  uint.map((timestamp) => ({ applied: true, timestamp, failedCondition: -1, failedVersion: 0 })),
  fc.record({ applied: fc.constant(false), timestamp: uint, failedCondition: fc.nat(1023), failedVersion: uint }),
);
const results: { readonly [K in OperationKind]: fc.Arbitrary<Answer<K>['result']> } = {
  write: writeResult,
  get: fc.record({ record: fc.option(record, { nil: undefined }) }),
  history: fc.record({
    versions: fc.array(
      fc.oneof(
        fc.record({ version: uint, deleted: fc.constant(false), value: data }),
        uint.map((version) => ({ version, deleted: true, value: Buffer.alloc(0) })),
      ),
    ),
    more: fc.boolean(),
  }),
  scan: fc.oneof(
    fc.record({ records: fc.array(record), more: fc.boolean() }),
    fc.record({ records: fc.array(record), more: fc.constant(true), resume: data }),
  ),
  readTimestamp: fc.record({ timestamp: uint }),
  prepare: fc.oneof(
    fc.record({ kind: fc.constant('prepared' as const), timestamp: uint }),
    fc.record({ kind: fc.constant('refused' as const), result: writeResult }),
    fc.constantFrom({ kind: 'locked' } as const, { kind: 'ended', upTo: 4096 } as const),
  ),
  resolve: fc.constant({}),
  reserve: fc.constant({}),
  outcomes: fc.record({
    outcomes: fc.array(
      fc.oneof(
        fc.record({ kind: fc.constant('committed' as const), timestamp: uint }),
        fc.constantFrom({ kind: 'pending' } as const, { kind: 'over' } as const),
      ),
    ),
  }),
  diff: fc.record({
    changes: fc.array(
      fc.record({ key: data, before: fc.option(side, { nil: undefined }), after: fc.option(side, { nil: undefined }) }),
    ),
    resume: fc.option(data, { nil: undefined }),
  }),
  pins: fc.record({
    pins: fc.array(fc.record({ name: fc.string(), timestamp: uint, expires: uint, lost: fc.boolean(), buckets: uint })),
    horizon: uint,
  }),
  changes: fc.record({ changes: fc.array(change), upTo: position, mark: uint }),
  awaitMark: fc.record({ mark: uint, behind: fc.array(bucket) }),
};

const served = fc.record({
  node: fc.nat(65_535),
  timestamp: uint,
  consistency: fc.constantFrom('linearizable' as const, 'bounded' as const, 'local' as const, 'asOf' as const),
  hops: fc.nat(9),
});

const answer = fc
  .constantFrom(...OPERATIONS)
  .chain((kind) => fc.record({ kind: fc.constant(kind), number: uint, result: results[kind], served }));

const error = fc
  .record({
    code: fc.constantFrom(...(Object.keys(STATUS).filter((code) => code !== 'OK') as StatusCode[])),
    reason: fc.string(),
    message: fc.string(),
    outcome: fc.constantFrom('none' as const, 'unknown' as const),
    retriable: fc.boolean(),
    details: fc.dictionary(fc.string(), fc.string(), { noNullPrototype: true }),
  })
  .map(({ code, reason, message, ...options }) => new TidemarkError(code, reason, message, options));

/** Decodes or is refused with INVALID_ARGUMENT; nothing else may come out of it. */
function survives(decode: (frame: Buffer) => unknown, frame: Buffer): void {
  try {
    decode(frame);
  } catch (thrown) {
    if (!isTidemarkError(thrown)) throw thrown;
    expect(thrown.code).to.equal('INVALID_ARGUMENT');
    expect(thrown.reason).to.equal('MALFORMED_MESSAGE');
  }
}

describe('wire: frames of a pipeline stream', () => {
  it('brings requests back as they were, many in one frame', () => {
    fc.assert(
      fc.property(fc.array(fc.oneof(request, uint), { maxLength: 5 }), (items) => {
        const out = new BinaryWriter();
        for (const item of items) {
          if (typeof item === 'number') encodeCancel(out, item);
          else encodeRequest(out, item);
        }
        const expected = items.map((item) =>
          typeof item === 'number' ? { kind: 'cancel', number: item } : { kind: 'request', request: item },
        );
        expect(decodeCalls(out.take())).to.deep.equal(expected);
      }),
    );
  });

  it('brings answers back as they were', () => {
    fc.assert(
      fc.property(fc.array(answer, { maxLength: 5 }), (items) => {
        const out = new BinaryWriter();
        for (const item of items) encodeAnswer(out, item.number, item.kind, { result: item.result, served: item.served });
        const expected = items.map((item): Push => {
          const { number, kind, result, served: by } = item;
          return { kind: 'answer', number, operation: kind, answer: { result, served: by } };
        });
        expect(decodePushes(out.take())).to.deep.equal(expected);
      }),
    );
  });

  it('brings errors back with code, reason, outcome and details', () => {
    fc.assert(
      fc.property(uint, error, (number, original) => {
        const out = new BinaryWriter();
        encodeError(out, number, original);
        const [push] = decodePushes(out.take());
        if (push?.kind !== 'error') throw new Error('no error came back');
        const { code, reason, message, outcome, retriable, details } = push.error;
        expect(push.number).to.equal(number);
        expect({ code, reason, message, outcome, retriable }).to.deep.equal({
          code: original.code,
          reason: original.reason,
          message: original.message,
          outcome: original.outcome,
          retriable: original.retriable,
        });
        expect(Object.entries(details)).to.have.deep.members(Object.entries(original.details));
      }),
    );
  });

  it('brings hello, welcome, placement and leaders back', () => {
    const hello = { protocol: 1, clusterId: 'abc', role: 'sidecar' } as const;
    expect(decodeHello(encodeHello(hello))).to.deep.equal(hello);
    const nodes = [
      { id: 1, address: 'a:1', zone: 'x', host: 'h' },
      { id: 9, address: 'b:2', zone: '', host: '' },
    ];
    const placement = placementOf(nodes, { epoch: 2 ** 40, leader: 9 });
    const welcome = { clusterId: 'abc', node: 3, now: 2 ** 52 };
    const hints = [{ bucket: 7, leader: 2, term: 12 }];
    const out = new BinaryWriter();
    encodeWelcome(out, welcome);
    encodePlacement(out, placement);
    encodeLeaders(out, hints);
    expect(decodePushes(out.take())).to.deep.equal([
      { kind: 'welcome', welcome },
      { kind: 'placement', placement },
      { kind: 'leaders', hints },
    ]);
  });

  it('has a format that does not change by accident', () => {
    const out = new BinaryWriter();
    encodeRequest(out, {
      number: 1,
      epoch: 2,
      remainingMs: 300,
      hops: 0,
      seen: 2 ** 52,
      operation: {
        kind: 'write',
        bucket: 200,
        request: {
          id: { session: 9, born: 8, sequence: 7, lowest: 6 },
          conditions: [
            { kind: 'version', key: Buffer.from('k'), version: 5 },
            { kind: 'unchanged', range: { start: Buffer.from('a'), end: Buffer.from('b') }, since: 4 },
          ],
          mutations: [
            { kind: 'put', key: Buffer.from('k'), value: Buffer.from('v') },
            { kind: 'delete', key: Buffer.from('l') },
          ],
        },
      },
    });
    encodeCancel(out, 3);
    const request = '000102ac02008080808080808008c80109080706';
    expect(out.take().toString('hex')).to.equal(`${request}0202016b050401610162040201016b01760001` + '6c001003');
    encodeAnswer(out, 1, 'get', {
      result: { record: { key: Buffer.from('k'), value: Buffer.from('v'), version: 5 } },
      served: { node: 2, timestamp: 128, consistency: 'asOf', hops: 1 },
    });
    encodeError(out, 4, new TidemarkError('UNAVAILABLE', 'R', 'm', { retriable: true, details: { a: 'b' } }));
    expect(out.take().toString('hex')).to.equal('01010280010301' + '01016b050176' + '11040e0152016d02010161' + '0162');
    expect(encodeHello({ protocol: 1, clusterId: 'c', role: 'node' }).toString('hex')).to.equal('01016302');
  });

  it('refuses any bytes that are no frame, and nothing worse', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (array) => {
        const frame = Buffer.from(array);
        survives(decodeCalls, frame);
        survives(decodePushes, frame);
        survives(decodeHello, frame);
      }),
      { numRuns: 2000 },
    );
  });

  it('refuses frames that were cut or changed in one place, or reads them as another frame', () => {
    fc.assert(
      fc.property(request, answer, fc.nat(), fc.nat(255), (asked, answered, at, value) => {
        const out = new BinaryWriter();
        encodeRequest(out, asked);
        const calls = out.take();
        encodeAnswer(out, answered.number, answered.kind, { result: answered.result, served: answered.served });
        const pushes = out.take();
        survives(decodeCalls, calls.subarray(0, at % calls.length));
        survives(decodePushes, pushes.subarray(0, at % pushes.length));
        calls[at % calls.length] = value;
        pushes[at % pushes.length] = value;
        survives(decodeCalls, calls);
        survives(decodePushes, pushes);
      }),
      { numRuns: 1000 },
    );
  });

  it('reserves no memory for counts that a few bytes only claim', () => {
    // A scan over 2^49 buckets, and a value of 2^49 bytes.
    const huge = Buffer.from([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]);
    const before = process.memoryUsage().arrayBuffers;
    for (let round = 0; round < 1000; round += 1) {
      survives(decodeCalls, Buffer.concat([Buffer.from([3, 1, 1, 1, 1, 1]), huge, Buffer.alloc(20)]));
      survives(decodeCalls, Buffer.concat([Buffer.from([1, 1, 1, 1, 1, 1, 1]), huge]));
    }
    expect(process.memoryUsage().arrayBuffers - before).to.be.lessThan(16 * 1024 * 1024);
  });

  it('does not let a small value hold its frame in memory', () => {
    const out = new BinaryWriter();
    const result = { record: { key: Buffer.from('k'), value: Buffer.alloc(100), version: 1 } };
    const by = { node: 1, timestamp: 1, consistency: 'local', hops: 1 } as const;
    for (let number = 0; number < 10_000; number += 1) encodeAnswer(out, number, 'get', { result, served: by });
    const frame = out.take();
    const [push] = decodePushes(frame);
    if (push?.kind !== 'answer') throw new Error('no answer');
    const { record: found } = push.answer.result as Answer<'get'>['result'];
    expect(found?.value.buffer).to.not.equal(frame.buffer);
  });
});
