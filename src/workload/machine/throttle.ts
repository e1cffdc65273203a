/**
 * A machine that has a share of its processors only: each of the threads that are its processors is put into a cgroup of its
 * own, with a quota. The rest of its QEMU goes on as before.
 *
 * No machine stays so. All is taken back by a holder, a process of its own that does so when this agent closes a pipe or
 * ends, however it does; if the holder was killed, by {@link unthrottle}: at the end, and at the next start of an agent whose
 * holder was killed too. What is to be taken back stands in a list that is there before any of it is done:
 *
 *     PATH            a cgroup that was made
 *     PATH -cpu       one of version 2 whose children were given the controller `cpu`
 */
import { mkdir, readFile, rmdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Hierarchy, hierarchyOf, readHierarchies } from '../cgroup-hierarchies.js';
import { mustRun, startWatching, type Watching } from '../command.js';
import { exists } from '../verdict.js';

/** The least quota that the kernel takes, and the longest period that a guest is to notice. */
const leastQuotaUs = 1_000;
const shortestPeriodUs = 10_000;
const longestPeriodUs = 100_000;

/** Taking it back, which has a thread moved and a cgroup removed for each processor. */
const endLimitMs = 10_000;

/** Takes back what the list named by `$1` says. A cgroup whose thread has just ended is busy for a moment. */
const takeBack = `
[ -e "$1" ] || exit 0
left=
while read -r path what; do
  [ -z "$what" ] && [ -d "$path" ] || continue
  if [ -e "$path/cpu.max" ]; then echo max >"$path/cpu.max"; else echo -1 >"$path/cpu.cfs_quota_us"; fi
done <"$1"
while read -r path what; do
  [ -d "$path" ] || continue
  # Not while another machine's are there.
  if [ -n "$what" ]; then ls -d "$path"/deltahop-* || echo "$what" >"$path/cgroup.subtree_control"; continue; fi
  threads=tasks
  [ ! -e "$path/cgroup.threads" ] || threads=cgroup.threads
  for thread in $(cat "$path/$threads"); do echo "$thread" >"$path/../$threads"; done
  tries=0
  until rmdir "$path" || [ ! -d "$path" ]; do
    tries=$((tries + 1))
    [ $tries -lt 50 ] || { left=1; break; }
    sleep 0.02
  done
done <"$1"
[ -n "$left" ] || rm -f "$1"
`;

/** Waits for the end of its input, which nothing is ever written to. */
const holder = `trap '' HUP INT TERM
read -r line
{${takeBack}} 2>/dev/null
`;

/** The quota and period, in microseconds, that leave a thread this share of a processor. */
export function quotaOf(share: number): { quotaUs: number; periodUs: number } {
  const periodUs = Math.min(longestPeriodUs, Math.max(shortestPeriodUs, Math.ceil(leastQuotaUs / share)));
  return { quotaUs: Math.max(leastQuotaUs, Math.round(periodUs * share)), periodUs };
}

/** A machine that is being throttled. */
export class MachineThrottle {
  readonly #list: string;
  readonly #cgroups: readonly ThreadCgroup[];
  readonly #holder: Watching;

  private constructor(list: string, cgroups: readonly ThreadCgroup[], held: Watching) {
    this.#list = list;
    this.#cgroups = cgroups;
    this.#holder = held;
  }

  /**
   * Makes ready to throttle a machine that has all of its processors still.
   * @param list Where to note what is to be taken back.
   * @param threads Its processors.
   * @throws an error of the file system, if the kernel does not let this agent do it; nothing is left then.
   */
  static async start(list: string, pid: number, threads: readonly number[]): Promise<MachineThrottle> {
    const hierarchy = await cpuHierarchy(pid);
    const cgroups = threads.map((thread) => new ThreadCgroup(hierarchy, 'deltahop', thread));
    const enables = hierarchy.version === 'v2' && !(await hasController(hierarchy.base));
    const lines = [...cgroups.map(({ path }) => path), ...(enables ? [`${hierarchy.base} -cpu`] : [])];
    await writeFile(list, lines.map((line) => `${line}\n`).join(''), { mode: 0o600 });
    const throttle = new MachineThrottle(list, cgroups, await startWatching(['/bin/sh', '-c', holder, 'sh', list]));
    try {
      for (const cgroup of cgroups) await cgroup.make();
      if (enables) await writeFile(join(hierarchy.base, 'cgroup.subtree_control'), '+cpu');
      for (const cgroup of cgroups) await cgroup.take();
      return throttle;
    } catch (error) {
      await throttle.end();
      throw error;
    }
  }

