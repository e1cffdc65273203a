import { chmod, chown, mkdir, readFile, readlink, rename, rm, stat, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { DeltahopError, isDeltahopError } from '../../errors.js';
import { runCommand } from '../command.js';
import type {
  ArrangedWorkload,
  Capability,
  ForeignWorkload,
  FrozenWorkload,
  InstanceSize,
  InstanceTree,
  InstanceTrees,
  MachineFacts,
  PreparedWorkload,
  Recovered,
  RoundWorkload,
  Throttle,
  Workload,
  WorkloadDriver,
  WorkloadState,
} from '../driver.js';
import { networkFindings } from '../network.js';
import { isSameAlive, killProcess, processState, waitGone } from '../process.js';
import { removeUnfinished, replaceFile } from '../replaced-file.js';
import { decide, exists, removeOperation, verdictOf } from '../verdict.js';
import { Barrier, type BarrierPlan, endWork, mend, type OperationKind, readRemnant } from './barrier.js';
import { lxcCapabilities } from './capabilities.js';
import { Cgroup } from './cgroup.js';
import { cgroupYard } from './cgroup-yard.js';
import { containerConfig, type LxcSettings, parseSettings } from './config.js';
import { type ContainerNetwork, namespaceInode, writeNetwork } from './container-network.js';
import { type Criu, causeInCriuLog, causeInLxcLog, criuConfig, dumpCommand, findCriu } from './criu.js';
import { rewindExpiredTimers } from './expired-timers.js';
import { foreignContainer } from './foreign-container.js';
import { memoryOfProcesses, treeBytes } from './instance-size.js';
import { type LxcLayout, lxcLayout } from './layout.js';
import { madeNames } from './link-remaps.js';
import { differences, machineFacts } from './machine.js';
import { disownNetworkLock } from './network-lock.js';
import { NetworkSaver } from './network-saver.js';
import { obstaclesOf } from './obstacles.js';
import { mountOverlay, unmountOverlay } from './overlay.js';
import { completePreDump, preDumpWillDo } from './pre-dump.js';
import { probeContainer } from './probe.js';
import { ReadyNetwork } from './ready-network.js';
import { VisitedTmp } from './visited-tmp.js';

/** Bounds, in milliseconds, of what LXC and CRIU may take. A large image on a slow disk takes minutes. */
const limits = {
  start: 30_000,
  running: 10_000,
  stopGently: 10_000,
  stop: 20_000,
  kill: 10_000,
  checkpoint: 600_000,
  /** From a verdict to the end of CRIU or lxc-checkpoint. */
  settle: 30_000,
} as const;

/** Extended attributes by which overlayfs refers to inodes of this node. */
const localXattrs = ['trusted.overlay.origin', 'trusted.overlay.impure', 'trusted.overlay.uuid'];

/** Files that CRIU writes beside the images. */
const byproducts = ['dump.log', 'restore.log', 'stats-dump', 'stats-restore'];

/** What a look at a running service takes of its memory, and how many of its files it looks at. */
const sampleBytes = 2 * 1024 * 1024;
const maxEntries = 20_000;

/** A driver for LXC containers. */
export function createLxcDriver(): WorkloadDriver {
  return new LxcDriver();
}

/**
 * LXC containers on an overlay that we mount, saved by CRIU, restored by lxc-checkpoint and CRIU.
 *
 * See layout.ts for what is where, and barrier.ts for how a service is held. Nothing that must outlive the agent lives
 * in this object: what runs is found by its cgroup.
 */
export class LxcDriver implements WorkloadDriver {
  readonly name = 'lxc';
  readonly layerForm = 'tree';
  readonly arrangesEarly = true;
  // CRIU may leave something in the files.
  readonly goesAtOnce = false;
  /** What is under way, by workload path: one thing at a time. */
  readonly #busy = new Map<string, string>();
  /** Which first process the images in its memory/ are of, by workload path; unknown where they were made before. */
  readonly #dumped = new Map<string, number>();
  /** The rest of a commit that nobody had to wait for; whatever comes next waits. */
  readonly #settling = new Map<string, Promise<void>>();

  capabilities(): Promise<readonly Capability[]> {
    return lxcCapabilities();
  }

  checkSettings(
    name: string,
    settings: Readonly<Record<string, string>>,
    command: readonly string[],
  ): Readonly<Record<string, string>> {
    parseSettings(name, settings);
    if (command.length > 0) return settings;
    throw new DeltahopError('DELTAHOP_E_INVALID_ARGUMENT', `${name} needs a command to run`);
  }

  foreign(
    reference: string,
    given: { settings: Readonly<Record<string, string>>; command: readonly string[] },
  ): Promise<ForeignWorkload> {
    return foreignContainer(reference, given);
  }

  async create(workload: Workload): Promise<void> {
    const layout = lxcLayout(workload);
    parseSettings(workload.name, workload.settings);
    await mkdir(workload.path, { recursive: true });
    await makeUpper(workload, layout);
    // What a service has in memory is nobody else's business.
    await mkdir(layout.memory, { recursive: true, mode: 0o700 });
    await mkdir(layout.records, { recursive: true, mode: 0o700 });
  }

  start(workload: Workload): Promise<void> {
    return this.#exclusively(workload, 'start', async (layout) => {
      const settings = parseSettings(workload.name, workload.settings);
      const cgroup = await Cgroup.of(layout.id);
      if ((await cgroup.initPid()) !== null) return;
      await this.create(workload);
      await cgroup.removeEmpty();
      await mountOverlay(overlayOf(workload, layout));
      try {
        await writeConfig(layout, settings, cgroup, 'attached');
        await rm(layout.log, { force: true });
        const argv = ['lxc-start', '-n', layout.id, '-P', layout.lxcPath, '-f', layout.config];
        argv.push('-o', layout.log, '-l', 'INFO', '-d', '--', ...workload.command);
        const { exitCode } = await runCommand(argv, { limitMs: limits.start });
        if (exitCode !== 0) throw await this.#startFailure(workload, layout, 'it did not start');
        await this.#waitRunning(workload, layout, cgroup);
        await applyLimits(workload, settings, cgroup);
      } catch (error) {
        await cgroup.kill(limits.kill);
        await unmountOverlay(layout.merged).catch(() => {});
        await cgroup.removeEmpty();
        throw error;
      }
    });
  }

  stop(workload: Workload): Promise<void> {
    return this.#exclusively(workload, 'stop', (layout) => this.#stop(layout));
  }

  async resumeStalled(): Promise<boolean> {
    // A container hears of a full disk itself.
    return false;
  }

  async inspect(workload: Workload): Promise<WorkloadState> {
    const layout = lxcLayout(workload);
    await this.#settled(workload);
    const cgroup = await Cgroup.of(layout.id);
    const pid = await cgroup.initPid();
    if (pid === null) return { state: 'stopped', pid: null };
    const remnant = await readRemnant(layout.operation);
    const held =
      remnant?.kind === 'prepare'
        ? !remnant.released
        : remnant?.kind === 'freeze' && remnant.held && remnant.verdict !== 'abort';
    return { state: held === true || (await cgroup.isFrozen()) ? 'frozen' : 'running', pid };
  }

  remove(workload: Workload): Promise<void> {
    return this.#exclusively(workload, 'remove', async (layout) => {
      await this.#stop(layout);
      const { upper, memory, previousMemory, records, work, merged, lxcPath, log } = layout;
      for (const path of [upper, memory, previousMemory, records, work, merged, lxcPath, log]) {
        await rm(path, { recursive: true, force: true });
      }
      await removeOperation(layout.operation);
    });
  }

  async obstacles(workload: Workload): Promise<readonly Capability[]> {
    const cgroup = await Cgroup.of(lxcLayout(workload).id);
    return obstaclesOf(await cgroup.processes());
  }

  async probe(workload: Workload, probe: string): Promise<string | null> {
    const { network } = parseSettings(workload.name, workload.settings);
    const { state, pid } = await this.inspect(workload);
    if (pid === null || state !== 'running') return `${workload.name} is ${state}`;
    return await probeContainer(pid, probe, network?.address.split('/')[0] ?? '127.0.0.1');
  }

  machine(): Promise<MachineFacts> {
    return machineFacts();
  }

  async admits(source: MachineFacts, workload: Workload): Promise<readonly Capability[]> {
    const { network } = parseSettings(workload.name, workload.settings);
    const [facts, links] = await Promise.all([differences(source), network === null ? [] : networkFindings(network)]);
    return [...facts, ...links];
  }

  async measure(workload: Workload): Promise<InstanceSize> {
    const layout = lxcLayout(workload);
    const cgroup = await Cgroup.of(layout.id);
    const [memory, sharedBytes, filesBytes] = await Promise.all([
      memoryOfProcesses(await cgroup.processes(), sampleBytes),
      cgroup.sharedAndSwapped(),
      treeBytes(layout.upper, maxEntries),
    ]);
    return { memoryBytes: memory.bytes + sharedBytes, filesBytes, memorySample: memory.sample };
  }

  async throttling({ name }: Workload): Promise<Capability> {
    return { name: 'auto-converge', ok: false, detail: notThrottled(name), remedy: 'leave out --auto-converge' };
  }

  throttle({ name }: Workload): Promise<Throttle> {
    return Promise.reject(new DeltahopError('DELTAHOP_E_UNSUPPORTED', notThrottled(name)));
  }

  round(workload: Workload, signal: AbortSignal): Promise<RoundWorkload> {
    return this.#exclusively(workload, 'round', async (layout) => {
      const { barrier, initPid, isPreDump, saver } = await this.#startDump(workload, layout, 'round', signal);
      // What a round saves is only what the freeze is likely to bring.
      const network = saver?.save().catch(() => null) ?? null;
      const onAbort = () => void barrier.decide('abort').catch(() => {});
      // CRIU must not be killed in the middle of a dump: it has code of its own in the processes then.
      signal.addEventListener('abort', onAbort, { once: true });
      try {
        const exitCode = await barrier.ended(limits.checkpoint);
        if (exitCode !== 0) await mend(layout.operation);
        await this.#letRun(layout);
        if (signal.aborted) throw cancelled('round', signal);
        if (exitCode !== 0) throw await dumpFailure(workload, layout, exitCode);
        const pausedMs = (await barrier.timeOf('held')) - (await barrier.timeOf('frozen-at'));
        await this.#keepImages(layout, isPreDump, await network);
        this.#dumped.set(workload.path, initPid);
        return { instance: instanceOf(layout), pausedMs: Math.round(pausedMs) };
      } finally {
        signal.removeEventListener('abort', onAbort);
        await removeOperation(layout.operation);
      }
    });
  }

  async freeze(workload: Workload, signal: AbortSignal): Promise<FrozenWorkload> {
    const layout = lxcLayout(workload);
    await this.#begin(workload, 'freeze');
    try {
      const { barrier, saver } = await this.#startDump(workload, layout, 'freeze', signal);
      try {
        if (!(await barrier.until('stopped', limits.checkpoint, signal))) {
          throw await dumpFailure(workload, layout, await barrier.ended(limits.settle));
        }
        return this.#frozen(workload, layout, barrier, saver, await barrier.timeOf('frozen-at'));
      } catch (error) {
        saver?.release();
        await this.#abortDump(layout, barrier);
        throw error;
      }
    } catch (error) {
      this.#end(workload);
      throw error;
    }
  }

  async staging(workload: Workload): Promise<InstanceTrees> {
    const layout = lxcLayout(workload);
    await this.#settled(workload);
    const { state } = await this.inspect(workload);
    if (state !== 'stopped') {
      throw new DeltahopError('DELTAHOP_E_BUSY', `${workload.name} is ${state} here: nothing can be received over it`);
    }
    await this.create(workload);
    await unmountOverlay(layout.merged);
    await removeByproducts(layout);
    await rm(layout.previousMemory, { recursive: true, force: true });
    return instanceOf(layout);
  }

  async arrange(workload: Workload, signal: AbortSignal): Promise<ArrangedWorkload> {
    const layout = lxcLayout(workload);
    await this.#begin(workload, 'prepare');
    try {
      const settings = parseSettings(workload.name, workload.settings);
      const [criu, cgroup] = await Promise.all([findCriu(), Cgroup.of(layout.id)]);
      if ((await cgroup.initPid()) !== null) {
        throw new DeltahopError('DELTAHOP_E_BUSY', `${workload.name} already runs here`);
      }
      if (await exists(`/sys/class/net/${layout.hostInterface}`)) await removeInterface(layout);
      // By what the last round brought, beside all else: it takes the longest.
      const made = ReadyNetwork.make(layout.hostInterface);
      const raised = made.then((network) => network.become(layout.memory)).catch(() => {});
      const steps = await Promise.allSettled([
        made,
        cgroup.removeEmpty(),
        removeOperation(layout.operation),
        removeByproducts(layout),
        writeConfig(layout, settings, cgroup, 'apart'),
      ]);
      try {
        // Only now: what one that failed leaves can not be cleared while another is still under way.
        for (const step of steps) if (step.status === 'rejected') throw step.reason;
        signal.throwIfAborted();
        return this.#arranged(workload, layout, settings, { criu, cgroup }, { network: await made, raised });
      } catch (error) {
        await raised;
        await made.then((network) => network.release()).catch(() => {});
        await this.#clearRestore(layout, cgroup);
        throw error;
      }
    } catch (error) {
      this.#end(workload);
      throw error;
    }
  }

  async decideFreeze(workload: Workload, verdict: 'commit' | 'abort'): Promise<'commit' | 'abort' | null> {
    const { operation } = lxcLayout(workload);
    const remnant = await readRemnant(operation);
    return remnant?.kind === 'freeze' ? await decide(operation, verdict) : null;
  }

  async recover(workload: Workload): Promise<Recovered> {
    const layout = lxcLayout(workload);
    await this.#settled(workload);
    if (this.#busy.has(workload.path)) return { released: false };
    const cgroup = await Cgroup.of(layout.id);
    const remnant = await readRemnant(layout.operation);
    let released = false;
    if (remnant !== null) {
      // Whatever still waits there has lost its agent; what is decided already stays so.
      const verdict = await decide(layout.operation, 'abort');
      if (remnant.supervisor !== null && !(await waitGone(remnant.supervisor, limits.settle))) {
        killGroup(remnant.supervisor.pid);
        await waitGone(remnant.supervisor, limits.kill);
      }
      await endWork(layout.operation, limits.settle);
      const after = await readRemnant(layout.operation);
      released = remnant.kind === 'prepare' && after?.released === true;
      const doomed = remnant.kind === 'prepare' ? !released : verdict === 'commit';
      if (remnant.kind !== 'round' && doomed) {
        // Nobody hears of the end of its connections, which go on elsewhere.
        await removeInterface(layout);
        if (after?.init != null && (await isSameAlive(after.init))) killProcess(after.init.pid);
        if (!(await cgroup.kill(limits.kill))) {
          throw new DeltahopError('DELTAHOP_E_WORKLOAD', `processes of ${workload.name} do not end, even killed`);
        }
      } else {
        await mend(layout.operation);
        await cgroup.thaw();
      }
    }
    // Of one that is over, too: its agent may have died while it removed it.
    await removeOperation(layout.operation);
    await removeUnfinished(layout.config);
    if ((await cgroup.initPid()) === null) {
      await cgroup.kill(limits.kill);
      await cgroup.removeEmpty();
      await unmountOverlay(layout.merged);
    }
    return { released };
  }

  /** Runs `work` unless something else is under way on this workload. */
  async #exclusively<Result>(
    workload: Workload,
    what: string,
    work: (layout: LxcLayout) => Promise<Result>,
  ): Promise<Result> {
    await this.#begin(workload, what);
    try {
      return await work(lxcLayout(workload));
    } finally {
      this.#end(workload);
    }
  }

  async #begin(workload: Workload, what: string): Promise<void> {
    await this.#settled(workload);
    const other = this.#busy.get(workload.path);
    if (other !== undefined) {
      throw new DeltahopError('DELTAHOP_E_BUSY', `${what} of ${workload.name}: ${other} is under way`);
    }
    this.#busy.set(workload.path, what);
  }

  #end(workload: Workload): void {
    this.#busy.delete(workload.path);
  }

  async #settled(workload: Workload): Promise<void> {
    await this.#settling.get(workload.path);
  }

  /** Goes on with `work` after the caller has its answer. What fails in it, `recover` mends. */
  #settleLater(workload: Workload, work: () => Promise<void>): void {
    const settling = work()
      .catch(() => {})
      .finally(() => {
        this.#end(workload);
        this.#settling.delete(workload.path);
      });
    this.#settling.set(workload.path, settling);
  }

  async #waitRunning(workload: Workload, layout: LxcLayout, cgroup: Cgroup): Promise<void> {
    const deadline = Date.now() + limits.running;
    for (;;) {
      const pid = await cgroup.initPid();
      if (pid === null) throw await this.#startFailure(workload, layout, 'its first process ended at once');
      // Until it has become the service's own program, the first process is still LXC, setting up.
      const program = await readlink(`/proc/${pid}/exe`).catch(() => '');
      if (program !== '' && !/\/lxc-(start|checkpoint)( \(deleted\))?$/.test(program)) return;
      if (Date.now() > deadline) throw await this.#startFailure(workload, layout, 'it is not ready in time');
      await sleep(5);
    }
  }

  async #startFailure(workload: Workload, layout: LxcLayout, what: string): Promise<DeltahopError> {
    const why = causeInLxcLog(await readText(layout.log));
    return new DeltahopError('DELTAHOP_E_WORKLOAD', `${workload.name}: ${what}${why === null ? '' : `: ${why}`}`);
  }

  async #stop(layout: LxcLayout): Promise<void> {
    const cgroup = await Cgroup.of(layout.id);
    const pid = await cgroup.initPid();
    if (pid !== null) {
      await cgroup.thaw();
      const seconds = String(limits.stopGently / 1000);
      const argv = ['lxc-stop', '-n', layout.id, '-P', layout.lxcPath, '-t', seconds, '-o', layout.log];
      // Its answer says little; what is left counts. Its monitor may be gone, and then only killing helps.
      await runCommand(argv, { limitMs: limits.stop }).catch((error: unknown) => {
        if (!isDeltahopError(error, 'DELTAHOP_E_TIMEOUT')) throw error;
      });
    }
    await this.#clear(layout, cgroup);
  }

  /** Ends what is left of a container, without asking it, and unmounts its root. */
  async #clear(layout: LxcLayout, cgroup: Cgroup): Promise<void> {
    if (!(await cgroup.kill(limits.kill))) {
      throw new DeltahopError('DELTAHOP_E_WORKLOAD', `processes of ${layout.id} do not end, even killed`);
    }
    await removeInterface(layout);
    await unmountOverlay(layout.merged);
    await cgroup.removeEmpty();
  }

  /** Starts a dump of a running container. Of its memory alone, if that does for this round. */
  async #startDump(
    workload: Workload,
    layout: LxcLayout,
    kind: Exclude<OperationKind, 'prepare'>,
    signal: AbortSignal,
  ): Promise<StartedDump> {
    const { network } = parseSettings(workload.name, workload.settings);
    const [criu, cgroup] = await Promise.all([findCriu(), Cgroup.of(layout.id)]);
    const [pid, freezer] = await Promise.all([cgroup.initPid(), cgroup.payload()]);
    if (pid === null || freezer === null) {
      throw new DeltahopError('DELTAHOP_E_NOT_RUNNING', `${workload.name} does not run here`);
    }
    if (signal.aborted) throw cancelled(kind, signal);
    await removeOperation(layout.operation);
    // What was dumped of another run of it would bring no file of this one.
    const isPreDump =
      kind === 'round' &&
      criu.tracksMemory &&
      this.#dumped.get(workload.path) === pid &&
      (await preDumpWillDo(layout.memory));
    const saver = criu.networkLock === 'nftables' ? await NetworkSaver.of(pid) : null;
    const dump = { initPid: pid, freezer, images: join(layout.operation, 'images') };
    try {
      const barrier = await Barrier.start(layout.operation, {
        kind,
        command: dumpCommand({
          ...dump,
          mode: isPreDump ? 'pre-dump' : kind,
          actionScript: join(layout.operation, 'action'),
        }),
        mending: { dump, networkLock: criu.networkLock },
        criuProgram: criu.program,
        // What a round saves is never restored: connections need no lock and no repair for it, and no mending if CRIU dies.
        criuConfig: criuConfig(criu, {
          cgroupRoot: null,
          cgroupYard: await cgroupYard(pid),
          closeTcp: kind === 'round',
          externalNetwork: saver === null ? null : await namespaceInode(pid),
        }),
        freezer: { directory: freezer, version: cgroup.version },
        network: networkOf(layout, network),
      });
      return { barrier, initPid: pid, isPreDump, saver };
    } catch (error) {
      saver?.release();
      throw error;
    }
  }

  /** Makes the images of the dump just made the instance's memory. */
  async #keepImages(layout: LxcLayout, isPreDump: boolean, network: ContainerNetwork | null): Promise<void> {
    const images = join(layout.operation, 'images');
    // All at once: the service may be frozen.
    await Promise.all([
      ...(network === null ? [] : [writeNetwork(images, network), disownNetworkLock(images)]),
      ...byproducts.map((name) => rename(join(images, name), join(layout.operation, name)).catch(ignoreMissing)),
      ...(isPreDump ? [] : [rewindExpiredTimers(images)]),
    ]);
    if (isPreDump) await completePreDump(images, layout.memory);
    // What is not needed any more is removed later, with the operation.
    await rename(layout.previousMemory, join(layout.operation, 'old-images')).catch(ignoreMissing);
    await rename(layout.memory, layout.previousMemory).catch(ignoreMissing);
    await rename(images, layout.memory);
  }

  #frozen(
    workload: Workload,
    layout: LxcLayout,
    barrier: Barrier,
    saver: NetworkSaver | null,
    frozenAtMs: number,
  ): FrozenWorkload {
    // Beside the dump, and on another processor.
    const network = saver?.save() ?? null;
    network?.catch(() => {});
    const [files, memory] = [filesOf(layout), memoryOf(layout)];
    const gaveWay = new AbortController();
    const tmp = new VisitedTmp(layout.upper, frozenAtMs);
    const resumed = () =>
      new DeltahopError('DELTAHOP_E_CHECKPOINT', `${workload.name} has resumed here: its barrier gave way`);
    void barrier
      .gaveWay()
      .then((exitCode) =>
        barrier.wasHeld
          ? gaveWay.abort(resumed())
          : dumpFailure(workload, layout, exitCode).then((why) => gaveWay.abort(why)),
      );
    return {
      gaveWay: gaveWay.signal,
      frozenAtMs: Math.floor(frozenAtMs),
      files: { trees: [files] },
      memory: async (signal, filesListed) => {
        void filesListed.then(() => tmp.noteListing()).catch(() => {});
        if (!(await barrier.until('held', limits.checkpoint, signal))) {
          throw await dumpFailure(workload, layout, await barrier.ended(limits.settle));
        }
        const saverMs = (await barrier.timeOf('held')) - frozenAtMs;
        await this.#keepImages(layout, false, await network);
        const filesChanged = (await tmp.spoiltListing()) || (await madeNames(layout.memory));
        // If they are not sent once more, that can wait until nothing stands still for it.
        if (filesChanged) await tmp.setBack();
        return { instance: { trees: [memory] }, filesChanged, saverMs: Math.round(saverMs) };
      },
      commit: async () => {
        const verdict = await barrier.decide('commit');
        const ended = verdict === 'commit' && (await barrier.until('ended', limits.settle));
        if (verdict !== 'commit') throw resumed();
        if (!ended) {
          // The verdict stands whatever became of its script: nothing may run here any more.
          const cgroup = await Cgroup.of(layout.id);
          await removeInterface(layout);
          if (!(await cgroup.kill(limits.kill))) {
            this.#end(workload);
            throw new DeltahopError('DELTAHOP_E_WORKLOAD', `processes of ${workload.name} do not end, even killed`);
          }
        }
        this.#settleLater(workload, async () => {
          await barrier.ended(limits.settle);
          await this.#clear(layout, await Cgroup.of(layout.id));
          await removeOperation(layout.operation);
          await rm(layout.previousMemory, { recursive: true, force: true });
          await tmp.setBack();
        });
      },
      abort: async () => {
        if ((await verdictOf(layout.operation)) === 'commit') {
          throw new DeltahopError('DELTAHOP_E_CHECKPOINT', `${workload.name} was given up already and can not resume`);
        }
        try {
          // A directory's time is not worth a service that stands still.
          await tmp.setBack().catch(() => {});
          await this.#abortDump(layout, barrier);
        } finally {
          this.#end(workload);
        }
      },
    };
  }

  /** Lets a container run on whose dump is under way or done, and waits until it does. */
  async #abortDump(layout: LxcLayout, barrier: Barrier): Promise<void> {
    await barrier.decide('abort');
    await barrier.ended(limits.settle);
    await mend(layout.operation);
    await this.#letRun(layout);
    await removeOperation(layout.operation);
  }

  /** Makes sure that a container neither is frozen nor stopped by a tracer. */
  async #letRun(layout: LxcLayout): Promise<void> {
    const cgroup = await Cgroup.of(layout.id);
    const deadline = Date.now() + limits.settle;
    for (;;) {
      await cgroup.thaw();
      const pid = await cgroup.initPid();
      if (pid === null) return;
      if (!(await cgroup.isFrozen()) && (await processState(pid)) !== 't') return;
      if (Date.now() > deadline) {
        throw new DeltahopError('DELTAHOP_E_WORKLOAD', `process ${pid} of ${layout.id} does not run on by itself`);
      }
      await sleep(5);
    }
  }

  /** Starts lxc-checkpoint for a restore, up to the gate in front of CRIU. */
  async #startRestore(
    layout: LxcLayout,
    settings: LxcSettings,
    criu: Criu,
    cgroup: Cgroup,
    signal: AbortSignal,
  ): Promise<Barrier> {
    if (signal.aborted) throw cancelled('prepare', signal);
    const command = ['lxc-checkpoint', '-r', '-n', layout.id, '-P', layout.lxcPath];
    command.push(
      '-A',
      join(layout.operation, 'action'),
      '-D',
      layout.memory,
      '-o',
      join(layout.operation, 'lxc.log'),
      '-l',
      'INFO',
    );
    return await Barrier.start(layout.operation, {
      kind: 'prepare',
      command,
      mending: null,
      criuProgram: criu.program,
      criuConfig: criuConfig(criu, {
        cgroupRoot: cgroup.unifiedRoot,
        cgroupYard: null,
        closeTcp: settings.network?.tcp === 'close',
        externalNetwork: null,
      }),
      freezer: { directory: cgroup.intendedPayload, version: cgroup.version },
      network: networkOf(layout, settings.network),
    });
  }

  /** Ends a restore that was not let go; the files stay. */
  async #giveUpRestore(workload: Workload, layout: LxcLayout, cgroup: Cgroup, barrier: Barrier | null): Promise<void> {
    try {
      await barrier?.decide('abort');
      await barrier?.ended(limits.settle);
      await this.#clearRestore(layout, cgroup);
    } finally {
      this.#end(workload);
    }
  }

  #arranged(
    workload: Workload,
    layout: LxcLayout,
    settings: LxcSettings,
    { criu, cgroup }: { criu: Criu; cgroup: Cgroup },
    { network, raised }: { network: ReadyNetwork; raised: Promise<unknown> },
  ): ArrangedWorkload {
    let barrier: Barrier | null = null;
    const giveUp = async (): Promise<void> => {
      await raised;
      network.release();
      await this.#giveUpRestore(workload, layout, cgroup, barrier);
    };
    const start = async (signal: AbortSignal): Promise<Barrier> => {
      await mountOverlay(overlayOf(workload, layout));
      return await this.#startRestore(layout, settings, criu, cgroup, signal);
    };
    return {
      useFiles: async (signal) => {
        try {
          barrier = await start(signal);
        } catch (error) {
          await giveUp();
          throw error;
        }
      },
      prepare: async (signal) => {
        try {
          barrier ??= await start(signal);
          await stat(join(layout.memory, 'inventory.img')).catch((error: unknown) => {
            const message = `there is no complete image of ${workload.name} in ${layout.memory}`;
            throw new DeltahopError('DELTAHOP_E_RESTORE', message, { cause: error });
          });
          // If that was no good, this says why.
          await raised;
          await barrier.openGate((await network.become(layout.memory)) ? network.path : null);
          if (!(await barrier.until('held', limits.checkpoint, signal))) {
            throw await restoreFailure(workload, layout, await barrier.ended(limits.settle));
          }
          // What is restored is in it.
          network.release();
          const restorerMs = (await barrier.timeOf('held')) - (await barrier.timeOf('go'));
          await applyLimits(workload, settings, cgroup);
          return this.#prepared(workload, layout, settings, cgroup, barrier, restorerMs);
        } catch (error) {
          await giveUp();
          throw error;
        }
      },
      abandon: giveUp,
    };
  }

  #prepared(
    workload: Workload,
    layout: LxcLayout,
    settings: LxcSettings,
    cgroup: Cgroup,
    barrier: Barrier,
    restorerMs: number,
  ): PreparedWorkload {
    return {
      restorerMs: Math.round(restorerMs),
      commit: async () => {
        const verdict = await barrier.decide('commit');
        if (verdict !== 'commit' || !(await barrier.until('released', limits.settle))) {
          const failure = await restoreFailure(workload, layout, await barrier.ended(limits.settle));
          await this.#clearRestore(layout, cgroup);
          this.#end(workload);
          throw failure;
        }
        // The freezer was shut before CRIU looked at it (see the pre-dump action), so CRIU has shut it here again.
        await cgroup.thaw();
        this.#settleLater(workload, async () => {
          await barrier.ended(limits.settle);
          await removeByproducts(layout);
          await removeOperation(layout.operation);
          await writeConfig(layout, settings, cgroup, 'attached');
        });
      },
      abort: async () => {
        if ((await verdictOf(layout.operation)) === 'commit') {
          throw new DeltahopError('DELTAHOP_E_RESTORE', `${workload.name} was let go already; stop it instead`);
        }
        await this.#giveUpRestore(workload, layout, cgroup, barrier);
      },
    };
  }

  /** Clears what a restore that came to nothing left, so that the next one needs no help. */
  async #clearRestore(layout: LxcLayout, cgroup: Cgroup): Promise<void> {
    const remnant = await readRemnant(layout.operation);
    // If CRIU itself was killed, a half-restored tree waits for it forever.
    if (remnant?.init != null && (await isSameAlive(remnant.init))) killProcess(remnant.init.pid);
    await cgroup.kill(limits.kill);
    await removeInterface(layout);
    await unmountOverlay(layout.merged);
    await cgroup.removeEmpty();
    await removeByproducts(layout);
    await removeOperation(layout.operation);
  }
}

