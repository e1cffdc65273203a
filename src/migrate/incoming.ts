/** The destination's side of migrations: takes layers and instance in, restores, holds, runs on the source's word. */
import { statfs } from 'node:fs/promises';
import { DeltahopError } from '../errors.js';
import { syncTree } from '../layers/durable-file.js';
import type { LayerStore } from '../layers/store.js';
import type { Slot } from '../transfer/ticket.js';
import type { TransferServer } from '../transfer/transfer-server.js';
import type { ArrangedWorkload, PreparedWorkload, Workload, WorkloadDriver } from '../workload/driver.js';
import { type DestinationRecord, isSettled, type Journal } from './journal.js';
import {
  type CommitReply,
  type DestinationControl,
  type Examination,
  type Finding,
  type HealthReply,
  instanceSlot,
  layerSlot,
  type Offer,
  type OfferedLayer,
  type OfferReply,
  type PeerControl,
  type PrepareReply,
} from './offer.js';
import type { Ownership, ServiceRecord } from './ownership.js';
import { availableMemoryBytes, refuseFindings, roomFinding } from './preflight.js';
import { Retry } from './retry.js';

/** What the destination's side needs of its node. */
export interface IncomingContext {
  nodeName: string;
  journal: Journal;
  /** A directory on the file system that holds layers and services, for the check of free space. */
  statePath: string;
  ownership: Ownership;
  layers: LayerStore;
  transfers: TransferServer;
  /** @throws DeltahopError DELTAHOP_E_UNSUPPORTED if there is no such driver here. */
  driver(name: string): WorkloadDriver;
  /** Where a service's parts are on this node; its layers need not be there yet. */
  workload(record: ServiceRecord): Workload;
  connectPeer(address: string): PeerControl & { close(): void };
  /** A service that this migration took away from here is coming back: the migration is settled. */
  cameBack(migration: string): Promise<void>;
  /**
   * Keeps local operations off a service until the returned function is called.
   * @throws DeltahopError DELTAHOP_E_BUSY naming the one that is under way.
   */
  begin(service: string, operation: string): () => void;
}

/** One migration to this node; what must not be lost of it is in its journal record. */
interface Incoming {
  offer: Offer;
  driver: WorkloadDriver;
  workload: Workload;
  /** null after a restart of the agent. */
  ticket: string | null;
  /** The instance's trees that a transfer leaves to be made durable. */
  volatilePaths: readonly string[];
  /** What is done of a restore while its memory is still to come, and whether with the files that are complete. */
  arranged: { workload: ArrangedWorkload; usedFiles: boolean } | null;
  /** Nothing but the last of the memory is still to come. */
  filesComplete: boolean;
  /** What is waited for by a question to be answered when it has come. */
  arrival: { slots: Set<string>; end: () => void; fail: (error: DeltahopError) => void } | null;
  /** The held copy; null if there is none yet, or if it was lost with an agent: the files are still here then. */
  prepared: PreparedWorkload | null;
  /** It was let go: its image must not be restored again. */
  released: boolean;
  /** Why the last try to settle it has failed; null if it has not. */
  trouble: string | null;
  /** Asks the source what it has decided; null before the copy is prepared. */
  asking: Retry | null;
  /** Lets local operations have the service again. */
  end: () => void;
  /** The steps of one migration, one after another. */
  queue: Promise<unknown>;
}

/** An operator's decision that could not be acted on is tried again so much later. */
const retryMs = 200;
/** A destination that is prepared and hears nothing for so long asks its source; one that still receives, much later. */
const quietMs = 2_000;
const quietStagingMs = 30_000;

/** Room that a node keeps beside what a service needs. */
const spareBytes = 64 * 1024 * 1024;

/** All migrations to this node, by id. A service has at most one. It never decides by itself: the source's word counts. */
export class IncomingMigrations implements DestinationControl {
  readonly #context: IncomingContext;
  readonly #onWarning: (message: string) => void;
  readonly #incoming = new Map<string, Incoming>();
  #closing = false;

  /** @param onWarning Told of what happens without a source that could be told. */
  constructor(context: IncomingContext, onWarning: (message: string) => void) {
    this.#context = context;
    this.#onWarning = onWarning;
  }

