/** `npm run bench`: deltahop against stock rsync, whole processes over the same links. */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Command } from 'commander';
import { runBench } from './bench.js';
import { type Cell, cells, type Extent, treesOf } from './cells.js';
import { CorpusCache } from './corpus/corpus.js';
import { linkKinds } from './network.js';
import type { Row } from './rows.js';

/** dist/bench/main.js is two below. */
const project = fileURLToPath(new URL('../../', import.meta.url));

interface Flags {
  quick?: boolean;
  full?: boolean;
  cell?: string[];
  link?: string[];
  trials?: string;
  list?: boolean;
  corpora?: boolean;
  json: string;
  keep?: boolean;
  cache: string;
}

const extents: readonly Extent[] = ['quick', 'default', 'full'];
const limits = {
  quick: { trials: 2, limitMs: 30_000, links: ['unshaped', '100mbit-20ms'] },
  default: { trials: 3, limitMs: 90_000, links: linkKinds.map(({ name }) => name) },
  full: { trials: 5, limitMs: 3_600_000, links: linkKinds.map(({ name }) => name) },
};

const flags = new Command('bench')
  .description('Measures deltahop against the best settings of stock rsync. Needs root.')
  .option('--quick', 'the small cells on two links, under five minutes')
  .option('--full', 'every cell, every setting on every link: hours')
  .option('--cell <name...>', 'only these cells, whatever the extent')
  .option('--link <name...>', 'only these links')
  .option('--trials <n>', 'trials of each setting')
  .option('--list', 'say which cells and links there are')
  .option('--corpora', 'make the corpora of the chosen cells and stop')
  .option('--json <file>', 'where the rows go', join(project, 'build/bench/rows.json'))
  .option('--keep', 'rows that FILE already has of other cells and links stay')
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
  return cells.filter((cell) => extents.indexOf(cell.extent) <= extents.indexOf(extent));
}

function list(): void {
  for (const cell of cells) console.log(`${cell.name.padEnd(20)} ${cell.extent.padEnd(8)} ${cell.about}`);
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
  mkdirSync(dirname(file), { recursive: true });
  let rows: Row[] = flags.keep === true && existsSync(file) ? (JSON.parse(readFileSync(file, 'utf8')) as Row[]) : [];
  const { trials, limitMs, links } = limits[extent];
  const leftOut = await runBench({
    cells: chosenCells(),
    links: named(linkKinds, flags.link ?? links, 'link'),
    trials: flags.trials === undefined ? trials : Number(flags.trials),
    limitMs,
    everySetting: extent === 'full',
    workPath: flags.cache,
    corpora,
    tell,
    onRows: (more) => {
      rows = [...rows.filter((row) => !more.some((one) => one.cell === row.cell && one.link === row.link)), ...more];
      writeFileSync(file, `[\n${rows.map((row) => JSON.stringify(row)).join(',\n')}\n]\n`);
    },
  });
  if (leftOut.length > 0) console.error(`left out: ${leftOut.length} (named above)`);
  console.error(`rows are in ${file}`);
}

await main().catch((error: unknown) => {
  console.error(`bench: ${error instanceof Error ? error.message : error}`);
  process.exitCode = 1;
});
