import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, statSync } from 'node:fs';
import { request } from 'node:http';
import { connect } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import pino from 'pino';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { LocalClient, PeerConnection } from '../../../src/agent/client.js';
import { Agent } from '../../../src/agent/daemon.js';
import type { MigrateOptions, ServiceAdd, StreamedEvent } from '../../../src/agent/messages.js';
import { type ErrorCode, isDeltahopError } from '../../../src/errors.js';
import { makeApp, makeBase, scratchDirectory } from '../layers/scratch.js';

const test = suite('agent/daemon');
const scratch = scratchDirectory('agent');
const main = fileURLToPath(new URL('../../../src/cli/main.js', import.meta.url));
const log = pino({ enabled: false });
const statePath = join(scratch, 'state');
const loopback = { host: '127.0.0.1', port: 0 };
const baseTree = join(scratch, 'base');
const appTree = join(scratch, 'app');
let agent: Agent;
let client: LocalClient;

test.before(async () => {
  makeBase(baseTree);
  makeApp(appTree);
  agent = await Agent.start({ statePath, listen: loopback, name: 'edge-a', insecure: false }, log);
  client = new LocalClient(agent.socketPath, statePath);
});

test.after(async () => {
  client.close();
  await agent.close();
});

async function rejects(work: Promise<unknown>, code: ErrorCode, message: RegExp): Promise<void> {
  try {
    await work;
  } catch (error) {
    assert.ok(isDeltahopError(error, code), String(error));
    assert.match(error.message, message);
    return;
  }
  assert.unreachable(`expected ${code}`);
}

async function lastOf(events: AsyncIterable<StreamedEvent>): Promise<StreamedEvent> {
  let last: StreamedEvent | null = null;
  for await (const event of events) last = event;
  assert.ok(last !== null);
  return last;
}

async function imported(kind: string, name: string, parent: string | null, path: string): Promise<string> {
  const last = await lastOf(client.importLayer({ kind, name, parent, path }));
  assert.is(last.type, 'layer', JSON.stringify(last));
  return last['digest'] as string;
}

test('an agent says who it is', async () => {
  const node = await client.node();
  assert.is(node.name, 'edge-a');
  assert.is(node.pid, process.pid);
  assert.is(node.listen, `127.0.0.1:${agent.address.port}`);
  assert.equal(node.drivers, ['lxc', 'qemu', 'libvirt']);
  assert.is(statSync(agent.socketPath).mode & 0o777, 0o600);
  assert.is(statSync(statePath).mode & 0o777, 0o700);
});

test('a second agent for the same directory is refused and disturbs nothing', async () => {
  const second = Agent.start({ statePath, listen: loopback, name: 'edge-b', insecure: false }, log);
  await rejects(second, 'DELTAHOP_E_AGENT_RUNNING', /already serves/);
  assert.is((await client.node()).name, 'edge-a');
});

test('an address in use is refused, and the state directory is free again', async () => {
  const other = join(scratch, 'other');
  const listen = agent.address;
  const taken = Agent.start({ statePath: other, listen, name: 'x', insecure: false }, log);
  await rejects(taken, 'DELTAHOP_E_INVALID_ARGUMENT', /something listens there already/);
  await (await Agent.start({ statePath: other, listen: loopback, name: 'x', insecure: false }, log)).close();
  assert.not(existsSync(join(other, 'agent.sock')), 'its socket goes with it');
});

test('layers are imported, listed and removed', async () => {
  const digest = await imported('base', 'b1', null, baseTree);
  assert.is(await imported('base', 'b1', null, baseTree), digest);
  const [layer] = await client.layers();
  assert.is(layer?.digest, digest);
  assert.is(layer?.name, 'b1');
  assert.equal(await client.removeLayer('b1'), { digest, removed: 'layer' });
  await rejects(client.removeLayer('b1'), 'DELTAHOP_E_NOT_FOUND', /no layer b1/);
  const failed = await lastOf(client.importLayer({ kind: 'base', name: 'x', parent: null, path: '/nowhere-at-all' }));
  assert.equal([failed.type, failed['code']], ['error', 'DELTAHOP_E_NOT_FOUND']);
});

