/** Connections and processes; with an engine that misbehaves on request where the real one cannot be made to. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { rejection } from '../../support/rejection.js';
import {
  footprint,
  isAlive,
  type Loopback,
  patientTimes,
  sameData,
  shortTimes,
  until,
  withLoopback,
} from './loopback.js';

const entry = new URL('./fake-worker.js', import.meta.url);
const mebibyte = 1024 * 1024;

test('several transfers over one connection, both directions, bytes as the wire has them', () =>
  withLoopback({}, async (world) => {
    const source = await world.directory('source', 3 * mebibyte + 17);
    const target = await world.directory('target');
    const back = await world.directory('back');
    const readable = world.server.issueTicket({ slots: { upper: { path: target, durable: true, access: 'read' } } });
    const client = await world.client(world.ticket({ upper: target }));
    const first = await client.send('upper', source);
    assert.ok(await sameData(source, target));
    assert.is(first.reconnects, 0);
    assert.ok(first.bytesSent > 3 * mebibyte && first.bytesSent < 3.01 * mebibyte, `${first.bytesSent}`);
    assert.ok(first.ms > 0);
    const second = await client.send('upper', source);
    assert.is(world.proxy.connections, 1);
    assert.is(first.bytesSent + second.bytesSent, client.counters.bytesSent);
    // The last `done` may still be on its way through the relay.
    await until('all is through', () => world.proxy.forwardBytes >= client.counters.bytesSent);
    assert.is(client.counters.bytesSent, world.proxy.forwardBytes);
    assert.is(client.counters.bytesReceived, world.proxy.backwardBytes);
    assert.equal(
      world.events.filter(({ type }) => type !== 'progress').map(({ type, slot }) => `${type} ${slot}`),
      ['started upper', 'completed upper', 'started upper', 'completed upper'],
    );
    const reader = await world.client(readable);
    await reader.receive('upper', back);
    assert.ok(await sameData(source, back));
  }));

test('a durable slot is durable, whoever asks', () =>
  withLoopback({ entry }, async (world) => {
    const source = await world.directory('source', 10);
    const ticket = world.server.issueTicket({
      slots: {
        lasting: { path: await world.directory('a'), durable: true },
        fleeting: { path: await world.directory('b'), durable: false },
      },
      onEvent: (event) => world.events.push(event),
    });
    const client = await world.client(ticket);
    await client.send('lasting', source);
    await client.send('fleeting', source);
    await client.send('fleeting', source, { durable: true });
    const durable = world.events.flatMap((event) =>
      event.type === 'completed' ? [event.report.statistics['durable']] : [],
    );
    assert.equal(durable, [1, 0, 1]);
  }));

test('patience has an end, and zero patience none', () =>
  withLoopback({}, async (world) => {
    const source = await world.directory('source', 8 * mebibyte);
    const target = await world.directory('target');
    world.proxy.limit(4 * mebibyte);
    for (const [retryMs, from, to] of [
      [0, 0, 700],
      [1000, 400, 2500],
    ] as const) {
      const client = await world.client(world.ticket({ upper: target }), { retryMs });
      const transfer = client.send('upper', source);
      transfer.catch(() => {});
      const before = world.proxy.forwardBytes;
      // What is still in the server's socket when the line is cut is lost: let clearly more than that pass.
      await until('some of it has passed', () => world.proxy.forwardBytes > before + 2 * mebibyte);
      world.proxy.refuse(true);
      world.proxy.cut();
      const startedAt = performance.now();
      await rejection(transfer, 'DELTAHOP_E_LINK');
      const ms = performance.now() - startedAt;
      assert.ok(ms >= from && ms < to, `${ms} ms with a patience of ${retryMs}`);
      world.proxy.refuse(false);
      await client.close();
    }
    world.proxy.limit(null);
    const client = await world.client(world.ticket({ upper: target }));
    const last = await client.send('upper', source);
    assert.ok(last.bytesSent < 7 * mebibyte, `${last.bytesSent} bytes though some had arrived`);
    assert.ok(await sameData(source, target));
  }));

test('a silent peer is noticed within the deadline', () =>
  withLoopback({}, async (world) => {
    const source = await world.directory('source', 8 * mebibyte);
    const target = await world.directory('target');
    world.proxy.limit(4 * mebibyte);
    const client = await world.client(world.ticket({ upper: target }), { retryMs: 0 });
    const transfer = client.send('upper', source);
    transfer.catch(() => {});
    await until('some of it has passed', () => world.proxy.forwardBytes > mebibyte);
    world.proxy.silence();
    const startedAt = performance.now();
    const message = await rejection(transfer, 'DELTAHOP_E_LINK');
    const ms = performance.now() - startedAt;
    assert.match(message, 'nothing came from 127.0.0.1');
    assert.ok(ms < shortTimes.silenceMs * 2 + shortTimes.abortMs, `${ms} ms`);
    await until('the server noticed as well', () => world.events.some(({ type }) => type === 'failed'));
  }));

test('an idle connection whose link dies is made anew', () =>
  withLoopback({}, async (world) => {
    const source = await world.directory('source', 1000);
    const target = await world.directory('target');
    const client = await world.client(world.ticket({ upper: target }));
    await new Promise((resolve) => setTimeout(resolve, shortTimes.silenceMs * 1.5));
    assert.is((await client.send('upper', source)).reconnects, 0);
    world.proxy.silence();
    const { reconnects } = await client.send('upper', source);
    assert.is(reconnects, 1);
    world.proxy.cut();
    await new Promise((resolve) => setTimeout(resolve, 200));
    assert.is((await client.send('upper', source)).reconnects, 1);
  }));

for (const side of ['clientPool', 'serverPool'] as const) {
  test(`a worker of the ${side} that is killed`, () =>
    withLoopback({ times: patientTimes }, async (world) => {
      const size = 8 * mebibyte;
      const source = await world.directory('source', size);
      const target = await world.directory('target');
      world.proxy.limit(8 * mebibyte);
      const ticket = world.ticket({ upper: target });
      const impatient = await world.client(ticket, { retryMs: 0, times: patientTimes });
      const failing = impatient.send('upper', source);
      failing.catch(() => {});
      await until('some of it has passed', () => world.proxy.forwardBytes > mebibyte);
      for (const pid of world[side].pids) process.kill(pid, 'SIGKILL');
      if (side === 'clientPool') assert.match(await rejection(failing, 'DELTAHOP_E_WORKER'), 'SIGKILL');
      else await rejection(failing, 'DELTAHOP_E_LINK');
      await until('the owner of the ticket heard', () => world.events.some(({ type }) => type === 'failed'));
      if (side === 'serverPool') {
        const [failed] = world.events.flatMap((event) => (event.type === 'failed' ? [event.error] : []));
        assert.is(failed?.code, 'DELTAHOP_E_WORKER');
        assert.match(failed?.message ?? '', 'SIGKILL');
      }
      const patient = await world.client(ticket, { times: patientTimes });
      const transfer = patient.send('upper', source);
      await until('more of it has arrived', () => world.proxy.forwardBytes > size);
      for (const pid of world[side].pids) process.kill(pid, 'SIGKILL');
      assert.is((await transfer).reconnects, 1);
      assert.ok(await sameData(source, target));
      assert.ok(world.proxy.forwardBytes < size * 1.2, `${world.proxy.forwardBytes}`);
    }));
}

test('an engine that crashes its worker each time ends in one error that names the signal', () =>
  withLoopback({ entry }, async (world) => {
    const source = await world.directory('source', 10);
    const target = await world.directory('target');
    await writeFile(join(source, 'crash'), '');
    const client = await world.client(world.ticket({ upper: target }));
    assert.match(await rejection(client.send('upper', source), 'DELTAHOP_E_WORKER'), 'SIGSEGV');
    await writeFile(join(target, 'exit'), '');
    const sound = await world.directory('sound', 10);
    world.events.length = 0;
    await rejection(
      (await world.client(world.ticket({ upper: target }), { retryMs: 500 })).send('upper', sound),
      'DELTAHOP_E_LINK',
    );
    const failures = world.events.flatMap((event) => (event.type === 'failed' ? [event.error.message] : []));
    assert.match(failures.join('\n'), 'exited with 7');
  }));

test('a failure of either engine is told to both, and the connection serves on', () =>
  withLoopback({ entry }, async (world) => {
    const source = await world.directory('source', 4 * mebibyte);
    const full = await world.directory('full');
    const target = await world.directory('target');
    await writeFile(join(full, 'full'), '');
    const client = await world.client(world.ticket({ full, upper: target }));
    const words = await rejection(client.send('full', source), 'DELTAHOP_E_NO_SPACE');
    assert.match(words, `says: no space left for ${full}`);
    await writeFile(join(source, 'full'), '');
    await rejection(client.send('upper', source), 'DELTAHOP_E_NO_SPACE');
    const failures = (): string[] =>
      world.events.flatMap((event) => (event.type === 'failed' ? [`${event.slot} ${event.error.code}`] : []));
    // The two sides hear of it from processes of their own, in either order.
    await until('both failures are told', () => failures().length === 2);
    assert.equal(failures(), ['full DELTAHOP_E_NO_SPACE', 'upper DELTAHOP_E_NO_SPACE']);
    const sound = await world.directory('sound', 1000);
    assert.is((await client.send('upper', sound)).reconnects, 0);
    assert.is(world.proxy.connections, 1);
  }));

test('an engine that never ends is left behind with its process', () =>
  withLoopback({ entry }, async (world) => {
    const source = await world.directory('source', 1000);
    const hanging = await world.directory('hanging', 1000);
    const target = await world.directory('target');
    await writeFile(join(hanging, 'hang'), '');
    const client = await world.client(world.ticket({ upper: target, stuck: hanging }), { retryMs: 0 });
    const abort = new AbortController();
    setTimeout(() => abort.abort(), 300);
    const startedAt = performance.now();
    await rejection(client.send('upper', hanging, { signal: abort.signal }), 'DELTAHOP_E_CANCELLED');
    assert.ok(
      performance.now() - startedAt < 300 + shortTimes.abortMs * 2 + 1500,
      `${performance.now() - startedAt} ms`,
    );
    // Without an abort, standing still for too long is an end as well; at the far side as here.
    for (const [slot, path] of [
      ['upper', hanging],
      ['stuck', source],
    ] as const) {
      await rejection(client.send(slot, path), 'DELTAHOP_E_TIMEOUT');
    }
    await client.send('upper', source);
    assert.ok(await sameData(source, target));
  }));

test('a half-dead connection does not lock its slot, and its worker ends before the next one writes', () =>
  withLoopback({ times: { ...shortTimes, silenceMs: 60_000 } }, async (world) => {
    const source = await world.directory('source', 8 * mebibyte);
    const target = await world.directory('target');
    const ticket = world.ticket({ upper: target });
    world.proxy.limit(8 * mebibyte);
    const first = await world.client(ticket, { retryMs: 0 });
    const lost = first.send('upper', source);
    lost.catch(() => {});
    await until('some of it has passed', () => world.proxy.forwardBytes > mebibyte);
    const serving = world.serverPool.pids;
    world.proxy.silence();
    const second = await world.client(ticket);
    let firstAlive: boolean | null = null;
    const report = await second.send('upper', source, {
      onProgress: ({ doneBytes }) => {
        // The first of all says that the tree is listed.
        if (doneBytes > 0) firstAlive ??= world.events.filter(({ type }) => type === 'failed').length === 0;
      },
    });
    assert.is(report.reconnects, 0);
    assert.is(firstAlive, false, 'the older transfer had failed before the newer one moved');
    assert.ok(await sameData(source, target));
    assert.equal(
      world.events.filter(({ type }) => type !== 'progress').map(({ type }) => type),
      ['started', 'failed', 'started', 'completed'],
    );
    const alive = await Promise.all(serving.map((pid) => isAlive(pid)));
    assert.ok(alive.includes(false));
    await rejection(lost, 'DELTAHOP_E_LINK');
  }));

test('a revoked ticket ends its workers, whatever they do', () =>
  withLoopback({}, async (world) => {
    const source = await world.directory('source', 8 * mebibyte);
    const target = await world.directory('target');
    const ticket = world.ticket({ upper: target });
    world.proxy.limit(4 * mebibyte);
    const client = await world.client(ticket);
    const transfer = client.send('upper', source);
    transfer.catch(() => {});
    await until('some of it has passed', () => world.proxy.forwardBytes > mebibyte);
    await world.server.revokeTicket(ticket);
    const before = await footprint(world.root);
    await rejection(transfer, 'DELTAHOP_E_DENIED');
    assert.is(await footprint(world.root), before, 'nothing writes after a revocation');
    await world.server.revokeTicket(ticket);
    await world.server.revokeTicket('never issued');
  }));

test('progress comes about ten times a second at both sides', () =>
  withLoopback({ entry }, async (world) => {
    const source = await world.directory('source', 4 * mebibyte);
    const target = await world.directory('target');
    await writeFile(join(source, 'slow'), '');
    const client = await world.client(world.ticket({ upper: target }));
    const seen: number[] = [];
    const { ms } = await client.send('upper', source, { onProgress: ({ doneBytes }) => seen.push(doneBytes) });
    const atServer = world.events.filter(({ type }) => type === 'progress').length;
    for (const count of [seen.length, atServer]) assert.ok(count >= 3 && count <= ms / 100 + 2, `${count} in ${ms} ms`);
    assert.equal(
      seen,
      [...seen].sort((a, b) => a - b),
    );
  }));

test('one client runs one transfer at a time, and a closed one none', () =>
  withLoopback({}, async (world) => {
    const source = await world.directory('source', mebibyte);
    const client = await world.client(world.ticket({ upper: await world.directory('target') }));
    const running = client.send('upper', source);
    await rejection(client.send('upper', source), 'DELTAHOP_E_INVALID_ARGUMENT');
    await running;
    await rejection(client.send('upper', 'relative'), 'DELTAHOP_E_INVALID_ARGUMENT');
    await client.close();
    await rejection(client.send('upper', source), 'DELTAHOP_E_CANCELLED');
    await client.close();
  }));

test('no process start lies between a connect and its predecessor', () =>
  withLoopback({}, async (world: Loopback) => {
    const target = await world.directory('target');
    const ticket = world.ticket({ upper: target });
    await until('spares', () => world.clientPool.pids.length === 1 && world.serverPool.pids.length === 1);
    const [spare] = world.clientPool.pids;
    const client = await world.client(ticket);
    assert.ok(spare !== undefined && world.clientPool.pids.includes(spare));
    assert.is(world.clientPool.pids.length, 2, 'the next spare is there');
    await client.close();
    await until('the worker is gone', async () => !(await isAlive(spare)));
  }));

test('workers die with their agent, even if it is killed', async () => {
  const script = fileURLToPath(new URL('./doomed-agent.js', import.meta.url));
  const agent = spawn(process.execPath, [script], { stdio: ['ignore', 'pipe', 'inherit'] });
  const [line] = await once(agent.stdout, 'data');
  const pids = String(line).trim().split(' ').map(Number);
  assert.is(pids.length, 2);
  for (const pid of pids) assert.ok(await isAlive(pid));
  agent.kill('SIGKILL');
  for (const pid of pids) await until(`worker ${pid} is gone`, async () => !(await isAlive(pid)), 3000);
});

test.run();
