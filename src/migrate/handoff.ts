/**
 * The source's side of the hand-off: the decision, and what follows from it until nothing is left to do, in the live
 * migration and after a restart of the agent alike. HANDOFF.md has the protocol and its crash points.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { DeltahopError, type ErrorCode, isDeltahopError } from '../errors.js';
import type { LayerStore } from '../layers/store.js';
import type { TransferClient } from '../transfer/transfer-client.js';
import { mustRun } from '../workload/command.js';
import type { FrozenWorkload, Workload, WorkloadDriver } from '../workload/driver.js';
import type { History } from './history.js';
import { isSettled, type Journal, type SourceRecord } from './journal.js';
import type { CommitReply, DestinationControl, PeerControl, Verdict, VerdictReply } from './offer.js';
import type { Ownership, ServiceRecord } from './ownership.js';
import type { ByteCounters } from './phases.js';
import { Retry } from './retry.js';

/** The connection to the other side's control API, with what crossed it. */
export interface PeerLink extends DestinationControl, PeerControl {
  readonly counters: ByteCounters;
  /** Sends so many bytes (1,000,000 at most), which come to nothing, and waits for the answer. */
  ping(bytes: number): Promise<void>;
  close(): void;
}

/** What the source's side needs of its node. */
export interface MigrationContext {
  nodeName: string;
  journal: Journal;
  ownership: Ownership;
  layers: LayerStore;
  driver(name: string): WorkloadDriver;
  workload(record: ServiceRecord): Workload;
  connectPeer(address: string): PeerLink;
  /** `HOST:PORT` at which the node at `address` reaches this one. */
  ownAddress(address: string): Promise<string>;
  history: History;
  /** How much of a sample is left once compressed, from 0 to 1. */
  compressedShare(sample: Uint8Array): Promise<number>;
  connectTransfers(address: string, ticket: string, signal: AbortSignal): Promise<TransferClient>;
}

/** First and longest pause between two tries to tell the destination of the commit. */
const firstRetryMs = 100;
const longestRetryMs = 5_000;

/** How long a service without a probe of its own has to run at the destination, and by when. */
const healthyForMs = 500;
const healthLimitMs = 10_000;
const healthPauseMs = 100;

/** A hook that has not ended by then is killed. */
const hookLimitMs = 10_000;

/** A restore of the source's own files that is not there by then has failed. */
const takeBackLimitMs = 60_000;

/**
 * Answers that the same question will always get. Only one of them, NOT_RUNNING, says that the service will never run
 * there; after the others nobody but an operator can tell.
 */
const finalCodes: readonly ErrorCode[] = [
  'DELTAHOP_E_NOT_RUNNING',
  'DELTAHOP_E_NOT_FOUND',
  'DELTAHOP_E_EPOCH',
  'DELTAHOP_E_OWNED_ELSEWHERE',
  'DELTAHOP_E_PROTOCOL',
  'DELTAHOP_E_UNSUPPORTED',
  'DELTAHOP_E_INVALID_ARGUMENT',
  'DELTAHOP_E_INSECURE_REFUSED',
];

/** What came of the look at a service's health after its move. */
export interface HealthOutcome {
  healthy: boolean;
  /** What was wrong; empty if nothing was. */
  detail: string;
  /** Which copies there still are: one that is kept alone has the service. */
  kept: 'source' | 'destination' | 'both';
}

/** The destination's answer to the commit. */
export interface ToldCommit extends CommitReply {
  /** Date.now() when it came. The service has been running by then, and waits for nothing that follows. */
  toldAtMs: number;
}

/** How one that is not the live migration hears of what happens. */
export type OnWarning = (message: string) => void;

