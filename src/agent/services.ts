/** The services of one node: `<path>/<name>/service.json`, and beside it `workload/`, which is the driver's. */
import { mkdir, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import * as z from 'zod';
import { DeltahopError } from '../errors.js';
import { fileError, readJson, removeUnfinishedWrites, syncPath, writeJsonDurably } from '../layers/durable-file.js';
import { digestSchema } from '../layers/layer.js';
import type { SpaceReserve } from '../layers/space-reserve.js';
import type { LayerStore } from '../layers/store.js';
import { healthPolicySchema, type Ownership, type ServiceRecord } from '../migrate/ownership.js';
import type { Workload } from '../workload/driver.js';
import { serviceNameSchema } from './messages.js';

const recordSchema = z.strictObject({
  format: z.literal(1),
  name: serviceNameSchema,
  driver: z.string(),
  base: digestSchema,
  app: digestSchema,
  settings: z.record(z.string(), z.string()),
  command: z.array(z.string()),
  health: healthPolicySchema.nullable(),
  epoch: z.int().nonnegative(),
  ownership: z.enum(['owned', 'arriving', 'departed']),
  movedTo: z.string().nullable(),
});

/** The service records of one node, kept in files. Every service here holds its layers. */
export class ServiceStore implements Ownership {
  readonly #path: string;
  readonly #layers: LayerStore;
  readonly #reserve: SpaceReserve | null;
  readonly #records = new Map<string, ServiceRecord>();
  readonly #layerHolds = new Map<string, () => void>();
  readonly #operations = new Map<string, string>();
  /** Record writes one after another, so that compare-and-set compares with what is on disk. */
  #writing: Promise<void> = Promise.resolve();

  private constructor(path: string, layers: LayerStore, reserve: SpaceReserve | null) {
    this.#path = path;
    this.#layers = layers;
    this.#reserve = reserve;
  }

  /**
   * @param reserve Room for its records on a full disk, on the same file system.
   * @throws DeltahopError DELTAHOP_E_CORRUPT naming the file that is damaged.
   */
  static async open(path: string, layers: LayerStore, reserve: SpaceReserve | null = null): Promise<ServiceStore> {
    const store = new ServiceStore(path, layers, reserve);
    await mkdir(path, { recursive: true, mode: 0o700 });
    for (const name of await readdir(path)) {
      await removeUnfinishedWrites(join(path, name));
      const stored = await readJson(join(path, name, 'service.json'), recordSchema);
      // Without a record: the remains of a removal, or of an addition that was not completed.
      if (stored === null) continue;
      const { format: _, ...record } = stored;
      if (record.name !== name) {
        throw new DeltahopError('DELTAHOP_E_CORRUPT', `${join(path, name, 'service.json')} describes ${record.name}`);
      }
      store.#remember(record);
    }
    return store;
  }

  /** All records, by name. */
  list(): ServiceRecord[] {
    return [...this.#records.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  /** @throws DeltahopError DELTAHOP_E_NOT_FOUND. */
  get(name: string): ServiceRecord {
    const record = this.#records.get(name);
    if (record === undefined)
      throw new DeltahopError('DELTAHOP_E_NOT_FOUND', `there is no service ${name} on this node`);
    return record;
  }

  /**
   * The record of a service that this node owns.
   * @throws DeltahopError DELTAHOP_E_NOT_FOUND, DELTAHOP_E_OWNED_ELSEWHERE naming where it is.
   */
  getOwned(name: string): ServiceRecord {
    const record = this.get(name);
    if (record.ownership === 'owned') return record;
    const where =
      record.movedTo === null ? 'another node, and is on its way here' : `another node; it moved to ${record.movedTo}`;
    throw new DeltahopError('DELTAHOP_E_OWNED_ELSEWHERE', `service ${name} is owned by ${where}`);
  }

  async read(name: string): Promise<ServiceRecord | null> {
    await this.#writing;
    return this.#records.get(name) ?? null;
  }

  async compareAndSet(name: string, expectedEpoch: number | null, next: ServiceRecord): Promise<void> {
    const write = this.#writing.then(async () => {
      const present = this.#records.get(name) ?? null;
      if ((present?.epoch ?? null) !== expectedEpoch || next.epoch < (present?.epoch ?? 0)) {
        const found = present === null ? 'there is none' : `it is at ${present.epoch}`;
        throw new DeltahopError(
          'DELTAHOP_E_EPOCH',
          `service ${name}: owner ${expectedEpoch ?? 'none'} was expected, owner ${next.epoch} to follow, and ${found}`,
        );
      }
      const checked = recordSchema.parse({ format: 1, ...next, name });
      const directory = join(this.#path, name);
      try {
        await mkdir(directory, { recursive: true, mode: 0o700 });
        await syncPath(this.#path);
      } catch (error) {
        throw fileError(error, `cannot make ${directory}`);
      }
      const write = () => writeJsonDurably(join(directory, 'service.json'), checked);
      await (this.#reserve?.write(write) ?? write());
      const { format: _, ...record } = checked;
      this.#remember(record);
    });
    this.#writing = write.catch(() => {});
    await write;
  }

  /** Forgets a service and deletes its directory; its driver must have removed what it made. */
  async remove(name: string): Promise<void> {
    const write = this.#writing.then(async () => {
      const directory = join(this.#path, name);
      try {
        // The record first: what is left if this stops half-way is no service any more.
        await rm(join(directory, 'service.json'), { force: true });
        await syncPath(directory);
        await rm(directory, { recursive: true, force: true });
      } catch (error) {
        throw fileError(error, `cannot remove ${directory}`);
      }
      this.#records.delete(name);
      this.#layerHolds.get(name)?.();
      this.#layerHolds.delete(name);
    });
    this.#writing = write.catch(() => {});
    await write;
  }

  /** A service as its driver sees it; its layers need not be here yet. */
  workload(record: ServiceRecord): Workload {
    return {
      name: record.name,
      path: join(this.#path, record.name, 'workload'),
      base: record.base,
      app: record.app,
      basePath: this.#layers.contentPath(record.base),
      appPath: this.#layers.contentPath(record.app),
      settings: record.settings,
      command: record.command,
    };
  }

  /** The operation under way on a service, or null. */
  operation(name: string): string | null {
    return this.#operations.get(name) ?? null;
  }

  /**
   * Keeps every other operation off a service until the returned function is called.
   * @throws DeltahopError DELTAHOP_E_BUSY naming the operation that is under way.
   */
  begin(name: string, operation: string): () => void {
    const present = this.#operations.get(name);
    if (present !== undefined) throw new DeltahopError('DELTAHOP_E_BUSY', `service ${name}: ${present} is under way`);
    this.#operations.set(name, operation);
    let over = false;
    return () => {
      if (!over) this.#operations.delete(name);
      over = true;
    };
  }

  /** Runs `work` as the only operation on a service. */
  async exclusively<T>(name: string, operation: string, work: () => Promise<T>): Promise<T> {
    const end = this.begin(name, operation);
    try {
      return await work();
    } finally {
      end();
    }
  }

  #remember(record: ServiceRecord): void {
    const before = this.#records.get(record.name);
    this.#records.set(record.name, record);
    if (before?.base === record.base && before.app === record.app) return;
    const releases = [record.base, record.app].map((digest) => this.#layers.hold(digest, `service ${record.name}`));
    this.#layerHolds.get(record.name)?.();
    this.#layerHolds.set(record.name, () => {
      for (const release of releases) release();
    });
  }
}
