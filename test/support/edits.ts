/** Random contents and random edits of them, for property tests: what a file was, and what it has become. */
import { createCipheriv, createHash } from 'node:crypto';
import fc from 'fast-check';

/** `length` bytes that do not compress, nor repeat those of another seed, and are the same in every run. */
export function noise(seed: number, length: number): Buffer {
  const key = createHash('sha256').update(String(seed)).digest();
  return createCipheriv('aes-256-ctr', key, Buffer.alloc(16)).update(Buffer.alloc(length));
}

function fill(kind: string, seed: number, length: number): Buffer {
  if (kind === 'zeros') return Buffer.alloc(length);
  if (kind === 'noise') return noise(seed, length);
  // Low entropy and periods: many equal blocks, many candidates.
  if (kind === 'period') return Buffer.alloc(length, noise(seed, 1 + (seed % 700)));
  return Buffer.alloc(length, seed & 255);
}

function segments(maxBytes: number): fc.Arbitrary<Buffer> {
  const segment = fc.record({
    kind: fc.constantFrom('noise', 'noise', 'zeros', 'period', 'byte'),
    seed: fc.nat(10_000),
    length: fc.oneof(fc.constantFrom(0, 1, 511, 512, 513, 4095, 4096, 4097), fc.nat(maxBytes)),
  });
  return fc
    .array(segment, { maxLength: 5 })
    .map((list) => Buffer.concat(list.map(({ kind, seed, length }) => fill(kind, seed, length))));
}

interface Edit {
  kind: 'insert' | 'delete' | 'replace' | 'move' | 'copy' | 'truncate';
  /** Where, as a fraction of the length. */
  at: number;
  to: number;
  length: number;
  seed: number;
}

function apply(bytes: Buffer, { kind, at, to, length, seed }: Edit): Buffer {
  const from = Math.floor(at * bytes.length);
  const until = Math.min(bytes.length, from + length);
  const [head, body, tail] = [bytes.subarray(0, from), bytes.subarray(from, until), bytes.subarray(until)];
  switch (kind) {
    case 'insert':
      return Buffer.concat([head, noise(seed, length), body, tail]);
    case 'delete':
      return Buffer.concat([head, tail]);
    case 'replace':
      return Buffer.concat([head, noise(seed, body.length), tail]);
    case 'truncate':
      return head;
    default: {
      const rest = kind === 'move' ? Buffer.concat([head, tail]) : bytes;
      const target = Math.floor(to * rest.length);
      return Buffer.concat([rest.subarray(0, target), body, rest.subarray(target)]);
    }
  }
}

/** A basis and what became of it. */
export function editedPair(maxSegmentBytes: number): fc.Arbitrary<{ basis: Buffer; target: Buffer }> {
  const edit: fc.Arbitrary<Edit> = fc.record({
    kind: fc.constantFrom('insert', 'delete', 'replace', 'move', 'copy', 'truncate'),
    at: fc.double({ min: 0, max: 1, noNaN: true }),
    to: fc.double({ min: 0, max: 1, noNaN: true }),
    length: fc.oneof(fc.constantFrom(1, 2, 511, 512, 4096), fc.nat(maxSegmentBytes)),
    seed: fc.nat(10_000),
  });
  return fc
    .tuple(segments(maxSegmentBytes), fc.array(edit, { maxLength: 6 }))
    .map(([basis, edits]) => ({ basis, target: edits.reduce(apply, basis) }));
}
