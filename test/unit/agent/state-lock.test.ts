import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, symlinkSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { StateLock } from '../../../src/agent/state-lock.js';
import { isDeltahopError } from '../../../src/errors.js';
import { scratchDirectory } from '../layers/scratch.js';

const test = suite('agent/state-lock');
const scratch = scratchDirectory('lock');

function stateDirectory(name: string): { state: string; socket: string } {
  const state = join(scratch, name);
  mkdirSync(state);
  return { state, socket: join(state, 'agent.sock') };
}

async function refused(work: Promise<StateLock>): Promise<void> {
  try {
    await work;
  } catch (error) {
    assert.ok(isDeltahopError(error, 'DELTAHOP_E_AGENT_RUNNING'), String(error));
    return;
  }
  assert.unreachable('expected to be refused');
}

test('a second one is refused, by another path too, until the first lets go', async () => {
  const { state, socket } = stateDirectory('a');
  const alias = join(scratch, 'alias');
  symlinkSync(state, alias);
  const lock = await StateLock.take(state, socket);
  await refused(StateLock.take(state, socket));
  await refused(StateLock.take(alias, join(alias, 'agent.sock')));
  await lock.release();
  await (await StateLock.take(state, socket)).release();
});

test('of many at once exactly one succeeds', async () => {
  const { state, socket } = stateDirectory('b');
  const tries = await Promise.allSettled(Array.from({ length: 16 }, () => StateLock.take(state, socket)));
  const taken = tries.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []));
  assert.is(taken.length, 1);
  for (const lock of taken) await lock.release();
});

test('two state directories do not disturb each other', async () => {
  const one = stateDirectory('c');
  const two = stateDirectory('d');
  const locks = [await StateLock.take(one.state, one.socket), await StateLock.take(two.state, two.socket)];
  for (const lock of locks) await lock.release();
});

test('what a killed agent held is free, though its socket is still there', async () => {
  const { state, socket } = stateDirectory('e');
  const module = new URL('../../../src/agent/state-lock.js', import.meta.url).href;
  const script = `
    const { StateLock } = await import(${JSON.stringify(module)});
    await StateLock.take(${JSON.stringify(state)}, ${JSON.stringify(socket)});
    const { createServer } = await import('node:net');
    createServer().listen(${JSON.stringify(socket)}, () => process.send('held'));`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  });
  await once(child, 'message');
  await refused(StateLock.take(state, socket));
  child.kill('SIGKILL');
  await once(child, 'exit');
  assert.ok(existsSync(socket), 'the socket outlives its agent');
  await (await StateLock.take(state, socket)).release();
});

test('an agent that only its socket tells of is respected', async () => {
  const { state, socket } = stateDirectory('f');
  const server = createServer((connection) => connection.destroy()).listen(socket);
  await once(server, 'listening');
  await refused(StateLock.take(state, socket));
  server.close();
});

test.run();
