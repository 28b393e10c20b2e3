import { expect } from 'chai';
import { loadCities, loadState, MARKER, readCities, type City, type CityStore } from '../../src/cli/cluster/cities.js';
import { toMapKey, type Bytes } from '../../src/lib/bytes.js';

class MemoryStore implements CityStore {
  readonly data = new Map<string, Bytes>();
  puts = 0;

  get(key: Bytes): Promise<Bytes | undefined> {
    return Promise.resolve(this.data.get(toMapKey(key)));
  }

  async put(key: Bytes, value: Bytes): Promise<void> {
    await Promise.resolve();
    this.puts += 1;
    this.data.set(toMapKey(key), value);
  }
}

const never = new AbortController().signal;

describe('the sample data', () => {
  let cities: City[] = [];

  before(async () => {
    cities = await readCities();
  });

  it('has at least 100,000 records under keys of their own', () => {
    expect(cities.length).to.be.greaterThan(100_000);
    expect(new Set(cities.map(({ key }) => toMapKey(key))).size).to.equal(cities.length);
    const parts = cities.map(({ key }) => key.toString('utf8').split('/'));
    expect(parts.every((each) => each.length === 5 && each[0] === 'city')).to.equal(true);
    const city = cities.find(({ key }) => key.toString('utf8') === 'city/IS/39/Reykjavík/0');
    const value: unknown = JSON.parse(city?.value.toString('utf8') ?? '');
    expect(value).to.include({ name: 'Reykjavík', country: 'IS', region: 'Capital Region', lat: 64.13548 });
  });

  it('is loaded on from where an earlier load was interrupted', async () => {
    const store = new MemoryStore();
    expect(await loadState(store)).to.equal(undefined);
    const controller = new AbortController();
    const interrupt = (written: number): void => {
      if (written >= 25_000) controller.abort();
    };
    await loadCities(store, cities, 0, interrupt, controller.signal);
    const state = await loadState(store);
    expect(state).to.include({ written: 20_000, total: cities.length });

    const before = store.puts;
    await loadCities(store, cities, 20_000, () => undefined, never);
    expect(await loadState(store)).to.include({ written: cities.length, total: cities.length });
    expect(store.data.size).to.equal(cities.length + 1);
    expect(store.puts - before).to.be.lessThan(cities.length - 20_000 + 20);
  });

  it('is loaded anew if it is another version', async () => {
    const store = new MemoryStore();
    const mark = { written: 5, total: 5, version: '0.0.1' };
    await store.put(MARKER, Buffer.from(JSON.stringify(mark)));
    expect(await loadState(store)).to.equal(undefined);
  });

  it('is not marked as loaded when a write fails', async () => {
    const store = new MemoryStore();
    const failing: CityStore = {
      get: (key) => store.get(key),
      put: (key, value) => (store.puts > 100 ? Promise.reject(new Error('full')) : store.put(key, value)),
    };
    const error: unknown = await loadCities(failing, cities, 0, () => undefined, never).catch((reason: unknown) => reason);
    expect(String(error)).to.equal('Error: full');
    expect(await loadState(store)).to.equal(undefined);
  });
});
