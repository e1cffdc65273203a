/** Finds the blocks of a signature at every byte offset of a target. */
import type { DeltaEncoder } from './delta-encoder.js';
import { KeyedHashes } from './hashes.js';
import { basisBytes, type Signature } from './signature.js';

/** Zeros in a row that are worth an instruction of their own. */
const minZeroRun = 512;
const maxCandidates = 8;

/** One pass over one target. */
export class Matcher {
  readonly statistics = { matchedBytes: 0, literalBytes: 0, zeroBytes: 0, falseMatches: 0 };
  /** Entries by weak sum. */
  private readonly index = new Map<number, number[]>();
  private readonly window: number;
  private readonly rolling: { multiplier: number; leavingPower: number };
  /** Short last blocks of the basis' files: number and length. */
  private readonly tails: { entry: number; length: number }[] = [];
  private held: Buffer = Buffer.alloc(0);
  /** Where a copy that follows on the last one would start. */
  private copyEnd = -1;

  private constructor(
    private readonly signature: Signature,
    private readonly hashes: KeyedHashes,
    private readonly encoder: DeltaEncoder,
  ) {
    this.window = signature.blockBytes;
    this.rolling = hashes.rolling(this.window);
    const size = basisBytes(signature);
    for (const [entry, block] of signature.blocks.entries()) {
      const start = block * this.window;
      const end = this.fileEnd(start);
      if (end - start < this.window) {
        if (end <= size) this.tails.push({ entry, length: end - start });
        continue;
      }
      const weak = signature.weak[entry] ?? 0;
      const entries = this.index.get(weak);
      if (entries === undefined) this.index.set(weak, [entry]);
      else if (entries.length < maxCandidates) entries.push(entry);
    }
  }

  static async create(signature: Signature, encoder: DeltaEncoder): Promise<Matcher> {
    return new Matcher(signature, await KeyedHashes.create(signature.key), encoder);
  }

  feed(bytes: Buffer): void {
    this.held = this.held.length === 0 ? bytes : Buffer.concat([this.held, bytes]);
    if (this.held.length >= 2 * this.window + minZeroRun) this.scan(false);
  }

  finish(): void {
    this.scan(true);
    const rest = this.held;
    for (const { entry, length } of this.tails) {
      const from = rest.length - length;
      if (from < 0 || this.hashes.weak(rest, from, length) !== this.signature.weak[entry]) continue;
      if (!this.strongEquals(entry, rest.subarray(from))) continue;
      this.literal(0, from);
      this.copy(entry, length);
      return;
    }
    this.literal(0, rest.length);
  }

  /** Settles what is held, but for what may become part of a match or a run of zeros with the bytes to come. */
  private scan(isEnd: boolean): void {
    const { held, window } = this;
    const { multiplier, leavingPower } = this.rolling;
    let done = 0;
    let at = 0;
    let sum = 0;
    let sumIsOf = -1;
    let zerosKnownUntil = 0;
    for (;;) {
      if (at >= zerosKnownUntil && held[at] === 0) {
        let end = at;
        while (end < held.length && held[end] === 0) ++end;
        if (end - at >= minZeroRun) {
          this.literal(done, at);
          this.encoder.zeros(end - at);
          this.statistics.zeroBytes += end - at;
          this.copyEnd = -1;
          done = at = end;
          continue;
        }
        if (end === held.length && !isEnd) break;
        zerosKnownUntil = end;
      }
      if (at + window > held.length) break;
      if (sumIsOf !== at) {
        sum =
          sumIsOf === at - 1 && at > 0
            ? (Math.imul(sum, multiplier) +
                (held[at + window - 1] ?? 0) -
                Math.imul(held[at - 1] ?? 0, leavingPower)) >>>
              0
            : this.hashes.weak(held, at, window);
        sumIsOf = at;
      }
      const entry = this.find(sum, at);
      if (entry === null) {
        at += 1;
        continue;
      }
      this.literal(done, at);
      this.copy(entry, window);
      done = at = at + window;
    }
    // A long literal need not wait for its end.
    if (at - done > window && !isEnd) {
      this.literal(done, at);
      done = at;
    }
    this.held = held.subarray(done);
  }

  /** An entry whose block lies at held[at ..]. */
  private find(weak: number, at: number): number | null {
    const candidates = this.index.get(weak);
    if (candidates === undefined) return null;
    const strong = this.hashes.strong(this.held.subarray(at, at + this.window));
    const equal = candidates.filter((entry) => this.signature.strong[entry]?.equals(strong));
    if (equal.length === 0) this.statistics.falseMatches += 1;
    const following = equal.find((entry) => this.offset(entry) === this.copyEnd);
    return following ?? equal[0] ?? null;
  }

  private strongEquals(entry: number, block: Buffer): boolean {
    return this.signature.strong[entry]?.equals(this.hashes.strong(block)) ?? false;
  }

  private offset(entry: number): number {
    return (this.signature.blocks[entry] ?? 0) * this.window;
  }

  private copy(entry: number, length: number): void {
    this.encoder.copy(this.offset(entry), length);
    this.statistics.matchedBytes += length;
    this.copyEnd = this.offset(entry) + length;
  }

  private literal(from: number, to: number): void {
    if (to <= from) return;
    this.encoder.literal(this.held.subarray(from, to));
    this.statistics.literalBytes += to - from;
    this.copyEnd = -1;
  }

  private fileEnd(start: number): number {
    const file = this.signature.files.findLast((candidate) => candidate.start <= start);
    return file === undefined ? 0 : file.start + file.bytes;
  }
}
