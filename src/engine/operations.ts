/** What an engine does, and how each of its operations is called. */
import type { Duplex, Readable, Writable } from 'node:stream';

/** What a long operation says while it runs, about ten times a second at the most. */
export interface Progress {
  /** Bytes of the target file or tree settled so far, by whichever step. */
  doneBytes: number;
  /** 0 while not known. */
  totalBytes: number;
  doneFiles: number;
  totalFiles: number;
}

/** What every operation accepts. */
export interface OperationOptions {
  /** Ends the operation with DELTAHOP_E_CANCELLED; what arrived so far is kept for the next try. */
  signal?: AbortSignal;
  onProgress?: (progress: Progress) => void;
}

/** Figures of one operation by name, in bytes, counts or milliseconds as the name says (native/FORMATS.md lists them). */
export type Statistics = Readonly<Record<string, number>>;

/** How an operation ended well. */
export interface OperationReport {
  statistics: Statistics;
  /** Things left out on purpose, e.g. a socket in a tree; bounded in number. */
  notes: readonly string[];
  /** Of a receive with `itemize`: a line for each change, as native/tree/itemize.h says. */
  items?: string;
}

/** Which part of the directory at a path an operation is about; the directory itself when both are absent. */
export interface TreePart {
  /**
   * A directory below, as a path of plain names: no component may be `.`, `..` or a symlink, nor lead outside in any other
   * way. The receiver makes what is missing of it.
   */
  beneath?: string;
  /**
   * One entry of that directory, which is not a directory itself. It may have another name at each side; what is beside it
   * is neither read nor changed.
   */
  entryName?: string;
}

/**
 * What is at a path: `nowhere` (not even the directory that would hold it), `nothing`, a `directory`, or something `other`,
 * a file or a symlink.
 */
export type Found = 'nowhere' | 'nothing' | 'directory' | 'other';

/** A file's path, or a stream of its bytes. */
export type Source = string | Readable;
/** A file's path (written privately, verified, then renamed into place), or a stream that takes the bytes. */
export type Sink = string | Writable;

/** Options of {@link Engine.signature}. */
export interface SignatureOptions extends OperationOptions {
  /** Block length in bytes, a power of two from 512 to 1 MiB; chosen by the basis' size when absent. */
  blockBytes?: number;
}

/** Options of {@link Engine.delta}. */
export interface DeltaOptions extends OperationOptions {
  /** zstd level of the literals, 1 to 19; 3 when absent. */
  zstdLevel?: number;
}

/** Options of {@link Engine.send}. */
export interface SendOptions extends OperationOptions, TreePart {
  /** Send only what an overlay upper directory over this tree must hold to look like `tree` (with whiteouts). */
  againstPath?: string;
  /** Extended attributes left out, by full name, e.g. `trusted.overlay.origin`. */
  excludeXattrs?: readonly string[];
  /** Put every file's content digest into the manifest, so that no file counts as unchanged by its times alone. */
  verify?: boolean;
  /**
   * With `verify`, of a tree whose files have most likely all changed: none is read for its digest alone, each is compared
   * with what the receiver has, and its digest comes with it.
   */
  lateDigests?: boolean;
  /**
   * The tree is alive: a file that changes while it is read is sent as read and noted, instead of DELTAHOP_E_CHANGED; one
   * that vanishes or may not be read is left out and noted.
   */
  allowChanging?: boolean;
  zstdLevel?: number;
  /**
   * A file in which the engine keeps what it knows of this tree: files that were not written since need not be read again.
   * Rewritten after the transfer, and then what a next one may name as its basis. No part of the tree; never an error.
   */
  recordPath?: string;
  /** What the receiver is believed to hold: what changed since is sent at once, and nothing is lost if it holds something else. */
  basis?: SharedBasis;
  /**
   * Files outside of the tree that the receiver may hold as well. The largest file of which it has no old self (memory,
   * that is) is sent without what is in them. Named only where there is no basis; nothing is lost if it holds others.
   */
  common?: readonly CommonFile[];
}

/** A file by which two nodes may know that they hold the same. */
export interface CommonFile {
  path: string;
  /** `blake3:<64 hex digits>`, the name of its content that both use; null: that is read, and its own digest names it. */
  id: string | null;
}

/** A directory that still holds a tree as it was sent, and the record that was written then. */
export interface SharedBasis {
  treePath: string;
  recordPath: string;
}

/** Options of {@link Engine.receive}. */
export interface ReceiveOptions extends OperationOptions, TreePart {
  /** Everything is on stable storage before the sender hears that it is done. */
  durable?: boolean;
  /**
   * What the sender lacks goes (the default). If false it stays, and a directory that is not empty is not replaced by
   * something else.
   */
  deleteOthers?: boolean;
  /** If more entries than this would be deleted, none is: the report's `deletesRefused` says how many. No bound when absent. */
  maxDeletes?: number;
  /**
   * Nobody uses the tree meanwhile: a larger file that is there already is patched where it lies, by way of a journal, so
   * that its inode stays and only what differs is written. A file is old until its delta has come whole; a kill in the
   * moment of writing is finished by the next receive into the same tree.
   */
  inPlace?: boolean;
  /** Nothing is written, made or deleted, nor any content sent. */
  dryRun?: boolean;
  /** List the changes in the report's `items`. */
  itemize?: boolean;
  /** As {@link SendOptions.recordPath}, of the tree at this side: also by what the sender may name as the basis. */
  recordPath?: string;
  /** As {@link SendOptions.common}, of this side. */
  common?: readonly CommonFile[];
}

/** A tree's digest and size. */
export interface TreeDigest {
  /** `blake3:<64 hex digits>` over content and metadata (native/FORMATS.md, section 1). */
  digest: string;
  files: number;
  bytes: number;
}

/** One implementation of the engine. */
export interface Engine {
  /** `native` or `portable`. */
  readonly name: string;
  /** Writes the signature of `basis`, to be given to {@link Engine.delta} by whoever holds the target. */
  signature(basis: Source, output: Sink, options?: SignatureOptions): Promise<OperationReport>;
  /** Writes instructions that make `target` from the basis whose signature is given. */
  delta(signature: Source, target: Source, output: Sink, options?: DeltaOptions): Promise<OperationReport>;
  /** Makes the target from its basis (a file, read at any offset) and a delta; a path is only replaced once verified. */
  patch(basis: string, delta: Source, output: Sink, options?: OperationOptions): Promise<OperationReport>;
  /**
   * Sends the tree at a directory to a {@link Engine.receive} at the other end of the stream. The stream stays open. Its
   * first progress comes once the tree is listed: what is made or removed in it afterwards is not seen any more.
   */
  send(treePath: string, stream: Duplex, options?: SendOptions): Promise<OperationReport>;
  /** Makes the tree at a directory equal to the sender's. The stream stays open. */
  receive(treePath: string, stream: Duplex, options?: ReceiveOptions): Promise<OperationReport>;
  treeDigest(treePath: string, options?: OperationOptions & { excludeXattrs?: readonly string[] }): Promise<TreeDigest>;
  /**
   * What is at a path of plain names (see {@link TreePart.beneath}) below a directory.
   * @throws DeltahopError DELTAHOP_E_NOT_FOUND without that directory, DELTAHOP_E_UNSAFE_PATH, DELTAHOP_E_IO.
   */
  lookUp(rootPath: string, beneath: string): Found;
  /** BLAKE3-256 of bytes in memory, as `blake3:<64 hex digits>`. */
  digest(bytes: Uint8Array): string;
}
