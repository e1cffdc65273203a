/** One thing at a time on each workload. */
import { DeltahopError } from '../errors.js';
import type { Workload } from './driver.js';

/** What is under way on the workloads of one driver, by their paths. */
export class Turns {
  readonly #busy = new Map<string, string>();
  /** The rest of something that nobody had to wait for; whatever comes next waits. */
  readonly #settling = new Map<string, Promise<void>>();

  /**
   * Takes the turn, once what was left to settle has been.
   * @throws DeltahopError DELTAHOP_E_BUSY naming what is under way.
   */
  async begin(workload: Workload, what: string): Promise<void> {
    await this.settled(workload);
    const other = this.#busy.get(workload.path);
    if (other !== undefined) {
      throw new DeltahopError('DELTAHOP_E_BUSY', `${what} of ${workload.name}: ${other} is under way`);
    }
    this.#busy.set(workload.path, what);
  }

  /** Gives the turn back. */
  end(workload: Workload): void {
    this.#busy.delete(workload.path);
  }

  isBusy(workload: Workload): boolean {
    return this.#busy.has(workload.path);
  }

  /** Runs `work` in a turn of its own. */
  async run<Result>(workload: Workload, what: string, work: () => Promise<Result>): Promise<Result> {
    await this.begin(workload, what);
    try {
      return await work();
    } finally {
      this.end(workload);
    }
  }

  /** Goes on with `work` after the caller has its answer, then gives the turn back. What fails in it, `recover` mends. */
  settleLater(workload: Workload, work: () => Promise<void>): void {
    const settling = work()
      .catch(() => {})
      .finally(() => {
        this.end(workload);
        this.#settling.delete(workload.path);
      });
    this.#settling.set(workload.path, settling);
  }

  /** Fulfilled when nothing is left to settle. */
  async settled(workload: Workload): Promise<void> {
    await this.#settling.get(workload.path);
  }
}
