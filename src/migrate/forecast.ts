/** What a migration will cost, before it begins, and how good that was afterwards. Pure: figures in, figures out. */
import type { DowntimeStage } from './downtime.js';

/** A figure that is not known yet: the likely value, and bounds that hold in most cases. */
export interface Range {
  low: number;
  expected: number;
  high: number;
}

/** What a migration is expected to cost. */
export interface Forecast {
  /** What the source's sockets will send. */
  bytesSent: Range;
  /** null if nothing is known of the link's rate. */
  totalMs: Range | null;
  downtimeMs: Range;
}

/** How a forecast did: the real figures were in its bounds, or below or above them. */
export type Verdict = 'within' | 'below' | 'above';

/** The forecast in a summary. */
export interface JudgedForecast extends Forecast {
  came: { bytesSent: Verdict; totalMs: Verdict | null; downtimeMs: Verdict };
}

/** One hop as it was, for the forecasts of later ones. */
export interface PastHop {
  service: string;
  /** Name of the destination. */
  to: string;
  /** An earlier instance of the service was there. */
  returning: boolean;
  /** What the service's processes had in memory. */
  memoryBytes: number;
  layerBytesSent: number;
  instanceBytesSent: number;
  /** Of these, the last delta's. */
  finalBytesSent: number;
  totalMs: number;
  downtimeMs: number;
  downtime: readonly DowntimeStage[];
}

/** Bounds, as parts of what was. */
interface Doubt {
  low: number;
  high: number;
}

/** What is known before a migration. */
export interface ForecastInputs {
  service: string;
  /** Name of the destination. */
  to: string;
  /** Of the layers that it lacks: bytes, and the share of them that is left once compressed. */
  layers: { bytes: number; files: number; share: number };
  /** Of the instance likewise. */
  instance: { memoryBytes: number; filesBytes: number; share: number };
  /** An earlier instance of the service is at the destination. */
  returning: boolean;
  /** Its memory may be in part what it has read from disks that both nodes have. */
  hasDisks: boolean;
  link: { roundTripMs: number; bytesPerMs: number | null };
  /** All hops from this node that are remembered, the newest last. */
  past: readonly PastHop[];
}

/** What a manifest costs for each file of a layer, compressed. Measured on Debian trees: 45 to 70. */
const manifestBytesPerFile = 60;

/** A sample of a few MiB says what compresses so well; both directions, as measured on Debian trees and memory images. */
const sampleError = 0.2;

/**
 * Of a machine's memory, what comes the first time, compressed, by what would if the destination had nothing of it. Measured
 * with a small Debian guest: 0.85 with its two layers there, 0.39 with what it was booted with there as well.
 */
const besideDisks: Range = { low: 0.3, expected: 0.65, high: 1 + sampleError };

/** Of a service's memory, what the rounds after the first bring, if nobody has seen it hop: little, a third, or all again. */
const unknownRounds = { low: 0.0, expected: 0.1, high: 1 };

/**
 * An instance that has been at the destination before and that nobody has seen going there: what a dump of the least
 * process costs again, and of the image what a service under a few hundred writes a second has changed. Measured with
 * redis: 24 kB of 0.3 MB, 15 kB of 13 MB, 45 kB of 100 MB. One that has changed wholly meanwhile costs all of it.
 */
const unknownReturn = { leastBytes: 16 * 1024, low: 0, expected: 0.0003, high: 1 };

/**
 * What a service does between two hops is not always the same, so one or two say little. Measured with redis: 57, 15 and
 * 15 kB; 22, 11 and 11 kB.
 */
const deltaDoubts: readonly Doubt[] = [
  { low: 0.25, high: 2 },
  { low: 0.5, high: 1.5 },
];

/** Of a service's memory, the last delta. */
const unknownFinal = { low: 0.0005, expected: 0.005, high: 0.05 };

/**
 * CRIU's own times by the size of what it saves, as measured on a machine of two cores of 2.5 GHz: what is not known of
 * this one. The stages without memory in it are nearly constant.
 */
const typical: Readonly<Record<DowntimeStage['stage'], { ms: number; msPerMib: number }>> = {
  dump: { ms: 120, msPerMib: 1 },
  transfer: { ms: 20, msPerMib: 0.5 },
  restore: { ms: 150, msPerMib: 0.8 },
  decision: { ms: 20, msPerMib: 0 },
  release: { ms: 40, msPerMib: 0 },
  messages: { ms: 5, msPerMib: 0 },
};

/** Round trips in a stage, which hops to elsewhere say nothing about. */
const roundTrips: Partial<Record<DowntimeStage['stage'], number>> = { transfer: 3, messages: 2 };

/** Beside what is sent: preflight, the rounds' dumps, the look at the service's health, and the downtime's own work. */
const unseenOverheadMs: Range = { low: 1_000, expected: 2_500, high: 6_000 };

const mib = 1024 * 1024;

/** Hops that count: what a node did long ago, it did with other neighbours. */
const recentHops = 8;

/** What a migration will cost. */
export function forecast(inputs: ForecastInputs): Forecast {
  const { layers, instance, link, past } = inputs;
  const same = past.filter(({ service, to }) => service === inputs.service && to === inputs.to).slice(-recentHops);
  const layerBytes = layers.bytes * layers.share + layers.files * manifestBytesPerFile;
  const image = (instance.memoryBytes + instance.filesBytes) * instance.share;
  // The first hop to a node brings everything; later ones are alike, so only they say something about each other.
  const alike = same.filter(({ returning }) => returning === inputs.returning);
  const instanceBytes: Range =
    inputs.returning && alike.length > 0
      ? spread(
          alike.map(({ instanceBytesSent }) => instanceBytesSent),
          deltaDoubts[alike.length - 1],
        )
      : inputs.returning
        ? sum(around(unknownReturn.leastBytes, 0.5), scaled(image, unknownReturn))
        : sum(inputs.hasDisks ? scaled(image, besideDisks) : around(image, sampleError), scaled(image, unknownRounds));
  const bytesSent = sum(around(layerBytes, sampleError), instanceBytes);
  const totalMs = link.bytesPerMs === null ? null : total(inputs, bytesSent, link.bytesPerMs, alike);
  return {
    bytesSent: rounded(bytesSent),
    totalMs: totalMs === null ? null : rounded(totalMs),
    downtimeMs: rounded(downtime(inputs, same)),
  };
}

