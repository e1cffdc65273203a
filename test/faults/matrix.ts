/** Which fault is injected at which step: every one at which it can hit something. */
import { type Fault, faults } from './inject.js';
import { type Step, steps } from './steps.js';

/** One fault at one step. */
export interface Cell {
  step: Step;
  fault: Fault;
}

const everywhere = ['kill-agent-source', 'kill-agent-destination', 'kill-agents-both', 'cut-2s', 'cut-for-ever'];
const workers = ['kill-worker-source', 'kill-worker-destination'];
const sourceDump = ['kill-criu-source', 'kill-supervisor-source'];
const sourceBarrier = [...sourceDump, 'kill-barrier-source'];
const restore = ['kill-criu-destination', 'kill-lxc-destination', 'kill-supervisor-destination'];
/** CRIU and LXC come to their ends while the nodes talk. */
const held = ['kill-supervisor-destination'];
const disk = ['disk-full-destination'];

/** What can be hit at each step that a driver's migrations have, beside the agents and the link. */
type Besides = Readonly<Record<string, readonly string[]>>;

const lxc: Besides = {
  offer: disk,
  base: [...workers, ...disk, 'corrupt-layer-destination'],
  app: [...workers, ...disk, 'corrupt-layer-destination'],
  'round-dump': [...sourceDump, ...workers, ...disk],
  'round-send': [...workers, ...disk, 'corrupt-basis-destination'],
  'freeze-dump': [...sourceDump, ...workers, ...disk],
  frozen: [...sourceBarrier, ...workers, ...disk, 'corrupt-image-source'],
  final: [...sourceBarrier, ...workers, ...disk],
  restore: [...sourceBarrier, ...restore, ...workers, ...disk, 'corrupt-image-destination'],
  restored: [...sourceBarrier, ...restore, ...disk],
  prepared: [...sourceBarrier, ...held, ...disk],
  committed: [...sourceBarrier, ...held, ...disk],
  'given-up': [...sourceBarrier, ...held, ...disk],
  heard: [...held, ...disk],
  released: [...held, ...disk],
  running: disk,
  acknowledged: disk,
};

const heldMachine = ['kill-qemu-destination', 'kill-supervisor-destination'];

/**
 * QEMU is killed at the source once the machine is saved, so not while it runs: that would be the end of its service. A
 * destination arranges its restore as soon as the first round is there, so `restore` comes before the freeze: there is no
 * supervisor at the source to be killed.
 */
const qemu: Besides = {
  offer: disk,
  base: [...workers, ...disk, 'corrupt-layer-destination'],
  app: [...workers, ...disk],
  'round-copy': ['disk-full-source'],
  'round-send': [...workers, ...disk, 'corrupt-ram-destination'],
  freeze: ['kill-supervisor-source', 'disk-full-source'],
  frozen: ['kill-supervisor-source', ...workers, ...disk, 'corrupt-state-source', 'corrupt-state-destination'],
  final: ['kill-qemu-source', 'kill-supervisor-source', ...heldMachine, ...workers, ...disk],
  restore: [...heldMachine, ...disk],
  prepared: ['kill-qemu-source', 'kill-supervisor-source', ...heldMachine, ...disk],
  committed: ['kill-qemu-source', 'kill-supervisor-source', ...heldMachine, ...disk],
  'given-up': ['kill-supervisor-source', ...heldMachine, ...disk],
  heard: [...heldMachine, ...disk],
  released: ['kill-supervisor-destination', ...disk],
  running: disk,
  acknowledged: disk,
};

/** The drivers that faults are injected into. */
export type FaultedDriver = 'lxc' | 'qemu';

const besides: Readonly<Record<FaultedDriver, Besides>> = { lxc, qemu };

/** The short version, of containers: the dangerous ones, with each step and each kind of fault once at least. */
const quick = [
  'offer/kill-agents-both',
  'base/kill-worker-destination',
  'app/kill-agent-source',
  'round-dump/kill-supervisor-source',
  'round-send/cut-2s',
  'round-send/corrupt-basis-destination',
  'freeze-dump/kill-agent-source',
  'frozen/kill-barrier-source',
  'frozen/kill-criu-source',
  'final/kill-worker-source',
  'restore/kill-criu-destination',
  'restore/kill-lxc-destination',
  'restore/corrupt-image-destination',
  'restored/kill-criu-destination',
  'restored/disk-full-destination',
  'prepared/kill-agents-both',
  'committed/kill-agent-source',
  'heard/kill-agent-destination',
  'released/cut-2s',
  'running/kill-agents-both',
];

/** Name of a cell, as `--only` takes it. */
export function nameOf({ step, fault }: Cell): string {
  return `${step.name}/${fault.name}`;
}

/** Every cell of a driver, or those of the short version. */
export function cells(driver: FaultedDriver, short: boolean): Cell[] {
  const all = steps.flatMap((step) => {
    const own = besides[driver][step.name];
    return (own === undefined ? [] : [...everywhere, ...own]).map((name) => {
      const fault = faults.find((candidate) => candidate.name === name);
      if (fault === undefined) throw new Error(`no fault ${name}`);
      return { step, fault };
    });
  });
  return short ? all.filter((cell) => quick.includes(nameOf(cell))) : all;
}
