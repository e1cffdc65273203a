import type { BigIntStats } from 'node:fs';
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { mustRun } from '../command.js';

/** Times of files are those of the last tick, a hundredth of a second long at the most. */
const fileTimeLagMs = 10;

/**
 * A frozen container's /tmp, in which CRIU has to be: to see what lies beneath a mount it makes a directory of its own there
 * and removes it again (`cr-tmpfs.XXXXXX`, criu/mount.c). It leaves nothing but the time of /tmp itself; but what was sent
 * meanwhile may hold that directory.
 */
export class VisitedTmp {
  readonly #path: string;
  readonly #frozenAtMs: number;
  /** The time of change of its content when it was listed, in nanoseconds; null: it was not, or CRIU had been there. */
  #listedTime: bigint | null = null;
  /** When CRIU had been there, in nanoseconds; null: not that we knew. */
  #visitedTime: bigint | null = null;

  /** @param upper The container's upper directory; `frozenAtMs`: since when nothing of it runs. */
  constructor(upper: string, frozenAtMs: number) {
    this.#path = join(upper, 'tmp');
    this.#frozenAtMs = frozenAtMs;
  }

  /** The files are being sent as they were listed just now. */
  async noteListing(): Promise<void> {
    const found = await this.#stat();
    if (found !== null && !this.#isVisited(found)) this.#listedTime = found.mtimeNs;
  }

  /** CRIU has done its work. @returns whether the files may have been listed with what it had there. */
  async spoiltListing(): Promise<boolean> {
    const found = await this.#stat();
    if (found === null || !this.#isVisited(found)) return false;
    this.#visitedTime = found.ctimeNs;
    return this.#listedTime === null;
  }

  /** Sets its time back to the one it was listed with, unless somebody but CRIU has changed it meanwhile. */
  async setBack(): Promise<void> {
    const time = this.#listedTime;
    if (time === null || this.#visitedTime === null || (await this.#stat())?.ctimeNs !== this.#visitedTime) return;
    // Node's own utimes knows no nanoseconds.
    const text = `${time / 1_000_000_000n}.${String(time % 1_000_000_000n).padStart(9, '0')}`;
    const argv = ['touch', '--no-create', '-m', `--date=@${text}`, this.#path];
    await mustRun(argv, { limitMs: 10_000, code: 'DELTAHOP_E_IO' });
  }

  #isVisited({ ctimeMs }: BigIntStats): boolean {
    return Number(ctimeMs) > this.#frozenAtMs - fileTimeLagMs;
  }

  async #stat(): Promise<BigIntStats | null> {
    try {
      return await stat(this.#path, { bigint: true });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
      return null;
    }
  }
}
