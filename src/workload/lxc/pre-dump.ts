import { link, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';

/**
 * CRIU's pre-dump: memory alone, for which a container stands still only until its pages are in hand, before they are
 * written. It takes a kernel that tracks which pages are written to (Criu.tracksMemory).
 */

/** Images of memory pages; all others are of files, sockets, threads and file systems in memory. */
const pageImage = /^page(map|s)-/;

/** Of what a pre-dump leaves out, no more than this may wait for the freeze. */
const maxOtherBytes = 1024 * 1024;

/**
 * Whether a pre-dump does for a round after the dump in `images`. Not where file systems in memory or deleted files are
 * large: they are no pages, and would have to be sent under the freeze.
 */
export async function preDumpWillDo(images: string): Promise<boolean> {
  const others = (await readdir(images)).filter((name) => !pageImage.test(name));
  const sizes = await Promise.all(others.map(async (name) => (await stat(join(images, name))).size));
  return sizes.reduce((sum, size) => sum + size, 0) <= maxOtherBytes;
}

/** Gives a pre-dump in `images` what it has not from the dump before it, so that the next one still has that as its basis. */
export async function completePreDump(images: string, before: string): Promise<void> {
  const there = new Set(await readdir(images));
  const missing = (await readdir(before)).filter((name) => !there.has(name) && !pageImage.test(name));
  await Promise.all(missing.map((name) => link(join(before, name), join(images, name))));
}
