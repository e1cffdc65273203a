/**
 * The layers of one node: `<path>/<hex>/{layer.json,content/}`, and `names.json` beside them. A layer appears by one
 * rename when it is complete and verified, and is never changed afterwards.
 */
import { randomUUID } from 'node:crypto';
import { mkdir, readdir, realpath, rename, rm, stat } from 'node:fs/promises';
import { join, sep } from 'node:path';
import * as z from 'zod';
import type { Engine, OperationOptions, TreeDigest } from '../engine/engine.js';
import { DeltahopError } from '../errors.js';
import { faceToFace } from '../transfer/face-to-face.js';
import { checkDiskContent, type FlattenImage, makeAppDisk, makeBaseDisk } from './disk-content.js';
import { fileError, readJson, removeUnfinishedWrites, syncPath, systemCode, writeJsonDurably } from './durable-file.js';
import {
  digestSchema,
  type Layer,
  type LayerForm,
  type LayerKind,
  layerDigest,
  layerNameSchema,
  layerSchema,
} from './layer.js';

const importPrefix = '.import-';
const arrivalPrefix = '.arriving-';
const removalPrefix = '.removing-';

/** A shorter part of a digest could name a layer by accident. */
const shortestPrefixDigits = 6;

/**
 * What overlayfs noted about one mount on one machine. It means nothing elsewhere, and would make the same content have
 * another digest. (`trusted.overlay.opaque` and the whiteouts are content, and stay.)
 */
const mountXattrs = [
  'trusted.overlay.origin',
  'trusted.overlay.impure',
  'trusted.overlay.nlink',
  'trusted.overlay.uuid',
];

const namesSchema = z.record(layerNameSchema, digestSchema);

/** A layer as it is on this node. */
export interface StoredLayer extends Layer {
  /** Its first name, or the beginning of its digest if it has none. */
  name: string;
  names: readonly string[];
  /** Directory of its content. Read-only by contract. */
  contentPath: string;
}

/** What {@link LayerStore.import} is given. */
export interface LayerImport {
  kind: LayerKind;
  name: string;
  /** Name or digest of the base layer that `path` was built upon; null for a layer that stands alone. */
  parent: string | null;
  /**
   * What to take in: a directory as a tree, or a file as the image of a disk. With a parent it is the full tree or disk, of
   * which only the difference is kept.
   */
  path: string;
}

/** What came of an import. */
export interface ImportedLayer {
  layer: StoredLayer;
  /** Digest of the layer that had the name before, if it was another one. */
  replaced: string | null;
  /** What the engine left out, e.g. sockets. */
  notes: readonly string[];
}

/** A layer that arrives from another node, as that node announced it. */
export interface ArrivingLayer {
  digest: string;
  kind: LayerKind;
  form: LayerForm;
  parent: string | null;
  /** Its name at the source, taken over here if it is free. */
  name: string;
}

/** The layers of one node. One store object at a time may have a directory open. */
export class LayerStore {
  readonly #path: string;
  readonly #engine: Engine;
  readonly #flatten: FlattenImage;
  readonly #layers = new Map<string, Layer>();
  readonly #names = new Map<string, string>();
  /** Who needs a layer, by digest. */
  readonly #holders = new Map<string, Map<symbol, string>>();
  readonly #arriving = new Set<string>();
  /** Changes of names.json one after another. */
  #naming: Promise<void> = Promise.resolve();

  private constructor(path: string, engine: Engine, flatten: FlattenImage) {
    this.#path = path;
    this.#engine = engine;
    this.#flatten = flatten;
  }

