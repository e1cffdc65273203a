import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { entries, fields } from './criu-image.js';

/** `IMG_COMMON_MAGIC` and `FILES_MAGIC` (CRIU, images/magic.h as of 4.x), the first eight bytes of files.img. */
const filesHeader = Buffer.from('1943565438313056', 'hex');
/** `fd_types.TIMERFD` and the fields' numbers (CRIU, images/fdinfo.proto and images/timerfd.proto). */
const timerfdType = 17;
const entryField = { type: 1, timerfd: 12 } as const;
const timerField = { seconds: 7, nanoseconds: 8, intervalSeconds: 9, intervalNanoseconds: 10 } as const;

/**
 * Winds up again the periodic timerfds of an image that had run out while the service was stopped.
 *
 * The kernel winds such a timer up when its descriptor is read, not when it runs out; so a timer that ran out between the
 * stop and CRIU's look at it has no time left, and CRIU 4.2 restores it with none, which means: never again. Every period
 * shorter than a dump is affected. One nanosecond left makes it go off at once and go on, as it would have here. The
 * entry keeps its length, since both 0 and 1 are a varint of one byte.
 *
 * @param images Directory of the image.
 * @throws DeltahopError DELTAHOP_E_CHECKPOINT if files.img is not what CRIU 4 writes.
 */
export async function rewindExpiredTimers(images: string): Promise<void> {
  const path = join(images, 'files.img');
  const image = await readFile(path);
  if (!rewind(image)) return;
  await writeFile(path, image);
}

/** Works on the bytes of files.img in place. @returns whether anything was changed. */
export function rewind(image: Buffer): boolean {
  let changed = false;
  for (const { start, end } of entries(image, filesHeader)) {
    const entry = fields(image, start, end);
    const timer = entry.get(entryField.timerfd);
    if (entry.get(entryField.type)?.value !== timerfdType || timer === undefined) continue;
    const timerFields = fields(image, timer.start, timer.end);
    const isZero = (number: number): boolean => timerFields.get(number)?.value === 0;
    const runOut = isZero(timerField.seconds) && isZero(timerField.nanoseconds);
    const periodic = !isZero(timerField.intervalSeconds) || !isZero(timerField.intervalNanoseconds);
    const nanoseconds = timerFields.get(timerField.nanoseconds);
    if (!runOut || !periodic || nanoseconds === undefined) continue;
    image[nanoseconds.start] = 1;
    changed = true;
  }
  return changed;
}
