/** The phases of a migration: their order, their time and their bytes, for the events and the summary. */

import type { DowntimeStage } from './downtime.js';
import type { Forecast, JudgedForecast } from './forecast.js';
import type { PaceFigures } from './pace.js';

/** Phases in the order of the design's flow. */
export type PhaseName = 'preflight' | 'base' | 'app' | 'rounds' | 'freeze' | 'final' | 'hand-off' | 'verify';

/** One phase as the summary states it. Bytes are what crossed the sockets, control connection included. */
export interface PhaseFigures {
  name: PhaseName;
  ms: number;
  bytesSent: number;
  bytesReceived: number;
}

/** Bytes that crossed all sockets of this migration so far. */
export interface ByteCounters {
  bytesSent: number;
  bytesReceived: number;
}

/** What a migration says while it runs. `deltahop migrate --json` prints each as one line. */
export type MigrationEvent =
  | { type: 'phase'; name: PhaseName; state: 'start' }
  | ({ type: 'phase'; state: 'end' } & PhaseFigures)
  | ({ type: 'forecast' } & Forecast)
  /** `expectedDowntimeMs`: if the service were frozen now. */
  | {
      type: 'round';
      round: number;
      bytesSent: number;
      ms: number;
      pausedMs: number;
      expectedDowntimeMs: number | null;
      next: string;
    }
  /** The service has so much of its processors from now on. */
  | { type: 'throttle'; percent: number }
  /** `expectedDowntimeMs`: by the newest forecast; null before the first. */
  | ({
      type: 'progress';
      phase: PhaseName;
      what: string;
      doneBytes: number;
      totalBytes: number;
      expectedDowntimeMs: number | null;
    } & PaceFigures)
  | { type: 'warning'; message: string };

/** How a service was slowed down. */
export interface ThrottleFigures {
  /** The least of its processors that it had. */
  leastPercent: number;
  /** From when it had less than all of them until it had all again, or was frozen. */
  ms: number;
}

/** The last word of a migration. */
export interface MigrationSummary {
  type: 'summary';
  service: string;
  /** Names of the two nodes; the destination's is its address until it has told its name. */
  from: string;
  to: string;
  /** `failed-health`: it runs at the destination, or did, and did not become well there. */
  result: 'moved' | 'failed' | 'failed-health';
  totalMs: number;
  /** From the freeze to the first instruction at the destination; null if the service never stopped for good. */
  downtimeMs: number | null;
  /** What it was spent on; empty if it is null. */
  downtime: DowntimeStage[];
  bytesSent: number;
  bytesReceived: number;
  phases: PhaseFigures[];
  /** null if it was not slowed down. */
  throttle: ThrottleFigures | null;
  /** What was expected, and what of it came true; null if nothing was, or nothing moved. */
  forecast: JudgedForecast | null;
  /** Present with `failed-health`. */
  health?: { detail: string; kept: 'source' | 'destination' | 'both' };
  /** Present unless the service moved and is well. */
  error?: { code: string; message: string; remedy: string };
}

/** Runs phases one after another and keeps their figures. */
export class PhaseLog {
  readonly figures: PhaseFigures[] = [];
  readonly #counters: () => ByteCounters;
  readonly #onEvent: (event: MigrationEvent) => void;

  constructor(counters: () => ByteCounters, onEvent: (event: MigrationEvent) => void) {
    this.#counters = counters;
    this.#onEvent = onEvent;
  }

  /** Runs `work` as the phase `name`. A phase that fails is listed too: its bytes were spent. */
  async run<T>(name: PhaseName, work: () => Promise<T>): Promise<T> {
    const before = this.#counters();
    const startedAt = performance.now();
    this.#onEvent({ type: 'phase', name, state: 'start' });
    try {
      return await work();
    } finally {
      const after = this.#counters();
      const figures: PhaseFigures = {
        name,
        ms: Math.round(performance.now() - startedAt),
        bytesSent: after.bytesSent - before.bytesSent,
        bytesReceived: after.bytesReceived - before.bytesReceived,
      };
      this.figures.push(figures);
      this.#onEvent({ type: 'phase', state: 'end', ...figures });
    }
  }
}