test('services are added, shown and removed, and hold their layers', async () => {
  await imported('base', 'b2', null, baseTree);
  await imported('app', 'a2', 'b2', appTree);
  const web = {
    name: 'web',
    driver: 'lxc',
    base: 'b2',
    app: 'a2',
    settings: {},
    command: ['/bin/sleep', '1'],
    health: null,
  };
  const added = await client.addService(web);
  assert.equal([added.state, added.ownership, added.epoch], ['stopped', 'owned', 1]);
  assert.equal((await client.service('web')).command, web.command);
  assert.equal(
    (await client.services()).map(({ name }) => name),
    ['web'],
  );
  await rejects(client.removeLayer('a2'), 'DELTAHOP_E_IN_USE', /service web/);
  await rejects(client.addService(web), 'DELTAHOP_E_EXISTS', /web/);
  await client.changeService('web', 'stop');
  await client.removeService('web');
  await rejects(client.service('web'), 'DELTAHOP_E_NOT_FOUND', /no service web/);
  assert.not(existsSync(join(statePath, 'services/web')));
  await client.removeLayer('a2');
  await client.removeLayer('b2');
});

test('a service that cannot be is refused by name', async () => {
  await imported('base', 'b3', null, baseTree);
  await imported('base', 'b4', null, appTree);
  await imported('app', 'a3', 'b3', appTree);
  const web = {
    name: 'web',
    driver: 'lxc',
    base: 'b3',
    app: 'a3',
    settings: {} as Record<string, string>,
    command: ['/bin/true'],
    health: null as ServiceAdd['health'],
  };
  const refusals: [Partial<typeof web>, ErrorCode, RegExp][] = [
    [{ name: 'a/b' }, 'DELTAHOP_E_INVALID_ARGUMENT', /name: a service name/],
    [{ name: '-web' }, 'DELTAHOP_E_INVALID_ARGUMENT', /name: a service name/],
    [{ name: 'w'.repeat(33) }, 'DELTAHOP_E_INVALID_ARGUMENT', /name: a service name/],
    [{ command: [] }, 'DELTAHOP_E_INVALID_ARGUMENT', /needs a command/],
    [{ command: ['a\0b'] }, 'DELTAHOP_E_INVALID_ARGUMENT', /NUL/],
    [
      { health: { probe: 'udp:53', forMs: 1, limitMs: 1, ifFails: 'ask' } },
      'DELTAHOP_E_INVALID_ARGUMENT',
      /a health probe is/,
    ],
    [{ driver: 'vm' }, 'DELTAHOP_E_UNSUPPORTED', /no driver vm/],
    [{ driver: 'qemu', command: [] }, 'DELTAHOP_E_INVALID_ARGUMENT', /b3 is a tree, .* qemu need a disk/],
    [{ driver: 'qemu' }, 'DELTAHOP_E_INVALID_ARGUMENT', /takes no command/],
    [{ base: 'a3' }, 'DELTAHOP_E_INVALID_ARGUMENT', /a3 is of kind app, not base/],
    [{ app: 'b3' }, 'DELTAHOP_E_INVALID_ARGUMENT', /b3 is of kind base, not app/],
    [{ base: 'b4' }, 'DELTAHOP_E_INVALID_ARGUMENT', /built upon b3, not upon b4/],
    [{ app: 'none' }, 'DELTAHOP_E_NOT_FOUND', /no layer none/],
    [{ settings: { 'no-such-setting': '1' } }, 'DELTAHOP_E_INVALID_ARGUMENT', /no-such-setting/],
  ];
  for (const [change, code, message] of refusals) {
    await rejects(client.addService({ ...web, ...change }), code, message);
  }
  assert.equal(await client.services(), []);
  for (const name of ['a3', 'b3', 'b4']) await client.removeLayer(name);
});

const order = (to: string): MigrateOptions => ({ to, onCommit: null, maxDowntimeMs: 1000, autoConverge: false });

