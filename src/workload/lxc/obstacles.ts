import { readdir, readFile, readlink, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { Capability } from '../driver.js';

/** Devices that every container has and CRIU restores by name. */
const harmlessDevices = /^\/dev\/(null|zero|full|random|urandom|tty|ptmx|pts\/.*|net\/tun|console)$/;

/** Kinds of open file without a name that CRIU cannot save, and the way out. */
const unsavable: readonly [RegExp, string, string][] = [
  [/^anon_inode:\[?fanotify\]?$/, 'watches files (fanotify)', 'switch the watching off in its configuration'],
  [/^anon_inode:\[io_uring\]$/, 'uses io_uring', 'switch io_uring off in its configuration'],
  [/^anon_inode:\[perf_event\]$/, 'has performance counters open', 'end its profiling'],
  [/^anon_inode:bpf-/, 'has BPF objects open', 'end what loads BPF programs in it'],
  [/^anon_inode:kvm-/, 'runs a virtual machine', 'move the virtual machine by itself'],
  [
    /^anon_inode:\[userfaultfd\]$/,
    'handles page faults by itself (userfaultfd)',
    'switch that off in its configuration',
  ],
];

/**
 * Directories in which CRIU looks for a watched file that it has no handle for, as on an overlay it never has
 * (criu/irmap.c): what is watched elsewhere cannot be saved.
 */
const watchable = ['etc', 'var/spool', 'var/log', 'usr/share/dbus-1/system-services', 'usr/share/polkit-1/actions'];

/** Files of {@link watchable} that are looked at, at most: this is preflight, not the dump. */
const watchableBound = 20_000;

/**
 * Why a container can not be saved by CRIU, as far as its processes tell from outside. Not a proof that it can: the
 * first round, which leaves the service running, is.
 *
 * @param pids all of its processes, as this node sees them.
 */
export async function obstaclesOf(pids: readonly number[]): Promise<Capability[]> {
  const found = new Map<string, Capability>();
  for (const pid of pids) {
    const name = `${(await textOf(`/proc/${pid}/comm`)).trim() || 'a process'} (${pid})`;
    const add = (kind: string, what: string, remedy: string) => {
      found.set(`${name} ${what}`, { name: kind, ok: false, detail: `${name} ${what}`, remedy });
    };
    const tracer = /^TracerPid:\s*([1-9]\d*)$/m.exec(await textOf(`/proc/${pid}/status`))?.[1];
    if (tracer !== undefined) add('tracer', `is traced by process ${tracer}`, 'end the debugger or tracer');
    const sctp = await sctpInodes(pid);
    for (const { fd, target } of await openFiles(pid)) {
      if (sctp.has(/^socket:\[(\d+)\]$/.exec(target)?.[1] ?? '')) add('socket', 'has an SCTP socket open', 'use TCP');
      for (const [pattern, what, remedy] of unsavable) if (pattern.test(target)) add('open file', what, remedy);
      if (target === 'anon_inode:inotify' && !(await isWatchable(pid, fd))) {
        const where = watchable.map((directory) => `/${directory}`).join(', ');
        add('open file', 'watches files (inotify)', `switch the watching off; only files in ${where} can be watched`);
      }
      const isDevicePath = target.startsWith('/dev/') && !/^\/dev\/(shm|mqueue)\//.test(target);
      if (isDevicePath && !harmlessDevices.test(target) && (await isDevice(join(`/proc/${pid}/root`, target)))) {
        add('device', `has ${target} open`, 'close the device, or run without it');
      }
    }
  }
  return [...found.values()];
}

async function textOf(path: string): Promise<string> {
  return readFile(path, 'utf8').catch(() => '');
}

async function openFiles(pid: number): Promise<{ fd: string; target: string }[]> {
  const fds = await readdir(`/proc/${pid}/fd`).catch(() => []);
  return Promise.all(fds.map(async (fd) => ({ fd, target: await readlink(`/proc/${pid}/fd/${fd}`).catch(() => '') })));
}

/** Whether all that an inotify file watches is where CRIU can find it again. */
async function isWatchable(pid: number, fd: string): Promise<boolean> {
  const watched = watchedInodes(await textOf(`/proc/${pid}/fdinfo/${fd}`));
  let looked = 0;
  const visit = async (path: string): Promise<void> => {
    if (watched.size === 0 || ++looked > watchableBound) return;
    const status = await stat(path, { bigint: true }).catch(() => null);
    if (status === null) return;
    watched.delete(status.ino);
    if (!status.isDirectory()) return;
    for (const entry of await readdir(path, { withFileTypes: true }).catch(() => [])) {
      if (!entry.isSymbolicLink()) await visit(join(path, entry.name));
    }
  };
  for (const directory of watchable) await visit(join(`/proc/${pid}/root`, directory));
  return watched.size === 0;
}

/** The inode numbers in an inotify file's /proc/PID/fdinfo (proc(5)), which has them in hexadecimal. */
export function watchedInodes(fdinfo: string): Set<bigint> {
  const matches = fdinfo.matchAll(/^inotify wd:\S+ ino:([0-9a-f]+) /gm);
  return new Set([...matches].map((match) => BigInt(`0x${match[1]}`)));
}

/** Inodes of the SCTP endpoints in a process's network namespace. */
async function sctpInodes(pid: number): Promise<Set<string>> {
  const lines = (await textOf(`/proc/${pid}/net/sctp/eps`)).split('\n').slice(1);
  return new Set(lines.map((line) => line.trim().split(/\s+/)[7] ?? '').filter((inode) => /^[1-9]/.test(inode)));
}

async function isDevice(path: string): Promise<boolean> {
  const status = await stat(path).catch(() => null);
  return status !== null && (status.isCharacterDevice() || status.isBlockDevice());
}
