import { existsSync } from 'node:fs';
import { join } from 'node:path';
import pino from 'pino';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { run } from '../../../src/cli/commands.js';
import { errorCatalogue } from '../../../src/errors.js';
import { scratchDirectory } from '../layers/scratch.js';

const test = suite('cli/commands');
const scratch = scratchDirectory('commands');

interface Outcome {
  code: number;
  out: string;
  err: string;
}

async function deltahop(args: readonly string[], env: Record<string, string> = {}): Promise<Outcome> {
  const outcome: Outcome = { code: -1, out: '', err: '' };
  const into = (stream: 'out' | 'err') => ({
    write: (text: string): void => {
      outcome[stream] += text;
    },
  });
  outcome.code = await run(args, {
    stdout: into('out'),
    stderr: into('err'),
    env,
    hostName: 'this-host',
    log: async () => pino({ enabled: false }),
    onInterrupt: () => () => {},
  });
  return outcome;
}

const commands = [
  ['agent'],
  ['layer', 'import'],
  ['layer', 'list'],
  ['layer', 'rm'],
  ['service', 'add'],
  ['service', 'start'],
  ['service', 'stop'],
  ['service', 'list'],
  ['service', 'inspect'],
  ['service', 'rm'],
  ['migrate'],
  ['doctor'],
];

test('every command has help with an example, and shows the options that all have', async () => {
  for (const command of commands) {
    const { code, out } = await deltahop([...command, '--help']);
    assert.is(code, 0, command.join(' '));
    assert.match(out, /\nExamples?:\n {2}deltahop /, command.join(' '));
    assert.match(out, /--state <dir>/);
    assert.match(out, /--json/);
  }
});

test('the exit codes are in the help', async () => {
  const { code, out } = await deltahop(['--help']);
  assert.is(code, 0);
  for (const exitCode of ['0 ', '1 ', '2 ', '130 ']) assert.match(out, new RegExp(`\n {2}${exitCode}`));
});

test('a wrong command line exits with 2 and says what is wrong', async () => {
  const digest = ['--state', scratch];
  for (const [args, message] of [
    [['layer', 'imprt'], /unknown command 'imprt'/],
    [['migrate', 'web'], /missing required argument 'host:port'/],
    [['migrate', 'web', 'nowhere'], /"nowhere" is not an address/],
    [['layer', 'import', '--kind', 'other', '--name', 'x', '/tmp'], /Allowed choices are base, app/],
    [['layer', 'import', '--kind', 'base', '/tmp'], /required option '--name <name>'/],
    [['service', 'add', 'web', '--driver', 'lxc', '--base', 'b'], /required option '--app <name>'/],
    [['service', 'add', 'web', '--set', 'novalue'], /Write KEY=VALUE/],
    [['service', 'add', 'web', '--set', 'a=1', '--set', 'a=2'], /a is given twice/],
    [['agent', '--listen', '127.0.0.1:1', '--name', 'a\u001b[1m'], /A node name is made of/],
    [['agent'], /required option '--listen <host:port>'/],
    [['layer', 'list', '--frob'], /unknown option '--frob'/],
  ] as const) {
    const { code, out, err } = await deltahop([...digest, ...args]);
    assert.is(code, 2, args.join(' '));
    assert.is(out, '');
    assert.match(err, message);
    assert.match(err, /^deltahop: .*\n {2}→ .* {2}\[DELTAHOP_E_INVALID_ARGUMENT\]\n$/);
  }
});

test('without a node to talk to, that is said', async () => {
  const { code, err } = await deltahop(['layer', 'list']);
  assert.is(code, 2);
  assert.match(err, /--state DIR or set DELTAHOP_STATE/);
});

test('a state directory without an agent: how to start one', async () => {
  for (const args of [
    ['layer', 'list'],
    ['service', 'list'],
    ['service', 'inspect', 'web'],
    ['migrate', 'web', 'b:1'],
  ]) {
    const { code, out, err } = await deltahop(args, { DELTAHOP_STATE: join(scratch, 'nobody') });
    assert.is(code, 1, args.join(' '));
    assert.is(out, '');
    assert.match(err, /no agent answers for .*nobody/);
    assert.match(err, /deltahop agent --state DIR --listen HOST:PORT/);
  }
});

test('with --json a failure is an object on standard output', async () => {
  for (const args of [
    ['--json', 'layer', 'list'],
    ['layer', 'list', '--json'],
    ['migrate', 'web', 'b:1', '--json'],
  ]) {
    const { code, out, err } = await deltahop(args, { DELTAHOP_STATE: join(scratch, 'nobody') });
    assert.is(code, 1);
    assert.is(err, '');
    const { type, code: errorCode, message, remedy } = JSON.parse(out);
    assert.equal([type, errorCode], ['error', 'DELTAHOP_E_NO_AGENT']);
    assert.match(message, /nobody/);
    assert.is(remedy, errorCatalogue.DELTAHOP_E_NO_AGENT.remedy);
  }
});

test('what is behind -- belongs to the service', async () => {
  const common = ['service', 'add', 'web', '--driver', 'lxc', '--base', 'b', '--app', 'a'];
  const words = ['--', 'sh', '-c', 'true', '--json', '--state', '/elsewhere'];
  for (const args of [
    [...common, ...words],
    ['service', 'add', '--driver', 'lxc', '--base', 'b', '--app', 'a', 'web', ...words],
  ]) {
    const { code, out, err } = await deltahop(args, { DELTAHOP_STATE: join(scratch, 'nobody') });
    assert.is(code, 1);
    assert.is(out, '', 'it did not become JSON');
    assert.match(err, /nobody/);
  }
});

test('an address beyond this machine needs --insecure', async () => {
  const state = join(scratch, 'refused');
  const { code, err } = await deltahop(['agent', '--state', state, '--listen', '0.0.0.0:0']);
  assert.is(code, 1);
  assert.match(err, /DELTAHOP_E_INSECURE_REFUSED/);
  assert.match(err, /--insecure/);
  assert.not(existsSync(state), 'nothing was made');
});

test('doctor says what is there, and how to get what is not', async () => {
  const { out } = await deltahop(['doctor', '--json']);
  const { type, ok, groups } = JSON.parse(out);
  assert.is(type, 'doctor');
  assert.type(ok, 'boolean');
  assert.equal(
    groups.map(({ group }: { group: string }) => group),
    ['deltahop', 'lxc', 'qemu', 'libvirt', 'testbed'],
  );
  for (const { capabilities } of groups) {
    assert.ok(capabilities.length > 0);
    for (const found of capabilities) {
      assert.equal(Object.keys(found).sort(), ['detail', 'name', 'ok', 'remedy']);
      assert.is(found.remedy === null, found.ok, `${found.name}: a remedy exactly for what is missing`);
    }
  }
  const able = (wanted: (group: string) => boolean): boolean =>
    groups.some(
      ({ group, capabilities }: { group: string; capabilities: { ok: boolean }[] }) =>
        wanted(group) && capabilities.every((found) => found.ok),
    );
  assert.is(ok, able((group) => group === 'deltahop') && able((group) => !['deltahop', 'testbed'].includes(group)));
  const text = await deltahop(['doctor']);
  assert.is(text.code, ok ? 0 : 1);
  assert.match(text.out, /\n {2}(ok {5}|missing) {2}engine: /);
});

test.run();
