/** The hashes of native/FORMATS.md sections 1 and 2, over WebAssembly. */
import { createBLAKE3, type IHasher } from 'hash-wasm';

const segmentBytes = 1 << 20;
const sumLabel = Buffer.from('deltahop rolling sum');

function digestOf(hasher: IHasher, ...parts: Uint8Array[]): Buffer {
  hasher.init();
  for (const part of parts) hasher.update(part);
  return Buffer.from(hasher.digest('binary'));
}

/** `blake3:<64 hex digits>`. */
export function digestText(digest: Buffer): string {
  return `blake3:${digest.toString('hex')}`;
}

/** Plain BLAKE3-256. One instance must not be used for two things at once. */
export class Blake3 {
  private constructor(private readonly hasher: IHasher) {}

  static async create(): Promise<Blake3> {
    return new Blake3(await createBLAKE3());
  }

  digest(...parts: Uint8Array[]): Buffer {
    return digestOf(this.hasher, ...parts);
  }
}

/** The content digest of a file, from its bytes in order. */
export class ContentHasher {
  private segmentLength = 0;
  private length = 0;

  private constructor(
    private readonly segment: IHasher,
    private readonly root: IHasher,
  ) {
    segment.init();
    root.init();
  }

  static async create(): Promise<ContentHasher> {
    return new ContentHasher(await createBLAKE3(), await createBLAKE3());
  }

  update(bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length; ) {
      const taken = Math.min(bytes.length - at, segmentBytes - this.segmentLength);
      this.segment.update(bytes.subarray(at, at + taken));
      this.segmentLength += taken;
      at += taken;
      if (this.segmentLength === segmentBytes) this.endSegment();
    }
    this.length += bytes.length;
  }

  /** Bytes so far. */
  get size(): number {
    return this.length;
  }

  /** Call once, last. */
  finish(): Buffer {
    if (this.segmentLength > 0) this.endSegment();
    const size = Buffer.alloc(8);
    size.writeBigUInt64LE(BigInt(this.length));
    this.root.update(size);
    return Buffer.from(this.root.digest('binary'));
  }

  private endSegment(): void {
    this.root.update(this.segment.digest('binary'));
    this.segment.init();
    this.segmentLength = 0;
  }
}

/** Weak and strong hashes under a session's key. */
export class KeyedHashes {
  private readonly multiplier: number;

  private constructor(private readonly keyed: IHasher) {
    this.multiplier = ((digestOf(this.keyed, sumLabel).readUInt32LE(0) & ~7) | 5) >>> 0;
  }

  static async create(key: Uint8Array): Promise<KeyedHashes> {
    return new KeyedHashes(await createBLAKE3(256, key));
  }

  /** First 8 bytes of the keyed BLAKE3. */
  strong(block: Uint8Array): Buffer {
    return digestOf(this.keyed, block).subarray(0, 8);
  }

  /** Weak sum of bytes[from .. from + length). */
  weak(bytes: Uint8Array, from: number, length: number): number {
    let sum = 0;
    for (let i = from; i < from + length; ++i) {
      sum = (Math.imul(sum, this.multiplier) + (bytes[i] ?? 0)) | 0;
    }
    return sum >>> 0;
  }

  /** How a window of `length` bytes rolls: sum' = sum * multiplier + entering - leaving * leavingPower, mod 2^32. */
  rolling(length: number): { multiplier: number; leavingPower: number } {
    let leavingPower = 1;
    for (let i = 0; i < length; ++i) leavingPower = Math.imul(leavingPower, this.multiplier);
    return { multiplier: this.multiplier, leavingPower };
  }
}
