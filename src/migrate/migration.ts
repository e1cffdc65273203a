/** One migration, at the source: the phases of the design's flow, from preflight to the drop of the source's copy. */
import { randomUUID } from 'node:crypto';
import type { SendOptions } from '../engine/engine.js';
import { DeltahopError, isDeltahopError } from '../errors.js';
import type { TransferClient, TransferReport } from '../transfer/transfer-client.js';
import type { FrozenWorkload, InstanceTrees, Throttle, Workload, WorkloadDriver } from '../workload/driver.js';
import { type DowntimeStage, downtimeStages } from './downtime.js';
import {
  downtimeAfterRound,
  type Forecast,
  type ForecastInputs,
  forecast,
  type JudgedForecast,
  judge,
} from './forecast.js';
import type { HealthOutcome, MigrationContext, Outgoing, PeerLink, ToldCommit } from './handoff.js';
import { instanceSlot, layerSlot, type OfferedLayer, type OfferReply, type PrepareReply } from './offer.js';
import { ownedService } from './ownership.js';
import { Pace } from './pace.js';
import {
  type ByteCounters,
  type MigrationEvent,
  type MigrationSummary,
  PhaseLog,
  type PhaseName,
  type ThrottleFigures,
} from './phases.js';
import { type Departure, examineSource, refuseFindings } from './preflight.js';
import { judgeRounds, nextShare, outlook, type RoundFigures } from './rounds.js';
import { forecastInputs, roundTripMs, type Survey, survey } from './survey.js';

/** How long a broken connection is made anew while the service stands still: better that it runs on here. */
const frozenRetryMs = 3_000;

/** A transfer of less says more of round trips than of the link's rate. */
const rateSampleBytes = 1024 * 1024;

/** What is asked of a migration. */
export interface MigrationOrder extends Departure {
  /** `HOST:PORT` of the destination's agent. */
  to: string;
  /** The service may stand still for so long; then it runs on here. */
  maxDowntimeMs: number;
}

/** How the sending of a frozen instance went; moments are Date.now(). */
interface SentInstance {
  savedAtMs: number;
  saverMs: number;
  sentAtMs: number;
  /** The answer of a destination that was told beforehand to prepare the service once all has come. */
  early: Promise<PrepareReply> | null;
}

/** How the trees of an instance are sent. */
interface InstanceOptions {
  signal: AbortSignal;
  allowChanging?: boolean;
  retryMs?: number;
  /** By another connection than the usual. */
  transfers?: TransferClient;
  /** Told, again and again, from when a tree is listed. */
  onListed?: () => void;
}

/** Moves one service to one node; run once. */
export class Migration {
  readonly id = randomUUID();
  readonly #context: MigrationContext;
  readonly #service: string;
  readonly #order: MigrationOrder;
  readonly #onEvent: (event: MigrationEvent) => void;
  readonly #outgoing: Outgoing;
  readonly #destination: PeerLink;
  readonly #phases: PhaseLog;
  #transfers: TransferClient | null = null;
  /** A second connection, for the files of a service whose memory goes over at the same time. */
  #fileTransfers: TransferClient | null = null;
  #destinationName: string;
  #downtimeMs: number | null = null;
  #downtime: DowntimeStage[] = [];
  #health: Exclude<MigrationSummary['health'], undefined> | null = null;
  #inputs: ForecastInputs | null = null;
  #forecast: Forecast | null = null;
  readonly #pace = new Pace();
  /** While the service has less than all of its processors. */
  #throttle: { held: Throttle; share: number; sinceMs: number } | null = null;
  #throttled: ThrottleFigures | null = null;
  /** The downtime, by the newest forecast. */
  #expectedMs: number | null = null;
  /** The best that the link has carried, bytes a millisecond. */
  #bestRate = 0;

  constructor(
    context: MigrationContext,
    outgoing: Outgoing,
    service: string,
    order: MigrationOrder,
    onEvent: (event: MigrationEvent) => void,
  ) {
    this.#context = context;
    this.#outgoing = outgoing;
    this.#service = service;
    this.#order = order;
    this.#destinationName = order.to;
    this.#onEvent = onEvent;
    this.#destination = context.connectPeer(order.to);
    this.#phases = new PhaseLog(() => this.#counters(), onEvent);
  }

