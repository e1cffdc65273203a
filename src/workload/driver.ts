/** What deltahop needs of anything that runs services: containers, virtual machines. One implementation a folder. */

import type { CommonFile } from '../engine/engine.js';

/** A service as its driver sees it: where its parts are on this node, and how it was described. */
export interface Workload {
  /** The service's name: letters, digits, `-`, at most 32. */
  name: string;
  /** Directory of this service on this node; the driver keeps everything of its own beneath it. */
  path: string;
  /** Digests of its layers. */
  base: string;
  app: string;
  /** Directory of the base layer's content. */
  basePath: string;
  /** Directory of the application layer's content. */
  appPath: string;
  /** Driver settings as given by `--set KEY=VALUE`, completed by {@link WorkloadDriver.checkSettings}. */
  settings: Readonly<Record<string, string>>;
  /** The command that the service runs, and its arguments; none for a machine that knows by itself what to run. */
  command: readonly string[];
}

/** The parts of an instance that move, each a directory tree. `memory` exists only after a round or a freeze. */
export interface InstanceTrees {
  /** Name of the part (`upper`, `memory`) and its directory, in the order in which they should be sent. */
  readonly trees: readonly InstanceTree[];
}

/** One part of an instance. */
export interface InstanceTree {
  name: string;
  path: string;
  /** Extended attributes that mean something on this node only. */
  excludeXattrs: readonly string[];
  /**
   * Whether the destination must have it on stable storage before the transfer counts as done. What need not is made
   * durable while the service is restored.
   */
  durable: boolean;
  /** Whether its files are patched where they lie, so that their inodes stay; nobody else uses them while it arrives. */
  inPlace: boolean;
  /**
   * Whether times tell what has changed. They do not where the service can set them back, or writes through a mapping; the
   * last pass then reads all of the tree.
   */
  timesTell: boolean;
  /** Where this node keeps the record of what it last sent or received of it; beside the tree, never in it. */
  recordPath: string;
  /** What an earlier round left here of it, and the record of that: what the other node is likely to hold. */
  basis: { treePath: string; recordPath: string } | null;
  /** Files that the other node may hold as well, of which a large file here may consist in part when it is sent first. */
  common: readonly CommonFile[];
}

/** How a service is doing on this node. */
export interface WorkloadState {
  state: 'stopped' | 'running' | 'frozen';
  /** Process id of its first process, as this node sees it. */
  pid: number | null;
  /** What its owner should know of how it runs here. */
  note?: string;
}

/** One thing that this machine has or lacks, for preflight and `deltahop doctor`. */
export interface Capability {
  /** Short name, e.g. `criu`. */
  name: string;
  ok: boolean;
  /** What was found, e.g. a version, or what is wrong. */
  detail: string;
  /** What to do if not ok; null if ok. */
  remedy: string | null;
}

/** What a machine is like, by short names; only the driver that made it knows what they mean. */
export type MachineFacts = Readonly<Record<string, string>>;

/** How much a running service would bring along. */
export interface InstanceSize {
  memoryBytes: number;
  filesBytes: number;
  /** Some of its memory, to see how far it can be compressed; empty if none can be had. */
  memorySample: Uint8Array;
}

/** What a round has written. */
export interface RoundWorkload {
  /** A seed, not a state: the service has run on. */
  readonly instance: InstanceTrees;
  /** How long the service stood still for it. */
  readonly pausedMs: number;
}

/** A service that is being slowed down. */
export interface Throttle {
  /** Leaves it this share of its processors, above 0 and at most 1. */
  set(share: number): Promise<void>;
  /** Gives it all of them back. Idempotent. */
  end(): Promise<void>;
}

