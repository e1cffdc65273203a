/**
 * Judges from outside whether two copies of a service have run. In a container the probe's first process shows its tick in
 * its name, so whoever sees the name change has seen that very process execute the service's own instructions. Of a virtual
 * machine it is seen that its processors took time; that its state never goes back its user sees.
 */

/** What one process showed. */
export interface Sighting {
  /** The process: its number and start time. */
  identity: string;
  tick: number;
}

/** Sees sightings in their order. Each copy must run in one stretch of its own, and no tick may be run twice. */
export class RunJudge {
  readonly #ticks = new Map<string, number>();
  readonly #retired = new Set<string>();
  #runner: string | null = null;
  #highest = -1;
  #violations: string[] = [];

  /** The copy that was last seen to run. */
  get runner(): string | null {
    return this.#runner;
  }

  /** @returns what has gone wrong since the last call; what was told is taken for granted afterwards. */
  takeViolations(): string[] {
    return this.#violations.splice(0);
  }

  see({ identity, tick }: Sighting): void {
    const before = this.#ticks.get(identity);
    this.#ticks.set(identity, tick);
    // The first sight of a copy tells nothing: what is held shows the tick of its image.
    if (before === undefined || before === tick) return;
    if (identity !== this.#runner) {
      if (!this.#retired.has(identity) && tick <= this.#highest) {
        this.#violations.push(`${identity} ran tick ${tick} once more, which went to ${this.#highest} before`);
      }
      this.#highest = tick;
      this.seeRun(identity);
    }
    this.#highest = Math.max(this.#highest, tick);
  }

  /** Sees a copy run, and nothing of what it did. */
  seeRun(identity: string): void {
    if (identity === this.#runner) return;
    if (this.#retired.delete(identity)) this.#violations.push(`${identity} ran on after ${this.#runner} had run`);
    if (this.#runner !== null) this.#retired.add(this.#runner);
    this.#runner = identity;
  }
}
