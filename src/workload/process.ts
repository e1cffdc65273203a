import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';

/** What tells one process from a later one of the same number. */
export interface ProcessIdentity {
  pid: number;
  /** When it began, in clock ticks since boot (field 22 of /proc/PID/stat, proc(5)). */
  startTime: string;
}

/** Fields of /proc/PID/stat's text; null if it cannot be read. The program's name may hold anything, so it is cut out. */
export function parseStat(text: string): { pid: number; state: string; startTime: string } | null {
  const close = text.lastIndexOf(')');
  const pid = Number.parseInt(text, 10);
  const fields = text
    .slice(close + 1)
    .trim()
    .split(' ');
  const [state] = fields;
  const startTime = fields[19];
  if (close < 0 || !Number.isInteger(pid) || state === undefined || startTime === undefined) return null;
  return { pid, state, startTime };
}

/** Whether a process runs, or would if let; a dead one that nobody has waited for does not. */
export async function isAlive(pid: number): Promise<boolean> {
  const state = (await statOf(pid))?.state;
  return state !== undefined && state !== 'Z' && state !== 'X';
}

/** Whether that very process is still alive. */
export async function isSameAlive(identity: ProcessIdentity): Promise<boolean> {
  const stat = await statOf(identity.pid);
  return stat !== null && stat.startTime === identity.startTime && stat.state !== 'Z' && stat.state !== 'X';
}

/** Its state as one letter (proc(5)); null if it is gone. */
export async function processState(pid: number): Promise<string | null> {
  return (await statOf(pid))?.state ?? null;
}

/** Its number in the pid namespace one below ours, where a container's first process is 1; null if it is elsewhere. */
export async function nestedPid(pid: number): Promise<number | null> {
  const line = /^NSpid:(.*)$/m.exec(await readFile(`/proc/${pid}/status`, 'utf8').catch(() => ''));
  const numbers = line?.[1]?.trim().split(/\s+/).map(Number) ?? [];
  return numbers.length === 2 ? (numbers[1] ?? null) : null;
}

/** Kills a process; one that is gone is none the less. */
export function killProcess(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // Gone in the meantime.
  }
}

/** Waits until a process has ended. @returns whether it has. */
export async function waitGone(identity: ProcessIdentity, limitMs: number): Promise<boolean> {
  const deadline = Date.now() + limitMs;
  while (await isSameAlive(identity)) {
    if (Date.now() > deadline) return false;
    await sleep(20);
  }
  return true;
}

async function statOf(pid: number): Promise<ReturnType<typeof parseStat>> {
  const text = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '');
  return parseStat(text);
}