/** A dump that is under way. */
interface StartedDump {
  barrier: Barrier;
  initPid: number;
  isPreDump: boolean;
  /** Saves the network; null: CRIU does. */
  saver: NetworkSaver | null;
}

function overlayOf(workload: Workload, layout: LxcLayout) {
  const { upper, work, merged } = layout;
  return { lower: [workload.appPath, workload.basePath], upper, work, merged };
}

function instanceOf(layout: LxcLayout): InstanceTrees {
  return { trees: [filesOf(layout), memoryOf(layout)] };
}

function filesOf(layout: LxcLayout): InstanceTree {
  return {
    ...recordsOf(layout, 'upper', layout.upper),
    path: layout.upper,
    excludeXattrs: localXattrs,
    durable: true,
    inPlace: false,
    timesTell: false,
  };
}

/**
 * Made durable beside the restore, which takes longer (migrate/incoming). Not in a file system of memory: nothing of it is
 * waited for on its way to the disk, and CRIU's dump of 130 MiB into a tmpfs took 260 ms where it took 216 into ext4 (medians
 * of 12 hops in turn), before it would have been copied to where it is needed once the service has moved.
 */
function memoryOf(layout: LxcLayout): InstanceTree {
  return {
    ...recordsOf(layout, 'memory', layout.previousMemory),
    path: layout.memory,
    excludeXattrs: [],
    durable: false,
    // Writing all pages anew, most of them as they were, would be a good part of the downtime.
    inPlace: true,
    // Each dump writes files of its own.
    timesTell: true,
  };
}

