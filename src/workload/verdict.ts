/**
 * What every barrier decides by: a directory in which whoever makes the file `verdict` first has decided, and a script
 * that waits for it in a process of its own, so that neither depends on the agent.
 *
 *     verdict      `commit` or `abort`: link(2) and O_EXCL see to it that there is one
 *     held         nothing is lacking but the verdict
 *     bell         a fifo: any line wakes the script, which then looks for a verdict
 */
import { watch } from 'node:fs';
import { constants, link, open, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { DeltahopError } from '../errors.js';

/** Seconds that the script waits without a sign of life. */
export const patienceS = 20;

/** Milliseconds between two signs of life. */
export const aliveIntervalMs = 5000;

/** A word of a shell script. */
export function quote(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

/** Of such a script: nobody is to wait for a verdict any more. */
export const giveUp = '(set -C; echo abort >verdict) 2>/dev/null';

/** Of a script whose working directory is the operation's: waits, and says by its exit code whether it is `commit`. */
export const awaitVerdict = `await_verdict() {
  exec 3<>bell
  while [ ! -e verdict ]; do
    timeout -s KILL ${patienceS} head -n 1 <&3 >/dev/null 2>&1 && continue
    ${giveUp}
  done
  exec 3<&-
  read -r verdict <verdict
  [ "$verdict" = commit ]
}
`;

/** Gives the verdict of the operation in `directory`, unless there is one. @returns the one that holds. */
export async function decide(directory: string, verdict: 'commit' | 'abort'): Promise<'commit' | 'abort'> {
  try {
    await link(await propose(directory, verdict), join(directory, 'verdict'));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
  }
  await ring(directory);
  return (await verdictOf(directory)) ?? 'abort';
}

/** Makes the file that becomes the verdict by link(2), unless it is there. @returns its path. */
export async function propose(directory: string, verdict: 'commit' | 'abort'): Promise<string> {
  const path = join(directory, `verdict.${verdict}`);
  try {
    await writeFile(path, `${verdict}\n`, { flag: 'wx' });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
  }
  return path;
}

/** The verdict on the operation in `directory`; null if there is none yet. */
export async function verdictOf(directory: string): Promise<'commit' | 'abort' | null> {
  const text = await readFile(join(directory, 'verdict'), 'utf8').catch(() => null);
  if (text === null) return null;
  // The script makes the file before it writes into it, and only ever to abort.
  return text.trim() === 'commit' ? 'commit' : 'abort';
}

/** Wakes the script of the operation in `directory`, if it waits. */
export async function ring(directory: string): Promise<void> {
  try {
    const bell = await open(join(directory, 'bell'), constants.O_WRONLY | constants.O_NONBLOCK);
    try {
      await bell.write('\n');
    } finally {
      await bell.close();
    }
  } catch {
    // Nobody listens (ENXIO), or the operation is over.
  }
}

/** Removes an operation's directory in a way that leaves none half-removed under its name. */
export async function removeOperation(directory: string): Promise<void> {
  const doomed = `${directory}.old`;
  await rm(doomed, { recursive: true, force: true });
  try {
    await rename(directory, doomed);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
  await rm(doomed, { recursive: true, force: true });
}

/** Whether something is there. */
export async function exists(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch {
    return false;
  }
}

/** Asks `check` whenever something happens in a directory (and now and then) until it gives an answer. */
export async function waitUntil(
  directory: string,
  limitMs: number,
  signal: AbortSignal | undefined,
  check: () => Promise<boolean | null>,
): Promise<boolean> {
  const deadline = Date.now() + limitMs;
  let wake: () => void = () => {};
  const watcher = watch(directory, () => wake());
  watcher.on('error', () => {});
  const onAbort = () => wake();
  signal?.addEventListener('abort', onAbort);
  try {
    for (;;) {
      const woken = new Promise<void>((resolve) => {
        wake = resolve;
      });
      const answer = await check();
      if (answer !== null) return answer;
      if (signal?.aborted) {
        throw new DeltahopError('DELTAHOP_E_CANCELLED', 'the operation was cancelled', { cause: signal.reason });
      }
      if (Date.now() > deadline) {
        throw new DeltahopError(
          'DELTAHOP_E_TIMEOUT',
          `nothing has come of the operation in ${directory} after ${limitMs} ms`,
        );
      }
      // The end of the supervisor makes no event in the directory that is sure to come after it.
      const timer = setTimeout(() => wake(), 20);
      await woken;
      clearTimeout(timer);
    }
  } finally {
    signal?.removeEventListener('abort', onAbort);
    watcher.close();
  }
}
