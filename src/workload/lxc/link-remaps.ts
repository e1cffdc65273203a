import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { entries, fields } from './criu-image.js';

/** `IMG_COMMON_MAGIC` and `REMAP_FPATH_MAGIC` (CRIU, criu/include/magic.h as of 4.x), the first bytes of remap-fpath.img. */
const remapsHeader = Buffer.from('1943565454391359', 'hex');

/** `remap_type` of a remap_file_path_entry, and its values that leave the files alone (images/remap-file-path.proto). */
const typeField = 3;
const ghost = 1;
const procfs = 2;

/**
 * Whether a dump has made names in the container's files: for a file that is open and has no name left, but is not gone
 * either (`link_remap.N`). One that is gone but for being open is in the image instead.
 *
 * @param images Directory of the image. One that can not be understood counts as if it had.
 */
export async function madeNames(images: string): Promise<boolean> {
  const image = await readFile(join(images, 'remap-fpath.img')).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return null;
    throw error;
  });
  return image !== null && hasLinkRemap(image);
}

/** Of remap-fpath.img's bytes. */
export function hasLinkRemap(image: Buffer): boolean {
  try {
    for (const { start, end } of entries(image, remapsHeader)) {
      const type = fields(image, start, end).get(typeField)?.value;
      if (type !== ghost && type !== procfs) return true;
    }
    return false;
  } catch {
    return true;
  }
}
