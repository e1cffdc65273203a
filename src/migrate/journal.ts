/**
 * The journal of hand-offs: one small file for each migration and side, on stable storage before the step that it names
 * is acted on. HANDOFF.md has the states in words; what is written here decides what a restarted agent does.
 */
import { mkdir, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import * as z from 'zod';
import { DeltahopError } from '../errors.js';
import { fileError, readJson, removeUnfinishedWrites, syncPath, writeJsonDurably } from '../layers/durable-file.js';
import type { SpaceReserve } from '../layers/space-reserve.js';
import { offerSchema } from './offer.js';

const common = {
  format: z.literal(1),
  migration: z.uuid(),
  service: z.string().min(1).max(64),
  /** The epoch at which the source owned the service when the migration began. */
  epoch: z.int().nonnegative(),
  /** `HOST:PORT` where the other side's agent listens. */
  peer: z.string().min(1).max(300),
  startedAtMs: z.int().nonnegative(),
  changedAtMs: z.int().nonnegative(),
  /**
   * The epoch that an operator's `resolve` gave this node, of which the other side has not heard yet; null if it has, or
   * if there was none.
   */
  untoldEpoch: z.int().positive().nullable(),
};

const sourceRecordSchema = z.strictObject({
  ...common,
  side: z.literal('source'),
  state: z.enum(['rounds', 'frozen', 'committed', 'healthy', 'aborted']),
  /** Of `committed`: the destination has said that it runs. */
  acknowledged: z.boolean(),
  /** Of `committed`: the destination will never run it (its word, or an operator's), so it goes on here, from its files. */
  takenBack: z.boolean(),
  /** How the other node is called; null before the freeze. */
  peerName: z.string().nullable().default(null),
  /** Absolute path of the program that is run when the service has moved, and when it is back; null: none. */
  onCommit: z.string().nullable().default(null),
  /** The owner's epoch for which that was last run; null: it was not. */
  announcedEpoch: z.int().positive().nullable().default(null),
});

const destinationRecordSchema = z.strictObject({
  ...common,
  side: z.literal('destination'),
  state: z.enum(['staging', 'prepared', 'committed', 'running', 'aborted']),
  offer: offerSchema,
  /** Date.now() when the service began to run here; null before. */
  runningSinceMs: z.int().nonnegative().nullable(),
});

const recordSchema = z.discriminatedUnion('side', [sourceRecordSchema, destinationRecordSchema]);

/** The source's side of one migration. */
export type SourceRecord = z.infer<typeof sourceRecordSchema>;
/** The destination's side of one migration. */
export type DestinationRecord = z.infer<typeof destinationRecordSchema>;
export type JournalRecord = SourceRecord | DestinationRecord;

/** Settled migrations that are kept, for whoever asks late; and the newest to this node of each service besides. */
const keptSettled = 100;

/** Whether it is not certain yet which side has the service. */
function isUndecided({ state }: JournalRecord): boolean {
  return !['healthy', 'running', 'aborted'].includes(state);
}

/** Whether nothing is left to do for a migration on this side. */
export function isSettled(record: JournalRecord): boolean {
  return !isUndecided(record) && record.untoldEpoch === null;
}

/** The records of one node. */
export class Journal {
  readonly #path: string;
  readonly #reserve: SpaceReserve | null;
  readonly #records = new Map<string, JournalRecord>();
  #writing: Promise<void> = Promise.resolve();

  private constructor(path: string, reserve: SpaceReserve | null) {
    this.#path = path;
    this.#reserve = reserve;
  }

  /**
   * @param reserve Room for its records on a full disk, on the same file system.
   * @throws DeltahopError DELTAHOP_E_CORRUPT naming the file: guessing what it said could run a service twice.
   */
  static async open(path: string, reserve: SpaceReserve | null = null): Promise<Journal> {
    const journal = new Journal(path, reserve);
    try {
      await mkdir(path, { recursive: true, mode: 0o700 });
      await removeUnfinishedWrites(path);
      for (const name of await readdir(path)) {
        if (!name.endsWith('.json')) continue;
        const record = await readJson(join(path, name), recordSchema);
        if (record === null) continue;
        if (`${record.migration}.json` !== name) {
          throw new DeltahopError('DELTAHOP_E_CORRUPT', `${join(path, name)} describes ${record.migration}`);
        }
        journal.#records.set(record.migration, record);
      }
    } catch (error) {
      throw fileError(error, `cannot read the journal ${path}`);
    }
    return journal;
  }

  /** All records, the oldest first. */
  list(): JournalRecord[] {
    return [...this.#records.values()].sort((a, b) => a.startedAtMs - b.startedAtMs);
  }

  /** Those of a service that are not settled. */
  unsettled(service: string): JournalRecord[] {
    return this.list().filter((record) => record.service === service && !isSettled(record));
  }

  /** Those of a service of which it is not certain yet which side has it. */
  undecided(service: string): JournalRecord[] {
    return this.unsettled(service).filter(isUndecided);
  }

  source(migration: string): SourceRecord | null {
    const record = this.#records.get(migration);
    return record?.side === 'source' ? record : null;
  }

  destination(migration: string): DestinationRecord | null {
    const record = this.#records.get(migration);
    return record?.side === 'destination' ? record : null;
  }

  /**
   * Makes a record the one that holds; on stable storage once resolved. If it rejects, the one before holds.
   * @returns The record as written, with its time of change.
   */
  async write<Kind extends JournalRecord>(record: Kind): Promise<Kind> {
    const written = { ...record, changedAtMs: Date.now() };
    const write = this.#writing.then(async () => {
      const store = () => writeJsonDurably(join(this.#path, `${record.migration}.json`), written);
      await (this.#reserve?.write(store) ?? store());
      this.#records.set(record.migration, written);
      if (isSettled(written)) await this.#forgetOldest();
    });
    this.#writing = write.catch(() => {});
    await write;
    return written;
  }

  async #forgetOldest(): Promise<void> {
    const settled = this.list().filter(isSettled);
    const old = settled.slice(0, Math.max(0, settled.length - keptSettled));
    // What its source may not have settled yet: as long as it runs here nobody may hear that this node knows nothing of it.
    const arrivals = this.list().filter(({ side }) => side === 'destination');
    const newest = new Set(new Map(arrivals.map(({ service, migration }) => [service, migration])).values());
    const doomed = old.filter(({ migration }) => !newest.has(migration));
    for (const { migration } of doomed) {
      await rm(join(this.#path, `${migration}.json`), { force: true }).catch(() => {});
      this.#records.delete(migration);
    }
    if (doomed.length > 0) await syncPath(this.#path).catch(() => {});
  }
}
