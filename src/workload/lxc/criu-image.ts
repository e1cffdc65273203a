/** The frame of CRIU's image files (criu.org/Images): magic numbers, then protobuf messages, each after its length. */
import { DeltahopError } from '../../errors.js';

/**
 * Where the messages of an image are.
 *
 * @param header Its magic numbers: two, but one of service files such as inventory.img (criu/include/magic.h).
 * @throws DeltahopError DELTAHOP_E_CHECKPOINT if it does not begin with them, or is not in that form.
 */
export function* entries(image: Buffer, header: Buffer): Generator<{ start: number; end: number }> {
  if (!image.subarray(0, header.length).equals(header)) throw malformed();
  for (let at = header.length; at < image.length; ) {
    if (at + 4 > image.length) throw malformed();
    const start = at + 4;
    at = start + image.readUInt32LE(at);
    if (at > image.length) throw malformed();
    yield { start, end: at };
  }
}

/** One field of a message: its value if it is a varint, and where its bytes are. */
export interface Field {
  value: number | null;
  start: number;
  end: number;
}

/** The fields of a protobuf message by number (protobuf.dev, "Encoding"); a number that repeats keeps its last. */
export function fields(image: Buffer, from: number, to: number): Map<number, Field> {
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

/** For whoever finds more wrong with it. */
export function malformed(): DeltahopError {
  return new DeltahopError('DELTAHOP_E_CHECKPOINT', 'an image of the checkpoint is not in the format of CRIU 4');
}
