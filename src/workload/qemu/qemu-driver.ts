import { DeltahopError } from '../../errors.js';
import { accelerator } from '../accelerator.js';
import type { WorkloadDriver } from '../driver.js';
import { MachineDriver } from '../machine/machine-driver.js';
import { machineFacts, qemuCapabilities } from './capabilities.js';
import { QemuMachine } from './machine.js';
import { parseSettings, pinned } from './settings.js';

/** A driver for virtual machines that it runs by QEMU itself. */
export function createQemuDriver(): WorkloadDriver {
  return new MachineDriver({
    name: 'qemu',
    // A QEMU that waits for a state holds no image open for use, and its memory is the very file that arrives.
    arrangesEarly: true,
    capabilities: qemuCapabilities,
    complete: (name, settings) => {
      const complete = pinned(settings, accelerator().name);
      parseSettings(name, complete);
      return complete;
    },
    foreign: (reference) => {
      const why = `machine ${reference}: a QEMU that deltahop did not start tells nobody of what it is made`;
      return Promise.reject(new DeltahopError('DELTAHOP_E_UNSUPPORTED', why));
    },
    facts: machineFacts,
    machine: (workload) => new QemuMachine(workload),
  });
}
