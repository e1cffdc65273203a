/** `npm run bench`: deltahop against stock rsync, whole processes over the same links. */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { cpus, loadavg, release, totalmem } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Command } from 'commander';
import { runBench } from './bench.js';
import { type Cell, cells, type Extent, treesOf } from './cells.js';
import { versions } from './contenders.js';
import { CorpusCache } from './corpus/corpus.js';
import { checkLink, type LinkCheck } from './link-check.js';
import { linkKinds, Network } from './network.js';
import { reportHtml } from './report/report.js';
import type { Row } from './rows.js';

/** dist/bench/main.js is two below. */
const project = fileURLToPath(new URL('../../', import.meta.url));

/** What is kept beside the rows, so that a run in pieces gives one report. */
interface Context {
  linkChecks: LinkCheck[];
  leftOut: string[];
}

interface Flags {
  quick?: boolean;
  full?: boolean;
  cell?: string[];
  link?: string[];
  contender?: string[];
  trials?: string;
  list?: boolean;
  corpora?: boolean;
  json: string;
  keep?: boolean;
  html: string;
  render?: boolean;
  cache: string;
}

const everyLink = linkKinds.map(({ name }) => name);
const hourMs = 3_600_000;
const minuteMs = 60_000;
const quickLinks = ['unshaped', '100mbit-20ms'];
const limits = {
  quick: {
    trials: 2,
    budgetMs: 12_000,
    roundLimitMs: 20_000,
    limitMs: 30_000,
    totalMs: 5 * minuteMs,
    links: quickLinks,
  },
  default: {
    trials: 3,
    budgetMs: 30_000,
    roundLimitMs: 60_000,
    limitMs: 120_000,
    totalMs: 43 * minuteMs,
    links: everyLink,
  },
  full: {
    trials: 5,
    budgetMs: 24 * hourMs,
    roundLimitMs: 24 * hourMs,
    limitMs: hourMs,
    totalMs: 24 * hourMs,
    links: everyLink,
  },
};

const flags = new Command('bench')
  .description('Measures deltahop against the best settings of stock rsync. Needs root.')
  .option('--quick', 'the small cells on two links, under five minutes')
  .option('--full', 'every cell, every setting on every link: hours')
  .option('--cell <name...>', 'only these cells, whatever the extent')
  .option('--link <name...>', 'only these links')
  .option('--contender <name...>', 'only rsync or deltahop; with --keep, beside the rows that FILE has of the other')
  .option('--trials <n>', 'trials of each setting')
  .option('--list', 'say which cells and links there are')
  .option('--corpora', 'make the corpora of the chosen cells and stop')
  .option('--json <file>', 'where the rows go', join(project, 'build/bench/rows.json'))
  .option('--keep', 'rows that FILE already has of other cells, links and contenders stay')
  .option('--html <file>', 'where the report goes', join(project, 'build/bench/report.html'))
  .option('--render', 'measure nothing: make the report of the rows that FILE has')
  .option('--cache <directory>', 'where the corpora are kept', join(project, 'build/bench'))
  .parse()
  .opts<Flags>();

const extent: Extent = flags.quick === true ? 'quick' : flags.full === true ? 'full' : 'default';

function named<T extends { name: string }>(all: readonly T[], names: readonly string[], what: string): T[] {
  return names.map((name) => {
    const found = all.find((one) => one.name === name);
    if (found === undefined) throw new Error(`there is no ${what} ${name}; --list names them`);
    return found;
  });
}

function chosenCells(): readonly Cell[] {
  if (flags.cell !== undefined) return named(cells, flags.cell, 'cell');
  return cells.filter((cell) => cell.extents.includes(extent));
}

function list(): void {
  for (const cell of cells) console.log(`${cell.name.padEnd(20)} ${cell.extents.join(' ').padEnd(18)} ${cell.about}`);
  console.log();
  for (const { name } of linkKinds) console.log(name);
}