function recordsOf(layout: LxcLayout, name: string, basisPath: string) {
  const recordPath = join(layout.records, name);
  return { name, recordPath, basis: { treePath: basisPath, recordPath }, common: [] };
}

function networkOf(layout: LxcLayout, network: LxcSettings['network']): BarrierPlan['network'] {
  return network && { hostInterface: layout.hostInterface, bridge: network.bridge };
}

/** The upper directory's own mode and owner become the container's root directory's: those of the layers below it. */
async function makeUpper(workload: Workload, layout: LxcLayout): Promise<void> {
  try {
    await mkdir(layout.upper);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return;
    throw error;
  }
  const root = await stat(workload.appPath).catch(() => null);
  if (root === null) return;
  await chown(layout.upper, root.uid, root.gid);
  await chmod(layout.upper, root.mode & 0o7777);
}

async function writeConfig(
  layout: LxcLayout,
  settings: LxcSettings,
  cgroup: Cgroup,
  bridge: 'attached' | 'apart',
): Promise<void> {
  const place = { root: layout.merged, hostInterface: layout.hostInterface, bridge, cgroup: cgroup.version };
  await mkdir(dirname(layout.config), { recursive: true });
  await replaceFile(layout.config, (temporary) => writeFile(temporary, containerConfig(settings, place)));
}

