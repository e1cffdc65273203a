/**
 * `npm run bench:memory`: what both ends of a transfer hold in memory at their peak, against the bound: 64 MiB and 16 bytes
 * for each page, above what the programs take that send one empty file.
 */
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Command } from 'commander';
import { run } from '../../test/testbed/command.js';
import { deltahopSettings, type Setting } from '../contenders.js';
import { CorpusCache } from '../corpus/corpus.js';
import { manyFiles, sparse } from '../corpus/synthetic.js';
import { Meter } from '../meter.js';
import { linkKinds, Network } from '../network.js';
import type { Trial } from '../rows.js';
import { changeTree, copyTree, haveSameDigest } from '../trees.js';
import { runTrial } from '../trial.js';

/** dist/bench/memory/main.js is three below. */
const project = fileURLToPath(new URL('../../../', import.meta.url));
const pageBytes = 4096;
const gib = 1024 ** 3;
const limitMs = 1_800_000;

/** A pair of trees, and the pages that their bound is reckoned from. */
const cases = [
  {
    name: 'sparse',
    about: 'one sparse file of 64 GiB, 64 MiB of it data',
    corpus: sparse(64 * gib),
    pages: (64 * gib) / pageBytes,
    // rsync would read all of the hole.
    change: async (path: string, to: string) => {
      await run(['cp', '-a', '--sparse=always', `${to}/.`, path]);
    },
  },
  { name: 'many-files', about: 'a million files', corpus: manyFiles(1_000_000), pages: 1_000_000, change: changeTree },
];

const flags = new Command('bench:memory')
  .description('Measures the memory of both ends of large transfers against the bound. Needs root, and 15 GB of disk.')
  .option('--case <name>', `only this one of ${cases.map(({ name }) => name).join(', ')}`)
  .option('--setting <name>', 'only this setting')
  .option('--cache <directory>', 'where the corpora are kept', join(project, 'build/bench'))
  .parse()
  .opts<{ case?: string; setting?: string; cache: string }>();

const chosen = cases.filter(({ name }) => flags.case === undefined || name === flags.case);
const settings = (await deltahopSettings()).settings.filter(
  ({ name }) => flags.setting === undefined || name === flags.setting,
);
if (chosen.length === 0 || settings.length === 0) {
  console.error('There is no such case or setting: see --help.');
  process.exit(2);
}
await Meter.clearStale();
const stop = new AbortController();
for (const signal of ['SIGINT', 'SIGTERM'] as const)
  process.once(signal, () => stop.abort(new Error(`stopped by ${signal}`)));
const corpora = new CorpusCache(join(flags.cache, 'corpora'), console.error);
const work = join(flags.cache, `work-${process.pid}`);
const network = await Network.open(linkKinds[0] as (typeof linkKinds)[0], work);
try {
  const idle = new Map<Setting, Trial['peakRssOfEnd']>();
  for (const setting of settings) {
    begin();
    const source = join(work, 'source');
    mkdirSync(source);
    writeFileSync(join(source, 'empty'), '');
    idle.set(setting, (await moved(setting, source)).peakRssOfEnd);
  }
  for (const { name, about, corpus, pages, change } of chosen) {
    const directory = await corpora.directory(corpus);
    const boundBytes = 64 * 1024 ** 2 + 16 * pages;
    console.log(
      `${name}: ${about}; bound ${mebibytes(boundBytes)} above ${settings.length === 1 ? 'that' : 'those'} of an empty file`,
    );
    for (const setting of settings) {
      begin();
      const source = join(work, 'source');
      await copyTree(join(directory, 'old'), source);
      for (const step of ['all of it', 'what changed']) {
        if (step === 'what changed') await change(source, join(directory, 'new'));
        const trial = await moved(setting, source);
        const least = idle.get(setting) ?? { client: 0, server: 0 };
        const parts = (['client', 'server'] as const).map((end) => {
          const above = trial.peakRssOfEnd[end] - least[end];
          if (above > boundBytes) process.exitCode = 1;
          return `${end} ${mebibytes(trial.peakRssOfEnd[end])} (${mebibytes(above)} above${above > boundBytes ? ', BEYOND THE BOUND' : ''})`;
        });
        console.log(`  ${setting.name}, ${step}: ${parts.join(', ')}, ${(trial.wallMs / 1000).toFixed(1)} s`);
      }
    }
  }
} finally {
  await network.close();
  rmSync(work, { recursive: true, force: true });
}

function begin(): void {
  for (const part of ['source', 'module', 'state']) rmSync(join(work, part), { recursive: true, force: true });
  mkdirSync(join(work, 'module/tree'), { recursive: true });
}

/** One transfer. Throws an Error if it fails or the trees differ. */
async function moved(setting: Setting, sourcePath: string): Promise<Trial> {
  const modulePath = join(work, 'module');
  const parts = {
    network,
    setting,
    statePath: join(work, 'state'),
    sourcePath,
    modulePath,
    limitMs,
    signal: stop.signal,
  };
  const trial = await runTrial(parts);
  if (!trial.ok) throw new Error(`${setting.name}: ${trial.note}`);
  if (!(await haveSameDigest(sourcePath, join(modulePath, 'tree')))) {
    throw new Error(`${setting.name}: the trees differ`);
  }
  return trial;
}

function mebibytes(bytes: number): string {
  return `${(bytes / 1024 ** 2).toFixed(0)} MiB`;
}
