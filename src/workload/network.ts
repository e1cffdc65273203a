/** A service's place in its node's network: its settings, and whether it is free. */
import { createHash } from 'node:crypto';
import { createSocket } from 'node:dgram';
import { readFile, stat } from 'node:fs/promises';
import { isIPv4 } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { runCommand } from './command.js';
import type { Capability } from './driver.js';
import { invalid, quoted } from './settings.js';

const limitMs = 10_000;

/** How long a neighbour may take to say that it has an address. */
const neighbourMs = 400;

/** Where a service is reached. */
export interface ServiceNetwork {
  /** `ip`: IPv4 address and prefix length, e.g. 10.77.0.10/24. */
  address: string;
  /** `mac`: its Ethernet address; made from the service's name unless told, so that it is the same on every node. */
  mac: string;
  /** `bridge`: the bridge that it hangs on, which must be there on every node; br0 unless told. */
  bridge: string;
}

/** Reads the settings of a network. @throws DeltahopError DELTAHOP_E_INVALID_ARGUMENT naming the setting. */
export function parseNetwork(name: string, ip: string, settings: Readonly<Record<string, string>>): ServiceNetwork {
  const [, address = '', prefix = ''] = /^([^/]+)\/(\d{1,2})$/.exec(ip) ?? [];
  if (!isIPv4(address) || Number(prefix) < 1 || Number(prefix) > 32) {
    throw invalid('ip', `must be an IPv4 address with a prefix length, like 10.0.0.5/24, not ${quoted(ip)}`);
  }
  const { bridge = 'br0', mac = macOf(name) } = settings;
  if (!/^[A-Za-z0-9._-]{1,15}$/.test(bridge)) {
    throw invalid('bridge', `must be the name of a bridge (1 to 15 characters), not ${quoted(bridge)}`);
  }
  if (!/^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$/.test(mac)) {
    throw invalid('mac', `must be six pairs of hexadecimal digits with colons between, not ${quoted(mac)}`);
  }
  if ((Number.parseInt(mac.slice(0, 2), 16) & 1) === 1) {
    throw invalid('mac', `must not be a group address (its first pair must be even), unlike ${mac}`);
  }
  return { address: ip, mac: mac.toLowerCase(), bridge };
}

/** An Ethernet address made of a name: locally administered, and the same wherever it is made. */
function macOf(name: string): string {
  const digest = createHash('sha256').update(`deltahop mac ${name}`).digest('hex');
  return `02:${digest.slice(0, 10).match(/../g)?.join(':')}`;
}

/** Whether a service with this network can run here: its bridge is there, and nobody else has its address. */
export async function networkFindings(network: ServiceNetwork): Promise<Capability[]> {
  const { bridge, address } = network;
  const bridges = (await stat(`/sys/class/net/${bridge}/bridge`).catch(() => null)) !== null;
  const found: Capability[] = [
    {
      name: 'bridge',
      ok: bridges,
      detail: bridges ? `${bridge} is there` : `there is no bridge ${bridge}`,
      remedy: bridges ? null : `make it (ip link add ${bridge} type bridge), or set bridge=NAME where the service is`,
    },
  ];
  if (bridges) found.push(await addressFinding(network, address.split('/')[0] ?? ''));
  return found;
}

async function addressFinding({ bridge, mac }: ServiceNetwork, ip: string): Promise<Capability> {
  const inUse = (who: string): Capability => ({
    name: 'address',
    ok: false,
    detail: `${ip} is in use here, by ${who}`,
    remedy: 'take the address off it, or give the service another one',
  });
  // Of all interfaces: an address on a bridge that nothing hangs on yet is taken too.
  const { stdout } = await runCommand(['ip', '-oneline', 'address', 'show', 'to', ip], { limitMs });
  const own = /^\d+:\s+(\S+)/.exec(stdout)?.[1];
  if (own !== undefined) return inUse(`this node’s own ${own}`);
  const holder = await neighbour(bridge, ip);
  // The service itself answers, if both nodes are on one network.
  if (holder !== null && holder !== mac) return inUse(holder);
  return { name: 'address', ok: true, detail: `${ip} is free as far as ${bridge} can tell`, remedy: null };
}

/** The Ethernet address that answers for an IPv4 address on a bridge's network; null if none does, or none can be asked. */
async function neighbour(bridge: string, ip: string): Promise<string | null> {
  const socket = createSocket('udp4');
  socket.on('error', () => {});
  try {
    // Whatever is sent, the kernel asks by ARP first. Port 9 is the discard service's.
    await new Promise<void>((resolve) => socket.send('', 9, ip, () => resolve()));
    for (const deadline = Date.now() + neighbourMs; Date.now() < deadline; await sleep(20)) {
      for (const line of (await readFile('/proc/net/arp', 'utf8')).split('\n')) {
        const [address, , flags, hardware, , device] = line.trim().split(/\s+/);
        // ATF_COM (linux/if_arp.h): the answer has come.
        if (address === ip && device === bridge && (Number(flags) & 2) !== 0) return hardware?.toLowerCase() ?? null;
      }
    }
    return null;
  } finally {
    socket.close();
  }
}
