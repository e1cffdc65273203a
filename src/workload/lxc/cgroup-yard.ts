import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parseMounts } from '../mounts.js';

const directory = '/sys/fs/cgroup';

/**
 * The directory in which CRIU finds each hierarchy that a process is in by its name, for its option cgroup-yard; null if some
 * are elsewhere. Without it CRIU mounts each one for itself, and waits for the kernel to let go of it again: on a machine with
 * ten hierarchies of version 1, for 30 ms in which a container stands still.
 *
 * Only for a dump: what a restore does not find there, it makes and mounts there.
 */
export async function cgroupYard(pid: number): Promise<string | null> {
  return yardOf(await readFile('/proc/self/mountinfo', 'utf8'), await readFile(`/proc/${pid}/cgroup`, 'utf8'));
}

/** Of the texts of /proc/self/mountinfo and of the process's /proc/PID/cgroup. */
export function yardOf(mountinfo: string, cgroups: string): string | null {
  // Of mounts at one place, the last is what is seen.
  const whole = new Map<string, boolean>();
  for (const { mountPoint, fileSystem, root } of parseMounts(mountinfo)) {
    whole.set(mountPoint, /^cgroup2?$/.test(fileSystem) && root === '/');
  }
  const names = cgroups
    .trimEnd()
    .split('\n')
    .map((line) => line.split(':')[1]);
  // As CRIU names them (criu/cgroup.c, collect_cgroups, as of 4.2).
  const isThere = (name: string | undefined): boolean =>
    name !== undefined && whole.get(join(directory, name === '' ? 'unified' : name.replace(/^name=/, ''))) === true;
  return names.every(isThere) ? directory : null;
}
