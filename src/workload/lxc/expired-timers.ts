import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { DeltahopError } from '../../errors.js';

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
  if (!image.subarray(0, filesHeader.length).equals(filesHeader)) throw malformed();
  let changed = false;
  for (let at = filesHeader.length; at < image.length; ) {
    if (at + 4 > image.length) throw malformed();
    const start = at + 4;
    at = start + image.readUInt32LE(at);
    if (at > image.length) throw malformed();
    const entry = fields(image, start, at);
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

/** One field of a message: its value if it is a varint, and where its bytes are. */
interface Field {
  value: number | null;
  start: number;
  end: number;
}

/** The fields of a protobuf message by number (protobuf.dev, "Encoding"); a number that repeats keeps its last. */
function fields(image: Buffer, from: number, to: number): Map<number, Field> {
  const found = new Map<number, Field>();
  let at = from;
  const varint = (): number => {
    let value = 0;
    for (let shift = 0; shift < 70; shift += 7) {
      const byte = image[at++];
      if (byte === undefined || at > to) throw malformed();
      // Not by bit operators: a value may have 64 bits. What is beyond 2^53 is only ever compared with small numbers.
      value += (byte & 0x7f) * 2 ** shift;
      if (byte < 0x80) return value;
    }
    throw malformed();
  };
  while (at < to) {
    const key = varint();
    const wireType = key % 8;
    let start = at;
    let value: number | null = null;
    if (wireType === 0) {
      value = varint();
    } else if (wireType === 2) {
      const length = varint();
      start = at;
      at += length;
    } else if (wireType === 1 || wireType === 5) {
      at += wireType === 1 ? 8 : 4;
    } else {
      throw malformed();
    }
    if (at > to) throw malformed();
    found.set(Math.floor(key / 8), { value, start, end: at });
  }
  return found;
}

function malformed(): DeltahopError {
  return new DeltahopError('DELTAHOP_E_CHECKPOINT', 'files.img of the checkpoint is not in the format of CRIU 4');
}
