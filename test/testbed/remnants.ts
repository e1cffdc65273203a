import {
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { run } from './command.js';

/** What one testbed has made on this machine, written down before it makes it, so that a killed run can be cleared. */
export interface TestbedRecord {
  id: string;
  /** The process that owns the testbed, told from a later one of the same number by its start time. */
  pid: number;
  startTime: string;
  /** Everything of it that is a file. */
  directory: string;
  /** Names of its network namespaces. */
  namespaces: string[];
}

const recordDirectory = '/run/deltahop-testbed';

/** Writes a testbed's record. */
export function writeRecord(record: TestbedRecord): void {
  mkdirSync(recordDirectory, { recursive: true });
  writeFileSync(recordPath(record.id), JSON.stringify(record));
}

/** When a process started, in clock ticks since boot; undefined if there is none (a zombie is none). */
export function processStartTime(pid: number): string | undefined {
  try {
    // proc(5): the name, field 2, may hold spaces and parentheses; state is field 3 and start time field 22.
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return fields[0] === 'Z' || fields[0] === 'X' ? undefined : fields[19];
  } catch {
    return undefined;
  }
}

/** Clears what testbeds left whose owner is gone. */
export async function clearStale(): Promise<void> {
  for (const file of entries(recordDirectory)) {
    if (!file.endsWith('.json')) continue;
    let record: TestbedRecord;
    try {
      record = JSON.parse(readFileSync(join(recordDirectory, file), 'utf8')) as TestbedRecord;
    } catch {
      continue; // another run is clearing it, or is just writing it
    }
    if (processStartTime(record.pid) !== record.startTime) await clear(record);
  }
}

/** Removes everything of a testbed: processes, containers, cgroups, mounts, namespaces, files, and last its record. */
export async function clear(record: TestbedRecord): Promise<void> {
  const cgroups = await killAll(record);
  for (const path of leftCgroups(record)) cgroups.add(path);
  await removeCgroups(cgroups);
  await unmountAll(record.directory);
  for (const name of record.namespaces) {
    await run(['ip', 'netns', 'delete', name], { check: false });
  }
  rmSync(record.directory, { recursive: true, force: true, maxRetries: 3 });
  rmSync(recordPath(record.id), { force: true });
  try {
    rmdirSync(recordDirectory);
  } catch {
    // others still have theirs in it
  }
}

/** Process ids that belong to a testbed. */
export function processesOf(record: TestbedRecord): number[] {
  const namespaces = new Set<number>();
  for (const name of record.namespaces) {
    try {
      namespaces.add(statSync(`/run/netns/${name}`).ino);
    } catch {
      // not made yet, or already gone
    }
  }
  const ownMounts = readlinkSync('/proc/self/ns/mnt');
  const found: number[] = [];
  for (const entry of entries('/proc')) {
    const pid = Number(entry);
    if (!Number.isInteger(pid) || pid === process.pid || processStartTime(pid) === undefined) continue;
    try {
      const netns = Number(readlinkSync(`/proc/${pid}/ns/net`).slice('net:['.length, -1));
      if (namespaces.has(netns)) {
        found.push(pid);
      } else if (readlinkSync(`/proc/${pid}/ns/mnt`) !== ownMounts) {
        // A container has a network of its own, but its root is an overlay whose options name our directory. Other mounts
        // may be of this machine at large (a node's small disk), and every testbed made meanwhile has them too.
        const mounts = readFileSync(`/proc/${pid}/mountinfo`, 'utf8').split('\n');
        if (mounts.some((line) => line.includes(' - overlay ') && line.includes(`${record.directory}/`)))
          found.push(pid);
      }
    } catch {
      // gone meanwhile
    }
  }
  return found;
}

/** Kills a testbed's processes and waits until they are gone; returns the cgroups that were made for them. */
async function killAll(record: TestbedRecord): Promise<Set<string>> {
  const cgroups = new Set<string>();
  const deadline = Date.now() + 10_000;
  for (let pids = processesOf(record); pids.length > 0; pids = processesOf(record)) {
    if (Date.now() > deadline) throw new Error(`processes ${pids.join(', ')} of testbed ${record.id} do not end`);
    for (const pid of pids) {
      for (const path of containerCgroups(pid)) cgroups.add(path);
      try {
        process.kill(pid, 'SIGKILL');
      } catch {
        // gone meanwhile
      }
    }
    // A frozen process of cgroup v1 dies only once it is thawed.
    for (const path of cgroups) {
      try {
        writeFileSync(join(path, 'freezer.state'), 'THAWED', { flag: 'r+' });
      } catch {
        // another controller's, or gone
      }
    }
    await sleep(20);
  }
  return cgroups;
}

/** Where the cgroup hierarchies are mounted, by controller; '' is that of version 2. */
function cgroupMounts(): Map<string, string> {
  const mounts = new Map<string, string>();
  for (const line of readFileSync('/proc/self/mountinfo', 'utf8').split('\n')) {
    const [before, after] = line.split(' - ');
    const mountPoint = before?.split(' ')[4];
    const [type, , options] = after?.split(' ') ?? [];
    if (mountPoint === undefined) continue;
    if (type === 'cgroup2') mounts.set('', mountPoint);
    if (type === 'cgroup') for (const option of options?.split(',') ?? []) mounts.set(option, mountPoint);
  }
  return mounts;
}

/**
 * Empty cgroups that LXC left of this testbed's containers. LXC does not wait for a zombie of version 1 to be reaped, so
 * a stop can leave some; only their names tell whose they are. Those of services have a digest of their directory in
 * them; but of those named by hand another testbed may be about to fill one, so a young one is left alone.
 */
function leftCgroups(record: TestbedRecord): string[] {
  const { ofServices, byHand } = containerNames(record.directory);
  const found: string[] = [];
  for (const mountPoint of new Set(cgroupMounts().values())) {
    for (const entry of entries(mountPoint)) {
      const name = /^lxc\.(?:payload|monitor)\.(.+)$/.exec(entry)?.[1];
      if (name === undefined) continue;
      const path = join(mountPoint, entry);
      // LXC numbers a name that is taken.
      const isOneOf = (names: Set<string>): boolean => names.has(name) || names.has(name.replace(/-\d+$/, ''));
      if (isOneOf(ofServices) || (isOneOf(byHand) && Date.now() - createdMs(path) > 2000)) found.push(path);
    }
  }
  return found;
}

/** Names of the containers of a testbed's nodes: those of the agents' services, and those started by hand. */
function containerNames(directory: string): { ofServices: Set<string>; byHand: Set<string> } {
  const ofServices = new Set<string>();
  const byHand = new Set<string>();
  for (const node of entries(directory)) {
    const state = join(directory, node, 'state');
    for (const name of entries(join(state, 'lxc'))) byHand.add(name);
    for (const service of entries(join(state, 'services'))) {
      for (const name of entries(join(state, 'services', service, 'workload/lxc'))) ofServices.add(name);
    }
  }
  return { ofServices, byHand };
}

/** The directories of the cgroups that LXC made for a process, in every hierarchy. */
function containerCgroups(pid: number): string[] {
  try {
    const mounts = cgroupMounts();
    const found: string[] = [];
    for (const line of readFileSync(`/proc/${pid}/cgroup`, 'utf8').split('\n')) {
      const match = /^\d+:([^:]*):.*?\/(lxc\.(?:payload|monitor)\.[^/]+)/.exec(line);
      const mountPoint = match && mounts.get(match[1]?.split(',')[0] ?? '');
      if (match && mountPoint) {
        const path = line.slice(line.indexOf('/'));
        found.push(join(mountPoint, path.slice(0, path.indexOf(match[2] ?? '') + (match[2] ?? '').length)));
      }
    }
    return found;
  } catch {
    return [];
  }
}

/** The kernel lets go of a cgroup only once its dead are reaped, and LXC's monitor may be just ending. */
async function removeCgroups(paths: ReadonlySet<string>): Promise<void> {
  const deadline = Date.now() + 3000;
  for (let left = [...paths]; left.length > 0; ) {
    left = left.filter((path) => !removeCgroup(path));
    if (Date.now() > deadline) return;
    if (left.length > 0) await sleep(20);
  }
}

/** Removes a cgroup and those below it; only directories can be removed from such a tree. Returns whether it is gone. */
function removeCgroup(path: string): boolean {
  for (const entry of entries(path)) {
    if (isDirectory(join(path, entry))) removeCgroup(join(path, entry));
  }
  try {
    rmdirSync(path);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ENOENT';
  }
}

/** Unmounts what is mounted under a directory in this process's own mount namespace, the innermost first. */
async function unmountAll(directory: string): Promise<void> {
  const mountPoints: string[] = [];
  for (const line of readFileSync('/proc/self/mountinfo', 'utf8').split('\n')) {
    const mountPoint = line.split(' ')[4];
    if (mountPoint?.startsWith(`${directory}/`)) mountPoints.unshift(mountPoint);
  }
  for (const mountPoint of mountPoints) await run(['umount', '--lazy', mountPoint], { check: false });
}

function recordPath(id: string): string {
  return join(recordDirectory, `${id}.json`);
}

function entries(directory: string): string[] {
  try {
    return readdirSync(directory);
  } catch {
    return [];
  }
}

function createdMs(path: string): number {
  try {
    return statSync(path).ctimeMs;
  } catch {
    return Date.now();
  }
}

function isDirectory(path: string): boolean {
  try {
    return statSync(path).isDirectory();
  } catch {
    return false;
  }
}
