/** Where each millisecond went in which a service did not run. Pure: figures in, figures out. */

/**
 * In the order in which they follow one another. `dump`: from the stop to the complete image; `transfer`: the last delta,
 * verified at the destination; `restore`: up to the held copy, its files durable; `decision`: the commit in the journal
 * and the end of the copy at the source; `release`: from the destination's word of it to the first instruction there;
 * `messages`: questions and answers on their way.
 */
export type DowntimeStageName = 'dump' | 'transfer' | 'restore' | 'decision' | 'release' | 'messages';

/** One stage as the summary states it. */
export interface DowntimeStage {
  stage: DowntimeStageName;
  ms: number;
  /** Of `ms`, what the program took that saves and restores memory (CRIU): not ours to shorten. */
  driverMs?: number;
}

/** What the source measures of a freeze; moments are Date.now() of the source, at which the step ended. */
export interface DowntimeFigures {
  frozenAtMs: number;
  savedAtMs: number;
  /** Of the time from the stop to the complete image. */
  saverMs: number;
  sentAtMs: number;
  preparedAtMs: number;
  /** As the destination says. */
  prepare: { tookMs: number; restorerMs: number };
  decidedAtMs: number;
  toldAtMs: number;
  /** As the destination says. */
  commit: { tookMs: number; runningForMs: number };
}

/** @returns the stages, whose sum is the downtime, but for rounding. */
export function downtimeStages(figures: DowntimeFigures): DowntimeStage[] {
  const { frozenAtMs, savedAtMs, saverMs, sentAtMs, preparedAtMs, prepare, decidedAtMs, toldAtMs, commit } = figures;
  const asked = preparedAtMs - sentAtMs - prepare.tookMs;
  const told = toldAtMs - decidedAtMs - commit.runningForMs - commit.tookMs;
  const stages: DowntimeStage[] = [
    { stage: 'dump', ms: savedAtMs - frozenAtMs, driverMs: Math.min(saverMs, savedAtMs - frozenAtMs) },
    { stage: 'transfer', ms: sentAtMs - savedAtMs },
    { stage: 'restore', ms: prepare.tookMs, driverMs: Math.min(prepare.restorerMs, prepare.tookMs) },
    { stage: 'decision', ms: decidedAtMs - preparedAtMs },
    { stage: 'release', ms: commit.tookMs },
    { stage: 'messages', ms: asked + told },
  ];
  // The nodes' clocks are not compared, only lengths; rounding and a clock that is set may leave a few ms below nothing.
  return stages.map(({ stage, ms, driverMs }) => ({
    stage,
    ms: whole(ms),
    ...(driverMs === undefined ? {} : { driverMs: whole(driverMs) }),
  }));
}

function whole(ms: number): number {
  return Math.max(0, Math.round(ms));
}
