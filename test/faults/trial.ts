/** One fault at one step, from a service at rest to a service at rest, and everything that is judged by. */
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises';
import type { ServiceView } from '../../src/agent/messages.js';
import { isDeltahopError } from '../../src/errors.js';
import { isSettled } from '../../src/migrate/journal.js';
import type { MigrationSummary } from '../../src/migrate/phases.js';
import { askAgent } from '../integration/support/agent-client.js';
import { journalOf } from '../integration/support/journal-watch.js';
import type { ProbeBench } from '../integration/support/probe-bench.js';
import type { TestbedNode } from '../testbed/node.js';
import type { ProbeReport } from '../testbed/probe/probe-client.js';
import type { ProbeState } from '../testbed/probe/probe-service.js';
import { Attempt } from './attempt.js';
import { unsoundDisks } from './disks.js';
import type { Injected } from './inject.js';
import { type Cell, type FaultedDriver, nameOf } from './matrix.js';
import { residue, unfinishedFiles } from './residue.js';
import type { RunWatch } from './run-watch.js';

/** From the end of a fault to one running copy: seconds, but for a barrier without its agent, which waits for 20 s. */
const runningLimitMs = 45_000;
/** From there to settled journals and no residue. */
const settledLimitMs = 30_000;
const residueLimitMs = 10_000;
/** How long a lasting fault is given until its migration has failed, or goes on by itself. */
const lastingMs = 25_000;
/** By then the service has to run in spite of it. */
const inSpiteMs = 12_000;
/** How long a migration may take to come to its step, or to its end. */
const migrationLimitMs = 90_000;
/** A step that is over in a moment may be missed; it is tried again. */
const triesPerCell = 3;

/** What became of one fault. */
export interface Outcome {
  type: 'fault';
  step: string;
  fault: string;
  /** False: the step was over, or its victim gone, before it could be done; nothing was learnt then. */
  injected: boolean;
  /** Where the migration stood just after it. */
  standing: string;
  /** Where the service ended up. */
  result: 'moved' | 'stayed' | 'lost';
  /** The longest time that the client waited for an answer. */
  silentMs: number;
  /** From the fault (a lasting one: from its end) to settled journals and one running copy. */
  recoveryMs: number;
  needsOperator: boolean;
  doubleRuns: string[];
  lostWrites: string[];
  leftovers: string[];
  /** What else was not as it must be. */
  problems: string[];
}

/** The service and where it is, between faults. */
export class Trials {
  readonly #driver: FaultedDriver;
  readonly #bench: ProbeBench;
  readonly #watch: RunWatch;
  #before: ProbeState;
  #silentMs = 0;
  source: TestbedNode;
  destination: TestbedNode;

  constructor(driver: FaultedDriver, bench: ProbeBench, watch: RunWatch, before: ProbeState) {
    this.#driver = driver;
    this.#bench = bench;
    this.#watch = watch;
    this.#before = before;
    [this.source, this.destination] = [bench.testbed.a, bench.testbed.b];
  }

  /** Injects one fault, and tries again if it was too late. */
  async run(cell: Cell): Promise<Outcome> {
    for (let tries = 1; ; tries++) {
      const outcome = await this.#once(cell);
      if (outcome.injected || outcome.problems.length > 0 || tries === triesPerCell) return outcome;
    }
  }

