/** How fast something goes, and how long it will still take, from its own beginning on. */

/** null while it cannot be told. */
export interface PaceFigures {
  bytesPerSecond: number | null;
  /** Until all of it is done. */
  etaMs: number | null;
}

/** Measures one thing after another. */
export class Pace {
  #what = '';
  #startedAtMs = 0;
  #startBytes = 0;

  /** @param totalBytes 0 while not known. */
  measure(what: string, doneBytes: number, totalBytes: number, nowMs = performance.now()): PaceFigures {
    if (what !== this.#what || doneBytes < this.#startBytes) {
      this.#what = what;
      this.#startedAtMs = nowMs;
      this.#startBytes = doneBytes;
    }
    const perMs = (doneBytes - this.#startBytes) / (nowMs - this.#startedAtMs);
    if (!(perMs > 0) || !Number.isFinite(perMs)) return { bytesPerSecond: null, etaMs: null };
    const etaMs = totalBytes > doneBytes ? Math.round((totalBytes - doneBytes) / perMs) : null;
    return { bytesPerSecond: Math.round(perMs * 1000), etaMs };
  }
}
