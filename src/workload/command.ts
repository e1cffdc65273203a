import { type ChildProcess, type StdioOptions, spawn } from 'node:child_process';
import type { Socket } from 'node:net';
import { DeltahopError } from '../errors.js';

/** How a command is run. */
export interface CommandOptions {
  /** After this many milliseconds it is killed, with all that it started. */
  limitMs: number;
  /** Aborting kills it likewise. */
  signal?: AbortSignal;
  /** Added to this process's environment. */
  env?: Readonly<Record<string, string>>;
}

/** How a command ended. */
export interface CommandResult {
  /** Its exit code; 128 + the signal's number is not used: a killed command has `null`. */
  exitCode: number | null;
  /** What it wrote, each at most {@link outputBound} characters, the rest dropped. */
  stdout: string;
  stderr: string;
}

/** Characters of a command's output that are kept: enough for any message, not for a flood. */
const outputBound = 1 << 20;

/** What a program that has ended wrote, has been read when nothing came for so long. */
const quietMs = 200;

/** Administrators' programs live where an agent started by a plain user session may not look. */
const systemDirectories = '/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin';

/** The environment of a child: this process's, the system directories on PATH, no translated messages, and `extra`. */
export function commandEnvironment(extra: Readonly<Record<string, string>> = {}): NodeJS.ProcessEnv {
  const path = extra['PATH'] ?? process.env['PATH'];
  return {
    ...process.env,
    ...extra,
    LC_ALL: 'C',
    PATH: path === undefined || path === '' ? systemDirectories : `${path}:${systemDirectories}`,
  };
}

/**
 * Runs a program to its end, without a shell. Any exit code is a result.
 *
 * @throws DeltahopError DELTAHOP_E_TOOL_MISSING if it cannot be started, DELTAHOP_E_TIMEOUT, DELTAHOP_E_CANCELLED.
 */