  /** Leaves it this share of each processor. */
  async set(share: number): Promise<void> {
    await Promise.all(this.#cgroups.map((cgroup) => cgroup.limit(quotaOf(share))));
  }

  /** Gives it all of its processors, at once; the rest is {@link end}'s. */
  async lift(): Promise<void> {
    await Promise.all(this.#cgroups.map((cgroup) => cgroup.limit(null)));
  }

  /** Takes all of it back. */
  async end(): Promise<void> {
    this.#holder.release();
    await Promise.race([this.#holder.ended, sleep(endLimitMs, undefined, { ref: false })]);
    this.#holder.kill();
    await unthrottle(this.#list);
  }
}

/** Takes back what a list says, if there is one: its holder was killed. */
export async function unthrottle(list: string): Promise<void> {
  if (!(await exists(list))) return;
  await mustRun(['/bin/sh', '-c', takeBack, 'sh', list], { limitMs: endLimitMs, code: 'DELTAHOP_E_WORKLOAD' });
}

/**
 * Tries whether a machine could be throttled, up to where its threads would be moved.
 * @returns How; @throws an error of the file system.
 */
export async function tryThrottle(pid: number, thread: number): Promise<string> {
  const hierarchy = await cpuHierarchy(pid);
  const cgroup = new ThreadCgroup(hierarchy, 'deltahop-try', thread);
  await cgroup.make();
  try {
    if (hierarchy.version === 'v1') await cgroup.limit(quotaOf(1));
    else await mustOfferController(hierarchy.base);
  } finally {
    await rmdir(cgroup.path);
  }
  return `cgroup ${hierarchy.version}`;
}

/** The cgroup of one thread, beneath that of its process. */
class ThreadCgroup {
  readonly path: string;
  readonly #version: Hierarchy['version'];
  readonly #thread: number;

  constructor({ base, version }: Hierarchy, prefix: string, thread: number) {
    this.path = join(base, `${prefix}-${thread}`);
    this.#version = version;
    this.#thread = thread;
  }

  async make(): Promise<void> {
    await mkdir(this.path, { recursive: true });
    // A process can only be in one cgroup of version 2, its threads in several beneath it.
    if (this.#version === 'v2') await writeFile(join(this.path, 'cgroup.type'), 'threaded');
  }

  async take(): Promise<void> {
    await writeFile(join(this.path, this.#version === 'v2' ? 'cgroup.threads' : 'tasks'), `${this.#thread}`);
  }

  async limit(quota: { quotaUs: number; periodUs: number } | null): Promise<void> {
    const write = (file: string, text: string): Promise<void> => writeFile(join(this.path, file), text, { flag: 'r+' });
    if (this.#version === 'v2') {
      await write('cpu.max', quota === null ? 'max' : `${quota.quotaUs} ${quota.periodUs}`);
      return;
    }
    // In between, the quota that is there must not be more than what the kernel takes of the period.
    await write('cpu.cfs_quota_us', '-1');
    if (quota === null) return;
    await write('cpu.cfs_period_us', `${quota.periodUs}`);
    await write('cpu.cfs_quota_us', `${quota.quotaUs}`);
  }
}

async function cpuHierarchy(pid: number): Promise<Hierarchy> {
  const hierarchy = hierarchyOf('cpu', await readHierarchies(pid));
  if (hierarchy === undefined) throw new Error('the kernel’s cgroups are not mounted');
  return hierarchy;
}

async function hasController(base: string): Promise<boolean> {
  return (await controllersIn(base, 'cgroup.subtree_control')).includes('cpu');
}

async function mustOfferController(base: string): Promise<void> {
  if ((await controllersIn(base, 'cgroup.controllers')).includes('cpu')) return;
  throw new Error(`${base} is not given the controller cpu (a unit of systemd’s is, with CPUWeight=100)`);
}

async function controllersIn(base: string, file: string): Promise<string[]> {
  return (await readFile(join(base, file), 'utf8')).trim().split(' ');
}
