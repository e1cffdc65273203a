/** Services that stand still because a disk was full go on by themselves once there is room again. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Journal } from '../migrate/journal.js';
import type { WorkloadDriver } from '../workload/driver.js';
import type { ServiceStore } from './services.js';

/** Bounds, in milliseconds. */
export interface StalledLimits {
  /** Between two looks at all services. */
  intervalMs: number;
  /** The longest that one is left alone which has stood still again soon after it went on. */
  longestPauseMs: number;
}

const usualLimits: StalledLimits = { intervalMs: 3_000, longestPauseMs: 60_000 };

/** How one went on last. */
interface Resumption {
  atMs: number;
  pauseMs: number;
}

/** The regular look at the services that a node owns. None is touched that a hand-off or another operation has. */
export class StalledServices {
  readonly #services: ServiceStore;
  readonly #journal: Journal;
  readonly #driver: (name: string) => WorkloadDriver;
  readonly #onResumed: (service: string) => void;
  readonly #limits: StalledLimits;
  readonly #last = new Map<string, Resumption>();
  readonly #closing = new AbortController();
  readonly #looking: Promise<void>;

  /** Looks from now on. @param onResumed Told of each service that was made to go on. */
  constructor(
    services: ServiceStore,
    journal: Journal,
    driver: (name: string) => WorkloadDriver,
    onResumed: (service: string) => void,
    limits: StalledLimits = usualLimits,
  ) {
    this.#services = services;
    this.#journal = journal;
    this.#driver = driver;
    this.#onResumed = onResumed;
    this.#limits = limits;
    this.#looking = this.#lookAgainAndAgain();
  }

  /** Looks no more; fulfilled when a look under way has ended. */
  async close(): Promise<void> {
    this.#closing.abort();
    await this.#looking;
  }

  async #lookAgainAndAgain(): Promise<void> {
    const { signal } = this.#closing;
    while (!signal.aborted) {
      await sleep(this.#limits.intervalMs, undefined, { signal, ref: false }).catch(() => {});
      for (const { name } of signal.aborted ? [] : this.#services.list()) {
        // One that can not be looked at, or finds its disk full again, is looked at again.
        await this.#look(name).catch(() => {});
      }
    }
  }

  async #look(name: string): Promise<void> {
    const record = await this.#services.read(name);
    if (record?.ownership !== 'owned' || this.#services.operation(name) !== null) return;
    if (this.#journal.undecided(name).length > 0) return;
    const { intervalMs, longestPauseMs } = this.#limits;
    const last = this.#last.get(name);
    const sinceMs = last === undefined ? Number.POSITIVE_INFINITY : performance.now() - last.atMs;
    if (last !== undefined && sinceMs < last.pauseMs) return;
    if (!(await this.#driver(record.driver).resumeStalled(this.#services.workload(record)))) return;
    // Each time that it did not last for twice the pause, it is left alone for longer.
    const pauseMs = last !== undefined && sinceMs < 2 * last.pauseMs ? 2 * last.pauseMs : intervalMs;
    this.#last.set(name, { atMs: performance.now(), pauseMs: Math.min(pauseMs, longestPauseMs) });
    this.#onResumed(name);
  }
}
