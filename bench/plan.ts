/** Which settings are worth their time on which link. */
import type { LinkKind } from './network.js';
import { bestOf, measured, type Row } from './rows.js';

/** A setting of rsync's can be the fastest where its expected time is at most this much above the least one. */
const nearlyFastest = 1.35;
/** Nobody saves CPU time by waiting longer than this. */
const bearable = 3;

/**
 * What a row of the unshaped link lets expect on another one: the slowest of the programs' own work and of each
 * direction's bytes; a round trip or two more or less decide nothing.
 */
export function expectedMs(row: Row, kind: LinkKind): number {
  if (kind.figures === null) return row.wallMs;
  const perMs = kind.figures.rateBps / 8 / 1000;
  return Math.max(row.wallMs, row.bytesOut / perMs, row.bytesIn / perMs);
}

/**
 * Settings of rsync's that can be the best on a link, by what the unshaped link has shown: whichever sends the fewest
 * bytes, all whose expected time is near the least, and whichever uses the least CPU time among those that do not take
 * much longer. The names of the others are in `without`.
 */
export function promising(theirs: readonly Row[], kind: LinkKind): { names: Set<string>; without: string[] } {
  const least = Math.min(...theirs.filter((row) => row.ok).map((row) => expectedMs(row, kind)));
  const within = (factor: number): Row[] => theirs.filter((row) => row.ok && expectedMs(row, kind) <= least * factor);
  const chosen = [bestOf(theirs, 'bytes'), bestOf(within(bearable), 'cpuMs'), ...within(nearlyFastest)];
  const names = new Set(chosen.flatMap((row) => (row === undefined ? [] : row.setting)));
  return { names, without: theirs.map((row) => row.setting).filter((name) => !names.has(name)) };
}

/** What a row says in one line. */
export function summaryOf(row: Row): string {
  const figures = [
    `${(row.wallMs / 1000).toFixed(2)} s`,
    `${(measured(row, 'bytes') / 1e6).toFixed(3)} MB`,
    `cpu ${(row.cpuMs / 1000).toFixed(2)} s`,
    `rss ${(row.peakRssBytes / 2 ** 20).toFixed(0)} MiB`,
  ];
  return `${row.contender} ${row.setting}: ${figures.join(', ')}${row.ok ? '' : `  NOT OK: ${row.note}`}`;
}