  async offer(offer: Offer): Promise<OfferReply> {
    const { ownership, nodeName, layers } = this.#context;
    const existing = await this.#refuseOwned(offer);
    const driver = this.#context.driver(offer.service.driver);
    checkSettings(driver, offer);
    refuseFindings(await this.#findings(offer), `${nodeName} can not take ${offer.service.name}`);
    await this.#supersede(offer);

    const record = arrivingRecord(offer);
    const end = this.#context.begin(record.name, `its migration from ${offer.sourceName}`);
    try {
      await this.#context.journal.write(journalRecord(offer));
    } catch (error) {
      end();
      throw error;
    }
    const workload = this.#context.workload(record);
    const incoming: Incoming = {
      offer,
      driver,
      workload,
      ticket: null,
      volatilePaths: [],
      arranged: null,
      filesComplete: false,
      arrival: null,
      prepared: null,
      released: false,
      trouble: null,
      asking: null,
      end,
      queue: Promise.resolve(),
    };
    this.#incoming.set(offer.migration, incoming);
    const taken: string[] = [];
    try {
      await ownership.compareAndSet(record.name, existing?.epoch ?? null, record);
      await driver.create(workload);
      await driver.recover(workload);

      const missing = await this.#missingLayers(offer.layers);
      const slots: Record<string, Slot> = {};
      for (const { digest } of missing) {
        slots[layerSlot(digest)] = { path: await layers.receiveStaging(digest), durable: true };
        taken.push(digest);
      }
      const { trees } = await driver.staging(workload);
      incoming.volatilePaths = trees.filter((tree) => !tree.durable).map((tree) => tree.path);
      for (const tree of trees) {
        const { path, durable, inPlace, recordPath, common } = tree;
        slots[instanceSlot(tree.name)] = { path, durable, inPlace, recordPath, common };
      }
      const memory = new Set(trees.filter((tree) => !tree.durable).map((tree) => instanceSlot(tree.name)));
      const files = new Set(trees.filter((tree) => tree.durable).map((tree) => instanceSlot(tree.name)));
      incoming.ticket = this.#context.transfers.issueTicket({
        slots,
        onEvent: ({ type, slot }) => {
          if (type !== 'completed' || this.#hasArrived(incoming, slot)) return;
          if (files.has(slot) && incoming.filesComplete) this.#takeBack(incoming);
          if (!memory.has(slot)) return;
          if (incoming.filesComplete) this.#startEarly(incoming);
          else this.#useRound(incoming);
        },
      });
      this.#ask(incoming, quietStagingMs);
      return {
        destinationName: nodeName,
        ticket: incoming.ticket,
        missingLayers: missing.map((layer) => layer.digest),
        returning: existing?.ownership === 'departed',
      };
    } catch (error) {
      // Only what this offer has taken: another migration may be receiving the same layer.
      for (const digest of taken) layers.releaseStaging(digest);
      this.#incoming.delete(offer.migration);
      end();
      await this.#context.journal.write({ ...journalRecord(offer), state: 'aborted' }).catch(() => {});
      throw error;
    }
  }

  async examine(offer: Offer): Promise<Examination> {
    const { nodeName } = this.#context;
    const existing = await this.#refuseOwned(offer);
    const driver = this.#context.driver(offer.service.driver);
    checkSettings(driver, offer);
    const missing = await this.#missingLayers(offer.layers);
    return {
      destinationName: nodeName,
      missingLayers: missing.map(({ digest }) => digest),
      findings: await this.#findings(offer),
      returning: existing?.ownership === 'departed',
      machine: await driver.machine(),
    };
  }

  async sealLayer(migration: string, layerDigest: string): Promise<void> {
    const incoming = this.#get(migration);
    const layer = incoming.offer.layers.find((candidate) => candidate.digest === layerDigest);
    if (layer === undefined) {
      throw new DeltahopError('DELTAHOP_E_PROTOCOL', `layer ${layerDigest} is not part of migration ${migration}`);
    }
    await this.#context.layers.seal(layer);
  }