/** All migrations from this node whose outcome is not settled. */
export class Outgoing {
  readonly #context: MigrationContext;
  readonly #onWarning: OnWarning;
  /** Migrations that a job of this agent carries: not recovery's business. */
  readonly #live = new Map<string, { detach: AbortController; left: Promise<void>; leave: () => void }>();
  /** Committed in the journal, but not yet known to be so at the barrier and dead here: nobody may be told. */
  readonly #unfenced = new Set<string>();
  /** Those that run at the destination and were not well in time; both copies are kept. */
  readonly #unwell = new Set<string>();
  readonly #retries = new Map<string, Retry>();
  /** Looks at a service's health that are under way. */
  readonly #looks = new Map<string, AbortController>();
  /** Why the last try to settle a migration has failed, or what was lost when it was. */
  readonly #troubles = new Map<string, string>();
  readonly #closing = new AbortController();

  /** @param onWarning Told of what happens in no live migration. */
  constructor(context: MigrationContext, onWarning: OnWarning) {
    this.#context = context;
    this.#onWarning = onWarning;
  }

  /**
   * Opens the record of a migration that begins.
   * @param onCommit See {@link announce}.
   * @throws DeltahopError DELTAHOP_E_BUSY if an earlier one of the service is not settled.
   */
  async begin(migration: string, record: ServiceRecord, peer: string, onCommit: string | null): Promise<void> {
    const [open] = this.#context.journal.undecided(record.name);
    if (open !== undefined) {
      throw new DeltahopError(
        'DELTAHOP_E_BUSY',
        `the hand-off of ${record.name} to ${open.peer} is not settled; \`deltahop recover\` tries to`,
      );
    }
    let leave: () => void = () => {};
    const left = new Promise<void>((resolve) => {
      leave = resolve;
    });
    this.#live.set(migration, { detach: new AbortController(), left, leave });
    await this.#context.journal.write({
      format: 1,
      side: 'source',
      migration,
      service: record.name,
      epoch: record.epoch,
      peer,
      state: 'rounds',
      startedAtMs: Date.now(),
      changedAtMs: Date.now(),
      acknowledged: false,
      takenBack: false,
      untoldEpoch: null,
      peerName: null,
      onCommit,
      announcedEpoch: null,
    });
  }

  /** The next thing to happen is the freeze. */
  async markFrozen(migration: string, peerName: string): Promise<void> {
    await this.#change(migration, { state: 'frozen', peerName });
  }

  /** Nothing comes of a migration that is not decided, or whose barrier has decided so. */
  async markAborted(migration: string): Promise<void> {
    const record = this.#context.journal.source(migration);
    if (record === null || isSettled(record)) return;
    if (record.state === 'committed' && !this.#unfenced.has(migration)) {
      throw new DeltahopError('DELTAHOP_E_INTERNAL', `migration ${migration} is decided and can not be aborted`);
    }
    await this.#change(migration, { state: 'aborted' });
    this.#unfenced.delete(migration);
  }

  /** A live migration is over; what it could not settle is tried again from now on, without it. */
  leave(migration: string): void {
    this.#live.get(migration)?.leave();
    this.#live.delete(migration);
    this.#pursue(migration);
  }

  /**
   * Decides: the commit is journaled first, so that a full disk is found out while the service can still resume; then
   * the barrier's verdict, which its own patience may have given already, confirms or voids it. Until it has, a
   * destination that asks is told `undecided`.
   * @throws DeltahopError DELTAHOP_E_CHECKPOINT if the service runs on here.
   */
  async decide(migration: string, frozen: FrozenWorkload): Promise<void> {
    this.#unfenced.add(migration);
    await this.#change(migration, { state: 'committed' });
    try {
      await frozen.commit();
    } catch (error) {
      const { driver, workload } = await this.#parts(migration);
      if ((await driver.decideFreeze(workload, 'abort')) === 'commit') {
        // Nothing may be told before nothing of it lives here.
        await this.#fence(migration);
        return;
      }
      await this.markAborted(migration);
      throw error;
    }
    this.#unfenced.delete(migration);
  }

  /** Whether a migration is past the point of no return. */
  isDecided(migration: string): boolean {
    const record = this.#context.journal.source(migration);
    return record !== null && ['committed', 'healthy'].includes(record.state);
  }

  /** What a destination that asks is told. */
  verdict(migration: string): VerdictReply {
    return { verdict: this.#verdict(migration), nodeName: this.#context.nodeName };
  }

  /**
   * After the decision: has the destination run the service.
   * @param signal Ends the telling, not the hand-off: the agent goes on with it by itself.
   * @throws DeltahopError DELTAHOP_E_LINK if it was ended so.
   * @throws DeltahopError DELTAHOP_E_NOT_RUNNING if it never will; the service was taken back then.
   * @throws DeltahopError another code of a final answer: an operator has to look.
   */
  async complete(
    migration: string,
    destination: DestinationControl,
    onWarning: OnWarning,
    signal: AbortSignal,
  ): Promise<ToldCommit> {
    const detached = this.#live.get(migration)?.detach.signal ?? signal;
    const ends = AbortSignal.any([this.#closing.signal, signal, detached]);
    try {
      // The journal holds the decision; the record of ownership follows from it and nobody has to wait for it.
      const [told] = await Promise.all([
        tellCommit(destination, migration, this.#record(migration).peer, onWarning, ends),
        this.#depart(migration),
      ]);
      await this.#change(migration, { acknowledged: true });
      return told;
    } catch (error) {
      if (isDeltahopError(error, 'DELTAHOP_E_NOT_RUNNING')) await this.takeBack(migration);
      throw error;
    }
  }

  /**
   * Looks whether the service is well at the destination, then drops what is left of it here. If it does not become well,
   * its policy says what of the two is kept.
   * @param signal Ends the look, as the agent's end or an operator's word does.
   * @param withinMs For how long it is waited for, unless its policy's time is meant.
   * @returns null if the look was ended: what becomes of the service is found out later.
   */
  async verify(
    migration: string,
    destination: PeerControl & DestinationControl,
    signal: AbortSignal,
    withinMs?: number,
  ): Promise<HealthOutcome | null> {
    const look = new AbortController();
    this.#looks.set(migration, look);
    const detached = this.#live.get(migration)?.detach.signal ?? signal;
    const ends = AbortSignal.any([this.#closing.signal, signal, detached, look.signal]);
    const { owner } = await this.#parts(migration);
    const { forMs = healthyForMs, limitMs = healthLimitMs, ifFails = 'ask' } = owner.health ?? {};
    let detail: string | null;
    try {
      detail = await this.#watchHealth(migration, destination, forMs, withinMs ?? limitMs, ends);
    } catch (error) {
      if (ends.aborted || isSettled(this.#record(migration))) return null;
      // It has given the service back already, before a restart of this agent or by its operator's word.
      await this.takeBack(migration);
      return { healthy: false, detail: messageOf(error), kept: 'source' };
    } finally {
      this.#looks.delete(migration);
    }
    if (isSettled(this.#record(migration))) return null;
    if (detail === null || ifFails === 'keep') {
      const { driver, workload } = await this.#parts(migration);
      // What stays is no service any more but the basis that makes its return cheap.
      await driver.stop(workload);
      await this.#change(migration, { state: 'healthy' });
      return { healthy: detail === null, detail: detail ?? '', kept: 'destination' };
    }
    if (ifFails === 'back' && (await this.#haveItCeded(migration, destination))) {
      await this.takeBack(migration);
      return { healthy: false, detail, kept: 'source' };
    }
    return { healthy: false, detail, kept: 'both' };
  }

  /**
   * @returns null once it has been well for `forMs`, else what was wrong with it last when `limitMs` were over.
   * @throws DeltahopError DELTAHOP_E_NOT_RUNNING if the destination has given it back for good.
   * @throws Error if `ends` came first.
   */
  async #watchHealth(
    migration: string,
    destination: DestinationControl,
    forMs: number,
    limitMs: number,
    ends: AbortSignal,
  ): Promise<string | null> {
    const startedAt = performance.now();
    let healthySince: number | null = null;
    let detail = 'no answer';
    for (;;) {
      ends.throwIfAborted();
      try {
        const health = await destination.health(migration);
        detail = health.detail;
        healthySince = health.healthy ? (healthySince ?? performance.now()) : null;
      } catch (error) {
        if (isDeltahopError(error, 'DELTAHOP_E_NOT_RUNNING')) throw error;
        detail = messageOf(error);
        healthySince = null;
      }
      const now = performance.now();
      if (healthySince !== null && now - healthySince >= forMs) return null;
      // One that has just become well is given the time to show it.
      if (now - startedAt >= limitMs && (healthySince === null || now - startedAt >= limitMs + forMs)) return detail;
      await sleep(healthPauseMs, undefined, { signal: ends });
    }
  }

  /** Has the destination end the service, so that it can go on here. @returns whether it has. */
  async #haveItCeded(migration: string, destination: PeerControl): Promise<boolean> {
    try {
      await destination.cede(migration, this.#record(migration).epoch + 2);
      return true;
    } catch (error) {
      this.#onWarning(`${this.#record(migration).peer} could not be told to give it back: ${messageOf(error)}`);
      return false;
    }
  }

  /**
   * The destination will never run what was given up here: the files are still complete, so it goes on here, as a new
   * owner. Does again what a crash has interrupted.
   * @param afresh If it can not be restored it is started from its files, without its memory.
   */
  async takeBack(migration: string, afresh = false): Promise<void> {
    const { service, epoch } = await this.#change(migration, { takenBack: true });
    const { driver, workload, owner } = await this.#parts(migration);
    const next = epoch + 2;
    if (owner.ownership !== 'owned' || owner.epoch < next) {
      await this.#context.ownership.compareAndSet(service, owner.epoch, {
        ...owner,
        epoch: Math.max(next, owner.epoch + 1),
        ownership: 'owned',
        movedTo: null,
      });
    }
    const { released } = await driver.recover(workload);
    let lost: string | null = null;
    if (!released && (await driver.inspect(workload)).state === 'stopped') {
      try {
        await restore(driver, workload);
      } catch (error) {
        if (!afresh) throw error;
        await driver.start(workload);
        lost = `it was started from its files, without its memory: ${messageOf(error)}`;
        this.#onWarning(`${service} could not be restored: ${lost}`);
      }
    }
    await this.announce(migration, this.#onWarning);
    await this.#change(migration, { state: 'aborted' });
    if (lost === null) this.#troubles.delete(migration);
    else this.#troubles.set(migration, lost);
  }

  /**
   * Has the program of a migration's order, if there is one, tell the outside world who owns the service: that it has moved,
   * and that it is back if it was told so. Whatever comes of it, the service is where it is. Once more after a crash.
   */
  async announce(migration: string, onWarning: OnWarning): Promise<void> {
    const { service, peer, peerName, epoch, takenBack, onCommit, announcedEpoch } = this.#record(migration);
    const owner = epoch + (takenBack ? 2 : 1);
    if (onCommit === null || announcedEpoch === owner || (takenBack && announcedEpoch === null)) return;
    const { nodeName, ownAddress } = this.#context;
    const [here, there] = [nodeName, peerName ?? peer];
    try {
      const env = {
        DELTAHOP_SERVICE: service,
        DELTAHOP_FROM: takenBack ? there : here,
        DELTAHOP_TO: takenBack ? here : there,
        DELTAHOP_TO_ADDRESS: takenBack ? await ownAddress(peer) : peer,
        DELTAHOP_EPOCH: String(owner),
      };
      await mustRun([onCommit], { limitMs: hookLimitMs, env, code: 'DELTAHOP_E_HOOK' });
    } catch (error) {
      onWarning(`the hook ${onCommit}: ${messageOf(error)}`);
    }
    await this.#change(migration, { announcedEpoch: owner });
  }

  /**
   * At the agent's start, before any peer can ask: brings journal, barriers and ownership of this node to agreement.
   * @returns Services that were in a hand-off and are in order now, or are waited for.
   */
  async recoverHere(): Promise<void> {
    for (const record of this.#context.journal.list()) {
      if (record.side !== 'source' || isSettled(record)) continue;
      const { migration, service } = record;
      try {
        await this.#recoverOne(record);
      } catch (error) {
        this.#onWarning(`the hand-off of ${service} (${migration}) could not be put in order: ${messageOf(error)}`);
      }
    }
  }

  /** From now on, tells destinations what they have not heard. */
  pursueAll(): void {
    for (const record of this.#context.journal.list()) if (record.side === 'source') this.#pursue(record.migration);
  }

  /** Tries at once what is waited for, and waits for that try. */
  async recoverNow(): Promise<void> {
    this.pursueAll();
    await Promise.all([...this.#retries.values()].map((retry) => retry.now()));
  }

  /** Whether a job of this agent carries the migration and may still cancel it. */
  isLive(migration: string): boolean {
    return this.#live.has(migration) && !this.isDecided(migration);
  }

  /** What has gone wrong in settling a migration; null if nothing has. */
  trouble(migration: string): string | null {
    return this.#troubles.get(migration) ?? null;
  }

  /** A service that this migration took away has been well, since its owner sends it back: what is kept of it is a basis. */
  async cameBack(migration: string): Promise<void> {
    this.#looks.get(migration)?.abort();
    if (!isSettled(this.#record(migration))) {
      await this.#change(migration, { state: 'healthy', acknowledged: true, untoldEpoch: null });
    }
    // Whatever was under way must not touch what arrives from now on.
    await this.detach(migration);
    await this.#rest(migration);
  }

  /** Has the job of a decided migration leave it to the agent; fulfilled when it has. */
  async detach(migration: string): Promise<void> {
    const live = this.#live.get(migration);
    live?.detach.abort();
    await live?.left;
  }

  /**
   * The operator says that the destination is gone for good (`source`), or that it has the service (`destination`). Said
   * once more of one that can not be restored here, `source` starts it from its files.
   * @returns The record afterwards.
   * @throws DeltahopError DELTAHOP_E_NOT_RUNNING if the destination is known not to have it.
   */
  async resolve(migration: string, keep: 'source' | 'destination'): Promise<SourceRecord> {
    await this.#rest(migration);
    try {
      await this.#resolve(this.#record(migration), keep);
    } finally {
      this.#pursue(migration);
    }
    return this.#record(migration);
  }

  async #resolve(record: SourceRecord, keep: 'source' | 'destination'): Promise<void> {
    const { migration, service } = record;
    const { driver, workload, owner } = await this.#parts(migration);
    if (keep === 'source') {
      if (record.takenBack && record.state === 'committed') {
        await this.takeBack(migration, true);
      } else if (record.state === 'committed') {
        // One that runs there and can still be reached ends before this one begins.
        const peer = this.#context.connectPeer(record.peer);
        const ceded = record.acknowledged && (await this.#haveItCeded(migration, peer));
        peer.close();
        if (!ceded) await this.#change(migration, { untoldEpoch: record.epoch + 2 });
        try {
          await this.takeBack(migration);
        } catch (error) {
          const way = `\`deltahop resolve ${service} --keep source\` once more starts it from its files, without its memory`;
          throw new DeltahopError('DELTAHOP_E_RESTORE', `${messageOf(error)}; the agent tries again, and ${way}`);
        }
      } else {
        await this.#recoverOne(record);
      }
    } else {
      if (record.takenBack && record.untoldEpoch === null) throw givenUp(record);
      if (record.state === 'aborted') {
        const why = `by its operator's word, which ${record.peer} may have heard: \`deltahop migrate\` takes it there`;
        throw new DeltahopError('DELTAHOP_E_UNSUPPORTED', `${service} runs here ${why}`);
      }
      // Whatever was decided before: the other side must not be told to yield any more.
      await this.#change(migration, { state: 'committed', takenBack: false, untoldEpoch: null });
      await driver.decideFreeze(workload, 'commit');
      await driver.recover(workload);
      await driver.stop(workload);
      if (owner.ownership === 'owned') {
        await this.#context.ownership.compareAndSet(owner.name, owner.epoch, departed(owner, record));
      }
      if (!(await this.#isLeft(record))) {
        await this.takeBack(migration);
        throw givenUp(record);
      }
      await this.announce(migration, this.#onWarning);
      await this.#change(migration, { state: 'healthy', acknowledged: true });
    }
  }

  /** Whether the destination has what its operator leaves to it. If it does not answer it has: that is what the word is for. */
  async #isLeft({ migration, peer }: SourceRecord): Promise<boolean> {
    const destination = this.#context.connectPeer(peer);
    try {
      await destination.commit(migration);
    } catch (error) {
      return !isDeltahopError(error, 'DELTAHOP_E_NOT_RUNNING');
    } finally {
      destination.close();
    }
    return true;
  }

  /** An operator chose the destination, which owns the service at this epoch: what is here must not run. */
  async cede(record: SourceRecord, epoch: number): Promise<void> {
    await this.#rest(record.migration);
    const { driver, workload, owner } = await this.#parts(record.migration);
    if (owner.epoch > epoch || (owner.epoch === epoch && owner.ownership === 'owned')) {
      throw new DeltahopError('DELTAHOP_E_EPOCH', `${owner.name} is at owner ${owner.epoch} here, ${epoch} is older`);
    }
    await this.#context.ownership.compareAndSet(owner.name, owner.epoch, { ...departed(owner, record), epoch });
    if (!isSettled(record)) await this.#change(record.migration, { state: 'committed', takenBack: false });
    await driver.decideFreeze(workload, 'commit');
    await driver.recover(workload);
    await driver.stop(workload);
    await this.#change(record.migration, { state: 'healthy', acknowledged: true, untoldEpoch: null });
  }

  /** Stops telling; the journal knows what is left to tell. */
  async close(): Promise<void> {
    this.#closing.abort();
    await Promise.all([...this.#retries.values()].map((retry) => retry.stop()));
  }

  #verdict(migration: string): Verdict {
    const record = this.#context.journal.source(migration);
    // Presumed abort: what was never begun here, or is forgotten because it was settled long ago, was not decided.
    if (record === null || record.state === 'aborted' || record.takenBack) return 'abort';
    if (record.state === 'rounds' || record.state === 'frozen') return 'undecided';
    return this.#unfenced.has(migration) ? 'undecided' : 'commit';
  }

  async #recoverOne(record: SourceRecord): Promise<void> {
    const { migration, service } = record;
    const { driver, workload } = await this.#parts(migration);
    if (record.state === 'rounds' || record.state === 'frozen') {
      // A commit is journaled before it becomes the barrier's verdict, so there is none.
      await driver.decideFreeze(workload, 'abort');
      await driver.recover(workload);
      await this.#change(migration, { state: 'aborted' });
      this.#tellAbort(migration);
      const { state } = await driver.inspect(workload);
      if (state !== 'running') this.#onWarning(`${service} is ${state} after its migration was interrupted; start it`);
    } else if (record.state === 'committed' && !record.takenBack && record.acknowledged) {
      // It runs there; the agent may have died before what the freeze left here was cleared.
      await this.#fence(migration);
    } else if (record.state === 'committed' && !record.takenBack) {
      this.#unfenced.add(migration);
      if ((await driver.decideFreeze(workload, 'commit')) === 'abort') {
        // On record first: what has run on is newer than its image, and the verdict that says so goes with the recovery.
        await this.markAborted(migration);
        await driver.recover(workload);
      } else {
        await this.#fence(migration);
        await this.#depart(migration);
      }
    }
  }

  /** Makes sure that nothing of a service that was given up lives here. */
  async #fence(migration: string): Promise<void> {
    const { driver, workload } = await this.#parts(migration);
    await driver.recover(workload);
    const { state } = await driver.inspect(workload);
    if (state !== 'stopped') {
      throw new DeltahopError('DELTAHOP_E_WORKLOAD', `${workload.name} was given up here and is still ${state}`);
    }
    this.#unfenced.delete(migration);
  }

  async #depart(migration: string): Promise<void> {
    const { owner } = await this.#parts(migration);
    const record = this.#record(migration);
    if (owner.ownership !== 'owned' || owner.epoch !== record.epoch) return;
    await this.#context.ownership.compareAndSet(owner.name, owner.epoch, departed(owner, record));
  }

  /** Does nothing more about a migration by itself; fulfilled when what was under way has ended. */
  async #rest(migration: string): Promise<void> {
    this.#looks.get(migration)?.abort();
    await this.#retries.get(migration)?.stop();
    this.#retries.delete(migration);
  }

  /** Goes on by itself with what is left of a migration that no job carries. */
  #pursue(migration: string): void {
    const record = this.#context.journal.source(migration);
    if (record === null || isSettled(record) || this.#live.has(migration) || this.#closing.signal.aborted) return;
    if (this.#retries.get(migration)?.over === false) return;
    this.#retries.set(migration, new Retry(() => this.#pursueAgain(migration)));
  }

  /** {@link #pursueOnce}, and what goes wrong with it is kept; if it keeps the service from running, it is told once. */
  async #pursueAgain(migration: string): Promise<boolean> {
    try {
      return await this.#pursueOnce(migration);
    } catch (error) {
      const [{ service, takenBack }, why] = [this.#record(migration), messageOf(error)];
      if (takenBack && this.trouble(migration) !== why) {
        this.#onWarning(`${service} waits for its restart here, which is tried again: ${why}`);
      }
      this.#troubles.set(migration, why);
      throw error;
    }
  }

  /** @returns whether nothing more can be done without an operator. */
  async #pursueOnce(migration: string): Promise<boolean> {
    const record = this.#record(migration);
    if (isSettled(record)) return true;
    const peer = this.#context.connectPeer(record.peer);
    try {
      if (record.takenBack && record.state === 'committed') {
        await this.takeBack(migration);
      } else if (record.state !== 'committed' && record.untoldEpoch === null) {
        await this.#recoverOne(record);
      } else if (record.state === 'committed' && !record.acknowledged) {
        if (this.#unfenced.has(migration)) await this.#recoverOne(record);
        if (this.#verdict(migration) !== 'commit') return isSettled(this.#record(migration));
        // Once a try: the pauses are those of the retry.
        await this.#depart(migration);
        await peer.commit(migration);
        await this.#change(migration, { acknowledged: true });
      }
      const now = this.#record(migration);
      if (now.untoldEpoch !== null) {
        await peer.cede(migration, now.untoldEpoch);
        await this.#change(migration, { untoldEpoch: null });
      }
      if (now.state === 'committed' && now.acknowledged) {
        await this.announce(migration, this.#onWarning);
        // One that was not well in time may become so; until its operator decides, one look a try is enough.
        const withinMs = this.#unwell.has(migration) ? 0 : undefined;
        const outcome = await this.verify(migration, peer, this.#closing.signal, withinMs);
        if (outcome === null) return false;
        const { healthy, detail, kept } = outcome;
        if (!healthy && !this.#unwell.has(migration)) {
          this.#onWarning(`${now.service} at ${now.peer} does not become well (${detail}); kept: ${kept}`);
        }
        this.#unwell.add(migration);
        return kept !== 'both';
      }
      return isSettled(this.#record(migration));
    } catch (error) {
      if (isDeltahopError(error, 'DELTAHOP_E_NOT_RUNNING') && this.#record(migration).state === 'committed') {
        await this.takeBack(migration);
        this.#onWarning(`${record.service} goes on here: ${record.peer} does not run it (${error.message})`);
        return isSettled(this.#record(migration));
      }
      if (!isFinal(error)) throw error;
      this.#onWarning(`the hand-off of ${record.service} to ${record.peer} needs its operator: ${messageOf(error)}`);
      return true;
    } finally {
      peer.close();
    }
  }

  /** A courtesy, so that the destination need not find it out by asking: nothing depends on it. */
  #tellAbort(migration: string): void {
    const { peer } = this.#record(migration);
    const tell = async (): Promise<boolean> => {
      const link = this.#context.connectPeer(peer);
      try {
        await link.abort(migration);
        return true;
      } catch (error) {
        return isFinal(error);
      } finally {
        link.close();
      }
    };
    this.#retries.set(migration, new Retry(tell));
  }

  #record(migration: string): SourceRecord {
    const record = this.#context.journal.source(migration);
    if (record === null) throw new DeltahopError('DELTAHOP_E_NOT_FOUND', `no migration ${migration} began here`);
    return record;
  }

  async #change(migration: string, change: Partial<SourceRecord>): Promise<SourceRecord> {
    return await this.#context.journal.write({ ...this.#record(migration), ...change });
  }

  async #parts(migration: string): Promise<{ driver: WorkloadDriver; workload: Workload; owner: ServiceRecord }> {
    const { service } = this.#record(migration);
    const owner = await this.#context.ownership.read(service);
    if (owner === null) throw new DeltahopError('DELTAHOP_E_NOT_FOUND', `there is no service ${service} here`);
    return { driver: this.#context.driver(owner.driver), workload: this.#context.workload(owner), owner };
  }
}

function givenUp({ service, peer }: SourceRecord): DeltahopError {
  return new DeltahopError('DELTAHOP_E_NOT_RUNNING', `${peer} has given ${service} up: it goes on here`);
}

/** Restores a service from its saved files and lets it run. */
async function restore(driver: WorkloadDriver, workload: Workload): Promise<void> {
  const signal = AbortSignal.timeout(takeBackLimitMs);
  const prepared = await (await driver.arrange(workload, signal)).prepare(signal);
  await prepared.commit();
}

function departed(owner: ServiceRecord, { epoch, peer }: SourceRecord): ServiceRecord {
  return { ...owner, epoch: Math.max(owner.epoch, epoch + 1), ownership: 'departed', movedTo: peer };
}

function isFinal(error: unknown): boolean {
  return finalCodes.some((code) => isDeltahopError(error, code));
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** Tells the destination until it has answered: once committed, an unreachable destination is no reason to give up. */
async function tellCommit(
  destination: DestinationControl,
  migration: string,
  peer: string,
  onWarning: OnWarning,
  ends: AbortSignal,
): Promise<ToldCommit> {
  for (let pauseMs = firstRetryMs; ; pauseMs = Math.min(pauseMs * 2, longestRetryMs)) {
    try {
      const reply = await destination.commit(migration);
      return { ...reply, toldAtMs: Date.now() };
    } catch (error) {
      if (isFinal(error)) throw error;
      onWarning(`the hand-off is decided, ${peer} has not heard it yet (${messageOf(error)}); asking again`);
      await sleep(pauseMs, undefined, { signal: ends }).catch(() => {
        throw new DeltahopError(
          'DELTAHOP_E_LINK',
          `${peer} owns the service and has not heard it yet; the agent goes on telling, also after its next start`,
        );
      });
    }
  }
}
