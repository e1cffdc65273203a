/** Numbers of rtnetlink(7) and of what its messages hold. */

/** Types of messages (linux/rtnetlink.h). */
export const [RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR] = [16, 17, 18, 20, 21, 22];
export const [RTM_NEWROUTE, RTM_GETROUTE, RTM_GETRULE] = [24, 26, 34];

/** Lengths of what comes before a message's attributes: struct ifinfomsg, ifaddrmsg, rtmsg, fib_rule_hdr. */
export const bytesOf = { link: 16, address: 8, route: 12, rule: 12 } as const;

/** Types of attributes of links (linux/if_link.h). */
export const [IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_TXQLEN, IFLA_LINKINFO, IFLA_NET_NS_PID] = [1, 3, 4, 13, 18, 19];

/** Flags of an interface that are set from outside (linux/if.h): IFF_UP, IFF_NOARP, IFF_PROMISC and IFF_ALLMULTI. */
export const interfaceFlags = 0x1 | 0x80 | 0x100 | 0x200;
