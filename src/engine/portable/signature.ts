/** Signatures: native/FORMATS.md section 2. */

import type { XXHashAPI } from 'xxhash-wasm';
import { DeltahopError } from '../../errors.js';
import { PieceReader, varint } from './bounded-reader.js';
import { Blake3, KeyedHashes } from './hashes.js';

const magic = Buffer.from('DHSG');
const version = 1;
const entryBytes = 12;
const strongBytes = 8;
const keyBytes = 32;
const maxRunBlocks = 8192;
const maxFiles = 8;
const maxBlocks = (1 << 20) + maxFiles;
const minBlockBytes = 512;
const maxBlockBytes = 1 << 26;
const checksumBytes = 16;
/** Files are at most this long. */
export const maxFileBytes = 2 ** 46;
/** Blocks whose hashes are remembered, in case they come again. */
const rememberedBlocks = 4096;

/** A signature in memory. Entry i describes block `blocks[i]` of the basis. */
export interface Signature {
  key: Buffer;
  blockBytes: number;
  /** The files that make the basis: where each starts, and how long it is. */
  files: { start: number; bytes: number }[];
  blocks: number[];
  weak: number[];
  strong: Buffer[];
}

/** The length of the basis. */
export function basisBytes(signature: Signature): number {
  const last = signature.files.at(-1);
  return last === undefined ? 0 : last.start + last.bytes;
}

/** The block length for a basis of this size; the same rule as the native engine's. */
export function chooseBlockBytes(bytes: number): number {
  const root = 2 ** Math.ceil(Math.log2(Math.max(1, Math.floor(Math.sqrt(bytes)))));
  let blockBytes = bytes >= 1 << 20 && bytes % 4096 === 0 ? 4096 : Math.min(65_536, Math.max(minBlockBytes, root));
  while (blockBytes < maxBlockBytes && Math.ceil(bytes / blockBytes) > 1 << 20) blockBytes *= 2;
  return blockBytes;
}

/** The hashes of blocks, each distinct block hashed once: files repeat themselves, and hashing here is slow. */
class BlockHasher {
  private readonly known = new Map<bigint, { block: Buffer; entry: Buffer }>();

  constructor(
    private readonly hashes: KeyedHashes,
    private readonly xxhash: XXHashAPI,
  ) {}

  /** The entry of a block as it stands in a signature. */
  entry(block: Buffer): Buffer {
    const index = this.xxhash.h64Raw(block);
    const known = this.known.get(index);
    // The index hash only guesses: bytes decide.
    if (known?.block.equals(block)) return known.entry;
    const entry = Buffer.alloc(entryBytes);
    entry.writeUInt32LE(this.hashes.weak(block, 0, block.length));
    this.hashes.strong(block).copy(entry, 4);
    if (this.known.size >= rememberedBlocks) this.known.clear();
    this.known.set(index, { block: Buffer.from(block), entry });
    return entry;
  }
}

function isZero(bytes: Buffer): boolean {
  return bytes.every((byte) => byte === 0);
}

/**
 * The signature of a basis that is one file, in pieces.
 * @throws DeltahopError DELTAHOP_E_LIMIT for too many blocks.
 */
export async function* writeSignature(
  basis: AsyncIterable<Buffer>,
  blockBytes: number,
  key: Buffer,
  xxhash: XXHashAPI,
): AsyncGenerator<Buffer> {
  const hasher = new BlockHasher(await KeyedHashes.create(key), xxhash);
  const checksum = await ChecksummedOutput.create();
  const header = Buffer.alloc(7 + 4);
  magic.copy(header);
  header.set([version, strongBytes, 1], 4);
  header.writeUInt32LE(blockBytes, 7);
  yield checksum.pass(Buffer.concat([header, key]));

  let [bytes, count, nextBlock, runStart] = [0, 0, 0, 0];
  let run: Buffer[] = [];
  const endRun = (): Buffer => {
    const whole = Buffer.concat([varint(runStart - nextBlock), varint(run.length), ...run]);
    nextBlock = runStart + run.length;
    run = [];
    return checksum.pass(whole);
  };
  for await (const block of inBlocks(basis, blockBytes)) {
    const number = bytes / blockBytes;
    bytes += block.length;
    if (bytes > maxFileBytes) throw new DeltahopError('DELTAHOP_E_LIMIT', 'a file larger than 64 TiB');
    if (isZero(block)) continue;
    count += 1;
    if (count > maxBlocks) {
      throw new DeltahopError('DELTAHOP_E_LIMIT', 'signature of too many blocks: choose a larger block size');
    }
    if (run.length > 0 && (number !== runStart + run.length || run.length === maxRunBlocks)) yield endRun();
    if (run.length === 0) runStart = number;
    run.push(hasher.entry(block));
  }
  if (run.length > 0) yield endRun();
  yield checksum.pass(Buffer.concat([varint(0), varint(0), varint(1), varint(bytes)]));
  yield checksum.finish();
}

