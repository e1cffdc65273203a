/** When to stop the rounds of pre-copy and freeze the service. Pure: figures in, a verdict out. */

/** What one round was like. */
export interface RoundFigures {
  /** Bytes that went to the destination. */
  bytesSent: number;
  /** From the first byte offered to the last one's acknowledgement; the dump before it is not counted. */
  sendMs: number;
}

/** Why the rounds ended, or that they go on. */
export type RoundVerdict = { go: true } | { go: false; why: 'bound' | 'small-enough' | 'no-gain' };

/** Rounds at the most: a dirty set that did not shrink by then will not. */
export const maxRounds = 5;

/** What is sent in this time is not worth another round: the round's own dump stands in the client's way for as long. */
const smallEnoughMs = 150;

/** A next round must be expected to send at most this share of the last one, or it gains nothing. */
const gainShare = 0.7;

/**
 * Whether a further round pays. The bytes of the final delta are foretold as those of the last round: what a service
 * dirties in one round's time. Another round is worth it while rounds still shrink, since the next is shorter and so
 * dirties less (rule of shrink rate: facts on fixed dirty sets, Ma et al. 2017: more than two rounds rarely help).
 */
export function judgeRounds(rounds: readonly RoundFigures[]): RoundVerdict {
  const last = rounds.at(-1);
  if (last === undefined) return { go: true };
  if (rounds.length >= maxRounds) return { go: false, why: 'bound' };
  if (last.sendMs <= smallEnoughMs) return { go: false, why: 'small-enough' };
  const previous = rounds.at(-2);
  if (previous !== undefined && last.bytesSent > gainShare * previous.bytesSent) return { go: false, why: 'no-gain' };
  return { go: true };
}