  /**
   * Runs the phases. Never rejects: what went wrong is in the summary. A failure before the hand-off's decision leaves
   * the service running here; `signal` aborts until then. Afterwards it only ends the waiting for a destination that does
   * not answer: the agent goes on telling it.
   */
  async run(signal: AbortSignal): Promise<MigrationSummary> {
    const startedAt = performance.now();
    let failure: unknown = null;
    try {
      await this.#move(signal);
    } catch (error) {
      failure = error;
    } finally {
      await this.#unthrottle();
      this.#outgoing.leave(this.id);
      this.#transfers?.close();
      this.#fileTransfers?.close();
      this.#destination.close();
    }
    const totalMs = Math.round(performance.now() - startedAt);
    const { bytesSent } = this.#counters();
    return {
      type: 'summary',
      service: this.#service,
      from: this.#context.nodeName,
      to: this.#destinationName,
      result: failure === null ? 'moved' : this.#health !== null ? 'failed-health' : 'failed',
      totalMs,
      downtimeMs: this.#downtimeMs,
      downtime: this.#downtime,
      ...this.#counters(),
      phases: this.#phases.figures,
      throttle: this.#throttled,
      forecast: await this.#judgeForecast(bytesSent, totalMs),
      ...(this.#health === null ? {} : { health: this.#health }),
      ...(failure === null ? {} : { error: describe(failure) }),
    };
  }

  async #move(signal: AbortSignal): Promise<void> {
    const { ownership, nodeName } = this.#context;
    const record = await ownedService(ownership, this.#service, nodeName);
    const driver = this.#context.driver(record.driver);
    const workload = this.#context.workload(record);
    // Before anybody else hears of it: a destination that asks about a migration that is not in the journal is told abort.
    await this.#outgoing.begin(this.id, record, this.#order.to, this.#order.onCommit);
    let offered = false;
    try {
      const missing = await this.#phases.run('preflight', async () => {
        const [findings, surveyed] = await Promise.all([
          examineSource(driver, workload, nodeName, this.#order),
          survey(this.#context, this.id, record, this.#order.to),
        ]);
        refuseFindings(findings, `${this.#service} can not leave ${nodeName}`);
        const { offer } = surveyed;
        signal.throwIfAborted();
        offered = true;
        const reply = await this.#destination.offer(offer);
        this.#destinationName = reply.destinationName;
        await this.#foresee(surveyed, reply);
        this.#transfers = await this.#context.connectTransfers(this.#order.to, reply.ticket, signal);
        if (driver.goesAtOnce) {
          this.#fileTransfers = await this.#context.connectTransfers(this.#order.to, reply.ticket, signal);
        }
        return offer.layers.filter((layer) => reply.missingLayers.includes(layer.digest));
      });
      for (const kind of ['base', 'app'] as const) {
        await this.#phases.run(kind, async () => {
          for (const layer of missing.filter((candidate) => candidate.kind === kind)) {
            await this.#sendLayer(kind, layer, signal);
          }
        });
      }
      await this.#phases.run('rounds', () => this.#rounds(driver, workload, signal));
      await this.#freezeAndHandOff(driver, workload, signal);
    } catch (error) {
      if (this.#outgoing.isDecided(this.id)) throw error;
      await this.#outgoing.markAborted(this.id);
      if (offered) await this.#abortDestination();
      throw error;
    }
    const onWarning = (message: string): void => this.#onEvent({ type: 'warning', message });
    await this.#outgoing.announce(this.id, onWarning);
    const outcome = await this.#phases.run('verify', () => this.#outgoing.verify(this.id, this.#destination, signal));
    if (outcome === null) {
      onWarning(
        `${this.#service} runs on ${this.#destinationName}; whether it is well there the agent goes on looking`,
      );
      return;
    }
    if (outcome.healthy) return;
    this.#health = { detail: outcome.detail, kept: outcome.kept };
    throw new DeltahopError(
      'DELTAHOP_E_HEALTH',
      `${this.#service} ${ending(outcome, this.#destinationName, nodeName)}`,
    );
  }

  async #foresee(surveyed: Survey, reply: OfferReply): Promise<void> {
    const bytesPerMs = this.#context.history.rate(this.#order.to);
    const link = { roundTripMs: await roundTripMs(this.#destination), bytesPerMs };
    this.#inputs = await forecastInputs(this.#context, surveyed, reply, link);
    this.#forecast = forecast(this.#inputs);
    this.#expectedMs = this.#forecast.downtimeMs.expected;
    this.#onEvent({ type: 'forecast', ...this.#forecast });
  }

  async #sendLayer(phase: PhaseName, layer: OfferedLayer, signal: AbortSignal): Promise<void> {
    const { contentPath } = await this.#context.layers.get(layer.digest);
    await this.#send(phase, layerSlot(layer.digest), contentPath, { signal });
    await this.#destination.sealLayer(this.id, layer.digest);
  }

