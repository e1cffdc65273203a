/** Two ends of a connection in memory, with the back-pressure of a real one, that can be cut. */
import { Duplex } from 'node:stream';

/** How a connection treats what crosses it. */
export interface DuplexPairOptions {
  /** Bytes are delivered in pieces of this size; as written when absent. */
  pieceBytes?: number;
  /** The connection breaks after this many bytes, both directions together. */
  cutAfterBytes?: number;
  /** Changes each piece on its way. */
  alter?: (piece: Buffer) => Buffer;
}

class End extends Duplex {
  peer!: End;
  private blocked: (() => void) | null = null;

  constructor(private readonly line: Line) {
    super({ allowHalfOpen: false });
  }

  override _write(bytes: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    this.line.carry(this.peer, bytes);
    if (this.peer.readableLength < this.peer.readableHighWaterMark || this.peer.destroyed) setImmediate(done);
    else this.peer.blocked = () => setImmediate(done);
  }

  override _final(done: (error?: Error | null) => void): void {
    if (!this.peer.destroyed) this.peer.push(null);
    done();
  }

  override _read(): void {
    const proceed = this.blocked;
    this.blocked = null;
    proceed?.();
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this._read();
    // As with a socket: whoever is at the other end sees the end of the stream.
    if (!this.peer.destroyed) setImmediate(() => this.peer.destroy());
    done(error);
  }
}

class Line {
  carriedBytes = 0;
  readonly ends: readonly [End, End];
  private readonly options: DuplexPairOptions;

  constructor(options: DuplexPairOptions) {
    this.options = options;
    this.ends = [new End(this), new End(this)];
    this.ends[0].peer = this.ends[1];
    this.ends[1].peer = this.ends[0];
  }

  carry(to: End, bytes: Buffer): void {
    const { pieceBytes = bytes.length, cutAfterBytes = Number.POSITIVE_INFINITY, alter } = this.options;
    for (let at = 0; at < bytes.length && !to.destroyed; at += pieceBytes) {
      let piece = bytes.subarray(at, at + Math.min(pieceBytes, cutAfterBytes - this.carriedBytes));
      this.carriedBytes += piece.length;
      if (alter !== undefined) piece = alter(piece);
      if (piece.length > 0) to.push(piece);
      if (this.carriedBytes >= cutAfterBytes) {
        setImmediate(() => {
          for (const end of this.ends) end.destroy(new Error('the line was cut'));
        });
        return;
      }
    }
  }
}

/** Two connected streams, and how many bytes have crossed. */
export function duplexPair(options: DuplexPairOptions = {}): { ends: readonly [Duplex, Duplex]; bytes: () => number } {
  const line = new Line(options);
  return { ends: line.ends, bytes: () => line.carriedBytes };
}
