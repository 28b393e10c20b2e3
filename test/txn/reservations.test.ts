import { expect } from 'chai';
import { Reservations, type Owner } from '../../src/txn/reservations.js';

const b = (text: string): Buffer => Buffer.from(text);
const owner = (first: number, reservation = first): Owner => ({ first, reservation });
const claim = (writes: string, reads = '', ranges: [string, string][] = []) => ({
  writes: [...writes].map(b),
  reads: [...reads].map(b),
  ranges: ranges.map(([start, end]) => ({ start: b(start), end: b(end) })),
});

describe('the reservations of a bucket', () => {
  it('stand in the way of younger transactions and plain commands, where a lock would', () => {
    const reservations = new Reservations(100_000, () => undefined);
    reservations.place(owner(5), claim('w', 'r', [['m', 'p']]), 100);
    for (const wanted of [claim('w'), claim('', 'w'), claim('r'), claim('n'), claim('', '', [['v', 'x']])]) {
      expect(reservations.inTheWay(wanted, undefined)).to.equal(5);
      expect(reservations.inTheWay(wanted, owner(6))).to.equal(5);
      expect(reservations.inTheWay(wanted, { first: 6, reservation: 0 })).to.equal(5);
      expect(reservations.inTheWay(wanted, owner(4)), 'older').to.equal(undefined);
      expect(reservations.inTheWay(wanted, owner(5)), 'its own').to.equal(undefined);
    }
    for (const wanted of [claim('p'), claim('', 'r'), claim('', 'n'), claim('', '', [['a', 'w']])]) {
      expect(reservations.inTheWay(wanted, undefined)).to.equal(undefined);
    }
  });

  it('are replaced, end, and expire, which those who wait are told', () => {
    const ended: number[] = [];
    const reservations = new Reservations(100_000, (reservation) => ended.push(reservation));
    reservations.place(owner(5), claim('a'), 100);
    reservations.place(owner(5), claim('b'), 200);
    expect(reservations.inTheWay(claim('a'), undefined)).to.equal(undefined);
    expect(reservations.inTheWay(claim('b'), undefined)).to.equal(5);
    reservations.place(owner(7), claim('c'), 150);
    reservations.expire(150);
    expect(ended).to.deep.equal([7]);
    reservations.end(5);
    reservations.end(5);
    expect(ended).to.deep.equal([7, 5]);
    expect(reservations.count).to.equal(0);
  });

  it('make room for older ones', () => {
    const ended: number[] = [];
    const reservations = new Reservations(2000, (reservation) => ended.push(reservation));
    expect(reservations.place(owner(5), claim('a'), 100)).to.equal(true);
    expect(reservations.place(owner(7), claim('a'), 100)).to.equal(true);
    expect(reservations.place(owner(8), claim('a'), 100), 'the youngest').to.equal(false);
    expect(reservations.place(owner(6), claim('a'), 100)).to.equal(true);
    expect(ended).to.deep.equal([7]);
    expect(reservations.place(owner(1), claim('abcdefghijk'), 100), 'larger than all room, but alone').to.equal(true);
    expect(ended).to.deep.equal([7, 6, 5]);
  });

  it('that have grown too large for what older ones leave are gone, which those who wait are told', () => {
    const ended: number[] = [];
    const reservations = new Reservations(2000, (reservation) => ended.push(reservation));
    reservations.place(owner(5), claim('a'), 100);
    reservations.place(owner(7), claim('b'), 100);
    expect(reservations.place(owner(7), claim('bcdefgh'), 100)).to.equal(false);
    expect(reservations.inTheWay(claim('b'), undefined)).to.equal(undefined);
    expect(ended).to.deep.equal([7]);
    expect(reservations.place(owner(8), claim('bcdefgh'), 100), 'it had nothing').to.equal(false);
    expect(ended).to.deep.equal([7]);
  });
});
