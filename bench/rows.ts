/** The benchmark's result rows and their arithmetic. */

/** Figures of one trial: one transfer by whole processes at both ends. */
export interface Trial {
  /** From the client's start until the target's file system has written everything to the disk. */
  wallMs: number;
  /** From the client's start to its exit. */
  exitMs: number;
  /** What arrived at the server over the link, client to server. */
  bytesOut: number;
  /** What arrived at the client over the link, server to client. */
  bytesIn: number;
  /** User and system time of all processes at the client's end. */
  cpuClientMs: number;
  /** The same of the server's end, from its being ready to the end of the last process of this transfer. */
  cpuServerMs: number;
  /** The largest sum of resident memory of all processes of both ends at one time. */
  peakRssBytes: number;
  /** The same of each end alone. */
  peakRssOfEnd: { client: number; server: number };
  ok: boolean;
  /** Why it is not ok; empty if it is. */
  note: string;
  /** What the program says of its own steps; empty for rsync. */
  statistics: { sender: Record<string, number>; receiver: Record<string, number> };
}

/** The programs that are compared. */
export type Contender = 'rsync' | 'deltahop';

/** One line of the result: the medians of all trials of one cell, link, contender and setting. */
export interface Row {
  cell: string;
  link: string;
  contender: Contender;
  setting: string;
  wallMs: number;
  bytesOut: number;
  bytesIn: number;
  cpuMs: number;
  peakRssBytes: number;
  trials: number;
  /** False if any trial failed or left a tree that differs. */
  ok: boolean;
  /** Least and greatest of the trials. */
  spread: { wallMs: [number, number]; bytes: [number, number]; cpuMs: [number, number] };
  exitMs: number;
  cpuClientMs: number;
  cpuServerMs: number;
  /** Why it is not ok; empty if it is. */
  note: string;
  statistics: Trial['statistics'];
}

/** What a row is compared by; less is better. */
export type Measure = 'bytes' | 'wallMs' | 'cpuMs' | 'peakRssBytes';

/** The middle value; of an even number the mean of the two in the middle. Throws a RangeError if there is none. */
export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const upper = sorted[sorted.length >> 1];
  const lower = sorted[(sorted.length - 1) >> 1];
  if (upper === undefined || lower === undefined) throw new RangeError('the median of nothing');
  return (lower + upper) / 2;
}

/** Sums the trials of one setting up. A failed trial makes the row fail; its figures count only if all failed. */
export function rowOf(
  key: { cell: string; link: string; contender: Contender; setting: string },
  trials: readonly Trial[],
): Row {
  const good = trials.filter((trial) => trial.ok);
  const counted = good.length > 0 ? good : trials;
  const all = (of: (trial: Trial) => number): number[] => counted.map(of);
  const middle = (of: (trial: Trial) => number): number => round(median(all(of)));
  const range = (of: (trial: Trial) => number): [number, number] => [
    round(Math.min(...all(of))),
    round(Math.max(...all(of))),
  ];
  const cpuMs = (trial: Trial): number => trial.cpuClientMs + trial.cpuServerMs;
  return {
    ...key,
    wallMs: middle((trial) => trial.wallMs),
    bytesOut: middle((trial) => trial.bytesOut),
    bytesIn: middle((trial) => trial.bytesIn),
    cpuMs: middle(cpuMs),
    peakRssBytes: middle((trial) => trial.peakRssBytes),
    trials: trials.length,
    ok: good.length === trials.length,
    spread: {
      wallMs: range((trial) => trial.wallMs),
      bytes: range((trial) => trial.bytesOut + trial.bytesIn),
      cpuMs: range(cpuMs),
    },
    exitMs: middle((trial) => trial.exitMs),
    cpuClientMs: middle((trial) => trial.cpuClientMs),
    cpuServerMs: middle((trial) => trial.cpuServerMs),
    note: trials.find((trial) => !trial.ok)?.note ?? '',
    // Of one real trial, the one in the middle by time: medians of single figures would not add up.
    statistics: counted.toSorted((a, b) => a.wallMs - b.wallMs)[counted.length >> 1]?.statistics ?? {
      sender: {},
      receiver: {},
    },
  };
}

/** A row's figure. */
export function measured(row: Row, measure: Measure): number {
  return measure === 'bytes' ? row.bytesOut + row.bytesIn : row[measure];
}

/** The row with the least figure among those that are ok; undefined if none is. */
export function bestOf(rows: readonly Row[], measure: Measure): Row | undefined {
  return rows.filter((row) => row.ok).toSorted((a, b) => measured(a, measure) - measured(b, measure))[0];
}

/** One of our settings against the best that rsync can do in the same cell on the same link. */
export interface Comparison {
  cell: string;
  link: string;
  setting: string;
  ours: Row;
  /** rsync's best setting of each measure; absent if no setting of it got through. */
  peers: Partial<Record<Measure, Row>>;
  /** rsync's figure over ours: above 1 we win. */
  ratios: Partial<Record<Measure, number>>;
}

const measures: readonly Measure[] = ['bytes', 'wallMs', 'cpuMs', 'peakRssBytes'];

/** Every row of ours against its peers. */
export function compare(rows: readonly Row[]): Comparison[] {
  return rows
    .filter((row) => row.contender === 'deltahop')
    .map((ours) => {
      const theirs = rows.filter(
        (row) => row.contender === 'rsync' && row.cell === ours.cell && row.link === ours.link,
      );
      const comparison: Comparison = {
        cell: ours.cell,
        link: ours.link,
        setting: ours.setting,
        ours,
        peers: {},
        ratios: {},
      };
      for (const measure of measures) {
        const peer = bestOf(theirs, measure);
        if (peer === undefined) continue;
        comparison.peers[measure] = peer;
        if (ours.ok) comparison.ratios[measure] = measured(peer, measure) / Math.max(1, measured(ours, measure));
      }
      return comparison;
    });
}

/** Bytes may exceed rsync's by this much before it counts as lost (design: never more than 1.02x). */
const bytesTolerance = 1.02;
/** Times of single runs on a shared machine scatter more. */
const timeTolerance = 1.05;

/** The measures in which a comparison is lost; `ok` if the transfer itself failed. */
export function lostIn({ ours, ratios }: Comparison): (Measure | 'ok')[] {
  if (!ours.ok) return ['ok'];
  const lost: Measure[] = [];
  if ((ratios.bytes ?? 1) * bytesTolerance < 1) lost.push('bytes');
  if ((ratios.wallMs ?? 1) * timeTolerance < 1) lost.push('wallMs');
  if ((ratios.cpuMs ?? 1) * timeTolerance < 1) lost.push('cpuMs');
  return lost;
}

/** Geometric mean; NaN of nothing. */
export function geometricMean(values: readonly number[]): number {
  return Math.exp(values.reduce((sum, value) => sum + Math.log(value), 0) / values.length);
}

function round(value: number): number {
  return Math.round(value * 10) / 10;
}