test('a migration that cannot begin fails in its summary, and the service is free again', async () => {
  await imported('base', 'b5', null, baseTree);
  await imported('app', 'a5', 'b5', appTree);
  const web = { name: 'web', driver: 'lxc', base: 'b5', app: 'a5', settings: {}, command: ['/bin/true'], health: null };
  await client.addService(web);
  const summary = await lastOf(client.migrate('web', order('127.0.0.1:1')));
  assert.equal([summary.type, summary['result'], summary['service']], ['summary', 'failed', 'web']);
  assert.is((summary['error'] as { code: string }).code, 'DELTAHOP_E_NOT_RUNNING');
  assert.is((await client.service('web')).operation, null);
  await rejects(lastOf(client.migrate('web', order('nowhere'))), 'DELTAHOP_E_INVALID_ARGUMENT', /not an address/);
  const refused = await lastOf(client.migrate('nobody', order('127.0.0.1:1')));
  assert.is((refused['error'] as { code: string }).code, 'DELTAHOP_E_NOT_FOUND');
  await client.removeService('web');
  await client.removeLayer('a5');
  await client.removeLayer('b5');
});

test('peers have no access to what is local', async () => {
  for (const path of ['/v1/services', '/v1/layers', '/v1/jobs/x']) {
    const [response] = await once(request({ ...agent.address, path, agent: false }).end(), 'response');
    response.resume();
    assert.is(response.statusCode, 501, path);
  }
  const node = request({ ...agent.address, path: '/v1/node', agent: false }).end();
  const [response] = await once(node, 'response');
  let text = '';
  for await (const chunk of response) text += chunk;
  assert.equal(Object.keys(JSON.parse(text)).sort(), ['drivers', 'name', 'version']);
});

test('a peer is told by name what it asks in vain, and bytes are counted', async () => {
  const peer = new PeerConnection('edge-a', Promise.resolve(agent.address));
  const unknown = '7b0f5e0e-0000-4000-8000-000000000000';
  await rejects(peer.prepare(unknown), 'DELTAHOP_E_NOT_FOUND', /edge-a knows no migration/);
  await rejects(peer.prepare('nonsense'), 'DELTAHOP_E_PROTOCOL', /no id of a migration/);
  await peer.abort(unknown);
  const { bytesSent, bytesReceived } = peer.counters;
  assert.ok(bytesSent > 100 && bytesReceived > 100, `${bytesSent}, ${bytesReceived}`);
  peer.close();
  const gone = new PeerConnection('gone:1', Promise.resolve({ host: '127.0.0.1', port: 1 }));
  await rejects(gone.prepare(unknown), 'DELTAHOP_E_LINK', /cannot talk to gone:1: ECONNREFUSED/);
  gone.close();
});

test('a data connection with nonsense ends, and the agent lives on', async () => {
  const socket = connect(agent.address);
  socket.on('error', () => {});
  socket.write(Buffer.concat([Buffer.from('DHT1'), Buffer.alloc(4096, 0xff)]));
  socket.resume();
  await once(socket, 'close');
  assert.is((await client.node()).name, 'edge-a');
});

/** Starts a real agent process and waits until it says that it listens. */
async function startProcess(state: string): Promise<{ child: ChildProcess; ready: Record<string, unknown> }> {
  const args = [main, 'agent', '--state', state, '--listen', '127.0.0.1:0', '--name', 'proc', '--json'];
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'ignore'] });
  const [line] = await Promise.race([
    once(child.stdout as NodeJS.ReadableStream, 'data'),
    once(child, 'exit').then(([code]) => Promise.reject(new Error(`the agent ended with ${code}`))),
  ]);
  return { child, ready: JSON.parse(String(line)) };
}

test('a process stops cleanly on SIGTERM; a killed one leaves nothing that stops the next', async () => {
  const state = join(scratch, 'process-state');
  mkdirSync(state);
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGKILL', 'SIGTERM'] as const) {
    const { child, ready } = await startProcess(state);
    assert.is(ready['type'], 'agent');
    const own = new LocalClient(String(ready['socket']), state);
    assert.is((await own.node()).pid, child.pid);
    own.close();
    child.kill(signal);
    const [code, by] = await once(child, 'exit');
    assert.equal([code, by], signal === 'SIGKILL' ? [null, 'SIGKILL'] : [0, null]);
    assert.is(existsSync(join(state, 'agent.sock')), signal === 'SIGKILL');
  }
});

test.run();
