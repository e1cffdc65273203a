import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { isDeltahopError } from '../../../src/errors.js';
import { mustRun, runCommand, startConversing } from '../../../src/workload/command.js';

async function rejection(promise: Promise<unknown>): Promise<Error> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof Error) return error;
  }
  throw new Error('it did not fail');
}

test('arguments arrive as they are, without a shell', async () => {
  const args = ['a b', '$HOME', '; true', '"', '', '*'];
  const { exitCode, stdout } = await runCommand(['printf', '<%s>', ...args], { limitMs: 5000 });
  assert.equal([exitCode, stdout], [0, args.map((arg) => `<${arg}>`).join('')]);
});

test('any exit code is a result; mustRun makes it an error with what was said', async () => {
  const argv = ['sh', '-c', 'echo no good >&2; exit 3'];
  const { exitCode, stderr } = await runCommand(argv, { limitMs: 5000 });
  assert.equal([exitCode, stderr], [3, 'no good\n']);
  const error = await rejection(mustRun(argv, { limitMs: 5000, code: 'DELTAHOP_E_WORKLOAD' }));
  assert.ok(isDeltahopError(error, 'DELTAHOP_E_WORKLOAD'));
  assert.match(error.message, /exit code 3: no good/);
});

test('a missing program is named', async () => {
  const error = await rejection(runCommand(['deltahop-no-such-program'], { limitMs: 5000 }));
  assert.ok(isDeltahopError(error, 'DELTAHOP_E_TOOL_MISSING'));
  assert.match(error.message, /deltahop-no-such-program/);
});

test('what takes too long is killed with all that it started', async () => {
  const argv = ['sh', '-c', 'sleep 300 & echo $!; wait'];
  const pids: string[] = [];
  const script = 'sleep 300 & echo $! >"$1"; wait';
  const file = `/tmp/deltahop-command-${process.pid}`;
  const error = await rejection(runCommand(['sh', '-c', script, 'sh', file], { limitMs: 300 }));
  assert.ok(isDeltahopError(error, 'DELTAHOP_E_TIMEOUT'));
  pids.push((await runCommand(['cat', file], { limitMs: 5000 })).stdout.trim());
  await runCommand(['rm', '-f', file], { limitMs: 5000 });
  for (let wait = 0; wait < 50 && (await alive(pids[0] ?? '')); wait++) await sleep(20);
  assert.is(await alive(pids[0] ?? ''), false);
  const aborted = await rejection(runCommand(argv, { limitMs: 60_000, signal: AbortSignal.timeout(100) }));
  assert.ok(isDeltahopError(aborted, 'DELTAHOP_E_CANCELLED'));
});

/** A killed process that nobody has waited for yet is not alive. */
async function alive(pid: string): Promise<boolean> {
  if (!existsSync(`/proc/${pid}/stat`)) return false;
  const { stdout } = await runCommand(['cat', `/proc/${pid}/stat`], { limitMs: 5000 });
  return stdout !== '' && !/\) [ZX] /.test(stdout);
}

test('a flood of output is cut, not kept', async () => {
  const { exitCode, stdout } = await runCommand(['sh', '-c', 'head -c 5000000 /dev/zero | tr "\\0" x'], {
    limitMs: 20_000,
  });
  assert.equal([exitCode, stdout.length], [0, 1 << 20]);
});

test('a program that leaves a daemon with our pipes behind does not hold us up', async () => {
  const began = Date.now();
  const { stdout } = await runCommand(['sh', '-c', 'sleep 2 & echo done'], { limitMs: 10_000 });
  assert.is(stdout, 'done\n');
  assert.ok(Date.now() - began < 1500);
});

function standStill(ms: number): void {
  for (const until = performance.now() + ms; performance.now() < until; );
}

test('what a program wrote is not lost if its end is heard first and this process then stands still', async () => {
  // Node reaps every child when it hears of the end of one: here before it has looked at the other's pipe.
  const outcome = await new Promise<string>((resolve, reject) => {
    const other = spawn('echo', ['x']);
    standStill(200);
    other.stdout.once('data', () => {
      runCommand(['echo', 'hello'], { limitMs: 5000 }).then(({ stdout }) => resolve(stdout), reject);
      standStill(200);
      setImmediate(() => standStill(500));
    });
  });
  assert.is(outcome, 'hello\n');
});

test('a conversation brings the answers in the order of the questions, and says when there is none', async () => {
  const echo = await startConversing(['sh', '-c', 'while read -r line; do echo "<$line>"; done']);
  const asked = ['one', 'two  words', 'three'];
  assert.equal(
    await Promise.all(asked.map((line) => echo.ask(line, 5000))),
    asked.map((line) => `<${line}>`),
  );
  echo.release();
  // It does not keep this process from its end.
  for (const deadline = Date.now() + 5000; !echo.hasEnded(); await sleep(5)) assert.ok(Date.now() < deadline);
  assert.ok(isDeltahopError(await rejection(echo.ask('late', 5000)), 'DELTAHOP_E_WORKLOAD'));
  const dumb = await startConversing(['sleep', '10']);
  assert.ok(isDeltahopError(await rejection(dumb.ask('anything', 50)), 'DELTAHOP_E_TIMEOUT'));
  dumb.kill();
});

test.run();
