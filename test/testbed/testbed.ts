import { randomBytes } from 'node:crypto';
import { accessSync, constants, mkdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { run } from './command.js';
import { defaultLink, Link, type LinkFigures } from './link.js';
import { criuDirectory, TestbedNode } from './node.js';
import { clear, clearStale, processStartTime, type TestbedRecord, writeRecord } from './remnants.js';
import { TestbedUser } from './user.js';

/** How a testbed is made. */
export interface TestbedOptions {
  /** How many nodes; two unless told, and a link between every two of them. */
  nodes?: number;
  /** What the links are like; 50 Mbit/s and 20 ms there and back unless told. */
  link?: Partial<LinkFigures>;
}

/** dist/test/testbed/testbed.js is three below. */
const project = fileURLToPath(new URL('../../../', import.meta.url));
const linkProgram = join(project, 'build/testbed/link');

/**
 * Two nodes or more, the links between them, and a user, on one machine.
 *
 * Service network (not shaped): a switch in a namespace of its own joins every node's bridge br0, on which containers
 * hang, and the user. 10.77.0.1 is the user, 10.77.0.2 node a, 10.77.0.3 node b; services take 10.77.0.10 and up.
 * Between the nodes: 10.99.0.1 is a, 10.99.0.2 is b, over nothing but a Link.
 */
export class Testbed {
  readonly id: string;
  /** Everything of it that is a file; gone after dispose(). */
  readonly directory: string;
  readonly nodes: readonly TestbedNode[];
  readonly user: TestbedUser;
  readonly #record: TestbedRecord;
  readonly #links: Map<string, Link>;

  private constructor(record: TestbedRecord, nodes: TestbedNode[], links: Map<string, Link>, user: TestbedUser) {
    this.id = record.id;
    this.directory = record.directory;
    this.nodes = nodes;
    this.user = user;
    this.#record = record;
    this.#links = links;
  }

  /** Why there can be no testbed here, in words for a skipped test; null if there can. */
  static unavailable(): string | null {
    if (process.getuid?.() !== 0) return 'a testbed needs root (network namespaces, mounts, containers)';
    if (!accessible('/dev/net/tun', constants.R_OK | constants.W_OK)) return 'a testbed needs /dev/net/tun';
    for (const program of ['ip', 'nsenter', 'unshare', 'lxc-start', 'lxc-checkpoint']) {
      if (!onPath(program)) return `a testbed needs ${program}: run test/setup/prepare.sh`;
    }
    if (!accessible(join(criuDirectory, 'criu'), constants.X_OK) && !onPath('criu')) {
      return 'a testbed needs CRIU: run test/setup/prepare.sh';
    }
    if (!accessible(linkProgram, constants.X_OK)) return 'the link program is not built: run test/setup/prepare.sh';
    return null;
  }

  /** Clears what testbeds of killed runs left on this machine; running ones are not touched. */
  static async clearStale(): Promise<void> {
    await clearStale();
  }

  /** Makes a testbed. Throws if it cannot; nothing is left then. */
  static async create(options: TestbedOptions = {}): Promise<Testbed> {
    const why = Testbed.unavailable();
    if (why !== null) throw new Error(why);
    await clearStale();

    const id = randomBytes(3).toString('hex');
    const names = Array.from({ length: options.nodes ?? 2 }, (_, index) => String.fromCharCode(97 + index));
    const record: TestbedRecord = {
      id,
      pid: process.pid,
      startTime: processStartTime(process.pid) ?? '',
      directory: join(tmpdir(), `deltahop-testbed-${id}`),
      namespaces: ['switch', 'user', ...names].map((name) => `dh-${id}-${name}`),
    };
    writeRecord(record);
    mkdirSync(record.directory, { mode: 0o755 });

    const user = new TestbedUser(`dh-${id}-user`);
    const nodes: TestbedNode[] = [];
    const links = new Map<string, Link>();
    const testbed = new Testbed(record, nodes, links, user);
    try {
      await makeNetworks(id, names);
      for (const [index, name] of names.entries()) {
        const directory = join(record.directory, name);
        mkdirSync(directory);
        const address = `10.99.0.${index + 1}`;
        const serviceAddress = `10.77.0.${index + 2}`;
        nodes.push(
          await TestbedNode.create({ name, netns: `dh-${id}-${name}`, address, serviceAddress, directory, project }),
        );
      }
      const figures = { ...defaultLink, ...options.link };
      for (const [index, a] of nodes.entries()) {
        for (const b of nodes.slice(index + 1)) links.set(`${a.name}${b.name}`, await openLink(a, b, figures));
      }
    } catch (error) {
      await testbed.dispose();
      throw error;
    }
    return testbed;
  }

  /** The first node. */
  get a(): TestbedNode {
    return this.#node(0);
  }

  /** The second node. */
  get b(): TestbedNode {
    return this.#node(1);
  }

  /** The link between the first two nodes. */
  get link(): Link {
    return this.linkBetween('a', 'b');
  }

  /** The link between two nodes by their names; `a` of its statistics is the one that comes first. */
  linkBetween(one: string, other: string): Link {
    const link = this.#links.get(one < other ? `${one}${other}` : `${other}${one}`);
    if (link === undefined) throw new Error(`there is no link between ${one} and ${other}`);
    return link;
  }

  /** Ends the agents, kills all that ran in the testbed, containers too, and removes everything of it. */
  async dispose(): Promise<void> {
    await Promise.all([this.user.dispose(), ...this.nodes.map((node) => node.dispose())]);
    await Promise.all([...this.#links.values()].map((link) => link.close()));
    await clear(this.#record);
  }

  #node(index: number): TestbedNode {
    const node = this.nodes[index];
    if (node === undefined) throw new Error(`this testbed has ${this.nodes.length} nodes`);
    return node;
  }
}

/** Makes the namespaces and the service network. */
async function makeNetworks(id: string, names: string[]): Promise<void> {
  const all = ['switch', 'user', ...names];
  for (const name of all) await run(['ip', 'netns', 'add', `dh-${id}-${name}`]);
  const inside = new Map<string, string[]>(all.map((name) => [name, ['link set lo up']]));
  const at = (name: string, ...lines: string[]) => inside.get(name)?.push(...lines);
  at('switch', 'link add switch0 type bridge', 'link set switch0 up');
  for (const [index, name] of ['user', ...names].entries()) {
    at('switch', `link add port-${name} type veth peer name uplink netns dh-${id}-${name}`);
    at('switch', `link set port-${name} master switch0 up`);
    if (name === 'user') {
      at(name, `address add 10.77.0.1/24 dev uplink`, 'link set uplink up');
    } else {
      at(name, 'link add br0 type bridge', 'link set uplink master br0 up');
      at(name, `address add 10.77.0.${index + 1}/24 dev br0`, 'link set br0 up');
    }
  }
  // The switch first: it makes both ends of every cable.
  for (const name of all) {
    await run(['ip', '-netns', `dh-${id}-${name}`, '-batch', '-'], { input: `${inside.get(name)?.join('\n')}\n` });
  }
}

function openLink(a: TestbedNode, b: TestbedNode, figures: LinkFigures): Promise<Link> {
  return Link.open(
    linkProgram,
    { netns: `/run/netns/${a.netns}`, address: a.address, device: `to-${b.name}` },
    { netns: `/run/netns/${b.netns}`, address: b.address, device: `to-${a.name}` },
    figures,
  );
}

function onPath(program: string): boolean {
  const directories = (process.env['PATH'] ?? '').split(delimiter);
  return directories.some((directory) => accessible(join(directory, program), constants.X_OK));
}

function accessible(path: string, mode: number): boolean {
  try {
    accessSync(path, mode);
    return true;
  } catch {
    return false;
  }
}