/** A service stopped at the source: nothing of it runs, its memory is being written, and it can still go on. */
export interface FrozenWorkload {
  /** When the service was stopped (Date.now() of this node; the moment before the first task stopped). */
  readonly frozenAtMs: number;
  /** The instance's trees that are complete from the stop on. Valid until commit() or abort() is done. */
  readonly files: InstanceTrees;
  /**
   * Resolves at the barrier, when the memory is complete as well; to be awaited before commit().
   * @param filesListed Fulfilled once the files have been listed for sending, so that it can be told whether they have to be
   * sent again.
   * @throws DeltahopError DELTAHOP_E_CHECKPOINT, DELTAHOP_E_CANCELLED; abort() is still to be called.
   */
  memory(signal: AbortSignal, filesListed: Promise<unknown>): Promise<FrozenMemory>;
  /** Aborted, with the error, once the service has gone on by itself: its barrier gave way, and nothing can be committed. */
  readonly gaveWay: AbortSignal;
  /**
   * Ends the service here for good; its files stay. Decided in one atomic step against the barrier's own time limit:
   * rejects if the barrier gave up first (the service then runs on), else the service can not be resumed any more, no
   * task of it runs again and its network interface is off the node's bridge.
   */
  commit(): Promise<void>;
  /** Lets the service run on here as if nothing had been. */
  abort(): Promise<void>;
}

/** The rest of a frozen instance. */
export interface FrozenMemory {
  /** Its trees that were not complete at the stop. Valid like those of the files. */
  readonly instance: InstanceTrees;
  /** Saving it has left something in the files: what was sent of them before that has to be sent again. */
  readonly filesChanged: boolean;
  /** From the stop to the barrier, which is the saving program's own time. */
  readonly saverMs: number;
}

/** A destination where something of a restore has been done before all of the instance has come. */
export interface ArrangedWorkload {
  /**
   * All trees but the memory are complete: does what needs them. They must not change from here on: if they do, it has to be
   * abandoned and arranged anew. Once at the most, and before prepare(), which does it if nobody has. On failure it is as if
   * abandon() had been called.
   */
  useFiles(signal: AbortSignal): Promise<void>;
  /** Restores it and holds it at the barrier. On failure nothing runs and the files stay. */
  prepare(signal: AbortSignal): Promise<PreparedWorkload>;
  /** Takes it back; the files stay. Not to be called once prepare() was, nor once useFiles() has failed. */
  abandon(): Promise<void>;
}

/** A service restored at the destination's barrier: complete in memory, nothing runs yet, network locked. */
export interface PreparedWorkload {
  /** From the memory's completeness to the barrier, as far as it was the restoring program's own time. */
  readonly restorerMs: number;
  /** Lets it run. Resolves once its first instruction may run. */
  commit(): Promise<void>;
  /** Ends it; its files stay, for another try. */
  abort(): Promise<void>;
}

/** What {@link WorkloadDriver.recover} found. */
export interface Recovered {
  /** Whether a restore had been let go: then the files here are newer than the image, which must not be restored again. */
  released: boolean;
}

/** What somebody else made and runs no more, as a service could be made of it. */
export interface ForeignWorkload {
  /** The directory or image that an app layer is made of, upon the base. */
  path: string;
  settings: Readonly<Record<string, string>>;
  command: readonly string[];
  /** What of it a service will not have, each with the way out. */
  notes: readonly string[];
}

