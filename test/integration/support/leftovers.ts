/** What a testbed has left on this machine; other testbeds and services of the machine are not looked at. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { list, read, target } from '../../support/volatile-files.js';
import type { Testbed } from '../../testbed/testbed.js';

/** Everything that still names a disposed testbed: network namespaces, mounts, loop devices, cgroups, processes,
 * files. */
export function leftovers(testbed: Testbed): string[] {
  const found: string[] = [];
  for (const name of list('/run/netns')) if (name.includes(testbed.id)) found.push(`namespace ${name}`);
  for (const line of readFileSync('/proc/self/mountinfo', 'utf8').split('\n')) {
    if (line.includes(testbed.directory)) found.push(`mount ${line}`);
  }
  for (const path of cgroupsOf(testbed)) found.push(`cgroup ${path}`);
  for (const pid of list('/proc').filter((name) => /^\d+$/.test(name) && name !== String(process.pid))) {
    const why = ['cmdline', 'environ', 'mountinfo', 'cwd'].find((file) => mentions(pid, file, testbed));
    if (why !== undefined)
      found.push(`process ${pid} (${read(`/proc/${pid}/cmdline`).replaceAll('\0', ' ')}): its ${why}`);
  }
  for (const device of list('/sys/block')) {
    const file = read(`/sys/block/${device}/loop/backing_file`);
    if (file.includes(testbed.directory)) found.push(`${device} on ${file.trim()}`);
  }
  if (list(testbed.directory).length > 0) found.push(`files ${testbed.directory}`);
  return found;
}

/** A zombie has none of these files' contents: whoever should reap it is told by its own process. */
function mentions(pid: string, file: string, testbed: Testbed): boolean {
  const path = `/proc/${pid}/${file}`;
  const text = file === 'cwd' ? target(path) : read(path);
  return text.includes(testbed.directory) || text.includes(`dh-${testbed.id}`);
}

/** Services of tests have the testbed's id in their names, and containers their service's. */
function cgroupsOf(testbed: Testbed): string[] {
  const found: string[] = [];
  const visit = (path: string, depth: number): void => {
    for (const entry of readdirSync(path, { withFileTypes: true })) {
      if (!entry.isDirectory()) continue;
      const child = join(path, entry.name);
      if (entry.name.includes(testbed.id)) found.push(child);
      else if (depth > 0) visit(child, depth - 1);
    }
  };
  // Version 1 has one tree a controller; containers are at the top, or below the cgroup of the session.
  visit('/sys/fs/cgroup', 4);
  return found;
}
