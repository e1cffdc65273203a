/**
 * What `sync --remember` keeps for the next sync of the same two trees. The receiver: a record of what lies in its tree. The
 * sender: a record of its own tree, and a copy of what it sent with a record of that; together the basis of the next time
 * (native/FORMATS.md, section 7). Nothing of it is trusted, and without it a sync only sends more.
 */
import { mkdir, readdir, readFile, realpath, rm, stat, statfs, utimes } from 'node:fs/promises';
import { hostname } from 'node:os';
import { basename, dirname, join, resolve } from 'node:path';
import type { Engine, OperationOptions, OperationReport, SharedBasis } from '../engine/engine.js';
import { DeltahopError, isDeltahopError } from '../errors.js';
import { faceToFace } from './face-to-face.js';
import type { SyncPlace } from './sync-place.js';

/** Beyond these, what was not used for longest goes. */
const maxMemories = 64;
/** The copy never leaves this machine: it only has to be quick. */
const copyZstdLevel = 1;

/** Options of the engine's receiver, and where what they name lies. */
export interface ReceiverMemory {
  recordPath: string;
}

/** Options of the engine's sender. */
export interface SenderMemory {
  recordPath: string;
  basis: SharedBasis;
}

/** The memories in one directory, each in one of its own by the name of what it is of. */
export class SyncMemory {
  readonly #engine: Engine;
  readonly #statePath: string;

  /** The directory is made when it is first needed. */
  constructor(engine: Engine, statePath: string) {
    this.#engine = engine;
    this.#statePath = statePath;
  }

  /** For whoever receives into `place`; undefined for a single entry, of which nothing can be remembered. */
  async receiver(place: SyncPlace): Promise<ReceiverMemory | undefined> {
    if (place.part.entryName !== undefined) return undefined;
    const path = await this.#directory(['receiver', await treePath(place)]);
    return { recordPath: join(path, 'tree.record') };
  }

  /** For whoever sends `place` to what `peer` names; null as above. */
  async sender(place: SyncPlace, peer: readonly string[]): Promise<SenderMemory | undefined> {
    if (place.part.entryName !== undefined) return undefined;
    const path = await this.#directory(['sender', await treePath(place), ...peer]);
    return {
      recordPath: join(path, 'source.record'),
      basis: { treePath: join(path, 'copy'), recordPath: join(path, 'copy.record') },
    };
  }

  /** For a sender whose receiver is in this process: what that has received is there to be read, and is its basis. */
  async beside(source: SyncPlace, target: SyncPlace): Promise<SenderMemory | undefined> {
    const received = await this.receiver(target);
    if (received === undefined || source.part.entryName !== undefined) return undefined;
    const path = await this.#directory(['source', await treePath(source)]);
    const basis: SharedBasis = { treePath: await treePath(target), recordPath: received.recordPath };
    return { recordPath: join(path, 'source.record'), basis };
  }

  /**
   * Makes the copy what was sent.
   * @returns why there is none, in words for the user; null if there is.
   * @throws DeltahopError DELTAHOP_E_CANCELLED
   */
  async keep(
    place: SyncPlace,
    { recordPath, basis }: SenderMemory,
    sent: OperationReport,
    { signal, onProgress }: OperationOptions,
  ): Promise<string | null> {
    // The copy is what was found to be sent.
    if ((sent.statistics['basisSettled'] ?? 0) > 0) return null;
    try {
      await this.#requireSpace(basis.treePath, sent.statistics['totalBytes'] ?? 0);
      const { part } = place;
      await faceToFace(
        (stream, eitherSignal) =>
          this.#engine.send(place.rootPath, stream, {
            ...part,
            allowChanging: true,
            zstdLevel: copyZstdLevel,
            recordPath,
            basis,
            signal: eitherSignal,
          }),
        (stream, eitherSignal) =>
          this.#engine.receive(basis.treePath, stream, {
            deleteOthers: true,
            inPlace: true,
            recordPath: basis.recordPath,
            signal: eitherSignal,
            ...(onProgress && { onProgress }),
          }),
        signal,
      );
      return null;
    } catch (error) {
      if (signal?.aborted) throw error;
      if (isDeltahopError(error, 'DELTAHOP_E_NO_SPACE')) await forget(dirname(basis.treePath));
      return `the next sync will not know what was sent: ${(error as Error).message}`;
    }
  }

  /** A disk that a copy would fill has better uses. */
  async #requireSpace(copyPath: string, bytes: number): Promise<void> {
    if ((await stat(copyPath).catch(() => null)) !== null) return;
    const { bavail, bsize } = await statfs(dirname(copyPath));
    if (bytes <= (bavail * bsize) / 2) return;
    throw new DeltahopError(
      'DELTAHOP_E_NO_SPACE',
      `a copy of ${bytes} bytes would take more than half of what is free at ${this.#statePath}`,
    );
  }

  async #directory(of: readonly string[]): Promise<string> {
    const name = this.#engine.digest(Buffer.from(JSON.stringify(of))).replace(/^\w+:/, '');
    const path = join(this.#statePath, name);
    try {
      if ((await mkdir(path, { recursive: true, mode: 0o700 })) !== undefined) await this.#forgetOldest(name);
      const now = new Date();
      await utimes(path, now, now);
    } catch {
      // No reason not to sync: whoever cannot write there will say so.
    }
    return path;
  }

  async #forgetOldest(besides: string): Promise<void> {
    const names = (await readdir(this.#statePath)).filter((name) => /^[0-9a-f]{64}$/.test(name) && name !== besides);
    const used = await Promise.all(
      names.map(async (name) => {
        const path = join(this.#statePath, name);
        return { path, atMs: (await stat(path).catch(() => null))?.mtimeMs ?? 0 };
      }),
    );
    used.sort((one, other) => other.atMs - one.atMs);
    for (const { path } of used.slice(maxMemories - 1)) await forget(path);
  }
}

/** By what a server tells the memories of its clients apart: machine, user and tree, of which it learns nothing else. */
export async function memoryName(engine: Engine, localPath: string): Promise<string> {
  const machine = await readFile('/etc/machine-id', 'utf8').catch(() => '');
  const of = [machine.trim(), hostname(), String(process.getuid?.() ?? ''), resolve(localPath)];
  return engine.digest(Buffer.from(JSON.stringify(of))).replace(/^\w+:/, '');
}

/** One name for one tree, whether it is there already or not. */
async function treePath({ rootPath, part }: SyncPlace): Promise<string> {
  const path = resolve(rootPath);
  const root = await realpath(path).catch(async () => {
    const above = await realpath(dirname(path)).catch(() => dirname(path));
    return join(above, basename(path));
  });
  return part.beneath === undefined ? root : join(root, part.beneath);
}

/** In a copy may be directories that nobody but root could remove as they are; what cannot go stays and is found again. */
async function forget(path: string): Promise<void> {
  await rm(path, { recursive: true, force: true }).catch(() => {});
}
