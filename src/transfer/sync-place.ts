/** The two ends of a sync as the engine takes them: what is sent, and where it goes. */
import { lstat, stat } from 'node:fs/promises';
import { homedir } from 'node:os';
import { posix } from 'node:path';
import type { Engine, TreePart } from '../engine/engine.js';
import { DeltahopError } from '../errors.js';

/**
 * What goes over: what is in a directory (`SRC/`), the directory itself with its name (`SRC`), or an entry that is no
 * directory.
 */
export interface SourceShape {
  kind: 'contents' | 'directory' | 'entry';
  /** Of the directory or the entry; null for contents. */
  name: string | null;
}

/** A place for {@link Engine.send} or {@link Engine.receive}. */
export interface SyncPlace {
  rootPath: string;
  part: TreePart;
}

/** A source: its place and its shape. */
export interface SyncSource extends SyncPlace {
  shape: SourceShape;
}

/** Finds sources and targets among the files that one side offers. */
export interface SyncFiles {
  /** @throws DeltahopError DELTAHOP_E_NOT_FOUND, DELTAHOP_E_UNSAFE_PATH, DELTAHOP_E_INVALID_ARGUMENT, DELTAHOP_E_IO. */
  source(path: string): Promise<SyncSource>;
  /** Where a source of this shape goes when the user names `path`. @throws DeltahopError as `source` does. */
  target(path: string, shape: SourceShape): Promise<SyncPlace>;
}

/** Whether a source path means what is in a directory, by rsync's rule: it ends with a slash (or names no name at all). */
export function meansContents(path: string): boolean {
  return path === '' || path.endsWith('/') || ['.', '..'].includes(posix.basename(path));
}

/** The shape of a source of this kind; its name follows from its path, so that no peer chooses what is written here. */
export function shapeOf(kind: SourceShape['kind'], path: string): SourceShape {
  return { kind, name: kind === 'contents' ? null : posix.basename(path) };
}

/** All that this process' user may reach: paths are the user's own, and mean what they mean to any program. */
export class UserFiles implements SyncFiles {
  async source(given: string): Promise<SyncSource> {
    const path = expandHome(given);
    if (meansContents(given)) {
      const status = await look(stat, path);
      if (!status.isDirectory()) throw notDirectory(path);
      return { rootPath: path, part: {}, shape: shapeOf('contents', path) };
    }
    const status = await look(lstat, path);
    if (status.isDirectory()) return { rootPath: path, part: {}, shape: shapeOf('directory', path) };
    const shape = shapeOf('entry', path);
    return { rootPath: posix.dirname(path), part: { entryName: posix.basename(path) }, shape };
  }

  async target(given: string, { kind, name }: SourceShape): Promise<SyncPlace> {
    const path = expandHome(given);
    const present = await lookOrNull(path);
    const isPlace = present?.isDirectory() ?? meansContents(given);
    if (present === null) {
      // As with rsync, one directory is made, not a path that may be a slip of the pen.
      const above = await lookOrNull(posix.dirname(path));
      if (!above?.isDirectory()) throw missing(posix.dirname(path));
    }
    if (kind === 'entry') {
      if (name !== null && isPlace) return { rootPath: path, part: { entryName: name } };
      return { rootPath: posix.dirname(path), part: { entryName: posix.basename(path) } };
    }
    if (present !== null && !isPlace) throw notDirectory(path);
    return { rootPath: path, part: kind === 'directory' && name !== null ? { beneath: name } : {} };
  }
}

/** What is beneath one directory and nothing else; every path is looked up by the engine, component by component. */
export class ModuleFiles implements SyncFiles {
  readonly #engine: Engine;
  readonly #rootPath: string;

  constructor(engine: Engine, rootPath: string) {
    this.#engine = engine;
    this.#rootPath = rootPath;
  }

  async source(given: string): Promise<SyncSource> {
    const path = withoutEnd(given);
    const found = this.#engine.lookUp(this.#rootPath, path);
    if (found === 'nowhere' || found === 'nothing') throw missing(path);
    if (found === 'directory') {
      const shape = shapeOf(meansContents(given) ? 'contents' : 'directory', path);
      return { rootPath: this.#rootPath, part: { beneath: path }, shape };
    }
    if (meansContents(given)) throw notDirectory(path);
    return { rootPath: this.#rootPath, part: entryPart(path), shape: shapeOf('entry', path) };
  }

  async target(given: string, { kind, name }: SourceShape): Promise<SyncPlace> {
    const path = withoutEnd(given);
    const found = this.#engine.lookUp(this.#rootPath, path);
    if (found === 'nowhere') throw missing(posix.dirname(path));
    const isPlace = found === 'directory' || (found === 'nothing' && meansContents(given));
    if (found === 'other' && (kind !== 'entry' || meansContents(given))) throw notDirectory(path);
    const rootPath = this.#rootPath;
    if (kind === 'entry') {
      return { rootPath, part: isPlace && name !== null ? { beneath: path, entryName: name } : entryPart(path) };
    }
    return { rootPath, part: { beneath: kind === 'directory' && name !== null ? joined(path, name) : path } };
  }
}

function withoutEnd(path: string): string {
  return path.replace(/\/+$/, '');
}

function joined(path: string, name: string): string {
  return path === '' ? name : `${path}/${name}`;
}

function entryPart(path: string): TreePart {
  const above = path.includes('/') ? path.slice(0, path.lastIndexOf('/')) : '';
  return { beneath: above, entryName: path.slice(path.lastIndexOf('/') + 1) };
}

/** `~` of our own user only, as rsync does where no shell reads the path; and no path at all is the current directory. */
function expandHome(path: string): string {
  if (path === '') return '.';
  return path === '~' || path.startsWith('~/') ? homedir() + path.slice(1) : path;
}

async function look(how: typeof stat, path: string): ReturnType<typeof stat> {
  try {
    return await how(path);
  } catch (cause) {
    const { code, errno } = cause as NodeJS.ErrnoException;
    if (code === 'ENOENT') throw missing(path);
    if (code === 'ENOTDIR') throw notDirectory(path);
    throw new DeltahopError('DELTAHOP_E_IO', `cannot look at ${path}: ${code}`, {
      cause,
      ...(errno === undefined ? {} : { sysErrno: Math.abs(errno) }),
    });
  }
}

async function lookOrNull(path: string): Promise<Awaited<ReturnType<typeof stat>> | null> {
  try {
    return await look(stat, path);
  } catch (error) {
    if (error instanceof DeltahopError && error.code === 'DELTAHOP_E_NOT_FOUND') return null;
    throw error;
  }
}

function missing(path: string): DeltahopError {
  return new DeltahopError('DELTAHOP_E_NOT_FOUND', `there is no ${path}`);
}

function notDirectory(path: string): DeltahopError {
  return new DeltahopError('DELTAHOP_E_INVALID_ARGUMENT', `${path} is not a directory`);
}
