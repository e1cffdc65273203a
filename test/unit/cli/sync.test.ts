/** The command lines of sync and serve, and what they print. */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, existsSync, mkdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import pino from 'pino';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { run } from '../../../src/cli/commands.js';
import { parseLocation } from '../../../src/cli/sync-location.js';
import { isDeltahopError } from '../../../src/errors.js';
import { commandWords, startRemote } from '../../../src/transport/ssh.js';
import { noise } from '../../support/edits.js';
import { withScratch } from '../../support/scratch.js';

const test = suite('cli/sync');

interface Outcome {
  code: number;
  out: string;
  err: string;
}

async function deltahop(
  args: readonly string[],
  onReady?: (out: string, interrupt: () => void) => void,
): Promise<Outcome> {
  const outcome: Outcome = { code: -1, out: '', err: '' };
  let interrupt: () => void = () => {};
  const into = (stream: 'out' | 'err') => ({
    write: (text: string): void => {
      outcome[stream] += text;
      if (stream === 'out') onReady?.(outcome.out, () => interrupt());
    },
  });
  outcome.code = await run(args, {
    stdout: into('out'),
    stderr: into('err'),
    env: {},
    hostName: 'this-host',
    log: async () => pino({ enabled: false }),
    onInterrupt: (handler) => {
      interrupt = () => handler('SIGINT');
      return () => {};
    },
  });
  return outcome;
}

test('locations are read as rsync reads them, and servers by their scheme', () => {
  for (const [text, location] of [
    ['a/b', { kind: 'local', path: 'a/b' }],
    ['./a:b', { kind: 'local', path: './a:b' }],
    ['/a:b/', { kind: 'local', path: '/a:b/' }],
    ['host:', { kind: 'ssh', host: 'host', path: '' }],
    ['host:/srv/www/', { kind: 'ssh', host: 'host', path: '/srv/www/' }],
    ['me@host:a:b', { kind: 'ssh', host: 'me@host', path: 'a:b' }],
    ['me@[fe80::1]:x', { kind: 'ssh', host: 'me@fe80::1', path: 'x' }],
    ['h:$(x); y\n', { kind: 'ssh', host: 'h', path: '$(x); y\n' }],
    ['deltahop://h:1/m', { kind: 'server', address: { host: 'h', port: 1 }, module: 'm', path: '' }],
    ['deltahop://[::1]:7/m/a/b/', { kind: 'server', address: { host: '::1', port: 7 }, module: 'm', path: 'a/b/' }],
    ['deltahop://h:1/m//a', { kind: 'server', address: { host: 'h', port: 1 }, module: 'm', path: '/a' }],
  ] as const) {
    assert.equal(parseLocation(text), location, text);
  }
  for (const text of ['', ':x', 'me@:x', 'host::module', 'deltahop://h/m', 'deltahop://h:1', 'deltahop://h:1//x']) {
    assert.throws(
      () => parseLocation(text),
      (error: unknown) => isDeltahopError(error),
      text,
    );
  }
});

test('the words of -e are split at blanks, quotes hold them together', () => {
  assert.equal(commandWords('ssh -p 22'), ['ssh', '-p', '22']);
  assert.equal(commandWords(`  /x/"my ssh"  -o 'A B' "" `), ['/x/my ssh', '-o', 'A B', '']);
  for (const text of ['', '  ', "ssh 'open", '""']) assert.throws(() => commandWords(text), undefined, text);
});

test('a host is never an option', () => {
  for (const host of ['-oProxyCommand=x', 'me@-x', '-l@host', 'a b', '', 'a\nb']) {
    assert.throws(
      () => startRemote({ host, command: ['true'] }),
      (error: unknown) => isDeltahopError(error, 'DELTAHOP_E_INVALID_ARGUMENT'),
      host,
    );
  }
});

test('both commands have help with examples, and sync tells its exit codes', async () => {
  for (const command of ['sync', 'serve']) {
    const { code, out } = await deltahop([command, '--help']);
    assert.is(code, 0);
    assert.match(out, new RegExp(`\nExamples:\n {2}deltahop ${command} `));
    assert.match(out, /--json/);
    if (command === 'sync') for (const exit of [0, 1, 2, 23, 25, 130]) assert.match(out, new RegExp(`\n {2}${exit} `));
  }
});