  async #rounds(driver: WorkloadDriver, workload: Workload, signal: AbortSignal): Promise<void> {
    let rounds: RoundFigures[] = [];
    for (let round = 1; ; round++) {
      signal.throwIfAborted();
      const { instance, pausedMs } = await driver.round(workload, signal);
      const startedAt = performance.now();
      const before = this.#counters().bytesSent;
      await this.#sendInstance('rounds', instance, { signal, allowChanging: true });
      const figures = {
        bytesSent: this.#counters().bytesSent - before,
        sendMs: performance.now() - startedAt,
        pausedMs,
      };
      rounds.push(figures);
      const verdict = judgeRounds(rounds);
      const share = verdict.go || !this.#order.autoConverge ? null : nextShare(rounds, this.#throttle?.share ?? 1);
      this.#expectedMs = this.#expectedDowntimeMs(rounds) ?? this.#expectedMs;
      this.#onEvent({
        type: 'round',
        round,
        bytesSent: figures.bytesSent,
        ms: Math.round(figures.sendMs),
        pausedMs,
        expectedDowntimeMs: this.#expectedMs,
        next: verdict.go ? 'round' : share === null ? verdict.why : 'throttle',
      });
      if (share !== null) {
        signal.throwIfAborted();
        await this.#slowDown(driver, workload, share);
        rounds = [];
      } else if (!verdict.go) {
        return;
      }
    }
  }

  async #slowDown(driver: WorkloadDriver, workload: Workload, share: number): Promise<void> {
    this.#throttle ??= { held: await driver.throttle(workload), share, sinceMs: performance.now() };
    await this.#throttle.held.set(share);
    this.#throttle.share = share;
    this.#onEvent({ type: 'throttle', percent: percentOf(share) });
  }

  /** The service has all of its processors again; whatever fails here, its driver's recovery mends. */
  async #unthrottle(): Promise<void> {
    const throttle = this.#throttle;
    this.#throttle = null;
    if (throttle === null) return;
    this.#throttled = { leastPercent: percentOf(throttle.share), ms: Math.round(performance.now() - throttle.sinceMs) };
    try {
      await throttle.held.end();
    } catch (error) {
      this.#onEvent({
        type: 'warning',
        message: `${this.#service} may be slowed down still: ${describe(error).message}`,
      });
    }
  }

  #expectedDowntimeMs(rounds: readonly RoundFigures[]): number | null {
    const [final, last] = [outlook(rounds), rounds.at(-1)];
    if (this.#inputs === null || final === null || last === undefined) return null;
    return downtimeAfterRound(this.#inputs, last.pausedMs, final.ms);
  }

  /** Until the decision any failure lets the service run on here; afterwards there is no way back but `complete`'s. */
  async #freezeAndHandOff(driver: WorkloadDriver, workload: Workload, cancelled: AbortSignal): Promise<void> {
    const { maxDowntimeMs } = this.#order;
    await this.#outgoing.markFrozen(this.id, this.#destinationName);
    const frozen = await this.#phases.run('freeze', () => driver.freeze(workload, cancelled));
    // It has been lifted; what is left to take back is waited for at the end.
    const unthrottled = this.#unthrottle();
    const overdue = new AbortController();
    const tooLong = `${this.#service} stood still for ${maxDowntimeMs} ms, which is its bound, and runs on here`;
    const end = (): void => overdue.abort(new DeltahopError('DELTAHOP_E_TIMEOUT', tooLong));
    const timer = setTimeout(end, Math.max(0, frozen.frozenAtMs + maxDowntimeMs - Date.now()));
    // Once it runs on by itself, each further moment spent on its image is for nothing.
    const signal = AbortSignal.any([cancelled, overdue.signal, frozen.gaveWay]);
    const at = { frozenAtMs: frozen.frozenAtMs };
    let decided = false;
    try {
      const { early, ...sent } = await this.#phases.run('final', () =>
        this.#fileTransfers === null
          ? this.#sendFrozen(frozen, signal)
          : this.#sendAtOnce(frozen, this.#fileTransfers, signal),
      );
      await this.#phases.run('hand-off', async () => {
        const prepare = await orAbort(this.#prepare(early), signal);
        const preparedAtMs = Date.now();
        signal.throwIfAborted();
        clearTimeout(timer);
        await this.#outgoing.decide(this.id, frozen);
        decided = true;
        const figures = { ...at, ...sent, preparedAtMs, prepare, decidedAtMs: Date.now() };
        const { toldAtMs, ...commit } = await this.#handOver(cancelled);
        this.#downtimeMs = Math.max(0, Math.round(toldAtMs - commit.runningForMs - at.frozenAtMs));
        this.#downtime = downtimeStages({ ...figures, commit, toldAtMs });
      });
    } catch (error) {
      clearTimeout(timer);
      if (!decided && !this.#outgoing.isDecided(this.id)) await frozen.abort();
      // What was cut short by either says only that it was cancelled.
      const why = [overdue.signal, frozen.gaveWay].find(({ aborted }) => aborted);
      throw !decided && why !== undefined ? why.reason : error;
    } finally {
      await unthrottled;
    }
  }

  /**
   * Sends the instance of a service that stands still. Its files are complete at once, so they go over while its memory
   * is still being written, and the destination makes ready what it can while the memory is still on its way.
   *
   * The memory itself waits until it is complete. To compare it with its basis while CRIU writes it was built and measured
   * (two nodes on two cores, medians of 12 and 18 hops): of 130 MiB the transfer won 28 ms and the dump lost 37, and an idle
   * service stood still for 309 ms instead of 272.
   */
  async #sendFrozen(frozen: FrozenWorkload, signal: AbortSignal): Promise<SentInstance> {
    const options = { signal, retryMs: frozenRetryMs };
    let onListed = (): void => {};
    const listed = new Promise<void>((resolve) => {
      onListed = resolve;
    });
    const sendFiles = (): Promise<boolean> => this.#sendInstance('final', frozen.files, { ...options, onListed });
    // Only a head start: if it fails, so does the restore, which says why.
    void this.#destination.arrangeOnArrival(this.id, slotsOf(frozen.files)).catch(() => {});
    const [memory, atOnce] = await allSettledOrThrow([frozen.memory(signal, listed), sendFiles()]);
    const savedAtMs = Date.now();
    // A connection made anew lists them anew, and that may have been at any time.
    if (memory.filesChanged || !atOnce) {
      await sendFiles();
      // What was arranged by the files as they were must not be used: the memory has to come after this.
      await this.#destination.arrange(this.id);
    }
    await this.#sendInstance('final', memory.instance, options);
    return { savedAtMs, saverMs: memory.saverMs, sentAtMs: Date.now(), early: null };
  }

  /**
   * The same of a service whose files do not change when its memory is saved and whose restore is arranged already: neither
   * part waits for the other, nor the destination for a question once both have come.
   */
  async #sendAtOnce(frozen: FrozenWorkload, transfers: TransferClient, signal: AbortSignal): Promise<SentInstance> {
    const options = { signal, retryMs: frozenRetryMs };
    const files = this.#sendInstance('final', frozen.files, { ...options, transfers });
    const sendMemory = async (): Promise<Omit<SentInstance, 'sentAtMs'>> => {
      const memory = await frozen.memory(signal, files);
      const savedAtMs = Date.now();
      const slots = [...slotsOf(frozen.files), ...slotsOf(memory.instance)];
      const early = this.#destination.prepareOnArrival(this.id, slots);
      early.catch(() => {});
      await this.#sendInstance('final', memory.instance, options);
      return { savedAtMs, saverMs: memory.saverMs, early };
    };
    const [sent] = await allSettledOrThrow([sendMemory(), files]);
    return { ...sent, sentAtMs: Date.now() };
  }

  /** Asks again what was asked early, in case that came too late: whichever answer comes first says it. */
  async #prepare(early: Promise<PrepareReply> | null): Promise<PrepareReply> {
    const asked = this.#destination.prepare(this.id);
    if (early === null) return await asked;
    asked.catch(() => {});
    return await Promise.race([asked, early.catch(() => asked)]);
  }

  async #handOver(signal: AbortSignal): Promise<ToldCommit> {
    const onWarning = (message: string): void => this.#onEvent({ type: 'warning', message });
    return await this.#outgoing.complete(this.id, this.#destination, onWarning, signal);
  }

  /** Compares what was expected with what came, and keeps both for the next forecasts. */
  async #judgeForecast(bytesSent: number, totalMs: number): Promise<JudgedForecast | null> {
    const [inputs, made, downtimeMs] = [this.#inputs, this.#forecast, this.#downtimeMs];
    if (inputs === null || made === null || downtimeMs === null) return null;
    const { history } = this.#context;
    const sent = (...names: PhaseName[]): number =>
      this.#phases.figures.reduce((sum, phase) => sum + (names.includes(phase.name) ? phase.bytesSent : 0), 0);
    const layerBytesSent = sent('base', 'app');
    await history.addHop({
      service: this.#service,
      to: this.#destinationName,
      returning: inputs.returning,
      memoryBytes: inputs.instance.memoryBytes,
      layerBytesSent,
      instanceBytesSent: bytesSent - layerBytesSent,
      finalBytesSent: sent('final'),
      totalMs,
      downtimeMs,
      downtime: this.#downtime,
    });
    if (this.#bestRate > 0) await history.setRate(this.#order.to, Math.round(this.#bestRate));
    return judge(made, { bytesSent, totalMs, downtimeMs });
  }

  /** @returns whether the connection held all the while. */
  async #sendInstance(phase: PhaseName, instance: InstanceTrees, options: InstanceOptions): Promise<boolean> {
    let reconnects = 0;
    for (const tree of instance.trees) {
      const { excludeXattrs, recordPath, basis, timesTell, durable, common } = tree;
      const verify = phase === 'final' && !timesTell;
      const report = await this.#send(phase, instanceSlot(tree.name), tree.path, {
        ...options,
        verify,
        // Memory has changed since its last round, for certain.
        lateDigests: verify && !durable,
        excludeXattrs,
        recordPath,
        common,
        ...(basis === null ? {} : { basis }),
      });
      reconnects += report.reconnects;
    }
    return reconnects === 0;
  }

  async #send(
    phase: PhaseName,
    slot: string,
    path: string,
    { onListed, transfers = this.#transfers ?? undefined, ...options }: SendOptions & InstanceOptions,
  ): Promise<TransferReport> {
    if (transfers === undefined) throw new DeltahopError('DELTAHOP_E_PROTOCOL', 'no connection for transfers');
    const report = await transfers.send(slot, path, {
      ...options,
      onProgress: ({ doneBytes, totalBytes }) => {
        onListed?.();
        this.#onEvent({
          type: 'progress',
          phase,
          what: slot,
          doneBytes,
          totalBytes,
          ...this.#pace.measure(`${phase} ${slot}`, doneBytes, totalBytes),
          expectedDowntimeMs: this.#expectedMs,
        });
      },
    });
    if (report.bytesSent >= rateSampleBytes) this.#bestRate = Math.max(this.#bestRate, report.bytesSent / report.ms);
    return report;
  }

  async #abortDestination(): Promise<void> {
    try {
      await this.#destination.abort(this.id);
    } catch (error) {
      this.#onEvent({
        type: 'warning',
        message: `${this.#destinationName} could not be told that the migration ended (${describe(error).message}); it clears up when the next one begins`,
      });
    }
  }

  #counters(): ByteCounters {
    const counters = { bytesSent: 0, bytesReceived: 0 };
    for (const connection of [this.#destination, this.#transfers, this.#fileTransfers]) {
      counters.bytesSent += connection?.counters.bytesSent ?? 0;
      counters.bytesReceived += connection?.counters.bytesReceived ?? 0;
    }
    return counters;
  }
}

