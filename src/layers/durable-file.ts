/** A small file that is either its old self or its new self, whatever happens while it is written. */
import { randomUUID } from 'node:crypto';
import type { Dirent } from 'node:fs';
import { open, readdir, readFile, rename, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { z } from 'zod';
import { DeltahopError, type ErrorCode } from '../errors.js';

const unfinished = '.tmp';

/** Replaces the file at `path` with `value` as JSON; on stable storage, its name too, once resolved. */
export async function writeJsonDurably(path: string, value: unknown): Promise<void> {
  const temporary = `${path}.${randomUUID()}${unfinished}`;
  try {
    const file = await open(temporary, 'wx', 0o600);
    try {
      await file.writeFile(`${JSON.stringify(value, null, 2)}\n`);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
    await syncPath(dirname(path));
  } catch (error) {
    await rm(temporary, { force: true });
    throw fileError(error, `cannot write ${path}`);
  }
}

/** Removes what writers that were killed left in `directory`; the files themselves are whole. */
export async function removeUnfinishedWrites(directory: string): Promise<void> {
  for (const name of await readdir(directory)) {
    if (name.endsWith(unfinished)) await rm(join(directory, name), { force: true });
  }
}

/**
 * The JSON file at `path`, checked against `schema`; null if there is none.
 * @throws DeltahopError DELTAHOP_E_CORRUPT if it is not what the schema says.
 */
export async function readJson<T>(path: string, schema: z.ZodType<T>): Promise<T | null> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return null;
    throw fileError(error, `cannot read ${path}`);
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new DeltahopError('DELTAHOP_E_CORRUPT', `${path} is not JSON`, { cause: error });
  }
  const checked = schema.safeParse(value);
  if (checked.success) return checked.data;
  const issue = checked.error.issues[0];
  throw new DeltahopError('DELTAHOP_E_CORRUPT', `${path}: ${issue?.path.join('.')}: ${issue?.message}`, {
    cause: checked.error,
  });
}

/** Puts a file on stable storage; of a directory, the names in it: what was renamed, made or removed there. */
export async function syncPath(path: string): Promise<void> {
  const file = await open(path, 'r');
  try {
    await file.sync();
  } finally {
    await file.close();
  }
}

/** More than one, so that the file system needs few commits of its journal; one of libuv's four threads stays free. */
const syncsAtOnce = 3;

/** Puts all regular files of a tree, and the names of everything in it, on stable storage. */
export async function syncTree(path: string): Promise<void> {
  const entries = await readdir(path, { withFileTypes: true, recursive: true });
  const pathsOf = (chosen: Dirent[]): string[] => chosen.map(({ parentPath, name }) => join(parentPath, name));
  const files = pathsOf(entries.filter((entry) => entry.isFile())).values();
  const drain = async (): Promise<void> => {
    for (const name of files) await syncPath(name);
  };
  await Promise.all(Array.from({ length: syncsAtOnce }, drain));
  for (const name of [...pathsOf(entries.filter((entry) => entry.isDirectory())), path]) await syncPath(name);
}

/** The code of a failed system call (`ENOENT`, ...), or null if `error` is none. */
export function systemCode(error: unknown): string | null {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : null;
}

/** A failed file operation as a DeltahopError; a DeltahopError is passed on as it is. */
export function fileError(error: unknown, message: string): DeltahopError {
  if (error instanceof DeltahopError) return error;
  const code = systemCode(error);
  const codes: Record<string, ErrorCode> = {
    ENOENT: 'DELTAHOP_E_NOT_FOUND',
    ENOSPC: 'DELTAHOP_E_NO_SPACE',
    EDQUOT: 'DELTAHOP_E_NO_SPACE',
  };
  const reason = error instanceof Error ? error.message : String(error);
  return new DeltahopError((code !== null ? codes[code] : undefined) ?? 'DELTAHOP_E_IO', `${message}: ${reason}`, {
    cause: error,
    ...(error instanceof Error && 'errno' in error && typeof error.errno === 'number'
      ? { sysErrno: Math.abs(error.errno) }
      : {}),
  });
}
