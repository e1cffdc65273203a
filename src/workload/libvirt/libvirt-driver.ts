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
    // What is arranged is its definition, and what is defined can be started by anybody.
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
