/** Runs cells on links and gathers the rows. */
import { mkdirSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { processStartTime } from '../test/testbed/remnants.js';
import { type Cell, treesOf } from './cells.js';
import { deltahopSettings, rsyncSettings, type Setting } from './contenders.js';
import type { CorpusCache } from './corpus/corpus.js';
import { Meter } from './meter.js';
import { type LinkKind, linkKinds, Network } from './network.js';
import { expectedMs, promising, summaryOf } from './plan.js';
import { type Row, rowOf, type Trial } from './rows.js';
import { changeTree, copyTree, difference, restoreTree } from './trees.js';
import { runTrial, type TrialParts } from './trial.js';

/** What is run, and where. */
export interface BenchOptions {
  cells: readonly Cell[];
  links: readonly LinkKind[];
  /** `rsync`, `deltahop` or both. */
  contenders: readonly string[];
  /** Trials of each setting, at the most: no round is begun that would exceed `budgetMs` for a cell on a link. */
  trials: number;
  budgetMs: number;
  /** A cell is left out on a link where one round of its settings is expected to take longer. */
  roundLimitMs: number;
  /** For all of it: trials become fewer, and what does not fit any more is left out. */
  totalMs: number;
  /** A client that takes longer is ended. */
  limitMs: number;
  /** Every setting on every link, however hopeless. */
  everySetting: boolean;
  /** Rows of earlier runs: what they say of the unshaped link need not be measured again to choose settings for others. */
  known: readonly Row[];
  workPath: string;
  /** Ends the run with an Error after taking down what it set up. */
  signal: AbortSignal;
  corpora: CorpusCache;
  tell: (line: string) => void;
  /** Told what is not measured, and why. */
  onLeftOut: (line: string) => void;
  /** Told all rows of a cell on a link once they are known. */
  onRows: (rows: readonly Row[]) => void;
}

type Trees = Awaited<ReturnType<typeof treesOf>>;

/** A cell that can be run, and what is known of it. */
interface Candidate {
  cell: Cell;
  trees: Trees;
  settings: readonly Setting[];
  survey: readonly Row[];
  /** Of a round, what is not the transfers themselves. */
  overheadMs: number;
}

/** Runs them all. A cell whose corpus cannot be made is left out, which is said. */
export async function runBench(options: BenchOptions): Promise<void> {
  mkdirSync(options.workPath, { recursive: true });
  await Meter.clearStale();
  for (const entry of readdirSync(options.workPath)) {
    const pid = /^work-(\d+)$/.exec(entry)?.[1];
    if (pid !== undefined && processStartTime(Number(pid)) === undefined) {
      rmSync(join(options.workPath, entry), { recursive: true, force: true });
    }
  }
  const { settings: ours, missing } = await deltahopSettings();
  for (const line of missing) options.onLeftOut(line);
  const candidates: Candidate[] = [];
  for (const cell of options.cells) {
    try {
      const trees = await treesOf(cell, options.corpora);
      // Who has nothing remembers nothing.
      const settings = [...rsyncSettings(cell.holes), ...ours].filter(
        ({ contender, remembers }) => options.contenders.includes(contender) && (cell.old !== null || !remembers),
      );
      const survey = options.known.filter((row) => row.cell === cell.name && row.link === unshaped.name);
      candidates.push({ cell, trees, settings, survey, overheadMs: 0 });
    } catch (error) {
      options.onLeftOut(`${cell.name}: ${(error as Error).message}`);
    }
  }
  // The unshaped link first: what it shows says which settings can be the best elsewhere, and how long it all takes. A run
  // that is cut has every cell on the links that it has come to, so that comes last of which the others say most.
  const byNeed = (kind: LinkKind): number => Number(kind.figures !== null) + Number((kind.figures?.rateBps ?? 0) > 1e8);
  const pairs = linkKinds
    .filter((kind) => options.links.includes(kind))
    .toSorted((a, b) => byNeed(a) - byNeed(b))
    .flatMap((kind) => candidates.map((candidate) => ({ kind, candidate })));
  const startedAtMs = performance.now();
  for (const [index, { kind, candidate }] of pairs.entries()) {
    const leftMs = options.totalMs - (performance.now() - startedAtMs);
    await runPair(candidate, kind, { leftMs, shareMs: leftMs / (pairs.length - index) }, options);
  }
}

const unshaped = linkKinds[0] as LinkKind;

async function runPair(
  candidate: Candidate,
  kind: LinkKind,
  { leftMs, shareMs }: { leftMs: number; shareMs: number },
  options: BenchOptions,
): Promise<void> {
  const { cell, survey } = candidate;
  let chosen = candidate.settings;
  const where = `${cell.name} on ${kind.name}`;
  if (kind.figures !== null && !options.everySetting) {
    // In place, the same goes over the link.
    chosen = chosen.filter(({ name }) => name !== 'blind --inplace');
    const { names, without } = promising(
      survey.filter((row) => row.contender === 'rsync'),
      kind,
    );
    chosen = chosen.filter(({ contender, name }) => contender === 'deltahop' || names.size === 0 || names.has(name));
    if (without.length > 0) options.tell(`${where}: rsync's ${without.join(', ')} cannot be the best`);
  }
  const names = new Set(chosen.map(({ name }) => name));
  const transfersMs = survey
    .filter((row) => names.has(row.setting))
    .reduce((sum, row) => sum + expectedMs(row, kind), 0);
  if (kind.figures !== null && transfersMs > options.roundLimitMs) {
    options.onLeftOut(`${where}: a round would take ${Math.round(transfersMs / 1000)} s; --full runs it`);
    return;
  }
  if (transfersMs + candidate.overheadMs > leftMs) {
    options.onLeftOut(`${where}: no time was left; --keep --cell ${cell.name} --link ${kind.name} adds it`);
    return;
  }
  const { rows, overheadMs } = await runLink(candidate, kind, chosen, Math.min(options.budgetMs, shareMs), options);
  if (kind.figures === null) {
    candidate.survey = rows;
    candidate.overheadMs = overheadMs;
  }
  options.onRows(rows);
}

/** All trials of a cell on a link, the settings in turn and each round begun by another one. */
async function runLink(
  { cell, trees: { oldPath, newPath } }: Candidate,
  kind: LinkKind,
  settings: readonly Setting[],
  budgetMs: number,
  options: BenchOptions,
): Promise<{ rows: Row[]; overheadMs: number }> {
  const work = join(options.workPath, `work-${process.pid}`);
  const modulePath = join(work, 'module');
  const targetPath = join(modulePath, 'tree');
  mkdirSync(modulePath, { recursive: true });
  const network = await Network.open(kind, work);
  const results = new Map<Setting, Trial[]>(settings.map((setting) => [setting, []]));
  // A setting that needs too long once is not tried again.
  const hopeless = new Set<Setting>();
  let isFresh = false;
  const startedAtMs = performance.now();
  try {
    for (let round = 0; round < options.trials; ++round) {
      const spentMs = performance.now() - startedAtMs;
      if (round > 0 && spentMs * (1 + 1 / round) > budgetMs) break;
      const at = round % settings.length;
      for (const setting of [...settings.slice(at), ...settings.slice(0, at)]) {
        if (hopeless.has(setting)) continue;
        options.signal.throwIfAborted();
        await (isFresh ? restoreTree(oldPath, targetPath) : copyTree(oldPath, targetPath));
        const parts = {
          network,
          setting,
          statePath: join(work, 'state'),
          modulePath,
          limitMs: options.limitMs,
          signal: options.signal,
        };
        rmSync(parts.statePath, { recursive: true, force: true });
        const trial = setting.remembers
          ? await runRemembered(parts, { oldPath, newPath }, join(work, 'source'))
          : await runTrial({ ...parts, sourcePath: newPath });
        if (trial.ok) {
          // What rsync thinks of all contents on the first link of each cell, what the digests say everywhere.
          const thoroughly = round > 0 ? 'by times' : kind.figures === null ? 'by contents' : 'by digests';
          trial.note = await difference(newPath, targetPath, thoroughly);
          trial.ok = trial.note === '';
        } else {
          hopeless.add(setting);
        }
        isFresh = trial.ok;
        results.get(setting)?.push(trial);
      }
    }
  } finally {
    await network.close();
    rmSync(work, { recursive: true, force: true });
  }
  const rows = settings.map((setting) =>
    rowOf(
      { cell: cell.name, link: kind.name, contender: setting.contender, setting: setting.name },
      results.get(setting) ?? [],
    ),
  );
  for (const row of rows) options.tell(`${row.cell} ${row.link} ${summaryOf(row)}`);
  const rounds = Math.max(1, ...rows.map((row) => row.trials));
  const transfersMs = [...results.values()].flat().reduce((sum, trial) => sum + trial.wallMs, 0);
  return { rows, overheadMs: (performance.now() - startedAtMs - transfersMs) / rounds };
}

/** The clock's grain: what was written more recently than this cannot be told from what is written now. */
const settleMs = 2500;

/** A trial of a sender that knows the receiver's tree from an earlier sync, and whose own tree has changed since. */
async function runRemembered(
  parts: Omit<TrialParts, 'sourcePath'>,
  { oldPath, newPath }: Trees,
  sourcePath: string,
): Promise<Trial> {
  await restoreTree(oldPath, sourcePath);
  await sleep(settleMs);
  const first = await runTrial({ ...parts, sourcePath });
  if (!first.ok) return { ...first, note: `the sync before it: ${first.note}` };
  await changeTree(sourcePath, newPath);
  await sleep(settleMs);
  return await runTrial({ ...parts, sourcePath });
}
