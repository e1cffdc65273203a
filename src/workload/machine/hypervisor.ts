/** What the driver of virtual machines needs of whatever runs them: QEMU by itself, libvirt. */
import type { Capability, InstanceSize, MachineFacts, Workload, WorkloadDriver } from '../driver.js';
import type { ServiceNetwork } from '../network.js';
import type { HoldActions } from './barrier.js';
import type { MachineLayout } from './layout.js';

/** A kind of hypervisor. Every method is bounded in time. */
export interface Hypervisor {
  /** The driver's name. */
  readonly name: string;
  /** See {@link WorkloadDriver.arrangesEarly}. */
  readonly arrangesEarly: boolean;
  capabilities(): Promise<readonly Capability[]>;
  /** See {@link WorkloadDriver.checkSettings}. */
  complete(name: string, settings: Readonly<Record<string, string>>): Readonly<Record<string, string>>;
  foreign: WorkloadDriver['foreign'];
  facts(): Promise<MachineFacts>;
  /** A handle on the machine of a service. Pure: nothing has to exist, and nothing that must outlive the agent is in it. */
  machine(workload: Workload): Machine;
}

/** What the settings of every machine say. */
export interface MachineSettings {
  network: ServiceNetwork | null;
  kernel: string | null;
  initrd: string | null;
}

/** The virtual machine of one service. */
export interface Machine {
  readonly layout: MachineLayout;
  /** @throws DeltahopError DELTAHOP_E_INVALID_ARGUMENT */
  readonly settings: MachineSettings;
  /** How it is run, for its owner. */
  readonly note: string;
  /** What of it there is on this node but {@link MachineLayout}'s. */
  readonly paths: readonly string[];
  /**
   * What {@link freeze} leaves of it once it is saved, the last of it to be written. As long as it is there the machine has
   * not run on, so one that was killed can be restored.
   */
  readonly savedState: string;
  /** How a shell resumes and ends it. */
  readonly holdActions: HoldActions;
  /** What stands against going on here with what ran on a machine with these facts, and what does not. */
  differences(source: MachineFacts): Promise<readonly Capability[]>;
  /** The process number of its QEMU; null if it does not run. */
  find(): Promise<number | null>;
  /** The threads that are its processors, while it runs. @throws DeltahopError DELTAHOP_E_UNSUPPORTED if they are not ours to slow down. */
  processors(): Promise<readonly number[]>;
  /** Whether it stands still though nothing of deltahop's holds it: by its owner's hand, or for want of room on a disk. */
  isSuspended(): Promise<boolean>;
  /** Whether it stands still because a write of its guest's has found no room. */
  isStalled(): Promise<boolean>;
  /** Starts it from its disk, in fresh memory. */
  boot(): Promise<void>;
  /** Asks its guest to switch itself off, one that is suspended too; says nothing of whether it will. */
  askToShutDown(): Promise<void>;
  /**
   * Lets it run, whatever it has been doing.
   * @param before Done at the last moment, when it is known to live: from there on its memory may change.
   */
  resume(before?: () => Promise<void>): Promise<void>;
  /** Kills it, if it runs, and waits until nothing of it can run any more. The quickest way. */
  end(): Promise<void>;
  /** Ends all of it, one that is just starting too, and what it had on this node to run with. */
  clear(): Promise<void>;
  /** Undoes what lets anybody start it here. */
  forget(): Promise<void>;
  /** Looks at its memory while it runs. */
  measureMemory(): Promise<Pick<InstanceSize, 'memoryBytes' | 'memorySample'>>;
  /** Writes its memory into a directory while it runs. @returns how long it stood still for that, in milliseconds. */
  saveRunning(directory: string, signal: AbortSignal): Promise<number>;
  /** Stops it, its disk complete from then on, and saves the rest of it beneath {@link MachineLayout.memory}. */
  freeze(signal: AbortSignal): Promise<Saving>;
  /** Whether what a peer has sent, as far as this hypervisor wants more than every other, may be opened. @throws DeltahopError */
  checkArrived(): Promise<void>;
  /** Does what can be done before its memory is complete. */
  arrange(): Promise<ArrangedMachine>;
}

/** A machine that stands still and is being saved. */
export interface Saving {
  /** When it was stopped (Date.now(), the moment before). */
  readonly frozenAtMs: number;
  /** Fulfilled once all of it is saved. */
  readonly done: Promise<void>;
  /** Has the saving end soon, done or not; afterwards it can be resumed. */
  cancel(): Promise<void>;
}

/** A machine of which everything is there but its memory. */
export interface ArrangedMachine {
  /** Loads its memory; it does not run yet. @throws DeltahopError DELTAHOP_E_RESTORE */
  load(signal: AbortSignal): Promise<void>;
}