function slotsOf({ trees }: InstanceTrees): string[] {
  return trees.map(({ name }) => instanceSlot(name));
}

function percentOf(share: number): number {
  return Math.round(share * 1000) / 10;
}

/** What is asked of a peer goes on there; it hears of the end of the migration by another message. */
async function orAbort<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  let onAbort: () => void = () => {};
  const aborted = new Promise<never>((_resolve, reject) => {
    onAbort = () => reject(signal.reason);
    signal.addEventListener('abort', onAbort, { once: true });
  });
  signal.throwIfAborted();
  try {
    return await Promise.race([work, aborted]);
  } finally {
    signal.removeEventListener('abort', onAbort);
    work.catch(() => {});
  }
}

function ending({ detail, kept }: HealthOutcome, destination: string, source: string): string {
  const what = {
    source: `runs on ${source} again, from where it was frozen`,
    destination: `stays there all the same`,
    both: `runs there, its files are kept on ${source} too`,
  };
  return `did not become well on ${destination} (${detail}); it ${what[kept]}`;
}

/** Nothing is still under way when one of them has failed. */
async function allSettledOrThrow<T extends unknown[]>(all: { [K in keyof T]: Promise<T[K]> }): Promise<T> {
  await Promise.allSettled(all);
  return (await Promise.all(all)) as T;
}

function describe(error: unknown): { code: string; message: string; remedy: string } {
  if (isDeltahopError(error)) return { code: error.code, message: error.message, remedy: error.remedy };
  if (error instanceof Error && error.name === 'AbortError') {
    const cancelled = new DeltahopError('DELTAHOP_E_CANCELLED', 'cancelled; the service runs on here');
    return { code: cancelled.code, message: cancelled.message, remedy: cancelled.remedy };
  }
  const message = error instanceof Error ? error.message : String(error);
  return { code: 'DELTAHOP_E_IO', message, remedy: new DeltahopError('DELTAHOP_E_IO', message).remedy };
}
