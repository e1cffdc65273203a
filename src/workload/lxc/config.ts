import { isIPv4 } from 'node:net';
import { parseNetwork, type ServiceNetwork } from '../network.js';
import { invalid, parseBytes, quoted } from '../settings.js';

/** What `--set KEY=VALUE` may say of an LXC service, read and checked. */
export interface LxcSettings {
  /** Its address and network; null: it has no network but its own loopback. */
  network: LxcNetwork | null;
  /** `memory`: the most that its processes may use together, in bytes; null: no limit. */
  memoryBytes: number | null;
  /** `cpus`: how many processors' worth of time it may use, e.g. 0.5; null: no limit. */
  cpus: number | null;
  /** `hostname`: what it believes it is called; the service's name unless told. */
  hostname: string;
}

/** The network side of {@link LxcSettings}. */
export interface LxcNetwork extends ServiceNetwork {
  /** `gateway`: IPv4 address of the default route; null: none. */
  gateway: string | null;
  /**
   * `tcp`: what becomes of open connections in a move. `keep`, unless told: they go on, which takes an address that
   * follows. `close`: both ends see them closed, at once rather than by waiting.
   */
  tcp: 'keep' | 'close';
}

const keys = ['ip', 'gateway', 'mac', 'bridge', 'tcp', 'memory', 'cpus', 'hostname'] as const;

/**
 * Reads the settings of a service.
 *
 * @throws DeltahopError DELTAHOP_E_INVALID_ARGUMENT naming the setting and what it accepts.
 */
export function parseSettings(name: string, settings: Readonly<Record<string, string>>): LxcSettings {
  for (const key of Object.keys(settings)) {
    if (!(keys as readonly string[]).includes(key)) {
      throw invalid(key, `is not a setting of lxc services; there are ${keys.join(', ')}`);
    }
  }
  const { ip, memory, cpus, hostname = name } = settings;
  if (!/^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$/.test(hostname)) {
    throw invalid('hostname', `must be 1 to 63 letters, digits and inner hyphens, not ${quoted(hostname)}`);
  }
  if (ip === undefined) {
    for (const key of ['gateway', 'mac', 'bridge', 'tcp'] as const) {
      if (settings[key] !== undefined) throw invalid(key, 'means nothing without ip=ADDRESS/PREFIX');
    }
  }
  return {
    network: ip === undefined ? null : parseLxcNetwork(name, ip, settings),
    memoryBytes: memory === undefined ? null : parseBytes('memory', memory),
    cpus: cpus === undefined ? null : parseCpus(cpus),
    hostname,
  };
}

function parseLxcNetwork(name: string, ip: string, settings: Readonly<Record<string, string>>): LxcNetwork {
  const { gateway, tcp = 'keep' } = settings;
  if (tcp !== 'keep' && tcp !== 'close') throw invalid('tcp', `must be keep or close, not ${quoted(tcp)}`);
  if (gateway !== undefined && !isIPv4(gateway)) {
    throw invalid('gateway', `must be an IPv4 address, not ${quoted(gateway)}`);
  }
  return { ...parseNetwork(name, ip, settings), gateway: gateway ?? null, tcp };
}

function parseCpus(text: string): number {
  const cpus = /^\d{1,4}(\.\d{1,3})?$/.test(text) ? Number(text) : 0;
  // The kernel's least quota is 1 ms of a period of 100 ms.
  if (cpus < 0.01) throw invalid('cpus', `must be a number like 2 or 0.5, from 0.01 up, not ${quoted(text)}`);
  return cpus;
}

/** What goes into a container's configuration beside its settings. */
export interface ContainerPlace {
  /** Directory of its root: the mounted overlay. */
  root: string;
  /** Name of its network interface's end on this node. */
  hostInterface: string;
  /** `attached`: on the bridge at once. `apart`: for a restore, which puts it on the bridge when it may run. */
  bridge: 'attached' | 'apart';
  /** Which cgroups LXC manages devices with. */
  cgroup: 'v1' | 'v2';
}

/** The devices that a program expects (null, zero, full, random, urandom, tty, ptmx, pseudo-terminals), as LXC's own rules. */
const devices = ['1:3', '1:5', '1:7', '1:8', '1:9', '5:0', '5:2', '136:*'];

/** Any device file may be made, as a program that unpacks an archive does, but only those few can be opened. */
function deviceRules(cgroup: ContainerPlace['cgroup']): string[] {
  const key = `lxc.${cgroup === 'v1' ? 'cgroup' : 'cgroup2'}.devices`;
  const allowed = ['c *:* m', 'b *:* m', ...devices.map((device) => `c ${device} rwm`)];
  return [`${key}.deny = a`, ...allowed.map((rule) => `${key}.allow = ${rule}`)];
}

/**
 * The text of `<lxcpath>/<name>/config` (lxc.container.conf(5)).
 *
 * No console and no terminals, because CRIU cannot dump them; no AppArmor line, because LXC would then pass
 * --lsm-profile to CRIU, which fails on a kernel without AppArmor; limits are not here but in {@link Cgroup}, because
 * `lxc-checkpoint -r` does not apply them and they should be applied in one way.
 */
export function containerConfig(settings: LxcSettings, place: ContainerPlace): string {
  const { network } = settings;
  const lines = [
    `lxc.rootfs.path = dir:${place.root}`,
    `lxc.uts.name = ${settings.hostname}`,
    'lxc.console.path = none',
    'lxc.tty.max = 0',
    'lxc.pty.max = 1',
    'lxc.autodev = 1',
    'lxc.mount.auto = proc:mixed sys:ro',
    ...deviceRules(place.cgroup),
    // LXC's own choice, SIGPWR, means something to an init system only; what runs here is a program.
    'lxc.signal.halt = SIGTERM',
    'lxc.environment = PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
    'lxc.environment = HOME=/root',
  ];
  if (network === null) {
    lines.push('lxc.net.0.type = empty');
  } else {
    lines.push('lxc.net.0.type = veth', 'lxc.net.0.name = eth0', 'lxc.net.0.flags = up');
    lines.push(`lxc.net.0.veth.pair = ${place.hostInterface}`, `lxc.net.0.hwaddr = ${network.mac}`);
    lines.push(`lxc.net.0.ipv4.address = ${network.address}`);
    if (network.gateway !== null) lines.push(`lxc.net.0.ipv4.gateway = ${network.gateway}`);
    if (place.bridge === 'attached') lines.push(`lxc.net.0.link = ${network.bridge}`);
  }
  return `${lines.join('\n')}\n`;
}
