/** Sync over TCP on loopback: the real server, its workers and the real engine, and clients that mean no good. */
import { once } from 'node:events';
import { existsSync, lstatSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { loadEngine, type OperationOptions } from '../../../src/engine/engine.js';
import { isDeltahopError } from '../../../src/errors.js';
import { Link } from '../../../src/transfer/link.js';
import { type ServeEvent, SyncServer } from '../../../src/transfer/serve.js';
import { identity } from '../../../src/transfer/session.js';
import { type PeerSync, type SyncOptions, type SyncReport, syncWithPeer } from '../../../src/transfer/sync.js';
import { connectTcp, tcpStream } from '../../../src/transport/tcp.js';
import { type MessageOf, ownVersions, syncPreamble } from '../../../src/wire/messages.js';
import { noise } from '../../support/edits.js';
import { withScratch } from '../../support/scratch.js';
import { describeTree, makeTree } from '../../support/tree.js';
import { LinkProxy } from './link-proxy.js';
import { isAlive, until } from './loopback.js';

const test = suite('transfer/sync-serve');
const engine = loadEngine();
const plain: SyncOptions = {
  deleteOthers: false,
  maxDeletes: null,
  inPlace: false,
  dryRun: false,
  itemize: true,
  verify: false,
  durable: false,
  bytesPerSecond: null,
  silenceMs: null,
};
const { durable: _durable, ...asked } = plain;
const openOptions = { ...asked, remember: null };

/** A server of two modules over a scratch directory, and how to use it. */
interface World {
  server: SyncServer;
  port: number;
  /** Directory of the module `files`; `frozen` is read-only and lies beside it. */
  files: string;
  frozen: string;
  here: string;
  events: ServeEvent[];
}

async function withServer(body: (world: World) => Promise<void>, maxConnections = 8): Promise<void> {
  await withScratch(async (directory) => {
    const [files, frozen, here] = ['files', 'frozen', 'here'].map((name) => join(directory, name)) as [
      string,
      string,
      string,
    ];
    for (const path of [files, frozen, here]) mkdirSync(path);
    const events: ServeEvent[] = [];
    const server = await SyncServer.start({
      host: '127.0.0.1',
      port: 0,
      maxConnections,
      modules: [
        { name: 'files', path: files, readOnly: false },
        { name: 'frozen', path: frozen, readOnly: true },
      ],
      onEvent: (event) => events.push(event),
    });
    const pids = server.workerPids;
    try {
      await body({ server, port: server.port, files, frozen, here, events });
    } finally {
      await server.close();
    }
    for (const pid of pids) assert.not(await isAlive(pid));
  });
}

async function withPeer(
  port: number,
  peer: Omit<PeerSync, 'module'> & { module?: string },
  options: Partial<SyncOptions> = {},
  operation: OperationOptions = {},
): Promise<SyncReport> {
  const stream = await connectTcp({ host: '127.0.0.1', port, deadlineMs: 5000 });
  try {
    stream.duplex.write(syncPreamble);
    return await syncWithPeer(engine, stream, { module: 'files', ...peer }, { ...plain, ...options }, operation);
  } finally {
    stream.duplex.destroy();
  }
}

async function failsWith(code: string, work: Promise<unknown>): Promise<void> {
  const error = await work.then(
    () => null,
    (reason: unknown) => reason,
  );
  assert.ok(isDeltahopError(error), `${code} expected, not ${String(error)}`);
  assert.is(error.code, code, error.message);
}

function fill(path: string): void {
  makeTree(path, [
    { path: 'a/b', kind: 'file', seed: 1, bytes: 200_000 },
    { path: 'a/c', kind: 'symlink', seed: 2, bytes: 0 },
    { path: 'd\n', kind: 'file', seed: 3, bytes: 10 },
    { path: 'z', kind: 'hardlink', seed: 4, bytes: 50 },
    { path: 'empty', kind: 'directory', seed: 5, bytes: 0 },
    { path: 'sparse', kind: 'sparse', seed: 6, bytes: 5000 },
  ]);
}

test('a sync that is done leaves no timer behind that would keep its process', () =>
  withServer(async ({ port, here }) => {
    fill(join(here, 'source'));
    const timers = (): number => process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length;
    const before = timers();
    await withPeer(port, { direction: 'send', localPath: join(here, 'source'), remotePath: '' });
    await new Promise((resolve) => setImmediate(resolve));
    assert.is(timers(), before);
  }));

test('push and pull give equal trees, and tell the changes', () =>
  withServer(async ({ port, files, here, events }) => {
    const source = join(here, 'source');
    fill(source);
    const pushed = await withPeer(port, { direction: 'send', localPath: source, remotePath: '' });
    assert.is(describeTree(join(files, 'source')), describeTree(source));
    assert.match(pushed.items, /^cd\+{9} \.\/\n/);
    assert.match(pushed.items, /^>f\+{9} d\\#012$/m);
    assert.ok(pushed.isComplete);
    assert.ok(pushed.bytesSent > 200_000);
    const again = await withPeer(port, { direction: 'send', localPath: `${source}/`, remotePath: 'source' });
    assert.is(again.items, '');
    assert.ok(again.bytesSent + again.bytesReceived < 2500, `${again.bytesSent} + ${again.bytesReceived}`);
    const pulled = await withPeer(port, { direction: 'receive', localPath: join(here, 'back'), remotePath: 'source/' });
    assert.is(describeTree(join(here, 'back')), describeTree(source));
    assert.is(pulled.items, pushed.items);
    await withPeer(port, { direction: 'receive', localPath: join(here, 'b'), remotePath: 'source/a/b' });
    assert.equal(readFileSync(join(here, 'b')), readFileSync(join(source, 'a/b')));
    await withPeer(port, { direction: 'receive', localPath: here, remotePath: 'source/a' });
    assert.is(describeTree(join(here, 'a')), describeTree(join(source, 'a')));
    await until('all ended', () => events.filter(({ type }) => type === 'ended').length === 5);
    for (const event of events) if (event.type === 'ended') assert.is(event.error, null);
    assert.equal(
      events.flatMap((event) => (event.type === 'opened' ? [event.wants] : [])),
      ['send', 'send', 'receive', 'receive', 'receive'],
    );
  }));

test('a dry push writes nothing, a real one deletes only when told', () =>
  withServer(async ({ port, files, here }) => {
    fill(join(here, 'source'));
    mkdirSync(join(files, 'target'));
    writeFileSync(join(files, 'target/own'), 'mine');
    const before = describeTree(files);
    const peer = { direction: 'send' as const, localPath: `${join(here, 'source')}/`, remotePath: 'target' };
    const dry = await withPeer(port, peer, { dryRun: true, deleteOthers: true });
    assert.is(describeTree(files), before);
    assert.match(dry.items, /^\*deleting {3}own$/m);
    await withPeer(port, peer);
    assert.is(readFileSync(join(files, 'target/own'), 'utf8'), 'mine');
    await withPeer(port, peer, { deleteOthers: true });
    assert.is(describeTree(join(files, 'target')), describeTree(join(here, 'source')));
  }));

test('a read-only module can be read and not written', () =>
  withServer(async ({ port, frozen, here }) => {
    writeFileSync(join(frozen, 'file'), 'cold');
    await withPeer(port, { module: 'frozen', direction: 'receive', localPath: here, remotePath: 'file' });
    assert.is(readFileSync(join(here, 'file'), 'utf8'), 'cold');
    for (const dryRun of [false, true]) {
      const push = { module: 'frozen', direction: 'send' as const, localPath: join(here, 'file'), remotePath: 'x' };
      await failsWith('DELTAHOP_E_DENIED', withPeer(port, push, { dryRun }));
    }
    assert.equal(readdirSync(frozen), ['file']);
    await failsWith(
      'DELTAHOP_E_NOT_FOUND',
      withPeer(port, { module: 'nothing', direction: 'receive', localPath: here, remotePath: '' }),
    );
  }));

test('no path leads out of a module', () =>
  withServer(async ({ port, files, frozen, here }) => {
    writeFileSync(join(frozen, 'secret'), 'not for you');
    symlinkSync(frozen, join(files, 'way'));
    symlinkSync(join(frozen, 'secret'), join(files, 'file-way'));
    mkdirSync(join(files, 'inner'));
    writeFileSync(join(here, 'mine'), 'mine');
    const before = describeTree(frozen);
    const outside = [
      '..',
      '../frozen',
      '../frozen/',
      'inner/../../frozen/secret',
      frozen,
      `${frozen}/secret`,
      'inner//x',
      './inner',
      'way/',
      'way/secret',
      'file-way/',
      'inner/../x',
      'a\0b',
      `${'n'.repeat(256)}/x`,
    ];
    for (const [index, remotePath] of outside.entries()) {
      const localPath = index % 2 === 0 ? join(here, 'mine') : here;
      const pushed = await withPeer(port, { direction: 'send', localPath, remotePath }).then(
        () => 'accepted',
        (error: unknown) => (isDeltahopError(error) ? 'refused' : String(error)),
      );
      assert.is(pushed, 'refused', `push ${localPath} to ${JSON.stringify(remotePath)}`);
      const pulled = await withPeer(port, { direction: 'receive', localPath: join(here, 'got'), remotePath }).then(
        () => 'accepted',
        (error: unknown) => (isDeltahopError(error) ? 'refused' : String(error)),
      );
      assert.is(pulled, 'refused', `pull ${JSON.stringify(remotePath)}`);
      assert.not(existsSync(join(here, 'got')));
    }
    // A link itself may be had, and replaced: that is a link, not what it leads to.
    await withPeer(port, { direction: 'receive', localPath: join(here, 'link'), remotePath: 'file-way' });
    assert.ok(lstatSync(join(here, 'link')).isSymbolicLink());
    await withPeer(port, { direction: 'send', localPath: join(here, 'mine'), remotePath: 'file-way' });
    assert.is(readFileSync(join(files, 'file-way'), 'utf8'), 'mine');
    assert.is(describeTree(frozen), before);
  }));

test('a client that speaks the protocol and means no good gets nothing', () =>
  withServer(async ({ port, files, frozen }) => {
    const open: MessageOf<'open'> = {
      type: 'open',
      ...ownVersions,
      ...identity(engine),
      module: 'files',
      path: '',
      direction: 'send',
      source: { kind: 'directory', name: 'x' },
      options: { ...openOptions, deleteOthers: true },
    };
    const before = describeTree(files) + describeTree(frozen);
    const wrong: object[] = [
      { source: { kind: 'directory', name: '../frozen' } },
      { source: { kind: 'entry', name: '..' } },
      { source: { kind: 'directory', name: 'a/b' } },
      { source: null },
      { direction: 'receive' },
      { module: null },
      { module: '../frozen' },
      { module: 'toString' },
      { formats: ['tree/99'] },
      { protocol: 9, minProtocol: 9 },
      { options: { ...open.options, bytesPerSecond: 1 } },
      { path: 'x'.repeat(5000) },
    ];
    for (const change of wrong) {
      const socket = connect({ host: '127.0.0.1', port });
      await once(socket, 'connect');
      socket.write(syncPreamble);
      const link = new Link(tcpStream(socket, 'server'));
      link.send({ ...open, ...change } as MessageOf<'open'>);
      const answer = await link.next('anything', 5000).then(
        (message) => message.type,
        () => 'refused',
      );
      assert.is(answer, 'refused', JSON.stringify(change).slice(0, 100));
      await link.closed;
    }
    assert.is(describeTree(files) + describeTree(frozen), before);
  }));

test('strangers are hung up on, and cost no worker', () =>
  withServer(async ({ port, server, here }) => {
    await until('the spare worker', () => server.workerPids.length === 1);
    const before = [...server.workerPids];
    for (const words of ['GET / HTTP/1.1\r\n\r\n', 'DHT1aaaaaaaaaaaaaaaaaaaaaaaaaaaa', '@RSYNCD: 32.0\n']) {
      const socket = connect({ host: '127.0.0.1', port });
      socket.on('error', () => {});
      socket.write(words);
      await once(socket, 'close');
    }
    assert.equal([...server.workerPids], before);
    writeFileSync(join(here, 'file'), 'x');
    await withPeer(port, { direction: 'send', localPath: join(here, 'file'), remotePath: '' });
  }));

test('more connections than allowed are told that the server is busy', () =>
  withServer(async ({ port, here, files }) => {
    writeFileSync(join(files, 'file'), 'x');
    const idle = connect({ host: '127.0.0.1', port });
    await once(idle, 'connect');
    const link = new Link(tcpStream(idle, 'server'));
    link.sendRaw(syncPreamble);
    link.send({
      type: 'open',
      ...ownVersions,
      ...identity(engine),
      module: 'files',
      path: '',
      direction: 'receive',
      source: null,
      options: { ...openOptions, deleteOthers: false },
    });
    await link.expect('opened', 10_000);
    const peer = { direction: 'receive' as const, localPath: join(here, 'file'), remotePath: 'file' };
    await failsWith('DELTAHOP_E_BUSY', withPeer(port, peer));
    await link.close();
    await until('room again', () =>
      withPeer(port, peer).then(
        () => true,
        () => false,
      ),
    );
  }, 1));

test('a cut push and a cut pull leave no file half-written, and go on from there', () =>
  withServer(async ({ port, files, here }) => {
    const source = join(here, 'source');
    mkdirSync(source);
    const fileBytes = 500_000;
    const count = 8;
    for (let i = 0; i < count; i += 1) writeFileSync(join(source, `f${i}`), noise(i, fileBytes));
    writeFileSync(join(source, 'one'), noise(99, 3_000_000));
    const total = count * fileBytes + 3_000_000;
    const proxy = await LinkProxy.start(port);
    try {
      proxy.limit(8_000_000);
      for (const direction of ['send', 'receive'] as const) {
        const [from, to] = direction === 'send' ? [source, join(files, 'pushed')] : [source, join(here, 'pulled')];
        const peer =
          direction === 'send'
            ? { direction, localPath: `${from}/`, remotePath: 'pushed' }
            : { direction, localPath: to, remotePath: 'pushed/' };
        let cut = false;
        const passed = (): number => (direction === 'send' ? proxy.forwardBytes : proxy.backwardBytes);
        const base = passed();
        const watch = setInterval(() => {
          if (cut || passed() - base < total / 2) return;
          cut = true;
          proxy.cut();
        }, 5);
        await withPeer(proxy.port, peer).then(
          () => assert.unreachable('the cut came too late'),
          (error: unknown) => assert.ok(isDeltahopError(error), String(error)),
        );
        clearInterval(watch);
        const before = passed();
        await until('the other side to let go', async () => {
          const report = await withPeer(proxy.port, peer).catch(() => null);
          return report?.isComplete ?? false;
        });
        assert.is(describeTree(to), describeTree(source));
        const more = passed() - before;
        assert.ok(more < total * 0.65, `${direction}: ${more} of ${total} bytes after the cut`);
      }
    } finally {
      await proxy.close();
    }
  }));

test('the bandwidth bound holds for what a server sends, too', () =>
  withServer(async ({ port, files, here }) => {
    const bytes = 600_000;
    writeFileSync(join(files, 'noise'), noise(3, bytes));
    const peer = { direction: 'receive' as const, localPath: join(here, 'noise'), remotePath: 'noise' };
    const startedAtMs = performance.now();
    await withPeer(port, peer, { bytesPerSecond: 400_000 });
    const ms = performance.now() - startedAtMs;
    assert.ok(ms > (bytes / 400_000) * 1000 - 300, `${ms} ms`);
    assert.equal(readFileSync(join(here, 'noise')), noise(3, bytes));
  }));

test('a server that is closed ends its connections and its workers', () =>
  withServer(async ({ port, server, here, files }) => {
    writeFileSync(join(here, 'noise'), noise(5, 4_000_000));
    const push = withPeer(
      port,
      { direction: 'send', localPath: join(here, 'noise'), remotePath: 'noise' },
      { bytesPerSecond: 500_000 },
    );
    const failed = push.then(
      () => 'done',
      (error: unknown) => (isDeltahopError(error) ? 'failed' : String(error)),
    );
    await until('the transfer', () => existsSync(join(files, '.deltahop-partial')));
    const pids = server.workerPids;
    await server.close();
    assert.is(await failed, 'failed');
    for (const pid of pids) assert.not(await isAlive(pid));
    assert.not(existsSync(join(files, 'noise')));
  }));

test.run();
