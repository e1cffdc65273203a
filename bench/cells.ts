/** The cells of the benchmark: what is there, and what it is to become. */
import { join } from 'node:path';
import type { Corpus, CorpusCache } from './corpus/corpus.js';
import { disk, linuxSource, rootFileSystem } from './corpus/debian.js';
import { guestMemory } from './corpus/machine.js';
import { nodeHeap, nodeHeapRestarted, nodeHeapSmall, pythonDatabase, redisWrites } from './corpus/memory.js';
import {
  alikeBlocks,
  grownLog,
  hashCollisions,
  insertedInFront,
  nothingMatches,
  smallFiles,
  sparse,
  weakSumCollisions,
} from './corpus/synthetic.js';

/** How much of the benchmark runs. */
export type Extent = 'quick' | 'default' | 'full';

/** One cell. */
export interface Cell {
  name: string;
  group: 'tree' | 'disk' | 'memory' | 'synthetic';
  /** One line for the report. */
  about: string;
  /** The runs that it is part of. */
  extents: readonly Extent[];
  corpus: Corpus;
  /** Where the new tree is, if not in `corpus`. */
  newCorpus?: Corpus;
  /** Trees below the corpus' directory; null: the target begins empty. */
  old: string | null;
  new: string;
  /** Rsync gets -S. */
  holes: boolean;
}

/** The small twin of another cell. */
const twin: readonly Extent[] = ['quick'];
const always: readonly Extent[] = ['quick', 'default', 'full'];
const usual: readonly Extent[] = ['default', 'full'];
const rare: readonly Extent[] = ['full'];

const mib = 1024 * 1024;
const gib = 1024 * mib;

function synthetic(name: string, extents: readonly Extent[], corpus: Corpus, about: string, holes = false): Cell {
  return { name, group: 'synthetic', about, extents, corpus, old: 'old', new: 'new', holes };
}

function tree(
  name: string,
  extents: readonly Extent[],
  corpus: Corpus,
  trees: [old: string | null, next: string],
  about: string,
): Cell {
  return { name, group: 'tree', about, extents, corpus, old: trees[0], new: trees[1], holes: false };
}

function image(name: string, corpus: Corpus, trees: [old: string, next: string], about: string): Cell {
  return { name, group: 'disk', about, extents: usual, corpus, old: trees[0], new: trees[1], holes: true };
}

function memory(name: string, extents: readonly Extent[], corpus: Corpus, round: number, about: string): Cell {
  return { name, group: 'memory', about, extents, corpus, old: `${round - 1}`, new: `${round}`, holes: false };
}

/** Three rounds; the second, in which the program has settled, stands for them where time is short. */
function rounds(name: string, corpus: Corpus, about: string): Cell[] {
  return [1, 2, 3].map((round) =>
    memory(`${name}-${round}`, round === 2 ? usual : rare, corpus, round, `${about}, round ${round}`),
  );
}

/** All cells, in the order in which they run. */
export const cells: readonly Cell[] = [
  synthetic('insert-small', twin, insertedInFront(128 * mib), 'One byte inserted in front of 128 MiB'),
  synthetic('insert', usual, insertedInFront(gib), 'One byte inserted in front of 1 GiB'),
  synthetic('no-match-small', twin, nothingMatches(64 * mib), '64 MiB of which nothing matches'),
  synthetic('no-match', usual, nothingMatches(512 * mib), '512 MiB of which nothing matches'),
  synthetic(
    'weak-collisions',
    usual,
    weakSumCollisions(64 * mib),
    "64 MiB whose blocks all have one weak sum in rsync's hash",
  ),
  synthetic(
    'hash-collisions',
    always,
    hashCollisions(64 * mib),
    '64 MiB of pages that all changed and kept their seeded XXH3-128 and their weak sum',
  ),
  synthetic('alike', usual, alikeBlocks(256 * mib), '256 MiB of 4 KiB blocks that are all alike but for 16'),
  synthetic('log', always, grownLog(128 * mib, 4 * mib), 'A log of 128 MiB that grew by 4 MiB'),
  synthetic('sparse-8g', usual, sparse(8 * gib), 'A sparse file of 8 GiB, 4 of its 64 MiB changed', true),
  synthetic('sparse', rare, sparse(64 * gib), 'A sparse file of 64 GiB, 4 of its 64 MiB changed', true),
  tree('small-files-10k', twin, smallFiles(10_000), ['old', 'new'], '10,000 files of 1 KiB, 1 % of them changed'),
  tree('small-files', usual, smallFiles(100_000), ['old', 'new'], '100,000 files of 1 KiB, 1 % of them changed'),
  tree(
    'linux-upgrade',
    usual,
    linuxSource,
    ['oldest', 'newest'],
    'Linux 6.1 source, the oldest version that Debian has to the newest',
  ),
  tree('linux-unchanged', usual, linuxSource, ['newest', 'newest'], 'The Linux source, unchanged'),
  tree('linux-renamed', usual, linuxSource, ['newest', 'renamed'], 'The Linux source with drivers/net renamed'),
  tree('linux-cold', usual, linuxSource, [null, 'newest'], 'The Linux source to an empty directory'),
  tree(
    'rootfs',
    usual,
    rootFileSystem,
    ['upgraded', 'opencv'],
    'A bookworm root file system in which python3-opencv is installed',
  ),
  image('disk', disk, ['raw-old', 'raw-new'], 'A 4 GiB ext4 disk after an upgrade and writes to a database'),
  image('disk-qcow2', disk, ['qcow2-old', 'qcow2-new'], 'The same disk as qcow2'),
  memory('node-small', twin, nodeHeapSmall, 2, 'CRIU images of node with a heap of 60 MB'),
  ...rounds('node', nodeHeap, 'CRIU images of node with a large heap'),
  ...rounds('python', pythonDatabase, 'CRIU images of python with an SQLite database in memory'),
  ...rounds('redis', redisWrites, 'CRIU images of redis under writes'),
  ...rounds('guest-memory', guestMemory, 'Memory of a busy virtual machine of 512 MiB'),
  {
    ...memory(
      'node-restarted',
      usual,
      nodeHeap,
      0,
      'CRIU images of node, of the same program started again: other addresses all over',
    ),
    old: '0',
    new: '0',
    newCorpus: nodeHeapRestarted,
  },
];

/** Paths of a cell's trees. Throws an Error that says why if a corpus cannot be made here. */
export async function treesOf(cell: Cell, corpora: CorpusCache): Promise<{ oldPath: string | null; newPath: string }> {
  const path = await corpora.directory(cell.corpus);
  const newPath = cell.newCorpus === undefined ? path : await corpora.directory(cell.newCorpus);
  return { oldPath: cell.old === null ? null : join(path, cell.old), newPath: join(newPath, cell.new) };
}