  async arrange(migration: string): Promise<void> {
    const incoming = this.#get(migration);
    // At once: the memory may come before it is this one's turn.
    incoming.filesComplete = true;
    await this.#inTurn(incoming, async () => {
      this.#refuseUnless(migration, 'staging', 'can not be arranged any more');
      const { driver, workload } = incoming;
      const signal = AbortSignal.timeout(prepareLimitMs);
      incoming.arranged ??= { workload: await driver.arrange(workload, signal), usedFiles: false };
      const { arranged } = incoming;
      if (arranged.usedFiles) return;
      try {
        await arranged.workload.useFiles(signal);
        arranged.usedFiles = true;
      } catch (error) {
        incoming.arranged = null;
        throw error;
      }
    });
  }

  async arrangeOnArrival(migration: string, slots: readonly string[]): Promise<void> {
    const arrival = this.#arrivalOf(migration, slots);
    void arrival.then(() => this.arrange(migration)).catch(() => {});
  }

  async prepare(migration: string): Promise<PrepareReply> {
    return await this.#prepare(migration, performance.now());
  }

  async prepareOnArrival(migration: string, slots: readonly string[]): Promise<PrepareReply> {
    await this.#arrivalOf(migration, slots);
    return await this.#prepare(migration, performance.now());
  }

  /** Fulfilled once each of these slots has been received once more, or the migration has come to its end. */
  #arrivalOf(migration: string, slots: readonly string[]): Promise<void> {
    const incoming = this.#get(migration);
    this.#refuseUnless(migration, 'staging', 'waits for nothing any more');
    incoming.arrival?.fail(
      new DeltahopError('DELTAHOP_E_BUSY', `${incoming.offer.service.name}: its arrival was asked for once more`),
    );
    return new Promise((resolve, reject) => {
      incoming.arrival = { slots: new Set(slots), end: resolve, fail: reject };
    });
  }

  async #prepare(migration: string, startedAt: number): Promise<PrepareReply> {
    const incoming = this.#get(migration);
    return await this.#inTurn(incoming, async () => {
      const reply = (restorerMs: number): PrepareReply => ({ tookMs: performance.now() - startedAt, restorerMs });
      if (this.#record(migration).state === 'prepared') return reply(0);
      this.#refuseUnless(migration, 'staging', 'can not be prepared any more');
      const { restorerMs } = incoming.prepared ?? (await this.#hold(incoming));
      try {
        await this.#change(migration, { state: 'prepared' });
      } catch (error) {
        await this.#endHeld(incoming);
        throw error;
      }
      this.#ask(incoming, quietMs);
      return reply(restorerMs);
    });
  }

  async commit(migration: string): Promise<CommitReply> {
    return await this.#commit(migration, true);
  }

  /** @param isAsked The source waits for the answer: a refusal is on its way to one that can take the service back. */
  async #commit(migration: string, isAsked: boolean): Promise<CommitReply> {
    const askedAtMs = Date.now();
    const incoming = this.#get(migration);
    return await this.#inTurn(incoming, async () => {
      const { state } = this.#record(migration);
      if (state === 'staging') {
        // The source goes on with it on the strength of this answer, so it has to hold for ever.
        await this.#change(migration, { state: 'aborted' });
        await this.#endHeld(incoming);
        await this.#abandon(incoming);
      }
      if (state === 'staging' || state === 'aborted') {
        throw new DeltahopError('DELTAHOP_E_NOT_RUNNING', `${incoming.offer.service.name} was not prepared here`);
      }
      if (state === 'prepared') await this.#change(migration, { state: 'committed' });
      if (state !== 'running') await this.#run(incoming, isAsked);
      const record = this.#record(migration);
      const runningSinceMs = record.runningSinceMs ?? Date.now();
      const tookMs = Math.max(0, runningSinceMs - askedAtMs);
      return { tookMs, runningForMs: Math.max(0, Date.now() - runningSinceMs), epoch: record.epoch + 1 };
    });
  }

  async abort(migration: string): Promise<void> {
    if (this.#context.journal.destination(migration) === null) return;
    const incoming = this.#get(migration);
    await this.#inTurn(incoming, async () => {
      const { state } = this.#record(migration);
      if (state === 'committed' || state === 'running') {
        throw new DeltahopError(
          'DELTAHOP_E_NOT_RUNNING',
          `${incoming.offer.service.name} runs here already: too late to abort`,
        );
      }
      await this.#discard(incoming);
    });
  }

  async health(migration: string): Promise<HealthReply> {
    const incoming = this.#get(migration);
    const { driver, workload, offer } = incoming;
    const { name, health } = offer.service;
    if (this.#record(migration).state === 'aborted') {
      throw new DeltahopError('DELTAHOP_E_NOT_RUNNING', `${name} was given back`);
    }
    const { state } = await driver.inspect(workload);
    if (state !== 'running' || health === null) return { healthy: state === 'running', detail: `${name} is ${state}` };
    const why = await driver.probe(workload, health.probe);
    return { healthy: why === null, detail: why === null ? `${health.probe} is good` : `${health.probe}: ${why}` };
  }

  /**
   * At the agent's start, before any peer can ask. What was only arriving is over, what it brought stays for the next
   * try; what was held was lost with the agent or is ended now, and is restored from its files if the source says so.
   */
  async recoverHere(): Promise<void> {
    for (const record of this.#context.journal.list()) {
      if (record.side !== 'destination' || isSettled(record)) continue;
      try {
        const incoming = this.#get(record.migration);
        incoming.released = await hasRun(incoming);
        if (record.state === 'staging') await this.#discard(incoming);
      } catch (error) {
        this.#onWarning(
          `the arrival of ${record.service} (${record.migration}) could not be put in order: ${textOf(error)}`,
        );
      }
    }
  }

  /** From now on, asks sources for their decisions and acts on those that are known. */
  pursueAll(): void {
    for (const record of this.#context.journal.list()) {
      if (record.side === 'destination' && !isSettled(record) && record.state !== 'staging') {
        this.#ask(this.#get(record.migration), 0);
      }
    }
  }

  /** What has gone wrong in settling a migration; null if nothing has. */
  trouble(migration: string): string | null {
    return this.#incoming.get(migration)?.trouble ?? null;
  }

  /** Asks at once rather than at the end of a pause, and waits for that try. */
  async recoverNow(): Promise<void> {
    await Promise.all([...this.#incoming.values()].map(({ asking }) => asking?.now()));
  }

  /** Whether its source is still sending: not recovery's business. */
  isLive(migration: string): boolean {
    const incoming = this.#incoming.get(migration);
    return incoming !== undefined && this.#record(migration).state === 'staging' && this.#isOpen(incoming);
  }

  /**
   * The operator says that the source is gone for good (`destination`), or that it keeps the service (`source`).
   * @returns The record afterwards.
   * @throws DeltahopError DELTAHOP_E_NOT_RUNNING if it can not be run: the agent tries again, unless nothing of it is here.
   * @throws DeltahopError DELTAHOP_E_UNSUPPORTED for `source` if it runs here.
   */
  async resolve(migration: string, keep: 'source' | 'destination'): Promise<DestinationRecord> {
    const incoming = this.#get(migration);
    const resolved = this.#inTurn(incoming, async () => {
      const record = this.#record(migration);
      if (keep === 'source') {
        if (record.state === 'running') {
          const why = 'by its operator’s word, which its source may have heard: `deltahop migrate` takes it there';
          throw new DeltahopError('DELTAHOP_E_UNSUPPORTED', `${record.service} runs here ${why}`);
        }
        // Nothing of it may live when its source hears that it does not run here, and goes on with it.
        if (record.state === 'committed') await this.#end(incoming);
        await this.#discard(incoming);
        return;
      }
      if (record.state === 'staging') {
        throw new DeltahopError(
          'DELTAHOP_E_NOT_RUNNING',
          `${record.service} has not arrived here completely: there is nothing that could run`,
        );
      }
      // Above what the source would have given away: should it come back, it has to yield.
      await this.#change(migration, { state: 'committed', untoldEpoch: record.epoch + 2 });
      await this.#run(incoming, false);
    });
    try {
      await resolved;
    } finally {
      // What the operator has said stands: if it can not be run now, the agent tries again.
      if (!isSettled(this.#record(migration))) this.#ask(incoming, retryMs);
    }
    return this.#record(migration);
  }

  /** An operator chose the source, which owns the service at this epoch: what is here must not run. */
  async cede(record: DestinationRecord, epoch: number): Promise<void> {
    const incoming = this.#get(record.migration);
    const { ownership } = this.#context;
    await this.#inTurn(incoming, async () => {
      const { name } = record.offer.service;
      const owner = await ownership.read(name);
      if (owner !== null && (owner.epoch > epoch || (owner.epoch === epoch && owner.ownership === 'owned'))) {
        throw new DeltahopError('DELTAHOP_E_EPOCH', `${name} is at owner ${owner.epoch} here, ${epoch} is older`);
      }
      if (owner !== null) {
        await ownership.compareAndSet(name, owner.epoch, {
          ...owner,
          epoch,
          ownership: 'departed',
          movedTo: record.peer,
        });
      }
      await this.#end(incoming);
      await this.#change(record.migration, { state: 'aborted', untoldEpoch: null });
    });
    this.#forget(incoming);
  }

  /**
   * When the agent stops. What is only arriving ends; what is prepared stays so, since its source may have decided
   * already: the next agent finds it in the journal, and the barrier ends the held copy if none comes.
   */
  async dispose(): Promise<void> {
    this.#closing = true;
    for (const [id, incoming] of this.#incoming) {
      await incoming.asking?.stop();
      if (this.#record(id).state === 'staging') await this.abort(id);
    }
  }

  /** A migration in memory; one that only the journal knows comes back from there. */
  #get(migration: string): Incoming {
    const present = this.#incoming.get(migration);
    if (present !== undefined) return present;
    const record = this.#context.journal.destination(migration);
    if (record === null) {
      throw new DeltahopError('DELTAHOP_E_NOT_FOUND', `${this.#context.nodeName} knows no migration ${migration}`);
    }
    const { offer } = record;
    const incoming: Incoming = {
      offer,
      driver: this.#context.driver(offer.service.driver),
      workload: this.#context.workload(arrivingRecord(offer)),
      ticket: null,
      volatilePaths: [],
      arranged: null,
      filesComplete: false,
      arrival: null,
      prepared: null,
      released: false,
      trouble: null,
      asking: null,
      // After a restart the journal itself keeps other operations off.
      end: () => {},
      queue: Promise.resolve(),
    };
    // Of what is settled only the answer is left.
    if (!isSettled(record)) this.#incoming.set(migration, incoming);
    return incoming;
  }

  async #inTurn<T>(incoming: Incoming, work: () => Promise<T>): Promise<T> {
    const turn = incoming.queue.then(work);
    incoming.queue = turn.catch(() => {});
    return await turn;
  }

  #record(migration: string): DestinationRecord {
    const record = this.#context.journal.destination(migration);
    if (record !== null) return record;
    throw new DeltahopError('DELTAHOP_E_NOT_FOUND', `${this.#context.nodeName} knows no migration ${migration}`);
  }

  async #change(migration: string, change: Partial<DestinationRecord>): Promise<DestinationRecord> {
    return await this.#context.journal.write({ ...this.#record(migration), ...change });
  }

  #refuseUnless(migration: string, state: DestinationRecord['state'], what: string): void {
    const record = this.#record(migration);
    if (record.state === state) return;
    throw new DeltahopError('DELTAHOP_E_NOT_RUNNING', `${record.service} is ${record.state} here: it ${what}`);
  }

  /**
   * `prepared` promises that the service can be run from the files here whatever happens to this node, so they have to be
   * on its disk: the source gives its own memory of the service up on the strength of it. Done beside the restore, which
   * only reads them. Measured on ext4 for 41 images of 4 to 100 MiB with a last delta of 1 MiB: 10 to 30 ms, 100 MiB that
   * no round has brought before 60 to 90 ms; a restore takes 120 to 250 ms, so none of it is downtime.
   */
  async #makeDurable({ volatilePaths }: Incoming): Promise<void> {
    await Promise.all(volatilePaths.map((path) => syncTree(path)));
  }

  /**
   * Owns the service and lets it run; a held copy that was lost is restored once more from the files.
   * @throws DeltahopError DELTAHOP_E_NOT_RUNNING if it can not be run. Only to a source that `isAsked` for is that final:
   * nobody else could go on with the service, so without one it is tried again.
   */
  async #run(incoming: Incoming, isAsked: boolean): Promise<void> {
    const { migration, service } = incoming.offer;
    const [owned, released] = await Promise.allSettled([this.#own(incoming), this.#release(incoming)]);
    if (released.status === 'rejected' && !(await hasRun(incoming))) {
      await incoming.driver.stop(incoming.workload);
      // Refused for good and on record, before the source hears it and goes on with the service itself.
      if (isAsked) await this.#discard(incoming);
      throw new DeltahopError(
        'DELTAHOP_E_NOT_RUNNING',
        `${service.name} could not be run on ${this.#context.nodeName}: ${textOf(released.reason)}`,
        { cause: released.reason },
      );
    }
    incoming.released = true;
    // The journal's `committed` stands: the next try goes on from here.
    if (owned.status === 'rejected') throw owned.reason;
    const { untoldEpoch } = await this.#change(migration, {
      state: 'running',
      runningSinceMs: released.status === 'fulfilled' ? released.value : Date.now(),
    });
    await this.#revoke(incoming);
    // It is a service like any other now, though the source may have to hear of it yet.
    incoming.end();
    if (untoldEpoch === null) this.#forget(incoming);
  }

  /** @returns Date.now() when it ran. */
  async #release(incoming: Incoming): Promise<number> {
    if (incoming.released || (incoming.prepared === null && (await hasRun(incoming)))) return Date.now();
    const held = incoming.prepared;
    incoming.prepared = null;
    try {
      if (held === null) throw new DeltahopError('DELTAHOP_E_RESTORE', 'no copy is held');
      await held.commit();
    } catch (error) {
      if (held !== null) {
        this.#onWarning(
          `${incoming.offer.service.name} is restored once more, its copy was not let go: ${textOf(error)}`,
        );
      }
      await (await this.#restore(incoming)).commit();
    }
    return Date.now();
  }

  /** Restores from the files and holds. */
  async #restore(incoming: Incoming): Promise<PreparedWorkload> {
    const { driver, workload } = incoming;
    const signal = AbortSignal.timeout(prepareLimitMs);
    const arranged = incoming.arranged?.workload ?? (await driver.arrange(workload, signal));
    incoming.arranged = null;
    return await arranged.prepare(signal);
  }

  /**
   * After `arrange` nothing but the last of the memory comes, so its restore need not wait until the source has heard that
   * it came and has asked: a round trip. What fails here is done again when it is asked for, and says why then.
   */
  #startEarly(incoming: Incoming): void {
    void this.#inTurn(incoming, async () => {
      const { migration } = incoming.offer;
      if (incoming.arranged === null || this.#record(migration).state !== 'staging') return;
      await this.#hold(incoming);
    }).catch(() => {});
  }

  /** Files came after those that were said to be the last: what was done with these must not be used. */
  #takeBack(incoming: Incoming): void {
    incoming.filesComplete = false;
    void this.#inTurn(incoming, () => this.#abandon(incoming)).catch(() => {});
  }

  /** @returns whether this was waited for by {@link #arrivalOf}. */
  #hasArrived({ arrival }: Incoming, slot: string): boolean {
    if (arrival?.slots.delete(slot) !== true) return false;
    if (arrival.slots.size === 0) arrival.end();
    return true;
  }

  /** All of the instance has been here once: what can be done with that need not be done while the service stands still. */
  #useRound(incoming: Incoming): void {
    void this.#makeDurable(incoming).catch(() => {});
    if (!incoming.driver.arrangesEarly) return;
    void this.#inTurn(incoming, async () => {
      const { driver, workload, arranged, offer } = incoming;
      if (arranged !== null || this.#record(offer.migration).state !== 'staging') return;
      const signal = AbortSignal.timeout(prepareLimitMs);
      incoming.arranged = { workload: await driver.arrange(workload, signal), usedFiles: false };
      // What fails here is tried again when it is asked for, and says why then.
    }).catch(() => {});
  }

  /** Restores and holds, with the files on stable storage. On failure nothing is held. */
  async #hold(incoming: Incoming): Promise<PreparedWorkload> {
    const [prepared, durable] = await Promise.allSettled([this.#restore(incoming), this.#makeDurable(incoming)]);
    if (prepared.status === 'rejected') throw prepared.reason;
    incoming.prepared = prepared.value;
    if (durable.status === 'fulfilled') return prepared.value;
    await this.#endHeld(incoming);
    throw durable.reason;
  }

  /** Nothing of it runs or is held afterwards. */
  async #end(incoming: Incoming): Promise<void> {
    await this.#endHeld(incoming).catch(() => {});
    await incoming.driver.recover(incoming.workload);
    await incoming.driver.stop(incoming.workload);
  }

  async #endHeld(incoming: Incoming): Promise<void> {
    const held = incoming.prepared;
    incoming.prepared = null;
    await held?.abort();
  }

  async #abandon(incoming: Incoming): Promise<void> {
    const { arranged } = incoming;
    incoming.arranged = null;
    await arranged?.workload.abandon();
  }

  async #own(incoming: Incoming): Promise<void> {
    const { ownership } = this.#context;
    const { name } = incoming.offer.service;
    const record = this.#record(incoming.offer.migration);
    const epoch = record.untoldEpoch ?? record.epoch + 1;
    const present = await ownership.read(name);
    if (present?.ownership === 'owned' && present.epoch >= epoch) return;
    const next: ServiceRecord = { ...arrivingRecord(incoming.offer), epoch, ownership: 'owned' };
    await ownership.compareAndSet(name, present?.epoch ?? null, next);
  }

  /** Nothing comes of it: on record first, then what is held ends. What was received stays for the next try. */
  async #discard(incoming: Incoming): Promise<void> {
    const { migration, service, layers } = incoming.offer;
    const { ownership } = this.#context;
    await this.#change(migration, { state: 'aborted', untoldEpoch: null });
    const record = await ownership.read(service.name);
    if (record?.ownership === 'owned') {
      await ownership.compareAndSet(service.name, record.epoch, {
        ...record,
        ownership: 'departed',
        movedTo: incoming.offer.sourceAddress,
      });
    }
    await this.#revoke(incoming);
    for (const layer of layers) this.#context.layers.releaseStaging(layer.digest);
    this.#forget(incoming);
    await this.#endHeld(incoming);
    await this.#abandon(incoming);
  }

  /** No more steps are expected; the journal keeps what is asked for later. */
  #forget(incoming: Incoming): void {
    incoming.arrival?.end();
    const { asking } = incoming;
    // Not awaited: it may be this very asking that has led here.
    if (asking !== null) void asking.stop();
    this.#incoming.delete(incoming.offer.migration);
    incoming.end();
  }

  /** Whether its source may still send. */
  #isOpen({ ticket }: Incoming): boolean {
    return ticket !== null && this.#context.transfers.isOpen(ticket);
  }

  async #revoke(incoming: Incoming): Promise<void> {
    if (incoming.ticket !== null) await this.#context.transfers.revokeTicket(incoming.ticket);
    incoming.ticket = null;
  }

  #ask(incoming: Incoming, delayMs: number): void {
    if (this.#closing) return;
    void incoming.asking?.stop();
    incoming.asking = new Retry(() => this.#askAgain(incoming), delayMs);
  }

  /** {@link #askOnce}, and what goes wrong with it is told once. */
  async #askAgain(incoming: Incoming): Promise<boolean> {
    const { migration, service, sourceName } = incoming.offer;
    try {
      return await this.#askOnce(migration);
    } catch (error) {
      const { state } = this.#record(migration);
      if (state === 'staging' && !this.#isOpen(incoming)) {
        // A source that neither sends nor answers; never prepared here, so it can not have been given up there.
        await this.#inTurn(incoming, async () => {
          if (this.#record(migration).state === 'staging') await this.#discard(incoming);
        });
        this.#onWarning(`${service.name} arrives no more: ${sourceName} was not heard of (${textOf(error)})`);
        return isSettled(this.#record(migration));
      }
      if (state === 'committed' && incoming.trouble !== textOf(error)) {
        this.#onWarning(`${service.name} waits for its first run here, which is tried again: ${textOf(error)}`);
      }
      incoming.trouble = textOf(error);
      throw error;
    }
  }

  /** @returns whether there is nothing left to ask or to do. */
  async #askOnce(migration: string): Promise<boolean> {
    const record = this.#record(migration);
    if (isSettled(record)) return true;
    if (record.state === 'committed') {
      await this.#commit(migration, false);
      return isSettled(this.#record(migration));
    }
    const peer = this.#context.connectPeer(record.peer);
    try {
      if (record.state === 'running' && record.untoldEpoch !== null) {
        await peer.cede(migration, record.untoldEpoch);
        await this.#change(migration, { untoldEpoch: null });
        this.#forget(this.#get(migration));
        return true;
      }
      const { verdict, nodeName } = await peer.verdict(migration);
      if (nodeName !== record.offer.sourceName) return false;
      if (verdict === 'commit') await this.#commit(migration, false);
      if (verdict === 'abort') await this.abort(migration);
      return isSettled(this.#record(migration));
    } finally {
      peer.close();
    }
  }

  /**
   * A new offer for a service takes the place of an older try that did not come to its end. That its owner offers again
   * says that it did not give the service up then; only the same source, or a later owner, can say so.
   */
  async #supersede({ service, sourceName }: Offer): Promise<void> {
    for (const record of this.#context.journal.undecided(service.name)) {
      if (record.side === 'source') {
        // It went away and is coming back, so it has been well: what is kept here for it is a basis now.
        if (service.epoch > record.epoch) await this.#context.cameBack(record.migration);
      } else {
        if (record.offer.sourceName !== sourceName && service.epoch <= record.epoch) {
          throw new DeltahopError(
            'DELTAHOP_E_BUSY',
            `${service.name} on ${this.#context.nodeName} waits for the word of ${record.offer.sourceName}; \`deltahop recover\` asks for it`,
          );
        }
        await this.abort(record.migration);
      }
    }
  }

  async #missingLayers(layers: readonly OfferedLayer[]): Promise<OfferedLayer[]> {
    const missing: OfferedLayer[] = [];
    for (const layer of layers) {
      if (!(await this.#context.layers.has(layer.digest))) missing.push(layer);
    }
    return missing;
  }

  /** What speaks for and against an offer here. */
  async #findings(offer: Offer): Promise<Finding[]> {
    const { nodeName, statePath, driver: driverOf } = this.#context;
    const driver = driverOf(offer.service.driver);
    const { memoryBytes, filesBytes } = offer.instance;
    const missing = await this.#missingLayers(offer.layers);
    const layerBytes = missing.reduce((sum, { bytes }) => sum + bytes, 0);
    const [capabilities, admits, { bavail, bsize }] = await Promise.all([
      driver.capabilities(),
      driver.admits(offer.machine, this.#context.workload(arrivingRecord(offer))),
      statfs(statePath),
    ]);
    return [
      ...capabilities,
      ...admits,
      // The image beside the one of the round before it, while that is its basis.
      roomFinding('space', nodeName, bavail * bsize, layerBytes + filesBytes + 2 * memoryBytes + spareBytes),
      roomFinding('memory', nodeName, await availableMemoryBytes(), memoryBytes + spareBytes),
    ];
  }

  /** @returns What is recorded here of the service; null if nothing. */
  async #refuseOwned({ service }: Offer): Promise<ServiceRecord | null> {
    const { ownership, nodeName } = this.#context;
    const existing = await ownership.read(service.name);
    if (existing?.ownership === 'owned') {
      throw new DeltahopError(
        'DELTAHOP_E_PREFLIGHT',
        `${nodeName} already owns a service named ${service.name}; \`deltahop service rm\` removes it there`,
      );
    }
    if (existing !== null && existing.epoch > service.epoch) {
      throw new DeltahopError(
        'DELTAHOP_E_EPOCH',
        `${nodeName} has seen owner ${existing.epoch} of ${service.name}, the offer is of owner ${service.epoch}`,
      );
    }
    return existing;
  }
}

