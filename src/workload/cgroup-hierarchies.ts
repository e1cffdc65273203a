/** Where the kernel's control groups are on this machine, of version 1 and 2. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parseMounts } from './mounts.js';

/** One cgroup hierarchy: where it is mounted, with the path of the process that was asked for. */
export interface Hierarchy {
  /** That process's directory, less systemd's init.scope. */
  base: string;
  /** The same within the hierarchy. */
  path: string;
  version: 'v1' | 'v2';
  /** v1: its controllers; v2: empty. */
  controllers: readonly string[];
}

const v1Controllers = new Set(['freezer', 'memory', 'cpu', 'cpuacct', 'cpuset', 'devices', 'pids', 'blkio', 'net_cls']);

/**
 * Finds the cgroup hierarchies from the texts of /proc/self/mountinfo and of a process's /proc/PID/cgroup. LXC as root makes
 * its cgroups where process 1 is, less systemd's init.scope.
 */
export function parseHierarchies(mountinfo: string, cgroups: string): Hierarchy[] {
  const paths = new Map<string, string>();
  for (const line of cgroups.split('\n')) {
    const [, controllers, path] = /^\d+:([^:]*):(\/.*)$/.exec(line) ?? [];
    if (controllers === undefined || path === undefined) continue;
    const base = path.replace(/\/init\.scope$/, '') || '/';
    for (const controller of controllers.split(',')) paths.set(controller, base);
  }
  const found = new Map<string, Hierarchy>();
  for (const { mountPoint, fileSystem, options } of parseMounts(mountinfo)) {
    if (fileSystem !== 'cgroup' && fileSystem !== 'cgroup2') continue;
    const version = fileSystem === 'cgroup' ? 'v1' : 'v2';
    const words = options.split(',');
    const controllers = words.filter((word) => v1Controllers.has(word));
    const named = words.find((word) => word.startsWith('name='));
    const path = paths.get(version === 'v2' ? '' : (controllers[0] ?? named ?? '')) ?? '/';
    // The same hierarchy may be mounted at many places (bind mounts); the last one is what is seen.
    const key = version === 'v2' ? 'v2' : controllers.join(',') || named || mountPoint;
    found.set(key, { base: join(mountPoint, path), path, version, controllers: version === 'v1' ? controllers : [] });
  }
  return [...found.values()];
}

/** The cgroup hierarchies of this machine, from where a process is in them. */
export async function readHierarchies(pid = 1): Promise<Hierarchy[]> {
  return parseHierarchies(
    await readFile('/proc/self/mountinfo', 'utf8'),
    await readFile(`/proc/${pid}/cgroup`, 'utf8'),
  );
}

/** Where a controller is; undefined if it is nowhere. */
export function hierarchyOf(controller: string, hierarchies: readonly Hierarchy[]): Hierarchy | undefined {
  return (
    hierarchies.find((hierarchy) => hierarchy.controllers.includes(controller)) ??
    hierarchies.find((hierarchy) => hierarchy.version === 'v2')
  );
}

/** `v1` if the freezer is a hierarchy of its own, else `v2`. */
export function cgroupVersion(hierarchies: readonly Hierarchy[]): 'v1' | 'v2' {
  return hierarchies.some((hierarchy) => hierarchy.controllers.includes('freezer')) ? 'v1' : 'v2';
}
