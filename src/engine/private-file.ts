/** Output files that appear under their name only when they are complete. */
import { randomBytes } from 'node:crypto';
import { type FileHandle, open, rename, unlink } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { Writable } from 'node:stream';
import { fileError } from './file-error.js';

/** A stream into an open file, which it never closes: only who opened the file knows when nothing writes any more. */
class HandleWriter extends Writable {
  /** The write under way. */
  pending: Promise<void> = Promise.resolve();

  constructor(private readonly handle: FileHandle) {
    super({ highWaterMark: 256 * 1024 });
  }

  override _write(bytes: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    this.pending = this.handle.appendFile(bytes).then(() => done(), done);
  }
}

/**
 * Lets `produce` write (and end) a file beside `path` under a name of its own, syncs it and renames it to `path`. If
 * anything fails, `path` is as it was and nothing is left.
 * @throws what `produce` throws; DeltahopError of {@link fileError}.
 */
export async function writePrivately<T>(path: string, produce: (output: Writable) => Promise<T>): Promise<T> {
  const directory = dirname(path);
  const temporary = join(directory, `.${basename(path)}.deltahop-${randomBytes(6).toString('hex')}`);
  let handle: FileHandle;
  try {
    handle = await open(temporary, 'wx');
  } catch (error) {
    throw fileError(error, `cannot create a file in ${directory}`);
  }
  const writer = new HandleWriter(handle);
  try {
    const result = await produce(writer);
    try {
      await handle.sync();
      await handle.close();
      await rename(temporary, path);
    } catch (error) {
      throw fileError(error, `cannot write ${path}`);
    }
    return result;
  } catch (error) {
    await writer.pending;
    await handle.close().catch(() => undefined);
    await unlink(temporary).catch(() => undefined);
    throw error;
  }
}