test('a wrong command line exits with 2', async () => {
  for (const [args, message] of [
    [['sync'], /give a source and a destination/],
    [['sync', 'a'], /give a source and a destination/],
    [['sync', 'h:a', 'h:b'], /must be on this machine/],
    [['sync', 'a', 'h::b'], /deltahop:\/\/HOST:PORT\/MODULE/],
    [['sync', '--bwlimit', 'fast', 'a', 'b'], /suffix of K, M or G/],
    [['sync', '--bwlimit', '0.5', 'a', 'b'], /At least 1 KiB/],
    [['sync', '-e', '"', 'a', 'h:b'], /is not a command/],
    [['sync', '--exclude', 'a', 'b'], /unknown option/],
    [['sync', '--timeout', '4', 'a', 'b'], /From 5 to 3600 seconds/],
    [['sync', '--max-delete', '-1', 'a', 'b'], /A whole number/],
    [['serve', '--listen', '127.0.0.1:0'], /required option '--module/],
    [['serve', '--listen', '127.0.0.1:0', '--module', 'x'], /Write NAME=DIR/],
    [['serve', '--listen', '127.0.0.1:0', '--module', '../x=/tmp'], /A module name/],
    [['serve', '--listen', '127.0.0.1:0', '--module', 'x=/a', '--module', 'x=/b'], /given twice/],
  ] as const) {
    const { code, err, out } = await deltahop(args);
    assert.is(code, 2, args.join(' '));
    assert.match(err, message, args.join(' '));
    assert.is(out, '');
  }
});

test('plain TCP goes beyond this machine only with --insecure, on both sides', async () => {
  const serve = await deltahop(['serve', '--listen', '192.0.2.1:0', '--module', 'x=/tmp']);
  assert.is(serve.code, 1);
  assert.match(serve.err, /DELTAHOP_E_INSECURE_REFUSED/);
  const sync = await deltahop(['sync', '/tmp/x', 'deltahop://192.0.2.1:9/m']);
  assert.is(sync.code, 1);
  assert.match(sync.err, /DELTAHOP_E_INSECURE_REFUSED/);
});

test('what is printed: changes, names, warnings, statistics, JSON; and how it exits', () =>
  withScratch(async (directory) => {
    const source = join(directory, 'source');
    const target = join(directory, 'target');
    mkdirSync(source);
    mkdirSync(target);
    writeFileSync(join(source, 'a\u0007b'), 'x');
    symlinkSync('a', join(source, 'link'));
    const dry = await deltahop(['sync', '-ni', source, target]);
    assert.is(dry.code, 0, dry.err);
    assert.is(dry.out, 'cd+++++++++ source/\n>f+++++++++ source/a\\#007b\ncL+++++++++ source/link -> a\n');
    assert.not(existsSync(join(target, 'source')));
    assert.equal(await deltahop(['sync', '-aq', `${source}/`, join(directory, 'quiet')]), {
      code: 0,
      out: '',
      err: '',
    });
    const silent = await deltahop(['sync', '-az', `${source}/`, join(directory, 'silent')]);
    assert.equal(silent, { code: 0, out: '', err: '' });
    const named = await deltahop(['sync', '-v', '--stats', `${source}/`, join(directory, 'named')]);
    assert.match(named.out, /^\.\/\na\\#007b\nlink -> a\nfiles +1\n/);
    assert.match(named.err, /1 of 1 files sent/);
    mkdirSync(join(target, 'link'));
    writeFileSync(join(target, 'link/inside'), '');
    const partial = await deltahop(['sync', '--json', `${source}/`, target]);
    assert.is(partial.code, 23);
    const lines = partial.out
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as Record<string, unknown>);
    assert.match(String(lines.find(({ type }) => type === 'warning')?.['message']), /^link: not made/);
    const summary = lines.at(-1) ?? {};
    assert.is(summary['type'], 'summary');
    assert.is(summary['result'], 'partial');
    assert.is(summary['files'], 1);
    const failed = await deltahop(['sync', '--json', join(directory, 'none'), target]);
    assert.is(failed.code, 1);
    assert.is((JSON.parse(failed.out) as { code: string }).code, 'DELTAHOP_E_NOT_FOUND');
  }));

test('in place keeps the inode, -h gives units, and too many deletions are none', () =>
  withScratch(async (directory) => {
    const source = join(directory, 'source');
    const target = join(directory, 'target');
    for (const path of [source, target]) mkdirSync(path);
    const content = noise(1, 1_000_000);
    writeFileSync(join(target, 'disk'), content);
    for (const name of ['a', 'b']) writeFileSync(join(target, name), name);
    const before = statSync(join(target, 'disk')).ino;
    content.fill(7, 500_000, 500_100);
    // Written within one tick of the clock, only another size tells them apart.
    const changed = Buffer.concat([content, noise(2, 10)]);
    writeFileSync(join(source, 'disk'), changed);
    const done = await deltahop([
      ...['sync', '--inplace', '--delete', '--max-delete', '1', '-h', '--stats', '-P', '--timeout', '60'],
      ...[`${source}/`, target],
    ]);
    assert.is(done.code, 25, done.err);
    assert.match(done.err, /warning: nothing was deleted: it would have been 2 entries/);
    assert.match(done.out, /^size +1 MB$/m);
    assert.ok(existsSync(join(target, 'a')));
    assert.ok(readFileSync(join(target, 'disk')).equals(changed));
    assert.is(statSync(join(target, 'disk')).ino, before);
    const two = await deltahop(['sync', '--delete', '--max-delete', '2', `${source}/`, target]);
    assert.is(two.code, 0, two.err);
    assert.not(existsSync(join(target, 'a')));
  }));

test('serve says where it listens, serves sync, and ends at an interrupt', () =>
  withScratch(async (directory) => {
    const served = join(directory, 'served');
    const source = join(directory, 'source');
    mkdirSync(served);
    mkdirSync(source);
    writeFileSync(join(source, 'file'), 'over the wire');
    let client: Promise<Outcome> | null = null;
    const { code, out } = await deltahop(
      ['serve', '--listen', '127.0.0.1:0', '--module', `m=${served}`],
      (said, interrupt) => {
        const [, port] = /on 127\.0\.0\.1:(\d+)\n/.exec(said) ?? [];
        client ??= deltahop(['sync', '-i', source, `deltahop://127.0.0.1:${port}/m`]).finally(interrupt);
      },
    );
    assert.is(code, 0);
    assert.match(out, /^serving m on 127\.0\.0\.1:\d+\n$/);
    assert.equal(await client, { code: 0, out: 'cd+++++++++ source/\n<f+++++++++ source/file\n', err: '' });
    assert.is(readFileSync(join(served, 'source/file'), 'utf8'), 'over the wire');
  }));

test('an interrupt ends a sync with 130', () =>
  withScratch(async (directory) => {
    // A server that accepts and says nothing.
    const mute = createServer(() => {});
    mute.listen(0, '127.0.0.1');
    await once(mute, 'listening');
    const { port } = mute.address() as { port: number };
    const out: string[] = [];
    let interrupt: () => void = () => {};
    setTimeout(() => interrupt(), 300);
    const code = await run(['sync', directory, `deltahop://127.0.0.1:${port}/m`], {
      stdout: { write: (text) => out.push(text) },
      stderr: { write: (text) => out.push(text) },
      env: {},
      hostName: 'this-host',
      log: async () => pino({ enabled: false }),
      onInterrupt: (handler) => {
        interrupt = () => handler('SIGINT');
        return () => {};
      },
    });
    assert.is(code, 130, out.join(''));
    mute.close();
  }));

test('an interrupt from the terminal, which reaches ssh too, ends a sync with 130', () =>
  withScratch(async (directory) => {
    const shell = join(directory, 'shell');
    writeFileSync(shell, '#!/bin/sh\nprintf DHS1\nexec sleep 60\n');
    chmodSync(shell, 0o755);
    const program = fileURLToPath(new URL('../../../src/cli/main.js', import.meta.url));
    const child = spawn(process.execPath, [program, 'sync', '-e', shell, directory, 'host:x'], {
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true,
    });
    const ended = once(child, 'close');
    const isSleeping = () => spawnSync('pgrep', ['-g', String(child.pid), 'sleep']).status === 0;
    while (!isSleeping()) await delay(20);
    await delay(200);
    assert.ok(child.pid !== undefined);
    process.kill(-child.pid, 'SIGINT');
    assert.equal(await ended, [130, null]);
  }));

test('a shell in place of ssh: what fails there is told', () =>
  withScratch(async (directory) => {
    const shell = join(directory, 'my shell');
    writeFileSync(shell, '#!/bin/sh\nshift\nexec sh -c "$*"\n');
    chmodSync(shell, 0o755);
    const via = ['sync', '-e', `'${shell}'`];
    const absent = await deltahop([...via, '--remote-command', 'no-such-program 2>/dev/null', directory, 'h:x']);
    assert.is(absent.code, 1);
    assert.match(absent.err, /exited with 127: .* was not found there/);
    const chatty = await deltahop([...via, '--remote-command', 'echo Welcome to host; true', directory, 'h:x']);
    assert.is(chatty.code, 1);
    assert.match(chatty.err, /did not answer as deltahop does; it said: Welcome to host/);
    const missing = await deltahop(['sync', '-e', join(directory, 'none'), directory, 'h:x']);
    assert.is(missing.code, 1);
    assert.match(missing.err, /cannot start .*none: ENOENT/);
  }));

test.run();