export function runCommand(argv: readonly string[], options: CommandOptions): Promise<CommandResult> {
  const [program = '', ...args] = argv;
  const { signal, limitMs } = options;
  return new Promise((resolve, reject) => {
    if (signal?.aborted) {
      reject(cancelled(program, signal));
      return;
    }
    // A group of its own: what it starts is ended with it.
    const child = spawn(program, args, {
      detached: true,
      env: commandEnvironment(options.env),
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let failure: DeltahopError | undefined;
    const end = (error: DeltahopError) => {
      failure ??= error;
      killGroup(child);
    };
    const timer = setTimeout(() => {
      end(new DeltahopError('DELTAHOP_E_TIMEOUT', `${program} did not end within ${limitMs} ms and was killed`));
    }, limitMs);
    const onAbort = () => end(cancelled(program, signal));
    signal?.addEventListener('abort', onAbort, { once: true });
    const settle = () => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
    };

    const output = { stdout: '', stderr: '' };
    for (const name of ['stdout', 'stderr'] as const) {
      child[name].setEncoding('utf8');
      child[name].on('data', (chunk: string) => {
        if (output[name].length < outputBound) output[name] += chunk.slice(0, outputBound - output[name].length);
      });
    }
    child.once('error', (error) => {
      settle();
      reject(cannotStart(program, error));
    });
    // A program that turns into a daemon may keep our pipes open after it has ended: `exit` and a quiet moment, not `close`.
    child.once('exit', (exitCode) => {
      let patience: NodeJS.Timeout | undefined;
      const finish = () => {
        clearTimeout(patience);
        settle();
        child.stdout.destroy();
        child.stderr.destroy();
        if (failure !== undefined) reject(failure);
        else resolve({ exitCode, ...output });
      };
      const waitForQuiet = (before: number) => {
        patience = setTimeout(() => {
          // If this process stood still meanwhile, what was written lies unread: it is read before an immediate runs.
          setImmediate(() => {
            const now = output.stdout.length + output.stderr.length;
            if (now === before) finish();
            else waitForQuiet(now);
          });
        }, quietMs);
      };
      waitForQuiet(output.stdout.length + output.stderr.length);
      child.once('close', finish);
    });
  });
}

/**
 * Like {@link runCommand}, but an exit code other than 0 is an error of the given code.
 *
 * @throws DeltahopError `code`, with what the program wrote to stderr.
 */
export async function mustRun(
  argv: readonly string[],
  options: CommandOptions & { code: DeltahopError['code'] },
): Promise<string> {
  const result = await runCommand(argv, options);
  if (result.exitCode === 0) return result.stdout;
  const said = result.stderr.trim() || result.stdout.trim();
  const how = result.exitCode === null ? 'was killed' : `failed with exit code ${result.exitCode}`;
  throw new DeltahopError(options.code, `${argv.slice(0, 3).join(' ')} ${how}${said === '' ? '' : `: ${said}`}`);
}

/** A program that is meant to outlive this process. */
export interface Detached {
  readonly pid: number;
  /** Fulfilled with its exit code (null if a signal ended it) once it has ended. */
  readonly ended: Promise<number | null>;
  /** Whether it has ended. */
  hasEnded(): boolean;
  /** Kills it and all that it started. */
  kill(): void;
  /** From now on it keeps this process from its end no longer. */
  unref(): void;
}

/**
 * Starts a program in a session of its own that goes on if this process dies: neither a signal to our group nor a
 * closed pipe reaches it.
 *
 * @param output file descriptor for its stdout and stderr.
 * @throws DeltahopError DELTAHOP_E_TOOL_MISSING if it cannot be started.
 */
export function startDetached(
  argv: readonly string[],
  output: number,
  env: Readonly<Record<string, string>>,
): Promise<Detached> {
  const [program = '', ...args] = argv;
  const stdio: StdioOptions = ['ignore', output, output];
  return detached(program, spawn(program, args, { detached: true, cwd: '/', env: commandEnvironment(env), stdio }));
}

/** A program that waits for the end of its input, which comes when this process releases it, or ends. */
export interface Watching extends Detached {
  release(): void;
}

/**
 * The same of a program that is to notice the end of this process, however it comes about.
 *
 * @throws DeltahopError DELTAHOP_E_TOOL_MISSING if it cannot be started.
 */
export async function startWatching(argv: readonly string[]): Promise<Watching> {
  return (await watching(argv, 'ignore')).program;
}

/** A program that answers each line of its input by one line. */
export interface Conversing extends Watching {
  /** @throws DeltahopError DELTAHOP_E_TIMEOUT; DELTAHOP_E_WORKLOAD if it ends before it has answered. */
  ask(line: string, limitMs: number): Promise<string>;
}

/**
 * {@link startWatching} of a program to talk with. It keeps this process from its end only while it is asked something.
 *
 * @throws DeltahopError DELTAHOP_E_TOOL_MISSING if it cannot be started.
 */
export async function startConversing(argv: readonly string[]): Promise<Conversing> {
  const { program, child } = await watching(argv, 'pipe');
  const [name = ''] = argv;
  const [input, output] = [child.stdin as Socket, child.stdout as Socket];
  const lines: string[] = [];
  let rest = '';
  let wake: () => void = () => {};
  output.setEncoding('utf8');
  output.on('data', (text: string) => {
    const parts = (rest + text).split('\n');
    rest = parts.pop() ?? '';
    lines.push(...parts);
    wake();
  });
  output.on('close', () => wake());
  program.unref();
  input.unref();
  output.unref();
  const answer = async (limitMs: number): Promise<string> => {
    for (const deadline = Date.now() + limitMs; ; ) {
      const line = lines.shift();
      if (line !== undefined) return line;
      if (output.closed) throw new DeltahopError('DELTAHOP_E_WORKLOAD', `${name} ended before it had answered`);
      const leftMs = deadline - Date.now();
      if (leftMs <= 0) throw new DeltahopError('DELTAHOP_E_TIMEOUT', `${name} did not answer within ${limitMs} ms`);
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, leftMs);
        wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  };
  // One at a time: answers come in the order of the questions.
  let last: Promise<unknown> = Promise.resolve();
  return {
    ...program,
    ask: (line, limitMs) => {
      const asked = last.then(() => {
        input.write(`${line}\n`);
        return answer(limitMs);
      });
      last = asked.catch(() => {});
      return asked;
    },
  };
}

async function watching(
  argv: readonly string[],
  stdout: 'ignore' | 'pipe',
): Promise<{ program: Watching; child: ChildProcess }> {
  const [program = '', ...args] = argv;
  const stdio: StdioOptions = ['pipe', stdout, 'ignore'];
  const child = spawn(program, args, { detached: true, cwd: '/', env: commandEnvironment(), stdio });
  child.stdin?.on('error', () => {});
  return { program: { ...(await detached(program, child)), release: () => child.stdin?.destroy() }, child };
}

function detached(program: string, child: ChildProcess): Promise<Detached> {
  return new Promise((resolve, reject) => {
    let over = false;
    const ended = new Promise<number | null>((done) => {
      child.once('exit', (exitCode) => {
        over = true;
        done(exitCode);
      });
    });
    child.once('error', (error) => reject(cannotStart(program, error)));
    child.once('spawn', () => {
      resolve({
        pid: child.pid ?? 0,
        ended,
        hasEnded: () => over,
        kill: () => killGroup(child),
        unref: () => child.unref(),
      });
    });
  });
}

function killGroup(child: ChildProcess): void {
  if (child.pid === undefined) return;
  try {
    process.kill(-child.pid, 'SIGKILL');
  } catch {
    // It has ended by itself in the meantime.
  }
}

function cannotStart(program: string, error: NodeJS.ErrnoException): DeltahopError {
  const why = error.code === 'ENOENT' ? 'it is not installed, or not on PATH' : error.message;
  return new DeltahopError('DELTAHOP_E_TOOL_MISSING', `${program} can not be started: ${why}`, { cause: error });
}

function cancelled(program: string, signal: AbortSignal | undefined): DeltahopError {
  return new DeltahopError('DELTAHOP_E_CANCELLED', `${program} was cancelled`, { cause: signal?.reason });
}