  /**
   * Opens the store at `path`, made if missing. Clears what an interrupted import or removal left; layers that were
   * arriving stay, so that the next try goes on where they stopped.
   * @param flatten How images of disks are read.
   * @throws DeltahopError DELTAHOP_E_CORRUPT naming the file that is damaged.
   */
  static async open(path: string, engine: Engine, flatten: FlattenImage): Promise<LayerStore> {
    const store = new LayerStore(path, engine, flatten);
    await mkdir(path, { recursive: true, mode: 0o700 });
    await removeUnfinishedWrites(path);
    for (const entry of await readdir(path)) {
      if (entry.startsWith(importPrefix) || entry.startsWith(removalPrefix)) {
        await rm(join(path, entry), { recursive: true, force: true });
      } else if (/^[0-9a-f]{64}$/.test(entry)) {
        const layer = await readJson(join(path, entry, 'layer.json'), layerSchema);
        if (layer === null || layer.digest !== `blake3:${entry}` || layer.digest !== layerDigest(engine, layer)) {
          throw new DeltahopError(
            'DELTAHOP_E_CORRUPT',
            `${join(path, entry, 'layer.json')} does not describe this layer`,
          );
        }
        store.#layers.set(layer.digest, layer);
      }
    }
    for (const [name, digest] of Object.entries((await readJson(join(path, 'names.json'), namesSchema)) ?? {})) {
      if (store.#layers.has(digest)) store.#names.set(name, digest);
    }
    return store;
  }

  /**
   * Takes a directory or an image in as a layer. The same content gives the same digest, on every node and every time.
   * @throws DeltahopError DELTAHOP_E_NOT_FOUND (path, parent), DELTAHOP_E_INVALID_ARGUMENT, DELTAHOP_E_CHANGED,
   *   DELTAHOP_E_NO_SPACE, DELTAHOP_E_CANCELLED; nothing is left behind then.
   */
  async import({ kind, name, parent, path }: LayerImport, options: OperationOptions = {}): Promise<ImportedLayer> {
    checkName(name);
    const parentLayer = parent === null ? null : this.get(parent);
    if (kind === 'base' && parentLayer !== null) {
      throw new DeltahopError('DELTAHOP_E_INVALID_ARGUMENT', 'a base layer has no parent');
    }
    if (parentLayer !== null && parentLayer.kind !== 'base') {
      throw new DeltahopError(
        'DELTAHOP_E_INVALID_ARGUMENT',
        `the parent of an app layer must be a base layer, and ${parent} is an app layer`,
      );
    }
    const { source, form } = await this.#importable(path);
    if (parentLayer !== null && parentLayer.form !== form) {
      const what = form === 'disk' ? `a disk, and ${parent} is a tree` : `a tree, and ${parent} is a disk`;
      throw new DeltahopError('DELTAHOP_E_INVALID_ARGUMENT', `${path} is ${what}`);
    }
    if (form === 'disk' && kind === 'app' && parentLayer === null) {
      throw new DeltahopError('DELTAHOP_E_INVALID_ARGUMENT', 'an app layer of a disk needs a parent (--parent)');
    }

    const staging = join(this.#path, `${importPrefix}${randomUUID()}`);
    const content = join(staging, 'content');
    const release = parentLayer === null ? () => {} : this.hold(parentLayer.digest, `the import of ${name}`);
    try {
      await mkdir(content, { recursive: true, mode: 0o700 });
      const alone = form === 'tree' && parentLayer === null;
      const unchanged = alone ? await this.#unchanged(name, kind, source, options) : null;
      if (unchanged !== null) return { layer: unchanged, replaced: null, notes: [] };
      const notes =
        form === 'tree'
          ? await this.#copyTree(source, content, parentLayer, options)
          : await this.#copyDisk(source, staging, parentLayer, options);
      const tree = await this.#engine.treeDigest(
        content,
        options.signal === undefined ? {} : { signal: options.signal },
      );
      const layer = this.#describe({ kind, form, parent: parentLayer?.digest ?? null }, tree);
      await this.#seal(staging, layer);
      const replaced = await this.#name(name, layer.digest);
      return { layer: this.#named(layer), replaced: replaced === layer.digest ? null : replaced, notes };
    } catch (error) {
      throw fileError(error, `cannot import ${path}`);
    } finally {
      release();
      await rm(staging, { recursive: true, force: true });
    }
  }

  /** Every layer, bases first, then by name. */
  list(): StoredLayer[] {
    const order = (layer: StoredLayer): string => `${layer.kind === 'base' ? 0 : 1} ${layer.name} ${layer.digest}`;
    return [...this.#layers.values()].map((layer) => this.#named(layer)).sort((a, b) => (order(a) < order(b) ? -1 : 1));
  }

  /** Whether the layer with exactly this digest is here. */
  has(digest: string): boolean {
    return this.#layers.has(digest);
  }

  /** The layer with exactly this digest, or null. */
  find(digest: string): StoredLayer | null {
    const layer = this.#layers.get(digest);
    return layer === undefined ? null : this.#named(layer);
  }

  /**
   * A layer by name, by digest, or by the beginning of its digest (6 digits at the least, with or without `blake3:`).
   * @throws DeltahopError DELTAHOP_E_NOT_FOUND, or DELTAHOP_E_INVALID_ARGUMENT if the beginning fits several.
   */
  get(reference: string): StoredLayer {
    const digest = this.#names.get(reference) ?? reference;
    const exact = this.find(digest);
    if (exact !== null) return exact;
    const prefix = reference.replace(/^blake3:/, '');
    if (new RegExp(`^[0-9a-f]{${shortestPrefixDigits},64}$`).test(prefix)) {
      const fitting = [...this.#layers.values()].filter((layer) => layer.digest.startsWith(`blake3:${prefix}`));
      if (fitting.length > 1) {
        throw new DeltahopError('DELTAHOP_E_INVALID_ARGUMENT', `${fitting.length} layers begin with ${reference}`);
      }
      if (fitting[0] !== undefined) return this.#named(fitting[0]);
    }
    throw new DeltahopError('DELTAHOP_E_NOT_FOUND', `there is no layer ${reference} on this node`);
  }

  /** Directory that holds a layer's content, whether the layer is here yet or not. */
  contentPath(digest: string): string {
    return join(this.#directory(digest), 'content');
  }

  /**
   * Keeps a layer from being removed until the returned function is called. The digest need not be here yet.
   * @param holder Who needs it, for the message of a refused removal: `service web`.
   */
  hold(digest: string, holder: string): () => void {
    const holders = this.#holders.get(digest) ?? new Map<symbol, string>();
    const key = Symbol();
    holders.set(key, holder);
    this.#holders.set(digest, holders);
    return () => {
      holders.delete(key);
    };
  }

  /**
   * Removes a layer; given one name of several, only that name.
   * @throws DeltahopError DELTAHOP_E_IN_USE naming who needs it; DELTAHOP_E_NOT_FOUND.
   */
  async remove(reference: string): Promise<{ layer: StoredLayer; removed: 'name' | 'layer' }> {
    const layer = this.get(reference);
    if (layer.names.length > 1 && layer.names.includes(reference)) {
      await this.#changeNames((names) => names.delete(reference));
      return { layer, removed: 'name' };
    }
    const users = [...(this.#holders.get(layer.digest)?.values() ?? [])];
    for (const child of this.list()) {
      if (child.parent === layer.digest) users.push(`layer ${child.name}`);
    }
    if (users.length > 0) {
      throw new DeltahopError('DELTAHOP_E_IN_USE', `layer ${reference} is needed by ${[...new Set(users)].join(', ')}`);
    }
    // Out of the index before the first await: nobody can begin to use what is about to go.
    this.#layers.delete(layer.digest);
    try {
      await this.#changeNames((names) => {
        for (const name of layer.names) names.delete(name);
      });
      const removal = join(this.#path, `${removalPrefix}${randomUUID()}`);
      await rename(this.#directory(layer.digest), removal);
      await syncPath(this.#path);
      await rm(removal, { recursive: true, force: true });
    } catch (error) {
      throw fileError(error, `cannot remove layer ${reference}`);
    }
    return { layer, removed: 'layer' };
  }

  /**
   * Directory into which a layer from another node is received. What an earlier try left is still in it. The caller has
   * it alone until {@link seal} or {@link releaseStaging}.
   * @throws DeltahopError DELTAHOP_E_BUSY if this layer is arriving already.
   */
  async receiveStaging(digest: string): Promise<string> {
    digestSchema.parse(digest);
    if (this.#arriving.has(digest)) {
      throw new DeltahopError('DELTAHOP_E_BUSY', `layer ${digest} is arriving already, by another migration`);
    }
    this.#arriving.add(digest);
    const content = join(this.#arrival(digest), 'content');
    try {
      await mkdir(content, { recursive: true, mode: 0o700 });
    } catch (error) {
      this.#arriving.delete(digest);
      throw fileError(error, `cannot make ${content}`);
    }
    return content;
  }

  /** Gives the staging directory back, its content kept for the next try. No error if it was given back before. */
  releaseStaging(digest: string): void {
    this.#arriving.delete(digest);
  }

  /**
   * Takes an arrived layer into the store, once its content has the digest that was announced.
   * @throws DeltahopError DELTAHOP_E_MISMATCH if it has not, DELTAHOP_E_CORRUPT if it can be no disk; the staging is dropped
   *   then, for it cannot be trusted. DELTAHOP_E_NOT_FOUND if a disk's parent is not here.
   */
  async seal(
    { digest, kind, form, parent, name }: ArrivingLayer,
    options: { signal?: AbortSignal } = {},
  ): Promise<StoredLayer> {
    digestSchema.parse(digest);
    checkName(name);
    const present = this.find(digest);
    // Asked twice, e.g. because the first answer was lost on the way.
    if (present !== null && !this.#arriving.has(digest)) return present;
    const staging = this.#arrival(digest);
    const tree = await this.#engine.treeDigest(join(staging, 'content'), options);
    const layer = this.#describe({ kind, form, parent }, tree);
    const drop = async (why: unknown): Promise<never> => {
      await rm(staging, { recursive: true, force: true });
      this.releaseStaging(digest);
      throw why;
    };
    if (layer.digest !== digest) {
      await drop(new DeltahopError('DELTAHOP_E_MISMATCH', `layer ${digest} arrived as ${layer.digest}`));
    }
    if (form === 'disk') {
      const below = parent === null ? null : this.get(parent);
      if (below !== null && below.form !== 'disk') {
        throw new DeltahopError('DELTAHOP_E_MISMATCH', `layer ${digest} is a disk and its parent ${parent} is none`);
      }
      await checkDiskContent(join(staging, 'content'), below?.contentPath ?? null).catch(drop);
    }
    try {
      await this.#seal(staging, layer);
      if (name !== shortDigest(digest) && !this.#names.has(name)) await this.#name(name, digest);
    } catch (error) {
      throw fileError(error, `cannot seal layer ${digest}`);
    }
    this.releaseStaging(digest);
    return this.#named(layer);
  }

  #directory(digest: string): string {
    return join(this.#path, digest.slice('blake3:'.length));
  }

  #arrival(digest: string): string {
    return join(this.#path, `${arrivalPrefix}${digest.slice('blake3:'.length)}`);
  }

  #named(layer: Layer): StoredLayer {
    const names = [...this.#names].filter(([, digest]) => digest === layer.digest).map(([name]) => name);
    names.sort();
    const name = names[0] ?? shortDigest(layer.digest);
    return { ...layer, name, names, contentPath: this.contentPath(layer.digest) };
  }

  #describe(what: Pick<Layer, 'kind' | 'form' | 'parent'>, tree: TreeDigest): Layer {
    const digest = layerDigest(this.#engine, { ...what, tree: tree.digest });
    return { format: 1, digest, ...what, tree: tree.digest, files: tree.files, bytes: tree.bytes };
  }

  async #importable(path: string): Promise<{ source: string; form: LayerForm }> {
    let resolved: string;
    try {
      resolved = await realpath(path);
      const status = await stat(resolved);
      if (status.isFile()) return { source: resolved, form: 'disk' };
      if (!status.isDirectory()) {
        throw new DeltahopError('DELTAHOP_E_INVALID_ARGUMENT', `${path} is neither a directory nor a disk’s image`);
      }
    } catch (error) {
      throw fileError(error, `cannot import ${path}`);
    }
    const store = await realpath(this.#path);
    if (store === resolved || store.startsWith(resolved === sep ? sep : resolved + sep)) {
      throw new DeltahopError('DELTAHOP_E_INVALID_ARGUMENT', `${path} contains the layer store itself`);
    }
    return { source: resolved, form: 'tree' };
  }

  /** The layer that has this name already, if the directory is still what it was made from: then nothing is written. */
  async #unchanged(
    name: string,
    kind: LayerKind,
    source: string,
    { signal }: OperationOptions,
  ): Promise<StoredLayer | null> {
    const present = this.find(this.#names.get(name) ?? '');
    if (present === null || present.kind !== kind || present.parent !== null) return null;
    const options = { excludeXattrs: mountXattrs, ...(signal === undefined ? {} : { signal }) };
    const tree = await this.#engine.treeDigest(source, options);
    return tree.digest === present.tree ? present : null;
  }

  async #copyTree(
    source: string,
    content: string,
    parent: StoredLayer | null,
    { signal, onProgress }: OperationOptions,
  ): Promise<readonly string[]> {
    const reports = await faceToFace(
      (stream, eitherSignal) =>
        this.#engine.send(source, stream, {
          signal: eitherSignal,
          excludeXattrs: mountXattrs,
          ...(onProgress === undefined ? {} : { onProgress }),
          ...(parent === null ? {} : { againstPath: this.contentPath(parent.digest) }),
        }),
      (stream, eitherSignal) => this.#engine.receive(content, stream, { signal: eitherSignal, durable: true }),
      signal,
    );
    return reports.flatMap(({ notes }) => notes);
  }

  /** @returns notes, of which there are none. */
  async #copyDisk(
    source: string,
    staging: string,
    parent: StoredLayer | null,
    { signal }: OperationOptions,
  ): Promise<readonly string[]> {
    const content = join(staging, 'content');
    const scratch = join(staging, 'whole');
    if (parent === null) await makeBaseDisk(source, content, this.#flatten, signal);
    else await makeAppDisk(source, content, parent.contentPath, scratch, this.#flatten, signal);
    await rm(scratch, { force: true });
    return [];
  }

  /** Gives a complete staging directory its description and its place. */
  async #seal(staging: string, layer: Layer): Promise<void> {
    if (!this.#layers.has(layer.digest)) {
      await writeJsonDurably(join(staging, 'layer.json'), layer);
      try {
        await rename(staging, this.#directory(layer.digest));
        await syncPath(this.#path);
      } catch (error) {
        // The same content came another way in the meantime: by its digest it is this layer.
        if (systemCode(error) !== 'ENOTEMPTY' && systemCode(error) !== 'EEXIST') throw error;
      }
      this.#layers.set(layer.digest, layer);
    }
    await rm(staging, { recursive: true, force: true });
  }

  /** Lets `name` mean `digest`; what it meant before is returned. */
  async #name(name: string, digest: string): Promise<string | null> {
    const before = this.#names.get(name) ?? null;
    if (before !== digest) await this.#changeNames((names) => names.set(name, digest));
    return before;
  }

  async #changeNames(change: (names: Map<string, string>) => void): Promise<void> {
    const write = this.#naming.then(async () => {
      change(this.#names);
      await writeJsonDurably(join(this.#path, 'names.json'), Object.fromEntries([...this.#names].sort()));
    });
    this.#naming = write.catch(() => {});
    await write;
  }
}

/** How a layer without a name is called. */
function shortDigest(digest: string): string {
  return digest.slice('blake3:'.length, 'blake3:'.length + 12);
}

function checkName(name: string): void {
  const checked = layerNameSchema.safeParse(name);
  if (!checked.success) {
    throw new DeltahopError(
      'DELTAHOP_E_INVALID_ARGUMENT',
      `${JSON.stringify(name)}: ${checked.error.issues[0]?.message ?? 'not a layer name'}`,
    );
  }
}
