/** A program on another machine as a byte stream, started by ssh or by whatever takes its place. */
import { spawn } from 'node:child_process';
import { DeltahopError } from '../errors.js';
import { joinHalves } from './halves.js';
import type { TransportStream } from './stream.js';

/** How long the child may take to end by itself once nobody speaks to it. */
const endMs = 2000;

/** What to start, and where. */
export interface RemoteProgram {
  /** `host` or `user@host`. */
  host: string;
  /** The program that goes there, with its own arguments; `ssh` when absent. It is given the host and `command`. */
  shell?: readonly string[];
  /**
   * Words of the command over there. ssh joins them and the remote user's shell reads them, so nothing may stand here that
   * is data: that goes over the stream.
   */
  command: readonly string[];
}

/**
 * Starts a program on another machine. Its standard error is ours, for the questions and complaints of ssh itself.
 * @throws DeltahopError DELTAHOP_E_INVALID_ARGUMENT for a host that would be taken for an option. Failures to start and to
 *   connect come as errors of the stream, DELTAHOP_E_LINK.
 */
export function startRemote({ host, shell, command }: RemoteProgram): TransportStream {
  const [user, name] = host.includes('@')
    ? [host.slice(0, host.lastIndexOf('@')), host.slice(host.lastIndexOf('@') + 1)]
    : ['', host];
  if (name === '' || name.startsWith('-') || user.startsWith('-') || /[\s\0]/.test(host)) {
    throw new DeltahopError('DELTAHOP_E_INVALID_ARGUMENT', `${JSON.stringify(host)} is not the name of a host`);
  }
  // Programs other than ssh need not know `--`; a host that could be an option was refused above.
  const [program = 'ssh', ...words] = shell ?? ['ssh', '-x', '--'];
  const child = spawn(program, [...words, host, ...command], { stdio: ['pipe', 'pipe', 'inherit'] });
  const ended = new Promise<Error | null>((resolve) => {
    child.once('error', (cause: NodeJS.ErrnoException) =>
      resolve(
        new DeltahopError('DELTAHOP_E_LINK', `cannot start ${program}: ${cause.code ?? cause.message}`, { cause }),
      ),
    );
    child.once('exit', (exitCode, signal) => resolve(exitReason(program, host, command, exitCode, signal)));
  });
  let killer: NodeJS.Timeout | undefined;
  void ended.then(() => clearTimeout(killer));
  return joinHalves({
    input: child.stdout,
    output: child.stdin,
    peer: host,
    endReason: () => ended,
    release: () => {
      if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) return;
      killer = setTimeout(() => {
        child.kill('SIGTERM');
        killer = setTimeout(() => child.kill('SIGKILL'), endMs);
        killer.unref();
      }, endMs);
    },
  });
}

function exitReason(
  program: string,
  host: string,
  command: readonly string[],
  exitCode: number | null,
  signal: NodeJS.Signals | null,
): Error | null {
  if (exitCode === 0) return null;
  if (signal !== null) return new DeltahopError('DELTAHOP_E_LINK', `${program} to ${host} was ended by ${signal}`);
  const why =
    exitCode === 127
      ? `: ${command[0] ?? ''} was not found there (--remote-command says what to run)`
      : exitCode === 255
        ? ': it could not connect, or the connection broke'
        : '';
  return new DeltahopError('DELTAHOP_E_LINK', `${program} to ${host} exited with ${exitCode}${why}`);
}

/**
 * The words of a command line as `-e` takes it: separated by blanks, single and double quotes hold a word together. No
 * other character means anything.
 * @throws DeltahopError DELTAHOP_E_INVALID_ARGUMENT for an open quote or no word at all.
 */
export function commandWords(text: string): string[] {
  const words: string[] = [];
  let word: string | null = null;
  let quote = '';
  for (const character of text) {
    if (quote !== '') {
      if (character === quote) quote = '';
      else word = (word ?? '') + character;
    } else if (character === '"' || character === "'") {
      quote = character;
      word ??= '';
    } else if (/\s/.test(character)) {
      if (word !== null) words.push(word);
      word = null;
    } else {
      word = (word ?? '') + character;
    }
  }
  if (word !== null) words.push(word);
  if (quote !== '' || words[0] === undefined || words[0] === '') {
    throw new DeltahopError('DELTAHOP_E_INVALID_ARGUMENT', `${JSON.stringify(text)} is not a command`);
  }
  return words;
}