async function applyLimits(workload: Workload, settings: LxcSettings, cgroup: Cgroup): Promise<void> {
  try {
    await cgroup.applyLimits(settings);
  } catch (error) {
    const why = (error as Error).message;
    throw new DeltahopError('DELTAHOP_E_WORKLOAD', `${workload.name}: its limits can not be set: ${why}`, {
      cause: error,
    });
  }
}

async function dumpFailure(workload: Workload, layout: LxcLayout, exitCode: number | null): Promise<DeltahopError> {
  const { operation } = layout;
  const logs = [join(operation, 'images/dump.log'), join(operation, 'dump.log')];
  const why = await causeOf(logs, operation, exitCode);
  return new DeltahopError('DELTAHOP_E_CHECKPOINT', `${workload.name} could not be saved: ${why}`);
}

async function restoreFailure(workload: Workload, layout: LxcLayout, exitCode: number | null): Promise<DeltahopError> {
  const why = await causeOf([join(layout.memory, 'restore.log')], layout.operation, exitCode);
  return new DeltahopError('DELTAHOP_E_RESTORE', `${workload.name} could not be restored: ${why}`);
}

/** Why a dump or a restore failed: CRIU knows best, then LXC, then what was printed. */
async function causeOf(criuLogs: readonly string[], operation: string, exitCode: number | null): Promise<string> {
  for (const log of criuLogs) {
    const cause = causeInCriuLog(await readText(log));
    if (cause !== null) return cause;
  }
  const printed = (await readText(join(operation, 'output'))).trim().split('\n').at(-1) ?? '';
  return (
    causeInLxcLog(await readText(join(operation, 'lxc.log'))) ??
    (printed !== '' ? printed : exitCode === null ? 'the program was killed' : `the program ended with ${exitCode}`)
  );
}

/**
 * The kernel takes a dead container's network away in its own time, seconds on a busy machine, and until then the next
 * restore finds the name of its interface taken.
 */
async function removeInterface({ hostInterface }: LxcLayout): Promise<void> {
  // That there is none any more is the usual case.
  await runCommand(['ip', 'link', 'delete', 'dev', hostInterface], { limitMs: limits.kill });
}

async function removeByproducts(layout: LxcLayout): Promise<void> {
  for (const name of byproducts) await rm(join(layout.memory, name), { force: true });
}

/** A log's text, the end of it if it is very long; nothing if there is none. */
async function readText(path: string): Promise<string> {
  const text = await readFile(path, 'utf8').catch(() => '');
  return text.length > 4 << 20 ? text.slice(-(4 << 20)) : text;
}

function cancelled(what: string, signal: AbortSignal): DeltahopError {
  return new DeltahopError('DELTAHOP_E_CANCELLED', `${what} was cancelled`, { cause: signal.reason });
}

function ignoreMissing(error: unknown): void {
  if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
}

function killGroup(pid: number): void {
  killProcess(-pid);
}

function notThrottled(name: string): string {
  return `unsupported: ${name} is a container, which stands still for each round’s dump, all the longer if it is slowed down`;
}
