/** HTTP requests to handlers: bounded and validated bodies, JSON replies, jobs as streams of events. */
import { once } from 'node:events';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { z } from 'zod';
import { DeltahopError, type ErrorCode, isDeltahopError } from '../errors.js';
import { Job } from './jobs.js';
import { errorBody, firstIssue } from './messages.js';

/** A control message is a few kilobytes; what is larger is faulty or hostile. */
const bodyLimitBytes = 1024 * 1024;

/** A request that a handler answers. */
export interface Call<Body> {
  /** A part of the path, by its name in the pattern. */
  param(name: string): string;
  body: Body;
}

/** What a handler gives back: a value for a JSON reply, nothing for an empty one, or a job to follow. */
export type Reply = object | Job | undefined;

interface Route {
  method: string;
  parts: readonly string[];
  handle(params: ReadonlyMap<string, string>, request: IncomingMessage): Promise<Reply>;
}

const statuses: Partial<Record<ErrorCode, number>> = {
  DELTAHOP_E_INVALID_ARGUMENT: 400,
  DELTAHOP_E_PROTOCOL: 400,
  DELTAHOP_E_INSECURE_REFUSED: 403,
  DELTAHOP_E_NOT_FOUND: 404,
  DELTAHOP_E_BUSY: 409,
  DELTAHOP_E_EXISTS: 409,
  DELTAHOP_E_IN_USE: 409,
  DELTAHOP_E_ENDED: 409,
  DELTAHOP_E_EPOCH: 409,
  DELTAHOP_E_OWNED_ELSEWHERE: 409,
  DELTAHOP_E_NOT_RUNNING: 409,
  DELTAHOP_E_PREFLIGHT: 409,
  DELTAHOP_E_LIMIT: 413,
  DELTAHOP_E_UNSUPPORTED: 501,
  DELTAHOP_E_NO_SPACE: 507,
};

/** How often a request that is being worked on is said to be; the client's patience with silence is a few of these. */
const aliveIntervalMs = 1000;

/** A table of routes. */
export class Router {
  readonly #routes: Route[] = [];
  readonly #onDefect: (error: unknown, what: string) => void;

  /** @param onDefect Told of every error that is no DeltahopError: the peer gets its message alone. */
  constructor(onDefect: (error: unknown, what: string) => void) {
    this.#onDefect = onDefect;
  }

  /**
   * Adds a route. A part of the pattern that begins with `:` stands for any text.
   * @param schema What the body must be; null if there is none.
   */
  on<Body>(
    method: 'GET' | 'POST' | 'DELETE',
    pattern: string,
    schema: z.ZodType<Body> | null,
    handler: (call: Call<Body>) => Promise<Reply>,
  ): void {
    this.#routes.push({
      method,
      parts: pattern.split('/'),
      handle: async (params, request) => {
        const param = (name: string): string => {
          const value = params.get(name);
          if (value === undefined) throw new DeltahopError('DELTAHOP_E_INTERNAL', `${pattern} has no ${name}`);
          return value;
        };
        return await handler({ param, body: schema === null ? (undefined as Body) : await readBody(request, schema) });
      },
    });
  }

  /** Answers a request. Never rejects. */
  async answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    // RFC 9110, section 15.2: an interim response. Whoever waits for a restore can tell a slow node from a dead link.
    const alive = setInterval(() => response.writeProcessing(), aliveIntervalMs);
    alive.unref();
    try {
      const reply = await this.#dispatch(request);
      clearInterval(alive);
      if (reply instanceof Job) await stream(reply, response);
      else if (reply === undefined) response.writeHead(204).end();
      else sendJson(response, 200, reply);
    } catch (error) {
      if (!isDeltahopError(error)) this.#onDefect(error, `${request.method} ${request.url}`);
      if (response.headersSent) response.destroy();
      else sendJson(response, isDeltahopError(error) ? (statuses[error.code] ?? 500) : 500, errorBody(error));
    } finally {
      clearInterval(alive);
    }
  }

  async #dispatch(request: IncomingMessage): Promise<Reply> {
    // A web page in a browser on this machine can reach loopback ports too; browsers always say where a page is from.
    if (request.headers.origin !== undefined) {
      throw new DeltahopError('DELTAHOP_E_PROTOCOL', 'this API does not serve web pages');
    }
    const path = new URL(request.url ?? '/', 'http://agent').pathname.split('/');
    for (const route of this.#routes) {
      const params = route.method === request.method ? match(route.parts, path) : null;
      if (params !== null) return await route.handle(params, request);
    }
    throw new DeltahopError('DELTAHOP_E_UNSUPPORTED', `this agent has no ${request.method} ${request.url}`);
  }
}

function match(parts: readonly string[], path: readonly string[]): Map<string, string> | null {
  if (parts.length !== path.length) return null;
  const params = new Map<string, string>();
  for (const [index, part] of parts.entries()) {
    const given = path[index] ?? '';
    if (!part.startsWith(':')) {
      if (part !== given) return null;
      continue;
    }
    try {
      params.set(part.slice(1), decodeURIComponent(given));
    } catch {
      return null;
    }
  }
  return params;
}

async function readBody<Body>(request: IncomingMessage, schema: z.ZodType<Body>): Promise<Body> {
  const type = request.headers['content-type']?.split(';')[0]?.trim().toLowerCase();
  if (type !== 'application/json') {
    throw new DeltahopError('DELTAHOP_E_PROTOCOL', `the body must be application/json, not ${type ?? 'nothing'}`);
  }
  const tooLarge = new DeltahopError('DELTAHOP_E_LIMIT', `the body is larger than ${bodyLimitBytes} bytes`);
  // One that is announced can still be answered; one that is not ends the connection in the midst of it.
  if (Number(request.headers['content-length'] ?? 0) > bodyLimitBytes) throw tooLarge;
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > bodyLimitBytes) throw tooLarge;
    chunks.push(chunk);
  }
  let value: unknown;
  try {
    value = JSON.parse(Buffer.concat(chunks).toString('utf8'));
  } catch (error) {
    throw new DeltahopError('DELTAHOP_E_PROTOCOL', 'the body is not JSON', { cause: error });
  }
  const checked = schema.safeParse(value);
  if (!checked.success) {
    throw new DeltahopError('DELTAHOP_E_INVALID_ARGUMENT', firstIssue(checked.error), { cause: checked.error });
  }
  return checked.data;
}

function sendJson(response: ServerResponse, status: number, value: object): void {
  const body = Buffer.from(JSON.stringify(value));
  response.writeHead(status, { 'content-type': 'application/json', 'content-length': body.length });
  response.end(body);
}

/** The events of a job, one JSON object a line, until its end or the reader's. */
async function stream(job: Job, response: ServerResponse): Promise<void> {
  const gone = new AbortController();
  response.once('close', () => gone.abort());
  response.writeHead(200, { 'content-type': 'application/x-ndjson' });
  for await (const event of job.follow(gone.signal)) {
    if (response.write(`${JSON.stringify(event)}\n`)) continue;
    // Rejects when the reader is gone; then there is nobody to follow the job for.
    await once(response, 'drain', { signal: gone.signal }).catch(() => {});
  }
  response.end();
}
