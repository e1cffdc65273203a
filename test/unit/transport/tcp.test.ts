import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { isDeltahopError } from '../../../src/errors.js';
import { connectTcp, handOver, readHead, tcpStream } from '../../../src/transport/tcp.js';
import { rejection } from '../../support/rejection.js';

async function withServer(body: (port: number, server: Server) => Promise<void>): Promise<void> {
  const server = createServer({ pauseOnConnect: true });
  const sockets = new Set<Socket>();
  server.on('connection', (socket) => sockets.add(socket));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  try {
    await body((server.address() as AddressInfo).port, server);
  } finally {
    for (const socket of sockets) socket.destroy();
    server.close();
    await once(server, 'close');
  }
}

async function pair(port: number, server: Server): Promise<[Socket, Socket]> {
  const client = connect(port, '127.0.0.1');
  const [accepted] = (await once(server, 'connection')) as [Socket];
  return [client, accepted];
}

test('connects, counts what crosses, names the peer', () =>
  withServer(async (port, server) => {
    const accepting = once(server, 'connection') as Promise<[Socket]>;
    const stream = await connectTcp({ host: '127.0.0.1', port, deadlineMs: 2000 });
    const [accepted] = await accepting;
    assert.is(stream.peer, `127.0.0.1:${port}`);
    const far = tcpStream(accepted, 'far', Buffer.from('head'));
    far.duplex.write('12345');
    const [answer] = await once(stream.duplex, 'data');
    assert.is(String(answer), '12345');
    stream.duplex.end('abc');
    let text = '';
    for await (const chunk of far.duplex) text += String(chunk);
    assert.is(text, 'headabc', 'what was read before comes first');
    assert.equal([stream.bytesSent, stream.bytesReceived], [3, 5]);
    assert.equal([far.bytesSent, far.bytesReceived], [5, 7]);
  }));

test('a connection that nobody takes, answers or wants any more', async () => {
  await withServer(async (port, server) => {
    server.close();
    await once(server, 'close');
    const words = await rejection(connectTcp({ host: '127.0.0.1', port, deadlineMs: 2000 }), 'DELTAHOP_E_LINK');
    assert.is(words, `cannot connect to 127.0.0.1:${port}: ECONNREFUSED`);
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
  });
  const signal = AbortSignal.abort();
  await rejection(connectTcp({ host: '127.0.0.1', port: 1, deadlineMs: 2000, signal }), 'DELTAHOP_E_CANCELLED');
});

test('the head of a connection comes whole, whatever its pieces, and what follows stays', () =>
  withServer(async (port, server) => {
    const [client, accepted] = await pair(port, server);
    const reading = readHead(accepted, 6, { deadlineMs: 2000, head: Buffer.from('ab') });
    for (const piece of ['c', 'd', 'e']) {
      client.write(piece);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    client.write('fgh');
    const head = await reading;
    assert.ok(head.length >= 6 && 'abcdefgh'.startsWith(head.toString()));
    client.end('ij');
    accepted.unshift(head);
    let text = '';
    for await (const chunk of accepted) text += String(chunk);
    assert.is(text, 'abcdefghij');
  }));

test('a head that does not come in time, at all, or is not wanted any more', () =>
  withServer(async (port, server) => {
    const [slow, waiting] = await pair(port, server);
    slow.write('abc');
    assert.match(await rejection(readHead(waiting, 4, { deadlineMs: 100 }), 'DELTAHOP_E_TIMEOUT'), '3 of 4 bytes');
    const [short, ended] = await pair(port, server);
    short.end('abc');
    await rejection(readHead(ended, 4, { deadlineMs: 2000 }), 'DELTAHOP_E_LINK');
    const [rude, broken] = await pair(port, server);
    rude.resetAndDestroy();
    await rejection(readHead(broken, 4, { deadlineMs: 2000 }), 'DELTAHOP_E_LINK');
    const [, idle] = await pair(port, server);
    const abort = new AbortController();
    const reading = readHead(idle, 4, { deadlineMs: 2000, signal: abort.signal });
    abort.abort();
    await rejection(reading, 'DELTAHOP_E_CANCELLED');
  }));

test('a socket that is handed over is not read here any more, and its server can close', () =>
  withServer(async (port, server) => {
    const [client, accepted] = await pair(port, server);
    client.write('before');
    const head = await readHead(accepted, 6, { deadlineMs: 2000 });
    assert.is(head.toString(), 'before');
    const closed = once(accepted, 'close');
    let handed = 0;
    handOver(accepted, (rest) => {
      handed += 1;
      assert.is(rest.length, 0);
    });
    await closed;
    assert.is(handed, 1);
    assert.throws(
      () => handOver(accepted, () => assert.unreachable()),
      (error: unknown) => isDeltahopError(error, 'DELTAHOP_E_LINK'),
    );
    client.destroy();
  }));

test.run();
