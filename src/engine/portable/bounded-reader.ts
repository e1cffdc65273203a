/** Numbers and lengths from outside, each checked against a bound before it is used. */
import { DeltahopError } from '../../errors.js';

/** The next byte; throws at the end. */
type NextByte = () => number;

function readVarint(next: NextByte, max: number, what: string): number {
  let value = 0;
  let scale = 1;
  for (let i = 0; i < 10; ++i) {
    const byte = next();
    value += (byte & 127) * scale;
    if (value > max) throw new DeltahopError('DELTAHOP_E_LIMIT', `${what} is above its bound`);
    if (byte < 128) {
      if (byte === 0 && i > 0) break;
      return value;
    }
    scale *= 128;
  }
  throw new DeltahopError('DELTAHOP_E_CORRUPT', `${what} is not a number in its shortest form`);
}

/** Unsigned LEB128. */
export function varint(value: number): Buffer {
  const bytes: number[] = [];
  for (let rest = value; ; rest = Math.floor(rest / 128)) {
    if (rest < 128) return Buffer.from([...bytes, rest]);
    bytes.push((rest % 128) | 128);
  }
}

/** Reads bytes that are all there: nothing may be cut short, so an early end is DELTAHOP_E_CORRUPT. */
export class BoundedReader {
  private at = 0;

  constructor(
    private readonly bytes: Buffer,
    private readonly what: string,
  ) {}

  get remaining(): number {
    return this.bytes.length - this.at;
  }

  u8(): number {
    return this.take(1).readUInt8();
  }

  varint(max: number): number {
    return readVarint(() => this.u8(), max, this.what);
  }

  take(length: number): Buffer {
    if (length > this.remaining) throw new DeltahopError('DELTAHOP_E_CORRUPT', `${this.what} is cut short`);
    this.at += length;
    return this.bytes.subarray(this.at - length, this.at);
  }

  expectEnd(): void {
    if (this.remaining > 0) throw new DeltahopError('DELTAHOP_E_CORRUPT', `bytes after the end of ${this.what}`);
  }
}

/** Reads from pieces as they come; an early end is DELTAHOP_E_TRUNCATED. */
export class PieceReader {
  private held: Buffer = Buffer.alloc(0);
  private readonly pieces: AsyncIterator<Buffer>;

  constructor(
    pieces: AsyncIterable<Buffer>,
    private readonly what: string,
    /** Told of all that is taken, in order. */
    private readonly onTaken: (bytes: Buffer) => void = () => undefined,
  ) {
    this.pieces = pieces[Symbol.asyncIterator]();
  }

  async take(length: number): Promise<Buffer> {
    if (this.held.length < length) await this.gather(length);
    const taken = this.held.subarray(0, length);
    this.held = this.held.subarray(length);
    this.onTaken(taken);
    return taken;
  }

  async varint(max: number): Promise<number> {
    const bytes: number[] = [];
    do bytes.push((await this.take(1)).readUInt8());
    while ((bytes.at(-1) ?? 0) >= 128 && bytes.length < 10);
    let at = 0;
    return readVarint(() => bytes[at++] ?? 0, max, this.what);
  }

  async expectEnd(): Promise<void> {
    const rest = this.held.length > 0 ? this.held : await this.nextPiece();
    if (rest !== null) throw new DeltahopError('DELTAHOP_E_CORRUPT', `bytes after the end of ${this.what}`);
  }

  private async gather(length: number): Promise<void> {
    const parts = [this.held];
    for (let bytes = this.held.length; bytes < length; ) {
      const piece = await this.nextPiece();
      if (piece === null) throw new DeltahopError('DELTAHOP_E_TRUNCATED', `${this.what} is cut short`);
      parts.push(piece);
      bytes += piece.length;
    }
    this.held = Buffer.concat(parts);
  }

  private async nextPiece(): Promise<Buffer | null> {
    for (;;) {
      const next = await this.pieces.next();
      if (next.done) return null;
      if (next.value.length > 0) return next.value;
    }
  }
}