/**
 * The downtime if the service were frozen after a round: its dump has just shown how long one takes here and now.
 * @param pausedMs How long the service stood still for the round's dump.
 * @param finalMs How long the last delta takes, beside round trips.
 */
export function downtimeAfterRound(inputs: ForecastInputs, pausedMs: number, finalMs: number): number {
  const before = stagesOf(inputs);
  // A machine that dumps slowly today restores slowly today, as far as the two are one machine's or alike.
  const slowness = pausedMs / Math.max(1, before.dump);
  const restore = before.restore * Math.sqrt(Math.max(0.25, Math.min(4, slowness)));
  const trips = (roundTrips.transfer ?? 0) * inputs.link.roundTripMs;
  return Math.round(pausedMs + finalMs + trips + restore + before.decision + before.release + before.messages);
}

/** What became of a forecast. */
export function judge(
  made: Forecast,
  real: { bytesSent: number; totalMs: number; downtimeMs: number },
): JudgedForecast {
  return {
    ...made,
    came: {
      bytesSent: verdict(made.bytesSent, real.bytesSent),
      totalMs: made.totalMs === null ? null : verdict(made.totalMs, real.totalMs),
      downtimeMs: verdict(made.downtimeMs, real.downtimeMs),
    },
  };
}

function verdict({ low, high }: Range, value: number): Verdict {
  return value < low ? 'below' : value > high ? 'above' : 'within';
}

function downtime(inputs: ForecastInputs, same: readonly PastHop[]): Range {
  if (same.length > 0) {
    // The newest says most.
    const values = same.map(({ downtimeMs }) => downtimeMs);
    return { ...spread(values), expected: median(values.slice(-3)) };
  }
  const stages = stagesOf(inputs);
  const final = scaled(
    (inputs.instance.memoryBytes + inputs.instance.filesBytes) * inputs.instance.share,
    unknownFinal,
  );
  const bytesPerMs = inputs.link.bytesPerMs ?? Number.POSITIVE_INFINITY;
  const fixed = Object.values(stages).reduce((all, ms) => all + ms, 0);
  const doubt = inputs.past.length > 0 ? { low: 0.7, high: 1.5 } : { low: 0.5, high: 2.5 };
  return {
    low: fixed * doubt.low + final.low / bytesPerMs,
    expected: fixed + final.expected / bytesPerMs,
    high: fixed * doubt.high + final.high / bytesPerMs,
  };
}

/** Each stage's likely time: that of this node's last hops, by the size of what moved, else the typical one. */
function stagesOf(inputs: ForecastInputs): Record<DowntimeStage['stage'], number> {
  const likely = (stage: DowntimeStage['stage']): number => {
    const { ms, msPerMib } = typical[stage];
    const trips = (roundTrips[stage] ?? 0) * inputs.link.roundTripMs;
    const model = (memoryBytes: number): number => ms + (msPerMib * memoryBytes) / mib + trips;
    const ratios = inputs.past.slice(-recentHops).flatMap((hop) => {
      const took = hop.downtime.find((one) => one.stage === stage)?.ms;
      return took === undefined ? [] : [took / model(hop.memoryBytes)];
    });
    return model(inputs.instance.memoryBytes) * (ratios.length === 0 ? 1 : median(ratios));
  };
  return {
    dump: likely('dump'),
    transfer: likely('transfer'),
    restore: likely('restore'),
    decision: likely('decision'),
    release: likely('release'),
    messages: likely('messages'),
  };
}

function total(inputs: ForecastInputs, bytes: Range, bytesPerMs: number, alike: readonly PastHop[]): Range {
  const overhead = alike.map((hop) =>
    Math.max(0, hop.totalMs - (hop.layerBytesSent + hop.instanceBytesSent) / bytesPerMs),
  );
  const beside = overhead.length === 0 ? unseenOverheadMs : spread(overhead);
  const trips = 30 * inputs.link.roundTripMs;
  return sum(scaled(1 / bytesPerMs, bytes), { low: beside.low, expected: beside.expected, high: beside.high + trips });
}

/** What was, and so much around it. */
function spread(values: readonly number[], { low, high }: Doubt = { low: 0.7, high: 1.3 }): Range {
  return { low: low * Math.min(...values), expected: median(values), high: high * Math.max(...values) };
}

function around(value: number, share: number): Range {
  return { low: value * (1 - share), expected: value, high: value * (1 + share) };
}

function scaled(value: number, { low, expected, high }: Range): Range {
  return { low: value * low, expected: value * expected, high: value * high };
}

function sum(a: Range, b: Range): Range {
  return { low: a.low + b.low, expected: a.expected + b.expected, high: a.high + b.high };
}

function rounded({ low, expected, high }: Range): Range {
  return { low: Math.floor(low), expected: Math.round(expected), high: Math.ceil(high) };
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  const upper = sorted[middle] ?? 0;
  return sorted.length % 2 === 1 ? upper : (upper + (sorted[middle - 1] ?? 0)) / 2;
}
