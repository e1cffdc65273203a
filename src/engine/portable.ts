/**
 * The engine without the addon, in TypeScript and WebAssembly: signature, delta and patch of files, in the same formats.
 * For machines that cannot build the addon, and as the oracle that the native engine is held against. Many times slower,
 * and it works on the caller's thread; trees need the native engine.
 */
import { randomBytes } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { type FileHandle, open, stat } from 'node:fs/promises';
import { Readable, type Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import xxhash, { type XXHashAPI } from 'xxhash-wasm';
import { DeltahopError } from '../errors.js';
import { fileError } from './file-error.js';
import type {
  DeltaOptions,
  Engine,
  OperationOptions,
  OperationReport,
  SignatureOptions,
  Sink,
  Source,
  TreeDigest,
} from './operations.js';
import { varint } from './portable/bounded-reader.js';
import { DeltaReader } from './portable/delta-decoder.js';
import { DeltaEncoder, deltaMagic, deltaVersion } from './portable/delta-encoder.js';
import { Blake3, ContentHasher, digestText } from './portable/hashes.js';
import { Matcher } from './portable/matcher.js';
import { basisBytes, chooseBlockBytes, readSignature, writeSignature } from './portable/signature.js';
import { writePrivately } from './private-file.js';

const pieceBytes = 256 * 1024;
/** A stream's length is not known beforehand. */
const streamBlockBytes = 16_384;
const defaultZstdLevel = 3;

/** The bytes of a source, with progress and cancellation. */
async function* piecesOf(source: Source, options: OperationOptions): AsyncGenerator<Buffer> {
  const stream = typeof source === 'string' ? createReadStream(source, { highWaterMark: pieceBytes }) : source;
  const totalBytes = typeof source === 'string' ? (await statOf(source)).size : 0;
  let doneBytes = 0;
  try {
    for await (const piece of stream) {
      if (options.signal?.aborted) throw cancelled(options.signal);
      if (!(piece instanceof Uint8Array)) {
        throw new DeltahopError('DELTAHOP_E_INVALID_ARGUMENT', 'a stream of bytes is needed, not of text or objects');
      }
      doneBytes += piece.length;
      options.onProgress?.({ doneBytes, totalBytes, doneFiles: 0, totalFiles: 1 });
      yield Buffer.from(piece.buffer, piece.byteOffset, piece.byteLength);
    }
  } catch (error) {
    throw fileError(error, 'cannot read a source');
  }
}

function cancelled(signal: AbortSignal): DeltahopError {
  return new DeltahopError('DELTAHOP_E_CANCELLED', 'the operation was cancelled', { cause: signal.reason });
}

async function statOf(path: string): Promise<{ size: number }> {
  try {
    const status = await stat(path);
    if (status.isFile()) return status;
  } catch (error) {
    throw fileError(error, `cannot open ${path}`);
  }
  throw new DeltahopError('DELTAHOP_E_UNSUPPORTED', `${path} is not a regular file`);
}

async function writeTo(output: Sink, pieces: AsyncIterable<Buffer>, options: OperationOptions): Promise<void> {
  const write = async (sink: Writable): Promise<void> => {
    try {
      await pipeline(Readable.from(pieces, { objectMode: false }), sink, { signal: options.signal });
    } catch (error) {
      if (options.signal?.aborted) throw cancelled(options.signal);
      throw fileError(error, 'cannot write the output');
    }
  };
  if (options.signal?.aborted) throw cancelled(options.signal);
  if (typeof output === 'string') await writePrivately(output, write);
  else await write(output);
}

class PortableEngine implements Engine {
  readonly name = 'portable';

  constructor(
    private readonly blake3: Blake3,
    private readonly xxhash: XXHashAPI,
  ) {}

  async signature(basis: Source, output: Sink, options: SignatureOptions = {}): Promise<OperationReport> {
    const { blockBytes = typeof basis === 'string' ? chooseBlockBytes((await statOf(basis)).size) : streamBlockBytes } =
      options;
    if (blockBytes < 512 || blockBytes > 1 << 20 || (blockBytes & (blockBytes - 1)) !== 0) {
      throw new DeltahopError(
        'DELTAHOP_E_INVALID_ARGUMENT',
        `blockBytes ${blockBytes}: a power of two from 512 to 1 MiB`,
      );
    }
    const statistics = { blockBytes, sentBytes: 0 };
    const pieces = writeSignature(piecesOf(basis, options), blockBytes, randomBytes(32), this.xxhash);
    await writeTo(output, counted(pieces, statistics), options);
    return { statistics, notes: [] };
  }

  async delta(signature: Source, target: Source, output: Sink, options: DeltaOptions = {}): Promise<OperationReport> {
    const parsed = await readSignature(piecesOf(signature, {}));
    const encoder = new DeltaEncoder(options.zstdLevel ?? defaultZstdLevel);
    const matcher = await Matcher.create(parsed, encoder);
    const hasher = await ContentHasher.create();
    const statistics = {
      targetBytes: 0,
      sentBytes: 0,
      matchedBytes: 0,
      literalBytes: 0,
      zeroBytes: 0,
      falseMatches: 0,
    };
    async function* write(): AsyncGenerator<Buffer> {
      yield Buffer.concat([deltaMagic, Buffer.of(deltaVersion), varint(basisBytes(parsed))]);
      for await (const piece of piecesOf(target, options)) {
        hasher.update(piece);
        matcher.feed(piece);
        yield* encoder.take();
      }
      matcher.finish();
      encoder.finish();
      yield* encoder.take();
      statistics.targetBytes = hasher.size;
      yield Buffer.concat([varint(0), varint(hasher.size), hasher.finish()]);
    }
    await writeTo(output, counted(write(), statistics), options);
    return { statistics: { ...statistics, ...matcher.statistics }, notes: [] };
  }

  async patch(basis: string, delta: Source, output: Sink, options: OperationOptions = {}): Promise<OperationReport> {
    await statOf(basis);
    const handle = await open(basis, 'r');
    try {
      const statistics = { targetBytes: 0, matchedBytes: 0, literalBytes: 0, zeroBytes: 0 };
      await writeTo(output, patched(handle, piecesOf(delta, options), statistics), options);
      return { statistics, notes: [] };
    } finally {
      await handle.close();
    }
  }

  send(): Promise<OperationReport> {
    return Promise.reject(noTrees());
  }

  receive(): Promise<OperationReport> {
    return Promise.reject(noTrees());
  }

  treeDigest(): Promise<TreeDigest> {
    return Promise.reject(noTrees());
  }

  lookUp(): never {
    throw noTrees();
  }

  digest(bytes: Uint8Array): string {
    return digestText(this.blake3.digest(bytes));
  }
}

function noTrees(): DeltahopError {
  return new DeltahopError(
    'DELTAHOP_E_UNSUPPORTED',
    'the portable engine knows single files only; unset DELTAHOP_ENGINE to move trees',
  );
}

async function* counted(pieces: AsyncIterable<Buffer>, statistics: { sentBytes: number }): AsyncGenerator<Buffer> {
  for await (const piece of pieces) {
    statistics.sentBytes += piece.length;
    yield piece;
  }
}

/** The target, made from the basis by a delta; ends with an error unless it is the announced one. */
async function* patched(
  basis: FileHandle,
  delta: AsyncIterable<Buffer>,
  statistics: { targetBytes: number; matchedBytes: number; literalBytes: number; zeroBytes: number },
): AsyncGenerator<Buffer> {
  const reader = new DeltaReader(delta);
  const hasher = await ContentHasher.create();
  if ((await reader.header()) !== (await basis.stat()).size) {
    throw new DeltahopError('DELTAHOP_E_MISMATCH', 'the delta was made against a basis of another size');
  }
  for (let block = await reader.block(); block !== null; block = await reader.block()) {
    for (const instruction of block) {
      if (instruction.kind === 'literal') {
        statistics.literalBytes += instruction.bytes.length;
        hasher.update(instruction.bytes);
        yield instruction.bytes;
        continue;
      }
      for (let done = 0; done < instruction.length; done += pieceBytes) {
        const piece = Buffer.alloc(Math.min(pieceBytes, instruction.length - done));
        if (instruction.kind === 'copy') await readFully(basis, piece, instruction.offset + done);
        statistics[instruction.kind === 'copy' ? 'matchedBytes' : 'zeroBytes'] += piece.length;
        hasher.update(piece);
        yield piece;
      }
    }
  }
  statistics.targetBytes = hasher.size;
  if (hasher.size !== reader.end?.bytes || !hasher.finish().equals(reader.end.digest)) {
    throw new DeltahopError('DELTAHOP_E_MISMATCH', 'what the delta makes is not what it announces');
  }
}

async function readFully(file: FileHandle, buffer: Buffer, offset: number): Promise<void> {
  for (let done = 0; done < buffer.length; ) {
    const { bytesRead } = await file.read(buffer, done, buffer.length - done, offset + done);
    if (bytesRead === 0) throw new DeltahopError('DELTAHOP_E_CHANGED', 'the basis became shorter while it was read');
    done += bytesRead;
  }
}

/** The portable engine. */
export async function portableEngine(): Promise<Engine> {
  return new PortableEngine(await Blake3.create(), await xxhash());
}
