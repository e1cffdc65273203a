/** The reverse of the encoder: checks everything, then gives the instructions. */
import zstd from 'zstd-napi/binding.js';
import { DeltahopError } from '../../errors.js';
import { BoundedReader, PieceReader } from './bounded-reader.js';
import { deltaMagic, deltaVersion, maxBlockBytes, maxLiteralBytes, maxOpsBytes, Op } from './delta-encoder.js';
import { maxFileBytes } from './signature.js';

/** One step towards the target. */
export type Instruction =
  | { kind: 'literal'; bytes: Buffer }
  | { kind: 'zeros'; length: number }
  | { kind: 'copy'; offset: number; length: number };

/** A delta stream, read as it comes. */
export class DeltaReader {
  private readonly reader: PieceReader;
  private readonly decompressor = new zstd.DCtx();
  private basisBytes = 0;
  private targetBytes = 0;
  /** What the end mark announces, once it was read. */
  end: { bytes: number; digest: Buffer } | null = null;

  constructor(pieces: AsyncIterable<Buffer>) {
    this.reader = new PieceReader(pieces, 'the delta');
  }

  /** The length of the basis that the delta was made against. Call first. */
  async header(): Promise<number> {
    if (!(await this.reader.take(4)).equals(deltaMagic)) throw new DeltahopError('DELTAHOP_E_CORRUPT', 'not a delta');
    if ((await this.reader.take(1))[0] !== deltaVersion) {
      throw new DeltahopError('DELTAHOP_E_UNSUPPORTED', 'delta of an unknown version');
    }
    this.basisBytes = await this.reader.varint(maxFileBytes * 9);
    return this.basisBytes;
  }

  /** The instructions of the next block, all checked; null after the end mark. */
  async block(): Promise<Instruction[] | null> {
    const length = await this.reader.varint(maxBlockBytes);
    if (length > 0) return this.decode(await this.reader.take(length));
    const bytes = await this.reader.varint(maxFileBytes);
    this.end = { bytes, digest: Buffer.from(await this.reader.take(32)) };
    await this.reader.expectEnd();
    return null;
  }

  private decode(block: Buffer): Instruction[] {
    const reader = new BoundedReader(block, 'a block of the delta');
    const ops = new BoundedReader(this.section(reader, maxOpsBytes), 'the instructions of the delta');
    const literals = new BoundedReader(this.section(reader, maxLiteralBytes), 'the literals of the delta');
    reader.expectEnd();
    if (ops.remaining === 0) throw new DeltahopError('DELTAHOP_E_CORRUPT', 'empty delta block');
    const instructions: Instruction[] = [];
    let copyExpected = 0;
    while (ops.remaining > 0) {
      const tag = ops.varint(maxFileBytes * 4 + 3);
      const length = Math.floor(tag / 4);
      if (length === 0) throw new DeltahopError('DELTAHOP_E_CORRUPT', 'empty delta instruction');
      this.targetBytes += length;
      if (this.targetBytes > maxFileBytes) throw new DeltahopError('DELTAHOP_E_LIMIT', 'delta makes more than 64 TiB');
      if (tag % 4 === Op.literal) instructions.push({ kind: 'literal', bytes: literals.take(length) });
      else if (tag % 4 === Op.zeros) instructions.push({ kind: 'zeros', length });
      else if (tag % 4 === Op.copy) {
        const jump = ops.varint(2 ** 52);
        const offset = copyExpected + (jump % 2 === 0 ? jump / 2 : -(jump + 1) / 2);
        if (offset < 0 || offset + length > this.basisBytes) {
          throw new DeltahopError('DELTAHOP_E_CORRUPT', 'delta copies from outside the basis');
        }
        copyExpected = offset + length;
        instructions.push({ kind: 'copy', offset, length });
      } else throw new DeltahopError('DELTAHOP_E_CORRUPT', 'unknown delta instruction');
    }
    literals.expectEnd();
    return instructions;
  }

  private section(reader: BoundedReader, maxBytes: number): Buffer {
    const kind = reader.u8();
    const rawBytes = reader.varint(maxBytes);
    if (kind === 0) return reader.take(rawBytes);
    if (kind !== 1) throw new DeltahopError('DELTAHOP_E_CORRUPT', 'unknown kind of a delta section');
    const encoded = reader.take(reader.varint(maxBlockBytes));
    // The room is what bounds it: whatever the frame claims, no more than this is made.
    const raw = Buffer.allocUnsafe(rawBytes);
    try {
      if (this.decompressor.decompress(raw, encoded) === rawBytes) return raw;
    } catch (error) {
      throw new DeltahopError('DELTAHOP_E_CORRUPT', 'a delta section does not decompress', { cause: error });
    }
    throw new DeltahopError('DELTAHOP_E_CORRUPT', 'a delta section of another length than announced');
  }
}
