/** Addresses of nodes, and which of them plain TCP may be used with. */
import { createSocket } from 'node:dgram';
import { lookup } from 'node:dns/promises';
import { isIP, isIPv6 } from 'node:net';
import { DeltahopError } from '../errors.js';

/** Where an agent listens. */
export interface Address {
  /** A host name or an IP address, IPv6 without brackets. */
  host: string;
  port: number;
}

/**
 * Reads `HOST:PORT` or `[IPV6]:PORT`.
 * @throws DeltahopError DELTAHOP_E_INVALID_ARGUMENT.
 */
export function parseAddress(text: string): Address {
  const match =
    /^(?:\[(?<six>[0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|(?<host>[A-Za-z0-9][A-Za-z0-9._-]*)):(?<port>\d{1,5})$/.exec(text);
  const host = match?.groups?.['six'] ?? match?.groups?.['host'];
  const port = Number(match?.groups?.['port']);
  const goodHost = host !== undefined && host.length <= 253 && (match?.groups?.['six'] === undefined || isIPv6(host));
  if (!goodHost || port > 65535) {
    throw new DeltahopError(
      'DELTAHOP_E_INVALID_ARGUMENT',
      `${JSON.stringify(text)} is not an address; write HOST:PORT, with an IPv6 address in brackets: [::1]:7000`,
    );
  }
  return { host, port };
}

/** The inverse of {@link parseAddress}. */
export function formatAddress({ host, port }: Address): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
}

/** Whether an IP address never leaves the machine. */
export function isLoopback(ip: string): boolean {
  return /^(::ffff:)?127\./i.test(ip) || ip === '::1';
}

/**
 * The IP address of a host, if plain TCP may be used with it: any with `insecure`, else only this machine itself.
 * @throws DeltahopError DELTAHOP_E_INSECURE_REFUSED, or DELTAHOP_E_LINK if the name does not resolve.
 */
export async function permittedAddress({ host, port }: Address, insecure: boolean): Promise<Address> {
  let ip = host;
  if (isIP(host) === 0) {
    try {
      ip = (await lookup(host)).address;
    } catch (error) {
      throw new DeltahopError('DELTAHOP_E_LINK', `the host name ${host} does not resolve`, { cause: error });
    }
  }
  if (!insecure && !isLoopback(ip)) {
    throw new DeltahopError(
      'DELTAHOP_E_INSECURE_REFUSED',
      `${formatAddress({ host, port })} is not on this machine, and connections are not encrypted yet; --insecure allows it`,
    );
  }
  return { host: ip, port };
}

/**
 * The address by which a peer reaches an agent: the one that it listens on, or, if it listens on all, the one that this
 * machine's routes choose towards the peer. Sends nothing: connecting a UDP socket only asks the kernel.
 */
export async function addressToward(peer: Address, listen: Address): Promise<Address> {
  if (!['0.0.0.0', '::'].includes(listen.host)) return listen;
  const socket = createSocket(isIPv6(peer.host) ? 'udp6' : 'udp4');
  try {
    await new Promise<void>((resolve, reject) => {
      socket.once('error', reject);
      socket.connect(peer.port, peer.host, resolve);
    });
    return { host: socket.address().address, port: listen.port };
  } catch (error) {
    throw new DeltahopError('DELTAHOP_E_LINK', `there is no route to ${formatAddress(peer)}`, { cause: error });
  } finally {
    socket.close();
  }
}