/** A kind of workload. Every method is bounded in time and ends its child processes if it fails or is aborted. */
export interface WorkloadDriver {
  /** `lxc`, `qemu`, `libvirt`. */
  readonly name: string;
  /** What its layers have to be: trees of files, or disks. */
  readonly layerForm: 'tree' | 'disk';
  /** What this machine can do for this driver. */
  capabilities(): Promise<readonly Capability[]>;
  /**
   * Reads a service's settings and command.
   * @returns the settings, with those filled in that must stay what they are here and now on every node.
   * @throws DeltahopError DELTAHOP_E_INVALID_ARGUMENT naming the setting.
   */
  checkSettings(
    name: string,
    settings: Readonly<Record<string, string>>,
    command: readonly string[],
  ): Readonly<Record<string, string>>;
  /**
   * Looks at one of this kind that deltahop did not make, and that does not run.
   * @param reference What its own tools call it.
   * @param given What the caller knows better; what that leaves open is read from the workload.
   * @throws DeltahopError DELTAHOP_E_NOT_FOUND, DELTAHOP_E_IN_USE if it runs, DELTAHOP_E_UNSUPPORTED naming what can not
   *   become a service's, DELTAHOP_E_INVALID_ARGUMENT naming what has to be given.
   */
  foreign(
    reference: string,
    given: { settings: Readonly<Record<string, string>>; command: readonly string[] },
  ): Promise<ForeignWorkload>;
  /** Makes the service's directories. Idempotent. */
  create(workload: Workload): Promise<void>;
  start(workload: Workload): Promise<void>;
  /** Stops it (asks first, then ends it). No error if it does not run. */
  stop(workload: Workload): Promise<void>;
  /**
   * Has a service go on that stands still only because a disk was full, if there is room again.
   * @returns whether it has; false for every other service.
   */
  resumeStalled(workload: Workload): Promise<boolean>;
  inspect(workload: Workload): Promise<WorkloadState>;
  /** Stops it and removes what {@link create} made; layers stay. */
  remove(workload: Workload): Promise<void>;
  /** Why this running service can not move, each reason with its way out; empty if it can. */
  obstacles(workload: Workload): Promise<readonly Capability[]>;
  /**
   * Tries whether a running service is well: `tcp:PORT`, `http:PORT/PATH` or `exec:COMMAND`, all within the service.
   * @returns null if it is, else why not.
   */
  probe(workload: Workload, probe: string): Promise<string | null>;
  /** What matters of this machine to one that would take over a service from it, or give it one. */
  machine(): Promise<MachineFacts>;
  /** Whether a service that runs on a machine like `source` could run on here: every finding, good ones too. */
  admits(source: MachineFacts, workload: Workload): Promise<readonly Capability[]>;
  /** Looks at a running service without stopping it. */
  measure(workload: Workload): Promise<InstanceSize>;
  /** Whether {@link throttle} can be done to a running service on this machine, and how: tried, not looked up. */
  throttling(workload: Workload): Promise<Capability>;
  /**
   * Makes ready to slow a running service down, so that it changes less while it is sent. It has all of its processors again
   * after `end()`, at the latest from the moment of a {@link freeze} on, and soon after this agent has ended; where that can
   * fail, {@link recover} sees to it.
   * @throws DeltahopError DELTAHOP_E_UNSUPPORTED if that can not be done.
   */
  throttle(workload: Workload): Promise<Throttle>;
  /** Writes the memory of the running service, which runs on. */
  round(workload: Workload, signal: AbortSignal): Promise<RoundWorkload>;
  /** Stops the service. On any failure the service runs on. */
  freeze(workload: Workload, signal: AbortSignal): Promise<FrozenWorkload>;
  /** Where the instance's trees have to be received before {@link arrange}; makes the directories. */
  staging(workload: Workload): Promise<InstanceTrees>;
  /** Whether {@link arrange} may be done while all trees are still to change, once they have been there as a whole. */
  readonly arrangesEarly: boolean;
  /**
   * Whether all of a frozen service goes over at once: saving its memory changes nothing in its files, and a restore that is
   * arranged has no use for them before the memory has come.
   */
  readonly goesAtOnce: boolean;
  /** Does what can be done towards a restore from {@link staging} before any tree is complete. */
  arrange(workload: Workload, signal: AbortSignal): Promise<ArrangedWorkload>;
  /**
   * Gives a verdict on a freeze whose agent has ended, unless it has one: its barrier may have lost patience. To be called
   * before {@link recover}, which takes no verdict for `abort`.
   * @returns the verdict that holds; null if no freeze is under way or was left.
   */
  decideFreeze(workload: Workload, verdict: 'commit' | 'abort'): Promise<'commit' | 'abort' | null>;
  /**
   * Clears what an interrupted operation left on this node (half-restored trees, mounts), by recorded process id. A throttled
   * service has all of its processors again; a
   * service whose freeze was not committed runs on; one whose freeze was is ended; one that was held and not let go is
   * ended, its files stay.
   */
  recover(workload: Workload): Promise<Recovered>;
}
