import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { closeSync, fstatSync, openSync, readSync, unlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** How a command ended and what it said. */
export interface Completed {
  /** The exit code; 128 + the signal's number is not made up here: a signal gives null. */
  code: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

/** How to run a command. */
export interface RunOptions {
  /** Written to stdin, which is closed then. */
  input?: string;
  env?: NodeJS.ProcessEnv;
  cwd?: string;
  /** After this it is killed; two minutes unless told. */
  timeoutMs?: number;
  /** False: any exit code is an answer. Otherwise a code that is not 0 throws. */
  check?: boolean;
}

/** Runs a program to its end, without a shell. Throws an Error with its stderr if it fails (see `check`). */
export async function run(argv: readonly string[], options: RunOptions = {}): Promise<Completed> {
  // Files, not pipes: what a restored container leaves running holds on to them, and a pipe would never see its end.
  const stdout = temporaryFile();
  const stderr = temporaryFile();
  try {
    const spawnOptions: SpawnOptions = {
      stdio: ['pipe', stdout, stderr],
      timeout: options.timeoutMs ?? 120_000,
      killSignal: 'SIGKILL',
    };
    if (options.env !== undefined) spawnOptions.env = options.env;
    if (options.cwd !== undefined) spawnOptions.cwd = options.cwd;
    const [program = '', ...args] = argv;
    const child = spawn(program, args, spawnOptions);
    // A program that does not read its input closes the pipe; its exit code tells all there is to tell.
    child.stdin?.on('error', () => {});
    child.stdin?.end(options.input ?? '');
    const [code, signal] = (await once(child, 'exit')) as [number | null, NodeJS.Signals | null];
    const completed = { code, signal, stdout: contents(stdout), stderr: contents(stderr) };
    if (options.check !== false && code !== 0) {
      const said = completed.stderr.trim() || completed.stdout.trim();
      throw new Error(`${argv.join(' ')} ended with ${code ?? signal}: ${said}`);
    }
    return completed;
  } finally {
    closeSync(stdout);
    closeSync(stderr);
  }
}

/** Waits until a process has ended; kills it if that takes longer than `timeoutMs`. */
export async function ended(child: ChildProcess, timeoutMs: number): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const timer = setTimeout(() => child.kill('SIGKILL'), timeoutMs);
  try {
    await once(child, 'exit');
  } finally {
    clearTimeout(timer);
  }
}

/** A file without a name. */
function temporaryFile(): number {
  const path = join(tmpdir(), `deltahop-${randomBytes(8).toString('hex')}`);
  const file = openSync(path, 'wx+', 0o600);
  unlinkSync(path);
  return file;
}

function contents(file: number): string {
  const bytes = Buffer.alloc(fstatSync(file).size);
  const length = readSync(file, bytes, 0, bytes.length, 0);
  return bytes.toString('utf8', 0, length);
}
