/** When to stop the rounds of pre-copy and freeze the service, or slow it down. Pure: figures in, a verdict out. */

/** What one round was like. */
export interface RoundFigures {
  /** Bytes that went to the destination. */
  bytesSent: number;
  /** From the first byte offered to the last one's acknowledgement; the dump before it is not counted. */
  sendMs: number;
  /** How long the service stood still for the round's dump. */
  pausedMs: number;
}

/** Why the rounds ended, or that they go on. */
export type RoundVerdict = { go: true } | { go: false; why: 'bound' | 'no-gain' };

/** Rounds at the most: a dirty set that did not shrink by then will not. */
export const maxRounds = 8;

/** What the rounds' dumps may stop the service for, all of them together: a client that waits must not wait for ever. */
export const maxPausedMs = 5_000;

/** A round that saves less downtime is not worth its bytes, even where the service does not stand still for it. */
const leastGainMs = 10;

/** A final delta that is sent in so little time is no reason to slow a service down: the rest of a freeze takes as long. */
const convergedMs = 300;

/** How much less of its processors a service gets at each step, and when there is no further one: 1/4, 1/16, 1/64. */
const throttleStep = 4;
const leastShare = 1 / 64;

/** How much of the time that a service had for it shows in what it changed, while there are no two rounds to tell by. */
const unknownGrowth = 0.5;

/** What a freeze now, or after one more round, would have to send. */
export interface Outlook {
  /** Bytes of the final delta, and the time that they take beside round trips. */
  bytes: number;
  ms: number;
}

/**
 * What the final delta would be if the service were frozen after these rounds.
 *
 * A round brings what was changed since the dump of the round before it, b = c·T^g: g is 1 for a service that always
 * changes something new and 0 for one that changes the same again and again, and it is measured from the last two
 * intervals. The final delta is what is changed in the interval that has begun with the last round's dump.
 */
export function outlook(rounds: readonly RoundFigures[]): Outlook | null {
  const last = rounds.at(-1);
  const before = rounds.at(-2);
  // The first round brings everything: it says nothing about what changes.
  if (last === undefined || before === undefined) return null;
  const interval = (round: RoundFigures): number => Math.max(1, round.sendMs + last.pausedMs);
  const bytes = last.bytesSent * Math.min(1, (interval(last) / interval(before)) ** growth(rounds));
  return { bytes, ms: sendingMs(rounds, bytes) };
}

/**
 * Whether a further round pays: it has to save more downtime than it costs, which is that the service stands still for its
 * dump, and something at all.
 */
export function judgeRounds(rounds: readonly RoundFigures[]): RoundVerdict {
  const last = rounds.at(-1);
  if (last === undefined) return { go: true };
  const paused = rounds.reduce((sum, { pausedMs }) => sum + pausedMs, 0);
  if (rounds.length >= maxRounds || paused + last.pausedMs > maxPausedMs) return { go: false, why: 'bound' };
  const now = outlook(rounds);
  // After the first round nothing is known but that the final delta takes no longer than everything did.
  if (now === null) return last.sendMs > last.pausedMs ? { go: true } : { go: false, why: 'no-gain' };
  const next: RoundFigures = { bytesSent: now.bytes, sendMs: now.ms, pausedMs: last.pausedMs };
  const after = outlook([...rounds, next]);
  return now.ms - (after?.ms ?? 0) > Math.max(last.pausedMs, leastGainMs)
    ? { go: true }
    : { go: false, why: 'no-gain' };
}

/**
 * What share of its processors a service is to have from now on whose rounds are at their end, so that it changes less than
 * the link carries. Its first round at a new share brings what it has changed at the old one, so nothing is to be read into
 * that alone.
 * @param rounds Those since the share was last changed.
 * @returns null if it is to be frozen as it is: its final delta is short, or it would hardly run any more.
 */
export function nextShare(rounds: readonly RoundFigures[], share: number): number | null {
  const final = outlook(rounds);
  const next = share / throttleStep;
  return final === null || final.ms <= convergedMs || next < leastShare ? null : next;
}

/** The exponent g of {@link outlook}. */
function growth(rounds: readonly RoundFigures[]): number {
  const [first, second, third] = rounds.slice(-3);
  // The oldest round of three is only there for its interval, and the very first brings everything.
  if (first === undefined || second === undefined || third === undefined) return unknownGrowth;
  const bytes = Math.log(third.bytesSent / second.bytesSent);
  const time = Math.log((second.sendMs + third.pausedMs) / (first.sendMs + third.pausedMs));
  const measured = bytes / time;
  return Number.isFinite(measured) ? Math.min(1, Math.max(0, measured)) : unknownGrowth;
}

/** How long so many bytes take at the best rate seen, beside the round trips, which no round saves. */
function sendingMs(rounds: readonly RoundFigures[], bytes: number): number {
  const bytesPerMs = Math.max(...rounds.map(({ bytesSent, sendMs }) => bytesSent / Math.max(1, sendMs)));
  return bytes / Math.max(1, bytesPerMs);
}
