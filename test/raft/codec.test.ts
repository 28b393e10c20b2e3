import { expect } from 'chai';
import fc from 'fast-check';
import { Packr } from 'msgpackr';
import { messageFromArray, messageToArray } from '../../src/raft/codec.js';
import { decodeConfig, encodeConfig } from '../../src/raft/config.js';
import type { Message } from '../../src/raft/types.js';

const packr = new Packr({ useRecords: false });
const config = { voters: [1, 2, 5], outgoing: [1, 3], learners: [7], learnersNext: [3] };
const envelope = { from: 1, to: 2, term: 7 };
const beat = { round: 3, floor: 2 ** 52, closed: 2 ** 51 + 1, closedIndex: 12 };
const data = Buffer.from('value');

const MESSAGES: Message[] = [
  {
    type: 'append',
    ...envelope,
    prevIndex: 9,
    prevTerm: 5,
    entries: [
      { index: 10, term: 6, kind: 'data', data },
      { index: 11, term: 7, kind: 'empty', data: Buffer.alloc(0) },
      { index: 12, term: 7, kind: 'config', data: encodeConfig(config) },
    ],
    commit: 8,
    ...beat,
  },
  { type: 'appendReply', ...envelope, index: 9, rejected: false, hintIndex: 0, hintTerm: 0, round: 3, floor: 4 },
  { type: 'appendReply', ...envelope, index: 9, rejected: true, hintIndex: 8, hintTerm: 5, round: 3, floor: 4 },
  { type: 'heartbeat', ...envelope, commit: 8, ...beat },
  { type: 'heartbeatReply', ...envelope, round: 3, floor: 4 },
  { type: 'vote', ...envelope, lastIndex: 9, lastTerm: 6, transfer: true },
  { type: 'preVote', ...envelope, lastIndex: 9, lastTerm: 6, transfer: false },
  { type: 'voteReply', ...envelope, granted: true, floor: 2 ** 50 },
  { type: 'preVoteReply', ...envelope, granted: false, floor: 0 },
  { type: 'timeoutNow', ...envelope },
  { type: 'readIndex', ...envelope, context: 2 ** 40 },
  { type: 'readIndexReply', ...envelope, context: 2 ** 40, index: 9 },
];

describe('raft messages as arrays', () => {
  for (const message of MESSAGES) {
    it(`carries ${message.type}`, () => {
      const there: unknown = packr.unpack(packr.pack(messageToArray(message)));
      expect(messageFromArray(there)).to.deep.equal(message);
    });
  }

  it('has the bytes that peers of this version expect', () => {
    const bytes = MESSAGES.map((message) => packr.pack(messageToArray(message)).toString('hex'));
    expect(bytes[1]).to.equal('9701010207090304');
    expect(bytes[2]).to.equal('990c0102070903040805');
    expect(bytes[3]).to.equal('99020102070803cb4330000000000000cb43200000000000020c');
    expect(bytes[4]).to.equal('96030102070304');
    expect(bytes[9]).to.equal('9409010207');
    expect(bytes[11]).to.equal('970b010207cb42700000000000000900');
  });

  it('is small for heartbeats of an idle group', () => {
    const heartbeat = MESSAGES[3];
    const reply = MESSAGES[4];
    if (heartbeat === undefined || reply === undefined) throw new Error('missing');
    expect(packr.pack(messageToArray(heartbeat)).length).to.be.at.most(30);
    expect(packr.pack(messageToArray(reply)).length).to.be.at.most(20);
  });

  it('refuses every array that lacks a field, has one too many, or one of a wrong kind, with a RangeError', () => {
    for (const message of MESSAGES) {
      const fields = messageToArray(message);
      const isTail = (at: number): boolean => message.type === 'append' && at >= 11;
      for (let at = 0; at < fields.length; at += 1) {
        for (const bad of [undefined, null, -1, 1.5, 'x', NaN, 2 ** 53, {}, [0]]) {
          expect(() => messageFromArray(fields.with(at, bad)), `${message.type} ${at}`).to.throw(RangeError);
        }
        if (!isTail(at)) expect(() => messageFromArray(fields.slice(0, at)), `${message.type} ${at}`).to.throw(RangeError);
      }
      expect(() => messageFromArray([...fields, 1])).to.throw(RangeError);
    }
  });

  it('refuses anything at all that it did not make, with nothing but a RangeError', () => {
    const field = fc.oneof(fc.nat(12), fc.anything(), fc.array(fc.nat(9)), fc.boolean());
    fc.assert(
      fc.property(fc.array(field, { maxLength: 16 }), (fields) => {
        try {
          messageFromArray(fields);
        } catch (error) {
          expect(error).to.be.instanceOf(RangeError);
        }
      }),
      { numRuns: 2000, seed: 1 },
    );
  });

  it('refuses the number that no message has any more', () => {
    expect(() => messageFromArray([8, 1, 2, 7, 9, 6, config.voters, config.outgoing, config.learners, config.learnersNext])).to.throw(
      RangeError,
    );
  });

  it('refuses entries whose terms fall or pass the sender’s', () => {
    const [append] = MESSAGES;
    if (append?.type !== 'append') throw new Error('missing');
    for (const term of [4, 8]) {
      const entries = [{ index: 10, term, kind: 'data' as const, data }];
      expect(() => messageFromArray(messageToArray({ ...append, entries }))).to.throw(RangeError);
    }
  });

  it('refuses configurations that contradict themselves', () => {
    expect(decodeConfig(encodeConfig(config))).to.deep.equal(config);
    const bad = [
      { ...config, voters: [2, 1] },
      { ...config, voters: [1, 1] },
      { ...config, learners: [1] },
      { ...config, learnersNext: [9] },
      { ...config, voters: [0] },
    ];
    for (const one of bad) expect(() => decodeConfig(encodeConfig(one))).to.throw(RangeError);
    expect(() => decodeConfig(Buffer.from([0xc1]))).to.throw(RangeError);
    expect(() => decodeConfig(Buffer.alloc(0))).to.throw(RangeError);
  });
});
