import { once } from 'node:events';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { PeerConnection } from '../../../src/agent/client.js';
import { listenToPeers } from '../../../src/agent/listener.js';
import type { Address } from '../../../src/agent/peers.js';
import { Router } from '../../../src/agent/router.js';
import { isDeltahopError } from '../../../src/errors.js';

const test = suite('agent/client: peers');
const migration = '00000000-0000-4000-8000-000000000000';

/** Longer than a peer may be silent, shorter than a request may take. */
const longWorkMs = 9_500;
/** Longer than a probe may take. */
const slowProbeMs = 5_500;

async function outcomeOf(work: Promise<unknown>): Promise<unknown> {
  return await work.then(
    () => 'done',
    (error: unknown) => error,
  );
}

test('a peer that works for long, or probes, is waited for, one that says nothing is not', async () => {
  const router = new Router(() => {});
  router.on('POST', '/v1/migrations/:id/prepare', null, async () => {
    await sleep(longWorkMs);
    return { tookMs: longWorkMs, restorerMs: 0 };
  });
  const unwell = { healthy: false, detail: 'tcp:80: no answer in 5000 ms' };
  router.on('GET', '/v1/migrations/:id/health', null, () => sleep(slowProbeMs, unwell));
  const busy = await listenToPeers({ host: '127.0.0.1', port: 0 }, router, (socket) => socket.destroy());
  const silentSockets: Socket[] = [];
  const silent = createServer((socket) => silentSockets.push(socket)).listen(0, '127.0.0.1');
  await once(silent, 'listening');
  const addresses = [busy.address as Address, { host: '127.0.0.1', port: (silent.address() as AddressInfo).port }];
  const peers = addresses.map((address) => new PeerConnection(`peer ${address.port}`, Promise.resolve(address)));
  try {
    const probed = peers[0]?.health(migration);
    const [worked, unheard] = await Promise.all(peers.map((peer) => outcomeOf(peer.prepare(migration))));
    assert.equal(await probed, unwell);
    assert.is(worked, 'done');
    assert.ok(isDeltahopError(unheard, 'DELTAHOP_E_LINK'));
    assert.match(unheard.message, /said nothing/);
  } finally {
    for (const peer of peers) peer.close();
    for (const socket of silentSockets) socket.destroy();
    silent.close();
    await busy.close();
  }
});

test.run();
