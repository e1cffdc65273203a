/** Directory trees of the trials: making the target what it was, and saying whether two trees are equal. */
import { existsSync, mkdirSync, rmSync } from 'node:fs';
import { loadEngine } from '../src/engine/engine.js';
import { run } from '../test/testbed/command.js';
import { rsyncProgram } from './contenders.js';

const hourMs = 3_600_000;

/** Makes `path` a faithful copy of `from`, from nothing. */
export async function copyTree(from: string | null, path: string): Promise<void> {
  rmSync(path, { recursive: true, force: true });
  if (from === null) mkdirSync(path);
  else await run(['cp', '-a', '--sparse=always', from, path], { timeoutMs: hourMs });
}

/**
 * Makes `path`, a copy of `from` or of a tree that was synced onto it, a copy of `from` again. Files that differ differ in
 * size or time too (the corpora are made so), hence only what a trial changed is written.
 */
export async function restoreTree(from: string | null, path: string): Promise<void> {
  if (from === null || !existsSync(path)) return await copyTree(from, path);
  const options = ['-aHAXS', '--numeric-ids', '--delete', '--modify-window=-1', '--whole-file'];
  await run([rsyncProgram, ...options, `${from}/`, `${path}/`], { timeoutMs: hourMs });
}

/**
 * Changes the tree at `path` into one equal to `to` as a program at work would: what stays the same is not touched, what
 * changes is written where it is. Whole files, as rsync's hashes are not to be trusted in a cell that is made of collisions.
 */
export async function changeTree(path: string, to: string): Promise<void> {
  const options = ['-aHAXS', '--numeric-ids', '--delete', '--modify-window=-1', '--inplace', '--whole-file'];
  await run([rsyncProgram, ...options, `${to}/`, `${path}/`], { timeoutMs: hourMs });
}

/** How closely two trees are compared: by names, sizes and times; besides, by our digests of all; besides, by rsync's sums. */
export type Closeness = 'by times' | 'by digests' | 'by contents';

/** What tells two trees apart, in a few words; empty if nothing does. */
export async function difference(onePath: string, otherPath: string, closeness: Closeness): Promise<string> {
  const options = ['-n', '-aHAXi', '--numeric-ids', '--delete', ...(closeness === 'by contents' ? ['--checksum'] : [])];
  const listing = await run([rsyncProgram, ...options, `${onePath}/`, `${otherPath}/`], { timeoutMs: hourMs });
  const lines = listing.stdout.split('\n').filter(Boolean);
  if (lines.length > 0) return `rsync -n finds ${lines.length} differences, the first is ${lines[0]}`;
  if (closeness === 'by times') return '';
  return (await haveSameDigest(onePath, otherPath))
    ? ''
    : 'rsync -n finds no difference, but the digests of the trees differ';
}

/** Whether our digests of all that two trees hold are the same. */
export async function haveSameDigest(onePath: string, otherPath: string): Promise<boolean> {
  const engine = loadEngine();
  const [one, other] = [await engine.treeDigest(onePath), await engine.treeDigest(otherPath)];
  return one.digest === other.digest;
}
