import { join, resolve } from 'node:path';
import type { Workload } from '../driver.js';

/**
 * What is where of a virtual machine, whatever runs it, beneath `Workload.path`:
 *
 *     live/boot/{kernel,initrd}     what it boots with, if not by its firmware                    moves
 *     live/disk/instance.qcow2      what it has changed on its disk                               moves
 *     live/memory/                  its memory and its devices, as its hypervisor keeps them      moves
 *     last-round/{disk,memory}      live/ as it was saved in the last round: what the destination holds
 *     round-before/{disk,memory}    the same of the round before, of which that is a small change
 *     records/                      what is known of the trees as they were last sent or received
 *     app.qcow2                     the app layer as QEMU wants it (app-image.ts), made anew for every start
 *     throttled                     what is to be taken back of a throttle (see throttle.ts); gone when nothing is
 *     operation/                    the freeze or prepare that is under way; gone when it is over (see barrier.ts)
 */
export interface MachineLayout {
  readonly boot: string;
  readonly kernel: string;
  readonly initrd: string;
  readonly disk: string;
  readonly instanceImage: string;
  readonly memory: string;
  readonly lastRound: string;
  readonly roundBefore: string;
  readonly records: string;
  readonly appImage: string;
  readonly throttled: string;
  readonly operation: string;
}

/** The layout of a workload. Pure: nothing has to exist. */
export function machineLayout(workload: Pick<Workload, 'path'>): MachineLayout {
  const at = (...parts: string[]): string => join(resolve(workload.path), ...parts);
  return {
    boot: at('live/boot'),
    kernel: at('live/boot/kernel'),
    initrd: at('live/boot/initrd'),
    disk: at('live/disk'),
    instanceImage: at('live/disk/instance.qcow2'),
    memory: at('live/memory'),
    lastRound: at('last-round'),
    roundBefore: at('round-before'),
    records: at('records'),
    appImage: at('app.qcow2'),
    throttled: at('throttled'),
    operation: at('operation'),
  };
}