async function main(): Promise<void> {
  if (flags.list === true) return list();
  if (process.getuid?.() !== 0) throw new Error('the benchmark needs root (network namespaces, owners of files)');
  const tell = (line: string): void => console.error(line);
  const corpora = new CorpusCache(join(flags.cache, 'corpora'), tell);
  if (flags.corpora === true) {
    for (const cell of chosenCells())
      await treesOf(cell, corpora).catch((error: Error) => tell(`${cell.name}: ${error.message}`));
    return;
  }
  const file = resolve(flags.json);
  const contextFile = `${file.replace(/\.json$/, '')}.context.json`;
  for (const path of [file, resolve(flags.html)]) mkdirSync(dirname(path), { recursive: true });
  const kept = <T>(path: string, otherwise: T): T =>
    (flags.keep === true || flags.render === true) && existsSync(path)
      ? (JSON.parse(readFileSync(path, 'utf8')) as T)
      : otherwise;
  let rows = kept<Row[]>(file, []);
  const context = kept<Context>(contextFile, { linkChecks: [], leftOut: [] });
  const about = await circumstances();
  const save = (): void => {
    writeFileSync(file, `[\n${rows.map((row) => JSON.stringify(row)).join(',\n')}\n]\n`);
    writeFileSync(contextFile, JSON.stringify(context));
    const links = linkKinds.map(({ name }) => name);
    writeFileSync(flags.html, reportHtml({ rows, cells, links, ...context, circumstances: about }));
  };

  if (flags.render === true) return save();

  const stop = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM'] as const)
    process.once(signal, () => stop.abort(new Error(`stopped by ${signal}`)));
  const { links: usualLinks, ...usual } = limits[extent];
  const links = named(linkKinds, flags.link ?? usualLinks, 'link');
  for (const kind of links) {
    if (context.linkChecks.some(({ link }) => link === kind.name)) continue;
    const network = await Network.open(kind, flags.cache);
    try {
      const check = await checkLink(network, kind);
      context.linkChecks.push(check);
      tell(
        `${kind.name}: ${megabits(check.outBps)} and ${megabits(check.inBps)} Mbit/s, ${check.roundTripMs.toFixed(2)} ms`,
      );
    } finally {
      await network.close();
    }
  }
  await runBench({
    cells: chosenCells(),
    links,
    contenders: flags.contender ?? ['rsync', 'deltahop'],
    ...usual,
    ...(flags.trials !== undefined && {
      trials: Number(flags.trials),
      budgetMs: limits.full.budgetMs,
      totalMs: limits.full.totalMs,
    }),
    everySetting: extent === 'full',
    known: rows,
    workPath: flags.cache,
    signal: stop.signal,
    corpora,
    tell,
    onLeftOut: (line) => {
      if (!context.leftOut.includes(line)) context.leftOut.push(line);
      tell(`LEFT OUT: ${line}`);
    },
    onRows: (more) => {
      const isNew = (row: Row): boolean =>
        more.some((one) => one.cell === row.cell && one.link === row.link && one.contender === row.contender);
      rows = [...rows.filter((row) => !isNew(row)), ...more];
      context.leftOut = context.leftOut.filter(
        (line) => !more.some((row) => line.startsWith(`${row.cell} on ${row.link}:`)),
      );
      save();
    },
  });
  save();
  if (context.leftOut.length > 0) tell(`left out: ${context.leftOut.length} (named above)`);
  tell(`rows are in ${file}, the report is ${resolve(flags.html)}`);
}

/** What the figures are to be read with. */
async function circumstances(): Promise<string[]> {
  const model = cpus()[0]?.model.trim() ?? 'unknown processor';
  const machine = `${cpus().length} × ${model}, ${Math.round(totalmem() / 2 ** 30)} GiB, Linux ${release()}, Node.js ${process.version}`;
  const load = `load ${loadavg()[0]?.toFixed(1)}`;
  return [...(await versions()), machine, new Date().toISOString().slice(0, 16).replace('T', ' '), load];
}

function megabits(bps: number): string {
  return (bps / 1e6).toFixed(1);
}

await main().catch((error: unknown) => {
  console.error(`bench: ${error instanceof Error ? error.message : error}`);
  process.exitCode = 1;
});