  async #once(cell: Cell): Promise<Outcome> {
    const { testbed, service } = this.#bench;
    const outcome: Outcome = {
      type: 'fault',
      step: cell.step.name,
      fault: cell.fault.name,
      injected: false,
      standing: '',
      result: 'lost',
      silentMs: 0,
      recoveryMs: 0,
      needsOperator: false,
      doubleRuns: [],
      lostWrites: [],
      leftovers: [],
      problems: [],
    };
    await this.#provide(cell);
    await this.#watch.report(service.name);
    await this.#report();
    this.#silentMs = 0;
    const wasAt = this.source;
    const attempt = Attempt.begin(this.source, this.destination, service.name);
    try {
      const injected = await this.#inject(cell, attempt);
      outcome.injected = injected !== null;
      outcome.standing = attempt.standing;
      await this.#recover(attempt, injected, outcome);
      outcome.silentMs = this.#silentMs;
      outcome.result = this.source === wasAt ? 'stayed' : 'moved';
      if (injected?.keepsAtSource && outcome.result === 'moved') outcome.injected = false;
      await this.#judge(outcome);
      await this.#next(outcome);
    } catch (error) {
      outcome.problems.push(error instanceof Error ? error.message : String(error));
    } finally {
      await testbed.link.mend();
      await testbed.link.set({ rateBps: fastBps });
    }
    return outcome;
  }

  /** What a step needs to last long enough. */
  async #provide({ step }: Cell): Promise<void> {
    const { testbed, service, client } = this.#bench;
    if (step.needs === null) return;
    if (step.needs === 'memory') {
      await client.refill();
    } else {
      await askAgent(this.destination, async (agent) => {
        const known = (await agent.services()).some(({ name }) => name === service.name);
        if (known) await agent.removeService(service.name);
        // The application's first: it stands upon the base.
        for (const { digest } of (await agent.layers()).sort((a, b) => (a.kind < b.kind ? -1 : 1))) {
          await agent.removeLayer(digest);
        }
      });
    }
    await testbed.link.set({ rateBps: slowBps });
  }

  async #inject({ step, fault }: Cell, attempt: Attempt): Promise<Injected | null> {
    let aimed = false;
    for (const deadline = Date.now() + migrationLimitMs; !step.reached(attempt); ) {
      if (attempt.over) return null;
      if (Date.now() > deadline) throw new Error(`it does not come to ${step.name}: ${attempt.standing}`);
      if (step.near?.(attempt) !== true) {
        await sleep(1);
        continue;
      }
      if (!aimed) fault.aim?.(attempt);
      aimed = true;
      await nextTurn();
    }
    return await fault.inject(attempt, this.#bench.testbed);
  }

  async #recover(attempt: Attempt, injected: Injected | null, outcome: Outcome): Promise<void> {
    const injectedAt = performance.now();
    if (injected?.lasting === true) {
      // Its migration ends in failure, or it is decided and the source goes on telling.
      await Promise.race([attempt.ended, sleep(lastingMs, undefined, { ref: false })]);
      const alive = await this.#untilAnswers(inSpiteMs);
      const kept = attempt.record('source');
      if (!alive && (await this.#waitsForRoom(injected))) {
        // A machine that finds no room stands still, wherever it is; it has to go on by itself.
      } else if (!alive && kept?.state === 'committed' && !(await this.#runsAt(attempt.destination))) {
        // The other node is out of reach for good, as far as this one can tell: its operator has to say so.
        outcome.needsOperator = true;
        await this.#resolve(attempt.source);
        if (!(await this.#untilAnswers(runningLimitMs))) throw new Error('it does not run after its operator resolved');
      } else if (!alive) {
        outcome.problems.push(`the service stands still under a lasting fault: ${attempt.standing}`);
      }
    }
    const mendedAt = performance.now();
    await injected?.mend();
    // It was slow so that the step lasted.
    await this.#bench.testbed.link.set({ rateBps: fastBps });
    if (!(await this.#untilAnswers(runningLimitMs))) {
      throw new Error(`no copy answers ${runningLimitMs} ms after the fault: ${attempt.standing}`);
    }
    await Promise.race([attempt.ended, sleep(migrationLimitMs, undefined, { ref: false })]);
    const owner = await this.#untilSettled();
    outcome.recoveryMs = Math.round(performance.now() - (injected?.lasting === true ? mendedAt : injectedAt));
    if (owner !== this.source) [this.source, this.destination] = [this.destination, this.source];
    outcome.leftovers.push(...(await this.#untilNoResidue(() => this.#residue())));
  }

  async #judge(outcome: Outcome): Promise<void> {
    try {
      await this.#bench.assertConnectionWhole();
      this.#before = await this.#bench.assertGoesOnFrom(this.#before);
    } catch (error) {
      outcome.lostWrites.push(error instanceof Error ? error.message : String(error));
      throw error;
    } finally {
      const { testbed, service } = this.#bench;
      const { runner, violations } = await this.#watch.report(service.name);
      outcome.doubleRuns.push(...violations);
      if (runner === null) outcome.problems.push('no copy was seen to run');
      if (this.#driver === 'qemu') outcome.problems.push(...(await unsoundDisks(testbed, service.name)));
    }
  }

  /** The next migration has to work, and leaves nothing. */
  async #next(outcome: Outcome): Promise<void> {
    const { testbed } = this.#bench;
    await testbed.link.set({ rateBps: fastBps });
    const summary = await this.hop();
    if (summary.result !== 'moved') {
      throw new Error(`the next migration fails: ${summary.error?.code} ${summary.error?.message}`);
    }
    await this.#judge(outcome);
    const look = (): string[] => [...this.#residue(), ...unfinishedFiles(testbed)];
    outcome.leftovers.push(...(await this.#untilNoResidue(look)));
  }

  /** Moves the service to the other node, undisturbed. */
  async hop(): Promise<MigrationSummary> {
    const attempt = Attempt.begin(this.source, this.destination, this.#bench.service.name);
    const summary = await Promise.race([attempt.ended, sleep(migrationLimitMs, null, { ref: false })]);
    if (summary === null) throw new Error(`a migration without a fault does not end: ${attempt.standing}`);
    if (summary.result === 'moved') {
      await this.#untilSettled();
      [this.source, this.destination] = [this.destination, this.source];
    }
    return summary;
  }

  /** What the client has been through; keeps the longest silence, which each report begins anew. */
  async #report(): Promise<ProbeReport> {
    const report = await this.#bench.client.report();
    this.#silentMs = Math.max(this.#silentMs, report.longestGapMs);
    return report;
  }

  /** Waits for an answer to what the client has just sent. */
  async #untilAnswers(limitMs: number): Promise<boolean> {
    const { sent } = await this.#report();
    for (const deadline = Date.now() + limitMs; Date.now() < deadline; await sleep(20)) {
      const { answered, connected } = await this.#report();
      if (!connected) throw new Error('the connection of the client is lost');
      if (answered > sent) return true;
    }
    return false;
  }

  /** @returns the node that owns and runs it, once nothing is open on either. */
  async #untilSettled(): Promise<TestbedNode> {
    for (const deadline = Date.now() + settledLimitMs; ; await sleep(50)) {
      const nodes = this.#bench.testbed.nodes;
      const settled = nodes.every((node) => journalOf(node).every(isSettled));
      const views = settled ? await Promise.all(nodes.map((node) => this.#view(node))) : [];
      const [owner, ...others] = nodes.filter((_, at) => views[at]?.ownership === 'owned');
      // One that does not answer may run it; one that has never heard of it does not.
      const running = nodes.filter((_, at) => views[at] !== null && views[at]?.state !== 'stopped');
      if (owner !== undefined && others.length === 0 && running.length === 1 && running[0] === owner) return owner;
      if (Date.now() < deadline) continue;
      const said = views.map((view) => `${view?.ownership} ${view?.state}`).join(' / ');
      const open = nodes.map((node) => journalOf(node).filter((record) => !isSettled(record)));
      const states = open.map((records) => records.map(({ state }) => state).join(' ')).join(' / ');
      throw new Error(`not settled after ${settledLimitMs} ms: ${said}; open in the journals: ${states}`);
    }
  }

  #residue(): string[] {
    return residue(this.#bench.testbed, this.source, this.#bench.service.name, this.#driver);
  }

  async #untilNoResidue(look: () => string[]): Promise<string[]> {
    const deadline = Date.now() + residueLimitMs;
    let found = look();
    while (found.length > 0 && Date.now() < deadline) {
      await sleep(100);
      found = look();
    }
    return found;
  }

  async #runsAt(node: TestbedNode): Promise<boolean> {
    const view = await this.#view(node);
    return view?.ownership === 'owned' && view.state === 'running';
  }

  /** @returns the service as the node sees it; null if it knows of none, undefined if it does not answer. */
  async #view(node: TestbedNode): Promise<ServiceView | null | undefined> {
    return await askAgent(node, (agent) => agent.service(this.#bench.service.name)).catch((error: unknown) =>
      isDeltahopError(error, 'DELTAHOP_E_NOT_FOUND') ? null : undefined,
    );
  }

  /** Whether a disk is full at the node that owns the machine and shows it as frozen. */
  async #waitsForRoom({ fullNode }: Injected): Promise<boolean> {
    if (this.#driver === 'lxc' || fullNode === undefined) return false;
    const view = await this.#view(fullNode);
    return view?.ownership === 'owned' && view.state === 'frozen';
  }

  async #resolve(node: TestbedNode): Promise<void> {
    await askAgent(node, (agent) => agent.resolve(this.#bench.service.name, 'source'));
  }
}

/** What the nodes' link carries, so that a step takes a moment, or a migration little time. */
const slowBps = 20_000_000;
const fastBps = 300_000_000;

/** The link as it is between faults. */
export const restLink = { rateBps: fastBps, delayMs: 2 };

/** For messages. */
export function describeOutcome(cell: Cell, outcome: Outcome): string {
  const { injected, result, silentMs, recoveryMs, needsOperator, standing } = outcome;
  const wrong = [...outcome.doubleRuns, ...outcome.lostWrites, ...outcome.leftovers, ...outcome.problems];
  const verdict = wrong.length > 0 ? 'WRONG ' : injected ? 'ok    ' : 'missed';
  const operator = needsOperator ? ', by its operator' : '';
  const lines = wrong.map((what) => `\n         ${what}`).join('');
  const figures = `${result}${operator}, silent for ${silentMs} ms, settled in ${recoveryMs} ms`;
  return `${verdict} ${nameOf(cell).padEnd(42)} ${figures}  [${standing}]${lines}`;
}
