import { once } from 'node:events';
import { statSync } from 'node:fs';
import { Agent, request } from 'node:http';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import * as z from 'zod';
import { Jobs } from '../../../src/agent/jobs.js';
import { type Listener, listenLocally, listenToPeers } from '../../../src/agent/listener.js';
import type { Address } from '../../../src/agent/peers.js';
import { Router } from '../../../src/agent/router.js';
import { DeltahopError, isDeltahopError } from '../../../src/errors.js';
import { scratchDirectory } from '../layers/scratch.js';

const test = suite('agent/listener and agent/router');
const scratch = scratchDirectory('listener');
const defects: unknown[] = [];
const jobs = await Jobs.open(scratchDirectory('listener-jobs'), () => {});
const dataConnections: { socket: Socket; head: Buffer }[] = [];
let peers: Listener;
let port = 0;

function newRouter(): Router {
  const router = new Router((error) => defects.push(error));
  const body = z.strictObject({ count: z.int().max(9) });
  router.on('GET', '/v1/hello/:name', null, async ({ param }) => ({ hello: param('name') }));
  router.on('POST', '/v1/count', body, async ({ body: { count } }) => ({ count }));
  router.on('DELETE', '/v1/count', null, async () => undefined);
  router.on('GET', '/v1/taken', null, async () => {
    throw new DeltahopError('DELTAHOP_E_EXISTS', 'taken');
  });
  router.on('GET', '/v1/defect', null, async () => {
    throw new TypeError('a bug');
  });
  router.on('GET', '/v1/job', null, async () =>
    jobs.start('work', async (_signal, emit) => {
      for (let round = 0; round < 500; round += 1) emit({ type: 'round', round, padding: 'x'.repeat(2000) });
      await sleep(5);
      return { type: 'summary' };
    }),
  );
  return router;
}

test.before(async () => {
  peers = await listenToPeers({ host: '127.0.0.1', port: 0 }, newRouter(), (socket, head) =>
    dataConnections.push({ socket, head }),
  );
  port = (peers.address as Address).port;
});

test.after(async () => {
  for (const { socket } of dataConnections) socket.destroy();
  await peers.close();
});

interface Answer {
  status: number;
  text: string;
}

async function ask(
  method: string,
  path: string,
  options: { body?: string | Buffer; headers?: Record<string, string>; agent?: Agent } = {},
): Promise<Answer> {
  const headers = { ...(options.body === undefined ? {} : { 'content-type': 'application/json' }), ...options.headers };
  const sent = request({ host: '127.0.0.1', port, method, path, headers, agent: options.agent ?? false });
  sent.end(options.body);
  const [response] = await once(sent, 'response');
  let text = '';
  for await (const chunk of response) text += chunk;
  return { status: response.statusCode, text };
}

function codeOf({ text }: Answer): string {
  return JSON.parse(text).code;
}

test('requests reach their handlers, with what the path carries', async () => {
  assert.equal(await ask('GET', '/v1/hello/a%2Fb%20c?x=1'), { status: 200, text: '{"hello":"a/b c"}' });
  assert.equal(await ask('POST', '/v1/count', { body: '{"count":3}' }), { status: 200, text: '{"count":3}' });
  assert.equal(await ask('DELETE', '/v1/count'), { status: 204, text: '' });
});

test('a connection is used again', async () => {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  for (let index = 0; index < 5; index += 1) {
    assert.is((await ask('POST', '/v1/count', { body: `{"count":${index}}`, agent })).text, `{"count":${index}}`);
  }
  agent.destroy();
});

test('what is not valid is refused by name', async () => {
  const wrong = await ask('POST', '/v1/count', { body: '{"count":10}' });
  assert.is(wrong.status, 400);
  assert.is(codeOf(wrong), 'DELTAHOP_E_INVALID_ARGUMENT');
  assert.match(JSON.parse(wrong.text).message, /^count: /);
  assert.is(codeOf(await ask('POST', '/v1/count', { body: '{"count":1,"more":1}' })), 'DELTAHOP_E_INVALID_ARGUMENT');
  assert.is(codeOf(await ask('POST', '/v1/count', { body: '{' })), 'DELTAHOP_E_PROTOCOL');
  const text = { body: '{"count":1}', headers: { 'content-type': 'text/plain' } };
  assert.is(codeOf(await ask('POST', '/v1/count', text)), 'DELTAHOP_E_PROTOCOL');
  assert.is(codeOf(await ask('GET', '/v1/nothing')), 'DELTAHOP_E_UNSUPPORTED');
  assert.is(codeOf(await ask('POST', '/v1/hello/x', { body: '{}' })), 'DELTAHOP_E_UNSUPPORTED');
  assert.is(codeOf(await ask('GET', '/v1/hello/%zz')), 'DELTAHOP_E_UNSUPPORTED');
});

