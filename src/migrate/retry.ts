/** Something that is tried until it is done, with pauses that double: a peer that is away comes back some time. */

/** First and longest pause between two tries. */
const firstPauseMs = 200;
const longestPauseMs = 5_000;

/** One such thing. It goes on by itself from the moment it is made. */
export class Retry {
  readonly #attempt: () => Promise<boolean>;
  #pauseMs = firstPauseMs;
  #timer: NodeJS.Timeout | null = null;
  #trying: Promise<void> | null = null;
  #over = false;

  /**
   * @param attempt Resolves to whether it is done; what it rejects with counts as not yet.
   * @param delayMs Before the first try.
   */
  constructor(attempt: () => Promise<boolean>, delayMs = 0) {
    this.#attempt = attempt;
    this.#wait(delayMs);
  }

  /** Whether it is done or was stopped. */
  get over(): boolean {
    return this.#over;
  }

  /** Tries now rather than at the end of the pause; fulfilled when that try (or the one under way) has ended. */
  async now(): Promise<void> {
    if (this.#over) return;
    this.#trying ??= this.#try();
    await this.#trying;
  }

  /** Tries no more; fulfilled when a try under way has ended. */
  async stop(): Promise<void> {
    this.#over = true;
    if (this.#timer !== null) clearTimeout(this.#timer);
    await this.#trying;
  }

  #wait(delayMs: number): void {
    this.#timer = setTimeout(() => void this.now(), delayMs);
    this.#timer.unref();
  }

  async #try(): Promise<void> {
    if (this.#timer !== null) clearTimeout(this.#timer);
    const done = await this.#attempt().catch(() => false);
    this.#trying = null;
    if (done) this.#over = true;
    if (this.#over) return;
    this.#wait(this.#pauseMs);
    this.#pauseMs = Math.min(this.#pauseMs * 2, longestPauseMs);
  }
}
