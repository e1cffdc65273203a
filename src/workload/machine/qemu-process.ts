/** The QEMU of one machine: how it is found and ended. It goes on without whoever started it. */
import { readdir, readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { DeltahopError } from '../../errors.js';
import { isAlive, killProcess } from '../process.js';

const killLimitMs = 10_000;
const pollMs = 5;

/** What tells the QEMU of one machine from every other process. */
export interface QemuMark {
  /** What messages call it. */
  readonly id: string;
  /** Where its process number stands while it runs. */
  readonly pidFile: string;
  /** Whether a process with these arguments is it: a number may be somebody else's by now. */
  isIts(words: readonly string[]): boolean;
}

/** The process number of the machine's QEMU; null if it does not run. */
export async function findQemu(mark: QemuMark): Promise<number | null> {
  const pid = Number.parseInt(await readFile(mark.pidFile, 'utf8').catch(() => ''), 10);
  return Number.isInteger(pid) && (await isQemu(mark, pid)) ? pid : null;
}

/** Kills the machine's QEMU, if it runs, and waits until nothing of it can run any more. The quickest way. */
export async function endQemu(mark: QemuMark): Promise<void> {
  for (const deadline = Date.now() + killLimitMs; ; await sleep(1)) {
    const pid = await findQemu(mark);
    if (pid === null) return;
    if (Date.now() > deadline) throw doesNotEnd(mark, [pid]);
    killProcess(pid);
  }
}

/** Kills every QEMU of the machine, one that has not come as far as to leave its number too. */
export async function endEveryQemu(mark: QemuMark): Promise<void> {
  for (const deadline = Date.now() + killLimitMs; ; await sleep(pollMs)) {
    const pids: number[] = [];
    for (const entry of await readdir('/proc')) {
      if (/^\d+$/.test(entry) && (await isQemu(mark, Number(entry)))) pids.push(Number(entry));
    }
    if (pids.length === 0) return;
    if (Date.now() > deadline) throw doesNotEnd(mark, pids);
    for (const pid of pids) killProcess(pid);
  }
}

async function isQemu(mark: QemuMark, pid: number): Promise<boolean> {
  const words = (await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).split('\0');
  return mark.isIts(words) && (await isAlive(pid));
}

function doesNotEnd({ id }: QemuMark, pids: readonly number[]): DeltahopError {
  return new DeltahopError('DELTAHOP_E_WORKLOAD', `QEMU of ${id} (${pids.join(', ')}) does not end, even killed`);
}
