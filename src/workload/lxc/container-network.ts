import { readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as z from 'zod';
import { DeltahopError } from '../../errors.js';
import { mustRun } from '../command.js';
import { composeAttributes, type NetlinkMessage, number32, parseAttributes, text, textOf } from './netlink.js';
import { NETLINK_NETFILTER, NETLINK_ROUTE, NetworkCourier } from './network-courier.js';

/**
 * The network of a container, which this driver saves and makes anew in CRIU's stead wherever it is a plain one.
 *
 * CRIU has six programs save it and eight make it anew, one after the other, while the container stands still: a third of
 * all that CRIU took of an idle service. Here it is saved beside the dump, and made while the image is still on its way, by
 * what the last round saved: at the end there is but to see that nothing has changed. To CRIU its namespace is external
 * (criu(8), --external net[INODE]:KEY and --inherit-fd), as it is for runc.
 *
 * Plain is what has no interface but `lo` and `eth0`, no firewall and no rules of routing but the kernel's. All else is left
 * to CRIU.
 */

/** The name by which CRIU's images refer to it. */
export const networkKey = 'network';

/** The file beside CRIU's images in which it is saved. */
const fileName = 'network.json';

/** A namespace has some 450 settings, 15 KiB; a thousand routes are 200 KiB. */
const maxFileBytes = 4 * 1024 * 1024;

const limitMs = 10_000;
const maxInt = 2 ** 31 - 1;

/** Flags of an interface that are set from outside, IFF_* (linux/if.h). */
const [IFF_UP, IFF_NOARP, IFF_PROMISC, IFF_ALLMULTI] = [0x1, 0x80, 0x100, 0x200];
const flagMask = IFF_UP | IFF_NOARP | IFF_PROMISC | IFF_ALLMULTI;

const interfaceSchema = z.strictObject({
  mtu: z.int().min(0).max(maxInt),
  queueLength: z.int().min(0).max(maxInt),
  /** IFF_UP, IFF_NOARP, IFF_PROMISC and IFF_ALLMULTI. */
  flags: z.int().min(0).max(flagMask),
});

/** A saved network. */
const schema = z.strictObject({
  lo: interfaceSchema,
  /** Null: there is none but `lo`. */
  eth0: interfaceSchema
    .extend({ index: z.int().min(2).max(maxInt), address: z.string().regex(/^[0-9a-f]{12}$/) })
    .nullable(),
  /** Messages of RTM_NEWADDR and RTM_NEWROUTE, hexadecimal, without what is not of the object but of the moment. */
  addresses: z.array(z.string().regex(/^([0-9a-f]{2})+$/)),
  routes: z.array(z.string().regex(/^([0-9a-f]{2})+$/)),
  /** Files beneath /proc/sys/net, and their values. */
  settings: z.record(z.string().regex(/^[a-z0-9]+(\/[A-Za-z0-9_-]+)+$/), z.string()),
});

/** A network as it is saved. */
export type ContainerNetwork = z.infer<typeof schema>;

/** Types of messages, RTM_* and NFT_MSG_* (linux/rtnetlink.h, linux/netfilter/nf_tables.h). */
const [RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR] = [16, 17, 18, 20, 21, 22];
const [RTM_NEWROUTE, RTM_GETROUTE, RTM_GETRULE, NFT_MSG_GETTABLE] = [24, 26, 34, 0xa01];
/** Lengths of what comes before a message's attributes: struct ifinfomsg, ifaddrmsg, rtmsg, fib_rule_hdr, nfgenmsg. */
const bytesOf = { link: 16, address: 8, route: 12, rule: 12, table: 4 } as const;
/** Types of attributes of links, IFLA_*; of what is in them, IFLA_INFO_* and VETH_INFO_*. */
const [IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_TXQLEN, IFLA_LINKINFO, IFLA_NET_NS_PID] = [1, 3, 4, 13, 18, 19];
const [IFLA_INFO_KIND, IFLA_INFO_DATA, VETH_INFO_PEER] = [1, 2, 1];
/** Of routes and rules: RTA_*, FRA_*. */
const [RTA_GATEWAY, RTA_TABLE, RTA_CACHEINFO, RTA_VIA] = [5, 15, 12, 18];
const [FRA_PRIORITY, FRA_SUPPRESS_IFGROUP, FRA_SUPPRESS_PREFIXLEN, FRA_TABLE, FRA_PROTOCOL] = [6, 13, 14, 15, 21];
const NFTA_TABLE_NAME = 1;
const [AF_INET, AF_INET6] = [2, 10];
const RT_SCOPE_HOST = 254;
const RT_TABLE_MAIN = 254;
const RTM_F_CLONED = 0x200;
/** RTNH_F_DEAD, _OFFLOAD, _LINKDOWN, _UNRESOLVED, _TRAP: what becomes of a way, not what it is. */
const momentaryRouteFlags = 0x1 | 0x8 | 0x10 | 0x20 | 0x40;

/** The kernel's own rules, PRIORITY TABLE. */
const ownRules = { ipv4: ['0 255', '32766 254', '32767 253'], ipv6: ['0 255', '32766 254'] };

/** By which CRIU knows the network namespace of a process. */
export async function namespaceInode(pid: number): Promise<number> {
  return (await stat(`/proc/${pid}/ns/net`)).ino;
}

/** Looks at one container's network, and saves it. */
export class NetworkSaver {
  readonly #courier: NetworkCourier;

  private constructor(courier: NetworkCourier) {
    this.#courier = courier;
  }

  /** @param pid A process of the container. @returns null if its network is not plain. */
  static async of(pid: number): Promise<NetworkSaver | null> {
    const saver = new NetworkSaver(await NetworkCourier.into(pid));
    try {
      if ((await saver.#plainLinks()) !== null) return saver;
    } catch (error) {
      saver.release();
      throw error;
    }
    saver.release();
    return null;
  }

  /**
   * What it is now; to be called once.
   *
   * @throws DeltahopError DELTAHOP_E_CHECKPOINT if it is plain no more.
   */
  async save(): Promise<ContainerNetwork> {
    try {
      const courier = this.#courier;
      const [addresses, routes, settings] = await Promise.all([
        courier.dump(NETLINK_ROUTE, RTM_GETADDR, Buffer.alloc(bytesOf.address)),
        courier.dump(NETLINK_ROUTE, RTM_GETROUTE, Buffer.alloc(bytesOf.route)),
        courier.settings(),
      ]);
      const links = await this.#plainLinks();
      if (links === null) {
        const message = 'its network has got an interface, a firewall or a rule of routing since its dump began';
        throw new DeltahopError('DELTAHOP_E_CHECKPOINT', message);
      }
      return { ...links, addresses: lastingAddresses(addresses), routes: lastingRoutes(routes), settings };
    } finally {
      this.release();
    }
  }

  /** It will not be saved any more. */
  release(): void {
    this.#courier.release();
  }

  async #plainLinks(): Promise<Pick<ContainerNetwork, 'lo' | 'eth0'> | null> {
    const courier = this.#courier;
    const [links, rules, tables, legacy] = await Promise.all([
      courier.dump(NETLINK_ROUTE, RTM_GETLINK, Buffer.alloc(bytesOf.link)),
      courier.dump(NETLINK_ROUTE, RTM_GETRULE, Buffer.alloc(bytesOf.rule)),
      courier.dump(NETLINK_NETFILTER, NFT_MSG_GETTABLE, Buffer.alloc(bytesOf.table)),
      courier.legacyTables(),
    ]);
    return legacy.length === 0 && tables.every(isCriuLock) && areOwnRules(rules) ? plainLinks(links) : null;
  }
}

/** CRIU's lock of the network is none of the container's tables. */
function isCriuLock({ body }: NetlinkMessage): boolean {
  return textOf(parseAttributes(body.subarray(bytesOf.table)).get(NFTA_TABLE_NAME)).startsWith('CRIU-');
}

/** Whether rules of routing are the kernel's own and no others. */
export function areOwnRules(rules: readonly NetlinkMessage[]): boolean {
  const shown = { ipv4: [] as string[], ipv6: [] as string[] };
  for (const { body } of rules) {
    const [family = 0, ...selectors] = body.subarray(0, 4);
    // Those of multicast routing, which CRIU knows nothing of either.
    if (family !== AF_INET && family !== AF_INET6) continue;
    const attributes = parseAttributes(body.subarray(bytesOf.rule));
    const plain = [FRA_PRIORITY, FRA_SUPPRESS_IFGROUP, FRA_SUPPRESS_PREFIXLEN, FRA_TABLE, FRA_PROTOCOL];
    if (selectors.some((selector) => selector !== 0)) return false;
    if ([...attributes.keys()].some((type) => !plain.includes(type))) return false;
    const number = (type: number): number => attributes.get(type)?.readUInt32LE(0) ?? 0;
    if (attributes.has(FRA_SUPPRESS_PREFIXLEN) && number(FRA_SUPPRESS_PREFIXLEN) !== 0xffffffff) return false;
    shown[family === AF_INET6 ? 'ipv6' : 'ipv4'].push(`${number(FRA_PRIORITY)} ${number(FRA_TABLE)}`);
  }
  const { ipv4, ipv6 } = shown;
  // Without IPv6 there are none of its.
  return ipv4.join() === ownRules.ipv4.join() && (ipv6.length === 0 || ipv6.join() === ownRules.ipv6.join());
}

function plainLinks(links: readonly NetlinkMessage[]): Pick<ContainerNetwork, 'lo' | 'eth0'> | null {
  const found: Partial<Pick<ContainerNetwork, 'lo' | 'eth0'>> = {};
  for (const { body } of links) {
    const attributes = parseAttributes(body.subarray(bytesOf.link));
    const name = textOf(attributes.get(IFLA_IFNAME));
    const number = (type: number): number => attributes.get(type)?.readUInt32LE(0) ?? 0;
    const common = {
      mtu: number(IFLA_MTU),
      queueLength: number(IFLA_TXQLEN),
      flags: body.readUInt32LE(8) & flagMask,
    };
    if (name === 'lo') {
      found.lo = common;
    } else if (name === 'eth0') {
      const address = attributes.get(IFLA_ADDRESS)?.toString('hex') ?? '';
      found.eth0 = { ...common, index: body.readInt32LE(4), address };
    } else {
      return null;
    }
  }
  const { lo, eth0 = null } = found;
  return lo === undefined ? null : { lo, eth0 };
}

/** Without ::1, which the kernel makes itself, but to which it adds a route if it is made once more. */
export function lastingAddresses(messages: readonly NetlinkMessage[]): string[] {
  return messages
    .filter(({ body }) => !(body[0] === AF_INET6 && body[3] === RT_SCOPE_HOST))
    .map(({ body }) => body.toString('hex'));
}

/** Those that were made, without what use was made of them; ways through others last, which need those. */
export function lastingRoutes(messages: readonly NetlinkMessage[]): string[] {
  const routes: { hex: string; isVia: boolean }[] = [];
  for (const { body } of messages) {
    const route = Buffer.from(body);
    const attributes = parseAttributes(route.subarray(bytesOf.route));
    const flags = route.readUInt32LE(8);
    const table = attributes.get(RTA_TABLE)?.readUInt32LE(0) ?? route.readUInt8(4);
    if (table !== RT_TABLE_MAIN || (flags & RTM_F_CLONED) !== 0) continue;
    route.writeUInt32LE((flags & ~momentaryRouteFlags) >>> 0, 8);
    attributes.get(RTA_CACHEINFO)?.fill(0);
    routes.push({ hex: route.toString('hex'), isVia: attributes.has(RTA_GATEWAY) || attributes.has(RTA_VIA) });
  }
  return [false, true].flatMap((via) => routes.filter(({ isVia }) => isVia === via).map(({ hex }) => hex));
}

/** Puts a saved network beside the images of a dump. */
export async function writeNetwork(images: string, network: ContainerNetwork): Promise<void> {
  await writeFile(join(images, fileName), `${JSON.stringify(network, null, 1)}\n`);
}

/**
 * A network namespace for a restore, which lives as long as this process unless something in it does, and is made what was
 * saved.
 */
export class ReadyNetwork {
  readonly #courier: NetworkCourier;
  readonly #hostInterface: string;
  /** The file that it was made by; null: by none, or not to the end. */
  #made: string | null = null;
  /** Whether something of a network is in it. */
  #begun = false;

  private constructor(courier: NetworkCourier, hostInterface: string) {
    this.#courier = courier;
    this.#hostInterface = hostInterface;
  }

  /** @param hostInterface Name that the container's interface is to have on this node; there must be none yet. */
  static async make(hostInterface: string): Promise<ReadyNetwork> {
    return new ReadyNetwork(await NetworkCourier.intoNew(), hostInterface);
  }

  /** Where it is found, once it has become something. */
  get path(): string {
    return this.#courier.path;
  }

  /**
   * Makes it what was saved beside `images`, unless that was done already. Its interface is up and on no bridge.
   *
   * @returns false if nothing was saved there: it is empty then, and CRIU makes another.
   * @throws DeltahopError DELTAHOP_E_RESTORE, DELTAHOP_E_WORKLOAD
   */
  async become(images: string): Promise<boolean> {
    const saved = await readSaved(join(images, fileName));
    if (saved === null || saved !== this.#made) {
      this.#made = null;
      if (this.#begun) await this.#clear();
      this.#begun = true;
      if (saved !== null) await this.#raise(parseNetwork(saved));
      this.#made = saved;
    }
    return saved !== null;
  }

  /** It is not needed here any more. */
  release(): void {
    this.#courier.release();
  }

  /** Settings stay: the next are compared with what is there. */
  async #clear(): Promise<void> {
    const eth0 = composeAttributes([[IFLA_IFNAME, text('eth0')]]);
    await this.#courier.remove(RTM_DELLINK, Buffer.concat([Buffer.alloc(bytesOf.link), eth0]));
    for (const { body } of await this.#courier.dump(NETLINK_ROUTE, RTM_GETADDR, Buffer.alloc(bytesOf.address))) {
      await this.#courier.remove(RTM_DELADDR, body);
    }
    // With this come back the addresses that the kernel makes itself.
    await this.#courier.change('lo', RTM_NEWLINK, ifinfomsg(1, 0));
  }

  async #raise({ lo, eth0, addresses, routes, settings }: ContainerNetwork): Promise<void> {
    if (eth0 !== null) {
      await this.#courier.make('eth0', RTM_NEWLINK, this.#veth(eth0));
      await mustRun(['ip', 'link', 'set', 'dev', this.#hostInterface, 'up'], { limitMs, code: 'DELTAHOP_E_WORKLOAD' });
    }
    await this.#applySettings(settings);
    for (const [name, index, link] of [
      ['lo', 1, lo],
      ['eth0', eth0?.index ?? 0, eth0],
    ] as const) {
      if (link === null) continue;
      const { mtu, queueLength, flags } = link;
      const attributes = composeAttributes([
        [IFLA_MTU, number32(mtu)],
        [IFLA_TXQLEN, number32(queueLength)],
      ]);
      await this.#courier.change(name, RTM_NEWLINK, Buffer.concat([ifinfomsg(index, flags), attributes]));
    }
    for (const [what, type, bodies] of [
      ['an address', RTM_NEWADDR, addresses],
      ['a route', RTM_NEWROUTE, routes],
    ] as const) {
      for (const body of bodies) {
        await this.#courier.ensure(what, type, Buffer.from(body, 'hex'));
      }
    }
  }

  /** A pair of ends, of which one is `eth0` in the namespace, and the other in this process's. */
  #veth({ index, address, mtu }: NonNullable<ContainerNetwork['eth0']>): Buffer {
    const peer = Buffer.concat([
      Buffer.alloc(bytesOf.link),
      composeAttributes([
        [IFLA_IFNAME, text(this.#hostInterface)],
        [IFLA_NET_NS_PID, number32(process.pid)],
      ]),
    ]);
    const attributes = composeAttributes([
      [IFLA_IFNAME, text('eth0')],
      [IFLA_ADDRESS, Buffer.from(address, 'hex')],
      [IFLA_MTU, number32(mtu)],
      [
        IFLA_LINKINFO,
        [
          [IFLA_INFO_KIND, text('veth')],
          [IFLA_INFO_DATA, [[VETH_INFO_PEER, peer]]],
        ],
      ],
    ]);
    return Buffer.concat([ifinfomsg(index, 0), attributes]);
  }

  /** Those that a new namespace has not by itself. Twice at the most, since one that is for all interfaces changes each one's. */
  async #applySettings(wanted: ContainerNetwork['settings']): Promise<void> {
    for (let pass = 0; pass < 2; pass++) {
      const there = await this.#courier.settings();
      const different = Object.entries(wanted).filter(([file, value]) => there[file] !== value);
      for (const [file, value] of different) await this.#courier.set(file, value);
      if (different.length === 0) return;
    }
  }
}

/** `struct ifinfomsg` (linux/rtnetlink.h) that says which flags an interface is to have. */
function ifinfomsg(index: number, flags: number): Buffer {
  const bytes = Buffer.alloc(bytesOf.link);
  bytes.writeInt32LE(index, 4);
  bytes.writeUInt32LE(flags, 8);
  bytes.writeUInt32LE(flagMask, 12);
  return bytes;
}

async function readSaved(path: string): Promise<string | null> {
  try {
    if ((await stat(path)).size > maxFileBytes) {
      throw new DeltahopError('DELTAHOP_E_RESTORE', `${fileName} has more than ${maxFileBytes} bytes`);
    }
    return await readFile(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  }
}

/** Reads a saved network, as it came from a peer. @throws DeltahopError DELTAHOP_E_RESTORE if it is none. */
export function parseNetwork(saved: string): ContainerNetwork {
  try {
    return schema.parse(JSON.parse(saved));
  } catch (error) {
    throw new DeltahopError('DELTAHOP_E_RESTORE', `${fileName} is not what this version writes`, { cause: error });
  }
}
