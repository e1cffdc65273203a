import { randomBytes } from 'node:crypto';
import { appendFileSync, mkdirSync } from 'node:fs';
import { join, relative } from 'node:path';
import pino from 'pino';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { Agent } from '../../../src/agent/daemon.js';
import { run } from '../../../src/cli/commands.js';
import { makeApp, makeBase, scratchDirectory } from '../layers/scratch.js';

const test = suite('cli against an agent');
const scratch = scratchDirectory('cli');
const statePath = join(scratch, 'state');
const log = pino({ enabled: false });
let agent: Agent;

interface Outcome {
  code: number;
  out: string;
  err: string;
}

/** @param interrupt Whether Ctrl-C comes at once. */
async function deltahop(args: readonly string[], interrupt = false): Promise<Outcome> {
  const outcome: Outcome = { code: -1, out: '', err: '' };
  const into = (stream: 'out' | 'err') => ({
    write: (text: string): void => {
      outcome[stream] += text;
    },
  });
  outcome.code = await run(args, {
    stdout: into('out'),
    stderr: into('err'),
    env: { DELTAHOP_STATE: statePath },
    hostName: 'this-host',
    log: async () => log,
    onInterrupt: (handler) => {
      if (interrupt) handler('SIGINT');
      return () => {};
    },
  });
  return outcome;
}

async function succeed(...args: string[]): Promise<string> {
  const { code, out, err } = await deltahop(args);
  assert.is(code, 0, `${args.join(' ')}: ${err}${out}`);
  return out;
}

test.before(async () => {
  makeBase(join(scratch, 'base'));
  makeApp(join(scratch, 'app'));
  agent = await Agent.start(
    { statePath, listen: { host: '127.0.0.1', port: 0 }, name: 'edge-a', insecure: false },
    log,
  );
  await succeed('layer', 'import', '--kind', 'base', '--name', 'b', join(scratch, 'base'));
  await succeed('layer', 'import', '--kind', 'app', '--name', 'a', '--parent', 'b', join(scratch, 'app'));
});

test.after(() => agent.close());

test('an import prints the digest and nothing else; a relative path is the caller’s', async () => {
  const path = relative(process.cwd(), join(scratch, 'base'));
  const out = await succeed('layer', 'import', '--kind', 'base', '--name', 'b', path);
  assert.match(out, /^blake3:[0-9a-f]{64}\n$/);
  const lines = (await succeed('layer', 'import', '--kind', 'base', '--name', 'b', path, '--json'))
    .trimEnd()
    .split('\n');
  const last = JSON.parse(lines.at(-1) ?? '');
  assert.equal([last.type, `${last.digest}\n`], ['layer', out]);
});

test('layers are listed', async () => {
  const rows = (await succeed('layer', 'list')).trimEnd().split('\n');
  assert.match(rows[0] ?? '', /^NAME +KIND +FORM +PARENT +FILES +SIZE +DIGEST$/);
  assert.match(rows[1] ?? '', /^b +base +tree +- .* blake3:[0-9a-f]{64}$/);
  assert.match(rows[2] ?? '', /^a +app +tree +b .* blake3:[0-9a-f]{64}$/);
  const { type, layers } = JSON.parse(await succeed('layer', 'list', '--json'));
  assert.is(type, 'layers');
  assert.equal(
    layers.map(({ name }: { name: string }) => name),
    ['b', 'a'],
  );
});

test('a service is added with its words as they are, shown, and removed', async () => {
  const words = ['/bin/sh', '-c', 'echo "$0"', '--json', '--', '-x'];
  await succeed('service', 'add', 'web', '--driver', 'lxc', '--base', 'b', '--app', 'a', '--', ...words);
  const view = JSON.parse(await succeed('service', 'inspect', 'web', '--json'));
  assert.equal([view.type, view.name, view.state, view.command], ['service', 'web', 'stopped', words]);
  assert.match(await succeed('service', 'inspect', 'web'), /\nstate {5}stopped\n/);
  assert.match(await succeed('service', 'list'), /^NAME +STATE +DRIVER .*\nweb +stopped +lxc +b +a +1\n$/);
  const refused = await deltahop(['layer', 'rm', 'a']);
  assert.is(refused.code, 1);
  assert.match(refused.err, /^deltahop: layer a is needed by service web\n {2}→ .*\[DELTAHOP_E_IN_USE\]\n$/);
  await succeed('service', 'rm', 'web');
  assert.equal(JSON.parse(await succeed('service', 'list', '--json')), { type: 'services', services: [] });
});

test('a migration that fails ends with its summary, exit code 1 and the reason', async () => {
  await succeed('service', 'add', 'web', '--driver', 'lxc', '--base', 'b', '--app', 'a', '--', '/bin/true');
  const json = await deltahop(['migrate', 'web', '127.0.0.1:1', '--json']);
  assert.is(json.code, 1);
  assert.is(json.err, '');
  const events = json.out
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));
  const { type, service, from, result, downtimeMs, phases, error } = events.at(-1);
  assert.equal([type, service, from, result, downtimeMs], ['summary', 'web', 'edge-a', 'failed', null]);
  assert.ok(Array.isArray(phases));
  assert.is(error.code, 'DELTAHOP_E_NOT_RUNNING');
  assert.is(events.filter((event) => event.type === 'summary' || event.type === 'error').length, 1);
  const plain = await deltahop(['migrate', 'web', '127.0.0.1:1']);
  assert.is(plain.code, 1);
  assert.match(plain.err, /^deltahop: .*\n {2}→ .*\[DELTAHOP_E_NOT_RUNNING\]\n$/);
  await succeed('service', 'rm', 'web');
});

test('seconds may have thousandths, though a thousand times such a number is often not whole', async () => {
  const health = ['--health', 'exec:true', '--health-for', '2.01', '--health-limit', '16.1'];
  await succeed('service', 'add', 'web', '--driver', 'lxc', '--base', 'b', '--app', 'a', ...health, '--', '/bin/true');
  const view = JSON.parse(await succeed('service', 'inspect', 'web', '--json'));
  assert.equal([view.health.forMs, view.health.limitMs], [2010, 16_100]);
  const { err } = await deltahop(['migrate', 'web', '127.0.0.1:1', '--max-downtime', '1.005']);
  assert.match(err, /DELTAHOP_E_NOT_RUNNING/);
  await succeed('service', 'rm', 'web');
});

test('Ctrl-C ends the work, is told apart from a failure, and leaves nothing', async () => {
  const big = join(scratch, 'big');
  mkdirSync(big);
  for (let index = 0; index < 8; index += 1) appendFileSync(join(big, 'data'), randomBytes(32 * 1024 * 1024));
  const { code, out, err } = await deltahop(['layer', 'import', '--kind', 'base', '--name', 'big', big], true);
  assert.is(code, 130, out);
  assert.is(out, '');
  assert.match(err, /^stopping the import of big\.\.\.\ndeltahop: .*\[DELTAHOP_E_CANCELLED\]\n$/s);
  const { layers } = JSON.parse(await succeed('layer', 'list', '--json'));
  assert.is(layers.length, 2);
});

test.run();
