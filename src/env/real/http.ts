import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { isTidemarkError, messageOf } from '../../lib/errors.js';
import type { HttpResponse, Server } from '../network.js';
import { listenError, parseAddress, resolveListener } from './addresses.js';

type Get = (path: string) => Promise<HttpResponse>;

const CONNECTIONS_MAX = 256;
const REQUEST_TIMEOUT_MS = 10_000;

/** A small HTTP listener for metrics and health: GET and HEAD, no bodies, a bounded number of connections. */
export async function listenHttp(address: string, get: Get, onBug: (error: unknown) => void): Promise<Server> {
  const [first] = await resolveListener(address);
  const server = createServer({ requestTimeout: REQUEST_TIMEOUT_MS, headersTimeout: REQUEST_TIMEOUT_MS }, (request, response) => {
    request.resume();
    answer(request, get, onBug).then(
      (result) => send(response, result, request.method === 'HEAD'),
      (error: unknown) => onBug(error),
    );
  });
  server.maxConnections = CONNECTIONS_MAX;
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) => reject(listenError(address, error)));
    server.listen(first?.port ?? 0, parseAddress(address)?.host, resolve);
  });
  const { port } = server.address() as AddressInfo;
  return {
    address: `${address.slice(0, address.lastIndexOf(':'))}:${port}`,
    close: async (graceMs) => {
      const timer = setTimeout(() => server.closeAllConnections(), graceMs);
      await new Promise<void>((resolve) => {
        server.close(() => resolve());
        server.closeIdleConnections();
      });
      clearTimeout(timer);
    },
  };
}

async function answer(request: IncomingMessage, get: Get, onBug: (error: unknown) => void): Promise<HttpResponse> {
  if (request.method !== 'GET' && request.method !== 'HEAD') return plain(405, 'only GET and HEAD are served here\n');
  const path = (request.url ?? '/').split('?', 1)[0] ?? '/';
  try {
    return await get(path);
  } catch (error) {
    if (isTidemarkError(error)) return plain(503, `${error.message}\n`);
    onBug(error);
    return plain(500, `${messageOf(error)}\n`);
  }
}

function plain(status: number, body: string): HttpResponse {
  return { status, contentType: 'text/plain; charset=utf-8', body };
}

function send(response: ServerResponse, { status, contentType, body }: HttpResponse, headOnly: boolean): void {
  response.writeHead(status, { 'content-type': contentType, 'content-length': Buffer.byteLength(body) });
  response.end(headOnly ? undefined : body);
}
