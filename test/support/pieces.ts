/** Bytes as streams, in pieces of a chosen size. */
import { Readable, Writable } from 'node:stream';

/** A stream of `bytes` in pieces of `pieceBytes`. */
export function inPieces(bytes: Uint8Array, pieceBytes: number): Readable {
  let at = 0;
  return new Readable({
    highWaterMark: Math.max(1, pieceBytes),
    read() {
      this.push(at < bytes.length ? bytes.subarray(at, at + pieceBytes) : null);
      at += pieceBytes;
    },
  });
}

/** A stream that keeps what it is given, and does not take it all at once. */
export class Collector extends Writable {
  private readonly pieces: Buffer[] = [];

  constructor() {
    super({ highWaterMark: 1024 });
  }

  override _write(piece: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    this.pieces.push(piece);
    setImmediate(done);
  }

  get bytes(): Buffer {
    return Buffer.concat(this.pieces);
  }
}

/** What `write` writes into a stream. */
export async function collect(write: (output: Writable) => Promise<unknown>): Promise<Buffer> {
  const output = new Collector();
  await write(output);
  return output.bytes;
}
