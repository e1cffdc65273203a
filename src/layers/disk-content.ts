/**
 * The content of a layer of form `disk`, in a form that depends on nothing but what the disk holds:
 *
 *     disk     the disk as it is, raw and sparse; its length is the disk's, rounded up to whole blocks
 *     blocks   of an app layer: one bit for each block of `disk`, the lowest of a byte first; 1: the block is the layer's
 *              own, 0: it is the parent's, and a hole here
 *
 * Modes, owners and times are always the same, so the digest of the tree is a digest of the content. No image format is
 * ever taken from a peer: what a hypervisor needs beside it is made of this on each node.
 */
import { chmod, chown, type FileHandle, lstat, open, readdir, truncate, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import { DeltahopError } from '../errors.js';

/** Writes what an image holds, with all that it is built upon, into a raw sparse file that does not exist yet. */
export type FlattenImage = (imagePath: string, rawPath: string, signal?: AbortSignal) => Promise<void>;

/** Bytes of a block: what file systems and guests write at once, at the least. */
export const diskBlockBytes = 4096;

const readBytes = 1 << 20;
const zeros = Buffer.alloc(diskBlockBytes);
const longAgo = new Date(0);

/** Makes the content of a base layer of an image. */
export async function makeBaseDisk(
  imagePath: string,
  content: string,
  flatten: FlattenImage,
  signal?: AbortSignal,
): Promise<void> {
  const disk = join(content, 'disk');
  await flatten(imagePath, disk, signal);
  const { size } = await lstat(disk);
  await truncate(disk, Math.ceil(size / diskBlockBytes) * diskBlockBytes);
  await settle(content, ['disk']);
}

/**
 * Makes the content of an app layer of an image: the blocks in which it differs from its parent.
 * @param scratchPath Where the whole disk lies meanwhile.
 * @throws DeltahopError DELTAHOP_E_INVALID_ARGUMENT if it is smaller than its parent.
 */
export async function makeAppDisk(
  imagePath: string,
  content: string,
  parentContent: string,
  scratchPath: string,
  flatten: FlattenImage,
  signal?: AbortSignal,
): Promise<void> {
  await flatten(imagePath, scratchPath, signal);
  const [whole, parent] = await Promise.all([open(scratchPath, 'r'), open(join(parentContent, 'disk'), 'r')]);
  const disk = await open(join(content, 'disk'), 'wx');
  try {
    const blocks = Math.ceil((await whole.stat()).size / diskBlockBytes);
    if (blocks * diskBlockBytes < (await parent.stat()).size) {
      throw new DeltahopError('DELTAHOP_E_INVALID_ARGUMENT', `the disk in ${imagePath} is smaller than its parent’s`);
    }
    const own = Buffer.alloc(Math.ceil(blocks / 8));
    await disk.truncate(blocks * diskBlockBytes);
    for (let at = 0; at < blocks * diskBlockBytes; at += readBytes) {
      signal?.throwIfAborted();
      const [is, was] = await Promise.all([readAt(whole, at), readAt(parent, at)]);
      if (is.equals(was)) continue;
      for (let offset = 0; offset < readBytes; offset += diskBlockBytes) {
        const block = is.subarray(offset, offset + diskBlockBytes);
        if (block.equals(was.subarray(offset, offset + diskBlockBytes))) continue;
        const index = (at + offset) / diskBlockBytes;
        own[index >> 3] = (own[index >> 3] ?? 0) | (1 << (index & 7));
        if (!block.equals(zeros)) await disk.write(block, 0, diskBlockBytes, at + offset);
      }
    }
    await disk.sync();
    const map = await open(join(content, 'blocks'), 'wx');
    try {
      await map.writeFile(own);
      await map.sync();
    } finally {
      await map.close();
    }
  } finally {
    await Promise.all([whole.close(), parent.close(), disk.close()]);
  }
  await settle(content, ['disk', 'blocks']);
}

/**
 * Whether a directory that came from elsewhere can be the content of a disk layer upon `parentContent` (null: a base).
 * Its digest is somebody else's business.
 * @throws DeltahopError DELTAHOP_E_CORRUPT saying what is wrong.
 */
export async function checkDiskContent(content: string, parentContent: string | null): Promise<void> {
  const wrong = (what: string) => new DeltahopError('DELTAHOP_E_CORRUPT', `${content} is no disk layer: ${what}`);
  const wanted = parentContent === null ? ['disk'] : ['blocks', 'disk'];
  const found = (await readdir(content)).sort();
  if (found.join() !== wanted.join()) throw wrong(`it holds ${found.join(', ')}`);
  // A symbolic link would let a guest read a file of this node.
  const sizeOf = async (path: string): Promise<number> => {
    const status = await lstat(path);
    if (!status.isFile()) throw wrong(`${path} is not a file`);
    return status.size;
  };
  const bytes = await sizeOf(join(content, 'disk'));
  if (bytes % diskBlockBytes !== 0 || bytes === 0) throw wrong(`a disk of ${bytes} bytes`);
  if (parentContent === null) return;
  if (bytes < (await sizeOf(join(parentContent, 'disk')))) throw wrong('its disk is smaller than its parent’s');
  if ((await sizeOf(join(content, 'blocks'))) !== Math.ceil(bytes / diskBlockBytes / 8)) {
    throw wrong('its list of blocks does not fit its disk');
  }
}

/** Reads from a place of a file; what is behind its end is zeros. */
async function readAt(file: FileHandle, position: number): Promise<Buffer> {
  const buffer = Buffer.alloc(readBytes);
  for (let filled = 0; filled < readBytes; ) {
    const { bytesRead } = await file.read(buffer, filled, readBytes - filled, position + filled);
    if (bytesRead === 0) break;
    filled += bytesRead;
  }
  return buffer;
}

async function settle(content: string, names: readonly string[]): Promise<void> {
  for (const path of [...names.map((name) => join(content, name)), content]) {
    await chmod(path, path === content ? 0o700 : 0o444);
    await chown(path, 0, 0);
    await utimes(path, longAgo, longAgo);
  }
}
