import { DeltahopError } from '../../errors.js';
import type { ContainerNetwork } from './container-network.js';
import { type NetlinkMessage, parseAttributes, textOf } from './netlink.js';
import { NETLINK_NETFILTER, NETLINK_ROUTE, NetworkCourier } from './network-courier.js';
import {
  bytesOf,
  IFLA_ADDRESS,
  IFLA_IFNAME,
  IFLA_MTU,
  IFLA_TXQLEN,
  interfaceFlags,
  RTM_GETADDR,
  RTM_GETLINK,
  RTM_GETROUTE,
  RTM_GETRULE,
} from './rtnetlink.js';

/** Of routes and rules: RTA_* and RTM_F_* (linux/rtnetlink.h), FRA_* (linux/fib_rules.h). */
const [RTA_GATEWAY, RTA_TABLE, RTA_CACHEINFO, RTA_VIA] = [5, 15, 12, 18];
const [FRA_PRIORITY, FRA_SUPPRESS_IFGROUP, FRA_SUPPRESS_PREFIXLEN, FRA_TABLE, FRA_PROTOCOL] = [6, 13, 14, 15, 21];
const [AF_INET, AF_INET6] = [2, 10];
const RT_SCOPE_HOST = 254;
const RT_TABLE_MAIN = 254;
const RTM_F_CLONED = 0x200;
/** RTNH_F_DEAD, _OFFLOAD, _LINKDOWN, _UNRESOLVED, _TRAP: what becomes of a way, not what it is. */
const momentaryRouteFlags = 0x1 | 0x8 | 0x10 | 0x20 | 0x40;

/** Of firewalls: a message's type, struct nfgenmsg, a table's name (linux/netfilter/nf_tables.h). */
const [NFT_MSG_GETTABLE, nfgenmsgBytes, NFTA_TABLE_NAME] = [0xa01, 4, 1];

/** The kernel's own rules, PRIORITY TABLE. */
const ownRules = { ipv4: ['0 255', '32766 254', '32767 253'], ipv6: ['0 255', '32766 254'] };

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
      courier.dump(NETLINK_NETFILTER, NFT_MSG_GETTABLE, Buffer.alloc(nfgenmsgBytes)),
      courier.legacyTables(),
    ]);
    return legacy.length === 0 && tables.every(isCriuLock) && areOwnRules(rules) ? plainLinks(links) : null;
  }
}

/** CRIU's lock of the network is none of the container's tables. */
function isCriuLock({ body }: NetlinkMessage): boolean {
  return textOf(parseAttributes(body.subarray(nfgenmsgBytes)).get(NFTA_TABLE_NAME)).startsWith('CRIU-');
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
      flags: body.readUInt32LE(8) & interfaceFlags,
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
