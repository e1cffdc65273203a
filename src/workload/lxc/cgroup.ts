import { readdir, readFile, rmdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { cgroupVersion, type Hierarchy, hierarchyOf, readHierarchies } from '../cgroup-hierarchies.js';
import { isAlive, nestedPid } from '../process.js';

/** What a container may use. */
export interface Limits {
  /** Bytes; null: no limit. */
  memoryBytes: number | null;
  /** Processors' worth of time; null: no limit. */
  cpus: number | null;
}

/** How long {@link Cgroup.removeEmpty} tries. */
const removalPatienceMs = 2000;

/** Length of the scheduler's accounting period. 100 ms is the kernel's own default. */
const cpuPeriodUs = 100_000;

/** The cgroups of one container, in every hierarchy. All of it works on files, and on the container's own ones only. */
export class Cgroup {
  readonly #id: string;
  readonly #hierarchies: readonly Hierarchy[];

  /** @param id the container's name in LXC; see LxcLayout.id. */
  constructor(id: string, hierarchies: readonly Hierarchy[]) {
    this.#id = id;
    this.#hierarchies = hierarchies;
  }

  /** The cgroups of a container on this machine. */
  static async of(id: string): Promise<Cgroup> {
    return new Cgroup(id, await readHierarchies());
  }

  /** `v1` if the freezer is a hierarchy of its own (also where a v2 tree is mounted beside), else `v2`. */
  get version(): 'v1' | 'v2' {
    return cgroupVersion(this.#hierarchies);
  }

  /**
   * The directory whose freezer stops the container; null if the container has no cgroup, so does not run. LXC adds
   * `-1`, `-2`… to the name if it finds a left-over one.
   */
  async payload(): Promise<string | null> {
    let empty: string | null = null;
    for (const directory of await this.#payloads(this.#freezer())) {
      if ((await processesIn(directory)).length > 0) return directory;
      empty ??= directory;
    }
    return empty;
  }

  /** What {@link payload} will be of a container that does not run, if nothing is left over. */
  get intendedPayload(): string {
    const base = this.#freezer()?.base ?? '/sys/fs/cgroup';
    return join(base, `lxc.payload.${this.#id}`);
  }

  /** Process id, as this node sees it, of the container's first process; null if there is none. */
  async initPid(): Promise<number | null> {
    for (const directory of await this.#payloads(this.#freezer())) {
      for (const pid of await processesIn(directory)) {
        if ((await nestedPid(pid)) === 1 && (await isAlive(pid))) return pid;
      }
    }
    return null;
  }

  /** Process ids of everything in the container, as this node sees them. */
  async processes(): Promise<number[]> {
    const pids: number[] = [];
    for (const directory of await this.#payloads(this.#freezer())) pids.push(...(await processesIn(directory)));
    return pids;
  }

  /**
   * Bytes that an image holds beside what processes have in memory of their own: shared memory and tmpfs, each once, and
   * what is swapped out. 0 where the kernel does not count it.
   */
  async sharedAndSwapped(): Promise<number> {
    const memory = this.#with('memory');
    let bytes = 0;
    for (const directory of await this.#payloads(memory)) {
      const stat = await readOr(join(directory, 'memory.stat'));
      const figure = (name: string): number => Number(new RegExp(`^${name} (\\d+)$`, 'm').exec(stat)?.[1] ?? 0);
      if (memory?.version === 'v1') bytes += figure('total_shmem') + figure('total_swap');
      else bytes += figure('shmem') + Number(await readOr(join(directory, 'memory.swap.current')));
    }
    return bytes;
  }

  /** Whether the freezer holds it. */
  async isFrozen(): Promise<boolean> {
    const directory = await this.payload();
    if (directory === null) return false;
    if (this.version === 'v1') return (await readOr(join(directory, 'freezer.state'))).trim() !== 'THAWED';
    return (await readOr(join(directory, 'cgroup.freeze'))).trim() === '1';
  }

  /** Lets it run on. No error if nothing holds it or nothing is there. */
  async thaw(): Promise<void> {
    for (const directory of await this.#payloads(this.#freezer())) {
      if (this.version === 'v1') await writeIfThere(join(directory, 'freezer.state'), 'THAWED');
      else await writeIfThere(join(directory, 'cgroup.freeze'), '0');
    }
  }

  /** Kills all that is in it and waits until nothing is left. @returns whether nothing is. */
  async kill(limitMs: number): Promise<boolean> {
    const deadline = Date.now() + limitMs;
    for (;;) {
      const alive: number[] = [];
      for (const pid of await this.processes()) if (await isAlive(pid)) alive.push(pid);
      if (alive.length === 0) return true;
      if (Date.now() > deadline) return false;
      for (const pid of alive) {
        try {
          process.kill(pid, 'SIGKILL');
        } catch {
          // Gone in the meantime.
        }
      }
      // A v1 freezer holds even the killed until it is thawed; the signal is pending by then, so nothing runs.
      await this.thaw();
      await sleep(10);
    }
  }

  /**
   * Sets the limits on the cgroup that is there.
   *
   * @throws an error of the file system; e.g. EBUSY if it already uses more memory than it may.
   */
  async applyLimits(limits: Limits): Promise<void> {
    const memory = this.#with('memory');
    const cpu = this.#with('cpu');
    const quotaUs = limits.cpus === null ? null : Math.round(limits.cpus * cpuPeriodUs);
    for (const directory of await this.#payloads(memory)) {
      const file = memory?.version === 'v1' ? 'memory.limit_in_bytes' : 'memory.max';
      if (limits.memoryBytes !== null) await writeFile(join(directory, file), String(limits.memoryBytes));
    }
    for (const directory of await this.#payloads(cpu)) {
      if (quotaUs === null) continue;
      if (cpu?.version === 'v2') {
        await writeFile(join(directory, 'cpu.max'), `${quotaUs} ${cpuPeriodUs}`);
      } else {
        await writeFile(join(directory, 'cpu.cfs_period_us'), String(cpuPeriodUs));
        await writeFile(join(directory, 'cpu.cfs_quota_us'), String(quotaUs));
      }
    }
  }

  /**
   * Removes the container's cgroups in which nothing is any more; left ones would make LXC choose other names. The
   * kernel takes a moment until it lets go of what has just died, LXC's own monitor another to end.
   */
  async removeEmpty(): Promise<void> {
    const deadline = Date.now() + removalPatienceMs;
    for (;;) {
      let left = 0;
      for (const hierarchy of this.#hierarchies) {
        for (const kind of ['payload', 'monitor'] as const) {
          for (const directory of await this.#payloads(hierarchy, kind)) {
            // A payload in which something lives is not ours to wait for.
            if (!(await removeTree(directory)) && (kind === 'monitor' || !(await isPopulated(directory)))) left++;
          }
        }
      }
      if (left === 0 || Date.now() > deadline || (await this.initPid()) !== null) return;
      await sleep(20);
    }
  }

  /**
   * LXC tells CRIU of v1 hierarchies alone: of a v2 tree it names the controllers (LXC 5, criu.c), which CRIU looks for in
   * vain, or, beside v1, nothing. So CRIU would restore the processes to the cgroup that they had on the other node, by
   * name. This is the one that they should get, for CRIU's option cgroup-root; null if there is no such tree.
   */
  get unifiedRoot(): string | null {
    const unified = this.#hierarchies.find((hierarchy) => hierarchy.version === 'v2');
    return unified === undefined ? null : join(unified.path, `lxc.payload.${this.#id}`);
  }

  #freezer(): Hierarchy | undefined {
    return this.#with('freezer');
  }

  #with(controller: string): Hierarchy | undefined {
    return hierarchyOf(controller, this.#hierarchies);
  }

  async #payloads(hierarchy: Hierarchy | undefined, kind: 'payload' | 'monitor' = 'payload'): Promise<string[]> {
    if (hierarchy === undefined) return [];
    const first = `lxc.${kind}.${this.#id}`;
    const names = (await listDirectories(hierarchy.base)).filter(
      (name) => name === first || (name.startsWith(`${first}-`) && /^\d+$/.test(name.slice(first.length + 1))),
    );
    return names.map((name) => join(hierarchy.base, name));
  }
}

async function processesIn(directory: string): Promise<number[]> {
  const pids = (await readOr(join(directory, 'cgroup.procs'))).split('\n').filter((line) => /^[1-9]\d*$/.test(line));
  const all = pids.map(Number);
  for (const child of await listDirectories(directory)) all.push(...(await processesIn(join(directory, child))));
  return all;
}

async function isPopulated(directory: string): Promise<boolean> {
  for (const pid of await processesIn(directory)) if (await isAlive(pid)) return true;
  return false;
}

/** @returns whether it is gone. */
async function removeTree(directory: string): Promise<boolean> {
  for (const child of await listDirectories(directory)) await removeTree(join(directory, child));
  try {
    await rmdir(directory);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ENOENT';
  }
}

async function listDirectories(directory: string): Promise<string[]> {
  try {
    const entries = await readdir(directory, { withFileTypes: true });
    return entries.filter((entry) => entry.isDirectory()).map((entry) => entry.name);
  } catch {
    return [];
  }
}

async function readOr(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch {
    return '';
  }
}

/** Writes to a control file; a cgroup that has gone in the meantime needs nothing. Never makes a file. */
async function writeIfThere(path: string, text: string): Promise<void> {
  try {
    await writeFile(path, text, { flag: 'r+' });
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== 'ENOENT' && code !== 'ENODEV') throw error;
  }
}
