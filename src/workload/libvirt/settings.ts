/** What `--set KEY=VALUE` may say of a libvirt domain; adoption fills it in. */
import { isAbsolute } from 'node:path';
import { parseNetwork, type ServiceNetwork } from '../network.js';
import { invalid, quoted } from '../settings.js';
import { type PortableDomain, portableDomain, UnportableDomain } from './domain-xml.js';

/** The settings of a libvirt domain. */
export interface LibvirtSettings {
  /** `domain`: what every node builds the same. */
  domain: PortableDomain;
  /** Its place in the network; null: it has no network interface. */
  network: ServiceNetwork | null;
  /** `kernel`, `initrd`: files of the node it was adopted on, kept with it from then on. */
  kernel: string | null;
  initrd: string | null;
}

const keys = ['domain', 'ip', 'mac', 'bridge', 'kernel', 'initrd'];

/** Reads the settings. @throws DeltahopError DELTAHOP_E_INVALID_ARGUMENT naming the setting and what it accepts. */
export function parseSettings(name: string, settings: Readonly<Record<string, string>>): LibvirtSettings {
  for (const key of Object.keys(settings)) {
    if (!keys.includes(key)) throw invalid(key, `is not a setting of libvirt services; there are ${keys.join(', ')}`);
  }
  const { domain: xml, ip, kernel, initrd } = settings;
  if (xml === undefined) throw invalid('domain', 'is missing: a libvirt service is made by deltahop service adopt');
  for (const [key, path] of Object.entries({ kernel, initrd })) {
    if (path !== undefined && !isAbsolute(path)) throw invalid(key, `must be an absolute path, not ${quoted(path)}`);
  }
  const domain = readDomain(xml);
  if (domain.hasInterface !== (ip !== undefined)) {
    throw invalid('ip', domain.hasInterface ? 'is missing: the domain has a network interface' : 'means nothing here');
  }
  return {
    domain,
    network: ip === undefined ? null : parseNetwork(name, ip, settings),
    kernel: kernel ?? null,
    initrd: initrd ?? null,
  };
}

function readDomain(xml: string): PortableDomain {
  try {
    return portableDomain(xml).domain;
  } catch (error) {
    if (error instanceof UnportableDomain) throw invalid('domain', `can not be used: ${error.message}`);
    throw error;
  }
}
