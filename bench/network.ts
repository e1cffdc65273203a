/** Two network namespaces, the client's and the server's, with a link between them. */
import { randomBytes } from 'node:crypto';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { run } from '../test/testbed/command.js';
import { Link, type LinkFigures } from '../test/testbed/link.js';
import { clear, clearStale, processStartTime, type TestbedRecord, writeRecord } from '../test/testbed/remnants.js';

/** A kind of link. */
export interface LinkKind {
  name: string;
  /** Null: as fast as this machine, by a pair of virtual Ethernet devices. */
  figures: LinkFigures | null;
}

/** The links of the benchmark; a delay is half of the round trip. */
export const linkKinds: readonly LinkKind[] = [
  { name: 'unshaped', figures: null },
  { name: '1000mbit-1ms', figures: { rateBps: 1e9, delayMs: 0.5, lossPercent: 0 } },
  { name: '100mbit-20ms', figures: { rateBps: 1e8, delayMs: 10, lossPercent: 0 } },
  { name: '10mbit-50ms', figures: { rateBps: 1e7, delayMs: 25, lossPercent: 0 } },
];

/** An end of the network. */
export type End = 'client' | 'server';

/** What has arrived so far at each end. */
export interface Arrived {
  atServerBytes: number;
  atClientBytes: number;
}

/** dist/bench/network.js is two below. */
const project = fileURLToPath(new URL('../../', import.meta.url));
const addresses: Record<End, string> = { client: '10.98.0.1', server: '10.98.0.2' };
const device = 'wire';
/** What one connection has learnt of the link must not help or hinder the next; IPv6's chatter would count as traffic. */
const settings = 'echo 1 > /proc/sys/net/ipv4/tcp_no_metrics_save; echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6';

/** The network of one run; a run that is killed leaves a record by which the next one clears its remains. */
export class Network {
  readonly serverAddress = addresses.server;
  readonly #record: TestbedRecord;
  readonly #link: Link | null;

  private constructor(record: TestbedRecord, link: Link | null) {
    this.#record = record;
    this.#link = link;
  }

  static async open(kind: LinkKind, workPath: string): Promise<Network> {
    await clearStale();
    const id = randomBytes(3).toString('hex');
    const record: TestbedRecord = {
      id,
      pid: process.pid,
      startTime: processStartTime(process.pid) ?? '',
      directory: join(workPath, `network-${id}`),
      namespaces: [`dh-${id}-client`, `dh-${id}-server`],
    };
    writeRecord(record);
    mkdirSync(record.directory, { recursive: true });
    try {
      const path = (end: End): string => `/run/netns/dh-${id}-${end}`;
      for (const end of ['client', 'server'] as const) {
        await run(['ip', 'netns', 'add', `dh-${id}-${end}`]);
        await run(['ip', '-netns', `dh-${id}-${end}`, 'link', 'set', 'lo', 'up']);
        await run(['ip', 'netns', 'exec', `dh-${id}-${end}`, 'sh', '-c', settings]);
      }
      if (kind.figures !== null) {
        const ends = (['client', 'server'] as const).map((end) => ({
          netns: path(end),
          address: addresses[end],
          device,
        }));
        const [a, b] = ends as [(typeof ends)[0], (typeof ends)[0]];
        return new Network(record, await Link.open(join(project, 'build/testbed/link'), a, b, kind.figures));
      }
      await run(
        `ip -netns dh-${id}-client link add ${device} type veth peer name ${device} netns dh-${id}-server`.split(' '),
      );
      for (const end of ['client', 'server'] as const) {
        const lines = [`address add ${addresses[end]}/24 dev ${device}`, `link set ${device} up`];
        await run(['ip', '-netns', `dh-${id}-${end}`, '-batch', '-'], { input: `${lines.join('\n')}\n` });
      }
      return new Network(record, null);
    } catch (error) {
      await clear(record);
      throw error;
    }
  }

  /** The words in front of a command that make it run at an end. */
  prefix(end: End): string[] {
    return ['nsenter', `--net=/run/netns/dh-${this.#record.id}-${end}`, '--'];
  }

  /**
   * What the devices at both ends have received, headers from IP on (from Ethernet on where the link is unshaped, and
   * there one header for each segment of up to 64 KiB).
   */
  async arrived(): Promise<Arrived> {
    const of = async (end: End): Promise<number> => {
      const { stdout } = await run([...this.prefix(end), 'cat', '/proc/net/dev']);
      return Number(new RegExp(`^\\s*${device}:\\s*(\\d+)`, 'm').exec(stdout)?.[1]);
    };
    return { atServerBytes: await of('server'), atClientBytes: await of('client') };
  }

  async close(): Promise<void> {
    await this.#link?.close();
    await clear(this.#record);
  }
}