/** A restore that is not held by then has failed. */
const prepareLimitMs = 60_000;

function journalRecord(offer: Offer): DestinationRecord {
  return {
    format: 1,
    side: 'destination',
    migration: offer.migration,
    service: offer.service.name,
    epoch: offer.service.epoch,
    peer: offer.sourceAddress,
    state: 'staging',
    startedAtMs: Date.now(),
    changedAtMs: Date.now(),
    untoldEpoch: null,
    offer,
    runningSinceMs: null,
  };
}

/**
 * Puts a copy in order that no barrier of this agent holds: one that was not let go is ended.
 * @returns whether it was let go, so that its image is older than its files.
 */
async function hasRun({ driver, workload }: Incoming): Promise<boolean> {
  const { released } = await driver.recover(workload);
  // One that stands still now, on a full disk, has been let go too.
  return released || (await driver.inspect(workload)).state !== 'stopped';
}

function checkSettings(driver: WorkloadDriver, { service, layers }: Offer): void {
  driver.checkSettings(service.name, service.settings, service.command);
  if (layers.every(({ form }) => form === driver.layerForm)) return;
  const message = `services of ${driver.name} have layers that are a ${driver.layerForm}, unlike those offered`;
  throw new DeltahopError('DELTAHOP_E_PROTOCOL', message);
}

function textOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

function arrivingRecord(offer: Offer): ServiceRecord {
  const layerOf = (kind: 'base' | 'app'): string => {
    const layer = offer.layers.find((candidate) => candidate.kind === kind);
    if (layer === undefined) throw new DeltahopError('DELTAHOP_E_PROTOCOL', `the offer names no ${kind} layer`);
    return layer.digest;
  };
  const { name, driver, settings, command, health, epoch } = offer.service;
  return {
    name,
    driver,
    base: layerOf('base'),
    app: layerOf('app'),
    settings,
    command,
    health,
    epoch,
    ownership: 'arriving',
    movedTo: null,
  };
}