class ChecksummedOutput {
  private readonly parts: Buffer[] = [];

  private constructor(private readonly hasher: Blake3) {}

  static async create(): Promise<ChecksummedOutput> {
    return new ChecksummedOutput(await Blake3.create());
  }

  pass(bytes: Buffer): Buffer {
    this.parts.push(bytes);
    return bytes;
  }

  finish(): Buffer {
    return this.hasher.digest(...this.parts).subarray(0, checksumBytes);
  }
}

/** The bytes of `pieces` in blocks of one length, the last as short as it comes. */
async function* inBlocks(pieces: AsyncIterable<Buffer>, blockBytes: number): AsyncGenerator<Buffer> {
  let held: Buffer[] = [];
  let bytes = 0;
  for await (const piece of pieces) {
    held.push(piece);
    bytes += piece.length;
    if (bytes < blockBytes) continue;
    const whole = Buffer.concat(held);
    let at = 0;
    for (; at + blockBytes <= whole.length; at += blockBytes) yield whole.subarray(at, at + blockBytes);
    held = [whole.subarray(at)];
    bytes = whole.length - at;
  }
  if (bytes > 0) yield Buffer.concat(held);
}

/**
 * Reads a signature to its end.
 * @throws DeltahopError DELTAHOP_E_CORRUPT, _TRUNCATED, _LIMIT, _UNSUPPORTED, _PROTOCOL (no key in it).
 */
export async function readSignature(pieces: AsyncIterable<Buffer>): Promise<Signature> {
  const covered: Buffer[] = [];
  const reader = new PieceReader(pieces, 'the signature', (bytes) => covered.push(bytes));
  if (!(await reader.take(4)).equals(magic)) throw new DeltahopError('DELTAHOP_E_CORRUPT', 'not a signature');
  const [found, strong, flags] = await reader.take(3);
  if (found !== version) throw new DeltahopError('DELTAHOP_E_UNSUPPORTED', 'signature of an unknown version');
  if (strong !== strongBytes || flags === undefined || flags > 1) {
    throw new DeltahopError('DELTAHOP_E_UNSUPPORTED', 'signature of an unknown kind');
  }
  const blockBytes = (await reader.take(4)).readUInt32LE();
  if (blockBytes < minBlockBytes || blockBytes > maxBlockBytes || (blockBytes & (blockBytes - 1)) !== 0) {
    throw new DeltahopError('DELTAHOP_E_LIMIT', 'signature with a block size out of range');
  }
  if (flags === 0) throw new DeltahopError('DELTAHOP_E_PROTOCOL', 'signature without a key');
  const key = Buffer.from(await reader.take(keyBytes));
  const signature: Signature = { key, blockBytes, files: [], blocks: [], weak: [], strong: [] };

  for (let nextBlock = 0; ; ) {
    const skip = await reader.varint(2 ** 32 - 1);
    const count = await reader.varint(maxRunBlocks);
    if (count === 0) {
      if (skip !== 0) throw new DeltahopError('DELTAHOP_E_CORRUPT', 'empty run in a signature');
      break;
    }
    nextBlock += skip;
    if (nextBlock + count > 2 ** 32 - 1 || signature.blocks.length + count > maxBlocks) {
      throw new DeltahopError('DELTAHOP_E_LIMIT', 'signature of too many blocks');
    }
    const entries = await reader.take(count * entryBytes);
    for (let at = 0; at < entries.length; at += entryBytes) {
      signature.blocks.push(nextBlock++);
      signature.weak.push(entries.readUInt32LE(at));
      signature.strong.push(Buffer.from(entries.subarray(at + 4, at + entryBytes)));
    }
  }
  const files = await reader.varint(maxFiles);
  for (let i = 0; i < files; ++i) {
    const start = Math.ceil(basisBytes(signature) / blockBytes) * blockBytes;
    signature.files.push({ start, bytes: await reader.varint(maxFileBytes) });
  }
  const checksum = (await Blake3.create()).digest(...covered).subarray(0, checksumBytes);
  if (!(await reader.take(checksumBytes)).equals(checksum)) {
    throw new DeltahopError('DELTAHOP_E_CORRUPT', 'signature with a wrong checksum');
  }
  await reader.expectEnd();
  if ((signature.blocks.at(-1) ?? -1) * blockBytes >= basisBytes(signature) && signature.blocks.length > 0) {
    throw new DeltahopError('DELTAHOP_E_CORRUPT', 'signature with a block beyond its basis');
  }
  return signature;
}
