import { mustRun } from '../command.js';
import { type ContainerNetwork, parseNetwork, readNetwork } from './container-network.js';
import { composeAttributes, number32, text } from './netlink.js';
import { NETLINK_ROUTE, NetworkCourier } from './network-courier.js';
import {
  bytesOf,
  IFLA_ADDRESS,
  IFLA_IFNAME,
  IFLA_LINKINFO,
  IFLA_MTU,
  IFLA_NET_NS_PID,
  IFLA_TXQLEN,
  interfaceFlags,
  RTM_DELADDR,
  RTM_DELLINK,
  RTM_GETADDR,
  RTM_NEWADDR,
  RTM_NEWLINK,
  RTM_NEWROUTE,
} from './rtnetlink.js';

/** What is in IFLA_LINKINFO: IFLA_INFO_* (linux/if_link.h) and VETH_INFO_* (linux/veth.h). */
const [IFLA_INFO_KIND, IFLA_INFO_DATA, VETH_INFO_PEER] = [1, 2, 1];

const limitMs = 10_000;

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
    const saved = await readNetwork(images);
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
  bytes.writeUInt32LE(interfaceFlags, 12);
  return bytes;
}
