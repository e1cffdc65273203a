/** Version negotiation of two builds, over a real socket. */
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { DeltahopError, isDeltahopError } from '../../../src/errors.js';
import { ClientSession, type ServerAuthority, serveSession } from '../../../src/transfer/session.js';
import { readHead, tcpStream } from '../../../src/transport/tcp.js';
import { preludeBytes, type VersionRange } from '../../../src/wire/messages.js';
import { fakeEngine } from './fake-engine.js';
import { shortTimes } from './loopback.js';

const authority: ServerAuthority = {
  admit: async (secret) => {
    if (secret !== 'the secret of the ticket') throw new DeltahopError('DELTAHOP_E_DENIED', 'no');
  },
  grant: () => Promise.reject(new DeltahopError('DELTAHOP_E_DENIED', 'nothing is granted')),
  progress: () => {},
  completed: () => Promise.resolve(),
  failed: () => {},
};

/** How a client and a server of the given versions get on: null, or the client's and the server's error. */
async function meet(client: VersionRange, server: VersionRange): Promise<[string, string | undefined] | null> {
  const listener = createServer();
  listener.listen(0, '127.0.0.1');
  await once(listener, 'listening');
  const socket = connect((listener.address() as AddressInfo).port, '127.0.0.1');
  const [accepted] = (await once(listener, 'connection')) as [Socket];
  try {
    const serving = readHead(accepted, preludeBytes, { deadlineMs: 1000 }).then((head) =>
      serveSession(tcpStream(accepted, 'client', head.subarray(preludeBytes)), fakeEngine, authority, {
        times: shortTimes,
        versions: server,
      }),
    );
    const credentials = { ticketId: Buffer.alloc(16), secret: 'the secret of the ticket' };
    try {
      const session = await ClientSession.open(tcpStream(socket, 'server'), fakeEngine, credentials, {
        times: shortTimes,
        versions: client,
      });
      await session.close();
      assert.is(await serving, null);
      return null;
    } catch (error) {
      assert.ok(isDeltahopError(error), String(error));
      return [error.code, (await serving)?.code];
    }
  } finally {
    socket.destroy();
    accepted.destroy();
    listener.close();
  }
}

test('neighbouring versions talk, others part with a reason on both sides', async () => {
  const v = (protocol: number) => ({ protocol, minProtocol: Math.max(1, protocol - 1) });
  for (const [client, server] of [
    [1, 1],
    [1, 2],
    [2, 1],
    [2, 3],
    [3, 2],
    [3, 3],
  ] as const) {
    assert.is(await meet(v(client), v(server)), null, `${client} and ${server}`);
  }
  for (const [client, server] of [
    [1, 3],
    [3, 1],
  ] as const) {
    assert.equal(await meet(v(client), v(server)), ['DELTAHOP_E_UNSUPPORTED', 'DELTAHOP_E_UNSUPPORTED']);
  }
});

test.run();
