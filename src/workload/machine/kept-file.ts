/** Files of a node that a service keeps: how they are taken, and what a peer's must be. */
import { constants, copyFile, lstat, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { DeltahopError } from '../../errors.js';
import { mustRun } from '../command.js';
import { replaceFile } from '../replaced-file.js';

const copyLimitMs = 600_000;

/** Keeps a file of this node with the service, once; it travels with it and may be gone here later. */
export async function keepFile(source: string | null, path: string): Promise<void> {
  if (source === null || (await lstat(path).catch(() => null)) !== null) return;
  try {
    await replaceFile(path, (temporary) => copyFile(source, temporary, constants.COPYFILE_FICLONE));
  } catch (error) {
    // At another node it comes with the service.
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return;
    throw error;
  }
}

/** @throws DeltahopError DELTAHOP_E_RESTORE unless a file is there, and not a link to one. */
export async function mustBeFile(path: string, what: string): Promise<void> {
  const status = await lstat(path).catch(() => null);
  if (status === null) throw new DeltahopError('DELTAHOP_E_RESTORE', `${what} is not here`);
  if (!status.isFile()) throw new DeltahopError('DELTAHOP_E_RESTORE', `${what} is not a file`);
}

/** Copies the files of a directory in which a machine works; a block that is changed meanwhile may be torn. */
export async function copyLive(from: string, to: string, signal: AbortSignal): Promise<void> {
  for (const name of await readdir(from)) {
    if (name.startsWith('.')) continue;
    const argv = ['cp', '--reflink=auto', '--sparse=always', '--preserve=mode', join(from, name), join(to, name)];
    await mustRun(argv, { limitMs: copyLimitMs, signal, code: 'DELTAHOP_E_IO' });
  }
}
