/** Whole transfers with the real engine and real worker processes, over a link that breaks. */
import { randomBytes } from 'node:crypto';
import { mkdir, rm, symlink, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { loadEngine } from '../../../src/engine/engine.js';
import { isDeltahopError } from '../../../src/errors.js';
import { rejection } from '../../support/rejection.js';
import { isAlive, type Loopback, patientTimes, shortTimes, until, withLoopback } from './loopback.js';

const engine = loadEngine();
const mebibyte = 1024 * 1024;

async function assertSameTrees(left: string, right: string): Promise<void> {
  assert.equal(await engine.treeDigest(left), await engine.treeDigest(right));
}

/** A tree of one large file and some small things; incompressible. */
async function makeTree(world: Loopback, name: string, largeBytes: number): Promise<string> {
  const path = await world.directory(name);
  await mkdir(join(path, 'etc/empty'), { recursive: true });
  await writeFile(join(path, 'large'), randomBytes(largeBytes));
  await truncate(join(path, 'large'), largeBytes + 4 * mebibyte);
  for (let index = 0; index < 20; index += 1)
    await writeFile(join(path, `etc/file-${index}`), randomBytes(index * 100));
  await symlink('file-1', join(path, 'etc/link'));
  return path;
}

/** Without heartbeats, which would be counted at one end before the other has. */
const quietTimes = { ...patientTimes, pingMs: 30_000 };

test('a tree arrives, then costs next to nothing, then only its change', () =>
  withLoopback({ times: quietTimes }, async (world) => {
    const source = await makeTree(world, 'source', 3 * mebibyte);
    const target = await world.directory('target');
    const client = await world.client(world.ticket({ upper: target }), { times: quietTimes });
    const full = await client.send('upper', source, { durable: true });
    await assertSameTrees(source, target);
    assert.ok(full.bytesSent > 3 * mebibyte && full.bytesSent < 3.2 * mebibyte, `${full.bytesSent}`);
    const again = await client.send('upper', source);
    assert.ok(again.bytesSent + again.bytesReceived < 2000, `${again.bytesSent} + ${again.bytesReceived}`);
    await writeFile(join(source, 'etc/file-3'), randomBytes(5000));
    await rm(join(source, 'etc/file-4'));
    const changed = await client.send('upper', source, { verify: true });
    await assertSameTrees(source, target);
    assert.ok(changed.bytesSent > 5000 && changed.bytesSent < 12_000, `${changed.bytesSent}`);
    await client.close();
    assert.is(client.counters.bytesSent, full.bytesSent + again.bytesSent + changed.bytesSent + goodbyeBytes);
    await until('the last bytes are through', () => world.proxy.forwardBytes === client.counters.bytesSent);
    assert.is(world.proxy.backwardBytes, client.counters.bytesReceived);
    const completed = world.events.flatMap((event) => (event.type === 'completed' ? [event] : []));
    assert.is(completed.length, 3);
    assert.is(completed.at(-1)?.bytesReceived, world.proxy.forwardBytes - goodbyeBytes - doneBytes);
  }));

test('memory that comes for the first time is not sent where it is in files that both ends hold', () =>
  withLoopback({ times: quietTimes }, async (world) => {
    const [source, target] = [await world.directory('source'), await world.directory('target')];
    const [layer, disk] = [randomBytes(2 * mebibyte), randomBytes(mebibyte)];
    await writeFile(join(source, 'ram'), Buffer.concat([randomBytes(mebibyte / 4), disk, layer.subarray(mebibyte)]));
    const common = [];
    for (const side of ['here', 'there']) {
      const [layerPath, diskPath] = [join(world.root, `${side}-layer`), join(world.root, `${side}-disk`)];
      await writeFile(layerPath, layer);
      await writeFile(diskPath, disk);
      common.push([
        { path: layerPath, id: `blake3:${'7'.repeat(64)}` },
        { path: diskPath, id: null },
      ]);
    }
    const [here = [], there = []] = common;
    const ticket = world.server.issueTicket({ slots: { memory: { path: target, durable: false, common: there } } });
    const client = await world.client(ticket, { times: quietTimes });
    const first = await client.send('memory', source, { common: here });
    await assertSameTrees(source, target);
    assert.ok(first.bytesSent + first.bytesReceived < mebibyte / 4 + 40_000, `${first.bytesSent} bytes`);
    // Another layer under the same name is found by the digest of what was to be made of it.
    await rm(join(target, 'ram'));
    await writeFile(join(world.root, 'there-layer'), randomBytes(2 * mebibyte));
    await client.send('memory', source, { common: here });
    await assertSameTrees(source, target);
  }));

/** Frames `bye` and `done` without an error: what the client says after the server has counted. */
const goodbyeBytes = 5 + '{}'.length;
const doneBytes = 5 + '{"error":null}'.length;

const timesFor = (fault: string): typeof shortTimes => (fault === 'silence' ? shortTimes : patientTimes);

for (const direction of ['send', 'receive'] as const) {
  for (const fault of ['cut', 'silence', 'killed client', 'killed server'] as const) {
    test(`${direction}: after a ${fault} the transfer goes on, and nothing that arrived is sent again`, () =>
      withLoopback({ times: timesFor(fault) }, async (world) => {
        const size = 12 * mebibyte;
        const source = await makeTree(world, 'source', size);
        const target = await world.directory('target');
        const ticket = world.ticket(
          { upper: direction === 'send' ? target : source },
          direction === 'send' ? 'write' : 'read',
        );
        world.proxy.limit(6 * mebibyte);
        const client = await world.client(ticket, { times: timesFor(fault) });
        const transfer = direction === 'send' ? client.send('upper', source) : client.receive('upper', target);
        transfer.catch(() => {});
        const moved = () => (direction === 'send' ? world.proxy.forwardBytes : world.proxy.backwardBytes);
        for (const part of [0.3, 0.7]) {
          await until('part of it has passed', () => moved() > size * part, 20_000);
          const connections = world.proxy.connections;
          if (fault === 'cut' || fault === 'silence') world.proxy[fault]();
          else {
            const pool = fault === 'killed client' ? world.clientPool : world.serverPool;
            for (const pid of pool.pids) process.kill(pid, 'SIGKILL');
          }
          await until('a new connection', () => world.proxy.connections > connections);
        }
        const report = await transfer;
        await assertSameTrees(source, target);
        assert.is(report.reconnects, 2, report.notes.join('; '));
        assert.ok(moved() < size * 1.2, `${moved()} bytes for ${size}; ${report.notes.join('; ')}`);
      }));
  }
}

test('an abort leaves what arrived, the connection and the service of it', () =>
  withLoopback({}, async (world) => {
    const size = 12 * mebibyte;
    const source = await makeTree(world, 'source', size);
    const target = await world.directory('target');
    world.proxy.limit(6 * mebibyte);
    const client = await world.client(world.ticket({ upper: target }));
    const abort = new AbortController();
    const transfer = client.send('upper', source, { signal: abort.signal });
    transfer.catch(() => {});
    await until('half of it has passed', () => world.proxy.forwardBytes > size / 2, 20_000);
    const startedAt = performance.now();
    abort.abort();
    await rejection(transfer, 'DELTAHOP_E_CANCELLED');
    assert.ok(performance.now() - startedAt < shortTimes.abortMs * 2 + 500);
    await client.send('upper', source);
    await assertSameTrees(source, target);
    assert.ok(world.proxy.forwardBytes < size * 1.2, `${world.proxy.forwardBytes}`);
  }));

test('what the engine refuses on either side comes back as what it is', () =>
  withLoopback({}, async (world) => {
    const source = await makeTree(world, 'source', 1000);
    const target = await world.directory('target');
    const client = await world.client(world.ticket({ upper: target, gone: join(world.root, 'file') }));
    await writeFile(join(world.root, 'file'), 'not a directory');
    const words = await client.send('gone', source).then(
      () => '',
      (error: unknown) => (isDeltahopError(error) ? error.message : String(error)),
    );
    assert.match(words, '127.0.0.1');
    await rejection(client.send('upper', join(world.root, 'nothing')), 'DELTAHOP_E_NOT_FOUND');
    await client.send('upper', source);
    await assertSameTrees(source, target);
    assert.is(world.proxy.connections, 1, 'all over one connection');
  }));

test('a worker serves one connection and ends with it', () =>
  withLoopback({}, async (world) => {
    const source = await makeTree(world, 'source', 1000);
    const client = await world.client(world.ticket({ upper: await world.directory('target') }));
    await client.send('upper', source);
    await until('spares', () => world.clientPool.pids.length === 2 && world.serverPool.pids.length === 2);
    const [mine, its] = [world.clientPool.pids[0] ?? 0, world.serverPool.pids[0] ?? 0];
    await client.close();
    for (const pid of [mine, its]) await until(`worker ${pid} is gone`, async () => !(await isAlive(pid)));
  }));

test.run();
