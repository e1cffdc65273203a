/** Room on a disk for the few small files that must be written when there is no other: a hand-off is decided by them. */
import { open, rm } from 'node:fs/promises';
import { isDeltahopError } from '../errors.js';
import { fileError } from './durable-file.js';

/** Some dozens of small files, each of which takes a block and may need one more for its name. */
const reserveBytes = 512 * 1024;

/** A file that takes room and gives it back when it is needed. */
export class SpaceReserve {
  readonly #path: string;
  #held = false;
  #filling: Promise<void> | null = null;

  private constructor(path: string) {
    this.#path = path;
  }

  /** Takes the room; on a disk that is full already there is none to take, and it is tried again later. */
  static async open(path: string): Promise<SpaceReserve> {
    const reserve = new SpaceReserve(path);
    await reserve.#fill();
    return reserve;
  }

  /** Does `write`, which writes one small file or fails with DELTAHOP_E_NO_SPACE; then once more, with the room given back. */
  async write(write: () => Promise<void>): Promise<void> {
    try {
      await write();
    } catch (error) {
      if (!isDeltahopError(error, 'DELTAHOP_E_NO_SPACE') || !this.#held) throw error;
      this.#held = false;
      await rm(this.#path, { force: true });
      await write();
    }
    // Not waited for: whoever writes may hold up a service.
    if (!this.#held) {
      this.#filling ??= this.#fill()
        .catch(() => {})
        .finally(() => {
          this.#filling = null;
        });
    }
  }

  async #fill(): Promise<void> {
    try {
      const file = await open(this.#path, 'w', 0o600);
      try {
        // Written, for blocks that are only announced can be refused later.
        await file.writeFile(Buffer.alloc(reserveBytes));
        await file.sync();
      } finally {
        await file.close();
      }
      this.#held = true;
    } catch (error) {
      await rm(this.#path, { force: true });
      if (!isDeltahopError(fileError(error, this.#path), 'DELTAHOP_E_NO_SPACE')) throw fileError(error, this.#path);
    }
  }
}