test('a body beyond its bound is refused, announced or not', async () => {
  const body = Buffer.alloc(1024 * 1024 + 1, ' ');
  assert.is((await ask('POST', '/v1/count', { body })).status, 413);
  const unannounced = { body, headers: { 'transfer-encoding': 'chunked' } };
  const answer = await ask('POST', '/v1/count', unannounced).catch((error: Error) => error);
  assert.ok(answer instanceof Error || answer.status === 413, 'the connection ends, or the answer is a refusal');
  const after = await ask('POST', '/v1/count', { body: '{"count":1}' });
  assert.is(after.status, 200);
});

test('errors keep their code; a defect is told to the log', async () => {
  const taken = await ask('GET', '/v1/taken');
  assert.is(taken.status, 409);
  assert.is(codeOf(taken), 'DELTAHOP_E_EXISTS');
  const defect = await ask('GET', '/v1/defect');
  assert.is(defect.status, 500);
  assert.is(codeOf(defect), 'DELTAHOP_E_INTERNAL');
  assert.is(defects.length, 1);
  assert.instance(defects[0], TypeError);
});

test('web pages are not served', async () => {
  const answer = await ask('POST', '/v1/count', { body: '{"count":1}', headers: { origin: 'http://example.org' } });
  assert.is(codeOf(answer), 'DELTAHOP_E_PROTOCOL');
});

test('a job is a stream of lines', async () => {
  const { text } = await ask('GET', '/v1/job');
  const events = text
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));
  assert.is(events.length, 502);
  assert.is(events[0].type, 'job');
  assert.equal(events.at(-1), { type: 'summary' });
});

test('HTTP is understood even if it comes byte by byte', async () => {
  const socket = connect(port, '127.0.0.1');
  socket.setNoDelay(true);
  for (const byte of 'DELETE /v1/count HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n') {
    socket.write(byte);
    await sleep(1);
  }
  let text = '';
  for await (const chunk of socket) text += chunk;
  assert.match(text, /^HTTP\/1\.1 204 /);
});

test('a data connection is handed over with all that was read of it', async () => {
  const socket = connect(port, '127.0.0.1');
  socket.setNoDelay(true);
  socket.write('DH');
  await sleep(20);
  socket.write('T1 and more');
  while (dataConnections.length === 0) await sleep(5);
  const [connection] = dataConnections;
  assert.ok(connection);
  let { head } = connection;
  connection.socket.on('data', (chunk) => {
    head = Buffer.concat([head, chunk]);
  });
  socket.end(', later');
  await once(connection.socket, 'end');
  assert.is(head.toString(), 'DHT1 and more, later');
  socket.destroy();
});

test('a connection that says nothing is closed', async () => {
  const socket = connect(port, '127.0.0.1');
  const startedAt = performance.now();
  socket.resume();
  await once(socket, 'close');
  const tookMs = performance.now() - startedAt;
  assert.ok(tookMs > 3000 && tookMs < 9000, `${tookMs} ms`);
});

test('the local socket is for its user alone, and takes the place of a stale one', async () => {
  const path = join(scratch, 'agent.sock');
  const before = process.umask();
  const first = await listenLocally(path, newRouter());
  assert.is(statSync(path).mode & 0o777, 0o600);
  assert.is(process.umask(), before);
  // The first one is as good as dead to the second: the lock that keeps two agents apart is not this module's.
  const second = await listenLocally(path, newRouter());
  const sent = request({ socketPath: path, path: '/v1/hello/you' }).end();
  const [response] = await once(sent, 'response');
  assert.is(response.statusCode, 200);
  response.resume();
  await first.close();
  await second.close();
});

test('where nobody can listen, the reason is given', async () => {
  for (const [work, message] of [
    [() => listenLocally(`/${'long/'.repeat(30)}agent.sock`, newRouter()), /too long for a unix socket/],
    [() => listenToPeers({ host: '127.0.0.1', port }, newRouter(), () => {}), /something listens there already/],
    [() => listenToPeers({ host: '192.0.2.1', port: 0 }, newRouter(), () => {}), /does not have that address/],
  ] as const) {
    try {
      await work();
      assert.unreachable();
    } catch (error) {
      assert.ok(isDeltahopError(error, 'DELTAHOP_E_INVALID_ARGUMENT'), String(error));
      assert.match(error.message, message);
    }
  }
});

test('closing does not wait for peers that keep their connection', async () => {
  const listener = await listenToPeers({ host: '127.0.0.1', port: 0 }, newRouter(), () => {});
  const own = (listener.address as Address).port;
  const silent = connect(own, '127.0.0.1');
  await once(silent, 'connect');
  const idle = connect(own, '127.0.0.1');
  idle.write('GET /v1/hello/x HTTP/1.1\r\nhost: x\r\n\r\n');
  await once(idle, 'data');
  for (const socket of [silent, idle]) socket.on('error', () => {});
  await listener.close();
  silent.destroy();
  idle.destroy();
});

test.run();
