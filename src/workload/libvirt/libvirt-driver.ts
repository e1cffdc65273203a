import type { WorkloadDriver } from '../driver.js';
import { MachineDriver } from '../machine/machine-driver.js';
import { libvirtCapabilities, machineFacts } from './capabilities.js';
import { foreignDomain } from './foreign-domain.js';
import { LibvirtMachine } from './machine.js';
import { parseSettings } from './settings.js';

/** A driver for domains of libvirt's. */
export function createLibvirtDriver(): WorkloadDriver {
  return new MachineDriver({
    name: 'libvirt',
    // Nothing of it is there before its memory is complete: what is arranged is its definition.
    arrangesEarly: false,
    capabilities: libvirtCapabilities,
    complete: (name, settings) => {
      parseSettings(name, settings);
      return settings;
    },
    foreign: foreignDomain,
    facts: machineFacts,
    machine: (workload) => new LibvirtMachine(workload),
  });
}
