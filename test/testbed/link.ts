import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { ended } from './command.js';

/** What a link does to packets; the figures hold for each direction. */
export interface LinkFigures {
  /** Bits a second of the wire, IP headers included. */
  rateBps: number;
  /** Delay of one direction: half of what a round trip takes. */
  delayMs: number;
  /** Packets lost at random, of a hundred. */
  lossPercent: number;
}

/** One end of a link. */
export interface LinkEnd {
  /** Path of the network namespace. */
  netns: string;
  /** IPv4 address of this end. */
  address: string;
  /** Name of its device in there. */
  device: string;
}

/** What went through one direction since the link came up; bytes count from the IP header on. */
export interface DirectionStats {
  offeredPackets: number;
  offeredBytes: number;
  carriedPackets: number;
  carriedBytes: number;
  /** Dropped because the queue (100 ms of the wire, 64 KiB at least) was full. */
  droppedFull: number;
  droppedLost: number;
  droppedCut: number;
}

/** Both directions of a link. */
export interface LinkStats {
  cut: boolean;
  aToB: DirectionStats;
  bToA: DirectionStats;
}

/** 50 Mbit/s and 20 ms there and back: the link of the published measurements that ours are compared with. */
export const defaultLink: LinkFigures = { rateBps: 50_000_000, delayMs: 10, lossPercent: 0 };

/** A link between two nodes, carried by the program in link/; cut and mended on command. */
export class Link {
  readonly #child: ChildProcess;
  readonly #waiting: { resolve: (answer: string) => void; reject: (error: Error) => void }[] = [];

  private constructor(child: ChildProcess) {
    this.#child = child;
    if (child.stdout)
      createInterface({ input: child.stdout }).on('line', (line) => this.#waiting.shift()?.resolve(line));
    child.stdin?.on('error', () => {});
    child.once('close', (code) => {
      for (const waiting of this.#waiting.splice(0)) waiting.reject(new Error(`the link has ended with ${code}`));
    });
  }

  /** Brings a link up between two namespaces. */
  static async open(program: string, a: LinkEnd, b: LinkEnd, figures: LinkFigures): Promise<Link> {
    const args = ['--netns-a', a.netns, '--address-a', a.address, '--device-a', a.device];
    args.push('--netns-b', b.netns, '--address-b', b.address, '--device-b', b.device);
    args.push('--rate-bps', `${figures.rateBps}`, '--delay-ms', `${figures.delayMs}`);
    args.push('--loss-percent', `${figures.lossPercent}`);
    const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'inherit'] });
    await once(child, 'spawn');
    const link = new Link(child);
    await link.#answer();
    return link;
  }

  /** Loses everything that is under way and all that comes until mend(). Neither end is told, as with a broken cable. */
  async cut(): Promise<void> {
    await this.#command('cut');
  }

  /** Ends a cut. */
  async mend(): Promise<void> {
    await this.#command('mend');
  }

  /** Changes some of the figures, from the next packet on. */
  async set(figures: Partial<LinkFigures>): Promise<void> {
    const words = Object.entries(figures).map(([name, value]) => `${name}=${value}`);
    await this.#command(`set ${words.join(' ')}`);
  }

  /** What the link has carried so far. */
  async stats(): Promise<LinkStats> {
    return JSON.parse(await this.#command('stats')) as LinkStats;
  }

  /** Takes the link and its devices away. */
  async close(): Promise<void> {
    this.#child.stdin?.end();
    await ended(this.#child, 2000);
  }

  async #command(line: string): Promise<string> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) throw new Error('the link is closed');
    this.#child.stdin?.write(`${line}\n`);
    const answer = await this.#answer();
    if (answer.includes('"error"')) throw new Error(`the link does not understand: ${line}`);
    return answer;
  }

  #answer(): Promise<string> {
    return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
  }
}
