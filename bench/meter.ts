/** Measures what the processes of one end of a transfer use, daemons' children included, by a cgroup of their own. */
import { mkdirSync, readdirSync, readFileSync, rmdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { processStartTime } from '../test/testbed/remnants.js';

const prefix = 'deltahop-bench-';
const idlePauseMs = 200;
/** Less in a pause is what timers cost. */
const idleCpuMs = 2;

function cgroupMount(): string {
  const lines = readFileSync('/proc/self/mountinfo', 'utf8').split('\n');
  const mount = lines.find((line) => line.includes(' - cgroup2 '))?.split(' ')[4];
  if (mount === undefined) throw new Error('CPU time is measured by a cgroup of version 2, and none is mounted');
  return mount;
}

/** Every process that a program starts is in its cgroup, so nothing that forks away is missed or counted twice. */
export class Meter {
  readonly #path: string;

  private constructor(path: string) {
    this.#path = path;
  }

  /** @throws Error where there is no cgroup of version 2, or no right to make one. */
  static create(name: string): Meter {
    const path = join(cgroupMount(), `${prefix}${process.pid}-${name}`);
    mkdirSync(path);
    return new Meter(path);
  }

  /** Kills and removes what the meters of killed runs left. */
  static async clearStale(): Promise<void> {
    for (const entry of readdirSync(cgroupMount())) {
      const pid = new RegExp(`^${prefix}(\\d+)-`).exec(entry)?.[1];
      if (pid !== undefined && processStartTime(Number(pid)) === undefined) {
        await new Meter(join(cgroupMount(), entry)).dispose();
      }
    }
  }

  /** The words in front of a command that make it run here; it then counts from its first instruction on. */
  prefix(): string[] {
    return ['sh', '-c', 'echo $$ > "$0" && exec "$@"', join(this.#path, 'cgroup.procs')];
  }

  /** User and system time of all that ran here, the ended included. */
  cpuMs(): number {
    const line = /^usage_usec (\d+)$/m.exec(readFileSync(join(this.#path, 'cpu.stat'), 'utf8'));
    return Number(line?.[1]) / 1000;
  }

  /** Processes that run here now. */
  pids(): number[] {
    return readFileSync(join(this.#path, 'cgroup.procs'), 'utf8').split('\n').filter(Boolean).map(Number);
  }

  /** The sum of each present process's own peak of resident memory; pages that processes share count in each. */
  residentBytes(): number {
    let sum = 0;
    for (const pid of this.pids()) {
      try {
        const kib = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];
        sum += Number(kib ?? 0) * 1024;
      } catch {
        // ended meanwhile
      }
    }
    return sum;
  }

  /** Waits until no more than `count` processes are left. Throws an Error if that takes longer than `timeoutMs`. */
  async quiet(count: number, timeoutMs: number): Promise<void> {
    for (const deadline = Date.now() + timeoutMs; this.pids().length > count; await sleep(5)) {
      if (Date.now() > deadline) throw new Error(`${this.pids().length - count} processes of the transfer do not end`);
    }
  }

  /** Waits until what runs here uses no time for a while. Throws an Error if that takes longer than `timeoutMs`. */
  async idle(timeoutMs: number): Promise<void> {
    const deadline = Date.now() + timeoutMs;
    for (let before = -1, now = this.cpuMs(); now - before > idleCpuMs; before = now, now = this.cpuMs()) {
      if (Date.now() > deadline) throw new Error('the server does not come to rest');
      await sleep(idlePauseMs);
    }
  }

  /** Kills what still runs and removes the cgroup. */
  async dispose(): Promise<void> {
    for (const pid of this.pids()) {
      try {
        process.kill(pid, 'SIGKILL');
      } catch {
        // ended meanwhile
      }
    }
    await this.quiet(0, 10_000);
    // The kernel counts the dead for a moment longer than it lists them.
    for (let tries = 0; ; ++tries) {
      try {
        rmdirSync(this.#path);
        return;
      } catch (error) {
        if (tries === 100) throw error;
        await sleep(10);
      }
    }
  }
}
