/** The probe as a service of a testbed: its layers, its description, and a user that watches it. */
import type { ChildProcess } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { accessSync, constants } from 'node:fs';
import { copyFile, mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { run } from '../command.js';
import { guestArguments, guestImages } from '../guest.js';
import type { TestbedNode } from '../node.js';
import type { Testbed } from '../testbed.js';
import type { ProbeReport } from './probe-client.js';
import { makeProbeDisk } from './probe-disk.js';

/** dist/test/testbed/probe/probe-service.js is four below the project. */
const probeProgram = fileURLToPath(new URL('../../../../build/probe/probe', import.meta.url));
const clientProgram = fileURLToPath(new URL('./probe-client.js', import.meta.url));
const port = 7000;
/** A virtual machine that boots without KVM takes a quarter of a minute, on a busy machine more. */
const answerLimitMs = 180_000;

/** Counters of the probe; all of them only rise while it lives. */
export interface ProbeState {
  /** Chosen anew at each start. */
  life: string;
  ticks: number;
  memoryChanges: number;
  pipeMessages: number;
  pipeGaps: number;
  logLines: number;
  logErrors: number;
  deletedCount: number;
  echoes: number;
  echoGaps: number;
}

/** Whether each part of the probe's state is whole. */
export interface ProbeChecks {
  memory: boolean;
  pipe: boolean;
  log: boolean;
  deleted: boolean;
  echo: boolean;
  root: Record<string, boolean>;
}

/** How large a probe is. */
export interface ProbeSizes {
  /** Incompressible data in each layer and in memory. */
  baseMib: number;
  appMib: number;
  memoryMib: number;
  /** Words of the memory that are changed every 10 ms. */
  changes: number;
}

/** Why there can be no probe, in words for a skipped test; null if there can. */
export function probeUnavailable(): string | null {
  try {
    accessSync(probeProgram, constants.X_OK);
    return null;
  } catch {
    return 'the probe is not built: run test/setup/prepare.sh';
  }
}

/** Lays out the full trees of a base and an app layer for the probe under `directory`. */
export async function makeProbeTrees(
  directory: string,
  sizes: { baseMib: number; appMib: number },
): Promise<{ base: string; app: string }> {
  const base = join(directory, 'base');
  const app = join(directory, 'app');
  for (const path of ['dev', 'proc', 'sys', 'run', 'tmp', 'usr/share/bulk']) {
    await mkdir(join(base, path), { recursive: true });
  }
  await layOutBase(base);
  await writeFile(join(base, 'etc/deleted-by-app'), 'of the base\n');
  await writeBulk(join(base, 'usr/share/bulk'), sizes.baseMib);

  await run(['cp', '--archive', base, app]);
  await rm(join(app, 'etc/deleted-by-app'));
  await layOutApp(app);
  await mkdir(join(app, 'opt/probe/bulk'));
  await copyFile(probeProgram, join(app, 'opt/probe/probe'));
  await writeBulk(join(app, 'opt/probe/bulk'), sizes.appMib);
  return { base, app };
}

/** What the probe expects to find of the layers and changes: root_changes.cc. */
async function layOutBase(root: string): Promise<void> {
  await mkdir(join(root, 'etc'), { recursive: true });
  for (const name of ['deleted-by-instance', 'changed-by-instance', 'kept']) {
    await writeFile(join(root, 'etc', name), 'of the base\n');
  }
}

async function layOutApp(root: string): Promise<void> {
  await mkdir(join(root, 'opt/probe/replaced'), { recursive: true });
  for (const name of ['deleted-by-instance', 'kept', 'replaced/of-the-app']) {
    await writeFile(join(root, 'opt/probe', name), 'of the app\n');
  }
}

/** Many files rather than one, as real layers are; random, so that bytes on the link can be told. */
async function writeBulk(directory: string, mib: number): Promise<void> {
  for (let number = 0; number < mib * 4; number++) {
    await writeFile(join(directory, `${number}.bin`), randomBytes(256 * 1024));
  }
}

/** Runs the command line on a node and returns its stdout; a failure throws with what it said. */
export async function mustRun(node: TestbedNode, args: readonly string[]): Promise<string> {
  const { code, stdout, stderr } = await node.cli(args, { timeoutMs: 60_000 });
  if (code !== 0) {
    throw new Error(`deltahop ${args.join(' ')} on ${node.name} ended with ${code}: ${stderr.trim() || stdout.trim()}`);
  }
  return stdout;
}

/** A probe that runs on a node. */
export class ProbeService {
  /** Unlike any other on this machine: it becomes part of cgroup names, which nodes share. */
  readonly name: string;
  readonly host: string;

  private constructor(name: string, host: string) {
    this.name = name;
    this.host = host;
  }

  /** Imports the layers into `node`, adds the service there (with more `options`) and starts it. */
  static async start(
    testbed: Testbed,
    node: TestbedNode,
    sizes: ProbeSizes,
    options: readonly string[] = [],
  ): Promise<ProbeService> {
    const service = new ProbeService(`probe-${testbed.id}`, '10.77.0.10');
    const trees = join(testbed.directory, 'probe-trees');
    const { base, app } = await makeProbeTrees(trees, sizes);
    await mustRun(node, ['layer', 'import', '--kind', 'base', '--name', 'probe-base', base]);
    await mustRun(node, ['layer', 'import', '--kind', 'app', '--name', 'probe-app', '--parent', 'probe-base', app]);
    await rm(trees, { recursive: true });
    await mustRun(node, [
      ...['service', 'add', service.name, '--driver', 'lxc', '--base', 'probe-base', '--app', 'probe-app'],
      ...['--set', `ip=${service.host}/24`, ...options],
      ...['--', '/opt/probe/probe', `${port}`, `${sizes.memoryMib}`, `${sizes.changes}`],
    ]);
    await mustRun(node, ['service', 'start', service.name]);
    return service;
  }

  /** The same in a virtual machine, upon the test's guest; of the sizes the layers' mean nothing. */
  static async startMachine(testbed: Testbed, node: TestbedNode, sizes: ProbeSizes): Promise<ProbeService> {
    const service = new ProbeService(`probe-${testbed.id}`, '10.77.0.10');
    const images = await guestImages();
    const disk = await makeProbeDisk(testbed.directory, {
      images,
      program: probeProgram,
      args: [port, sizes.memoryMib, sizes.changes].map(String),
      layOut: async (root) => {
        await layOutBase(root);
        await layOutApp(root);
      },
    });
    await mustRun(node, ['layer', 'import', '--kind', 'base', '--name', 'probe-base', images.base]);
    await mustRun(node, ['layer', 'import', '--kind', 'app', '--name', 'probe-app', '--parent', 'probe-base', disk]);
    await rm(disk);
    await mustRun(node, [
      ...['service', 'add', service.name, '--base', 'probe-base', '--app', 'probe-app'],
      ...guestArguments(images, `${service.host}/24`, { memory: '128M', cpus: 1 }),
    ]);
    await mustRun(node, ['service', 'start', service.name]);
    return service;
  }

  /** Starts a user of it; resolves once it counts. */
  watch(testbed: Testbed): Promise<ProbeClient> {
    return this.watchAt(testbed, this.host);
  }

  /** The same of a probe at another address. */
  async watchAt(testbed: Testbed, host: string): Promise<ProbeClient> {
    const argv = [process.execPath, clientProgram, host, `${port}`];
    const client = new ProbeClient(testbed.user.spawnInUser(argv, { stdio: ['pipe', 'pipe', 'inherit'] }));
    for (const deadline = Date.now() + answerLimitMs; (await client.report()).answered === 0; ) {
      if (Date.now() > deadline) throw new Error(`the probe at ${host} does not answer its user`);
      await sleep(50);
    }
    return client;
  }
}

/** A user of a probe: one connection that lasts, and questions. */
export class ProbeClient {
  readonly #child: ChildProcess;
  readonly #waiting: ((line: string) => void)[] = [];

  constructor(child: ChildProcess) {
    this.#child = child;
    child.stdin?.on('error', () => {});
    if (child.stdout !== null) {
      createInterface({ input: child.stdout }).on('line', (line) => this.#waiting.shift()?.(line));
    }
    child.once('close', () => {
      for (const resolve of this.#waiting.splice(0)) resolve('{"error":"the client has ended"}');
    });
  }

  /** What the connection has been through; the longest gap is counted from the last report on. */
  async report(): Promise<ProbeReport> {
    return (await this.#ask('report')) as ProbeReport;
  }

  async state(): Promise<ProbeState> {
    return (await this.#ask('state')) as ProbeState;
  }

  async verify(): Promise<ProbeChecks> {
    return (await this.#ask('verify')) as ProbeChecks;
  }

  /** Gives the probe's whole memory new content, so that nothing a node holds of it is of use. */
  async refill(): Promise<void> {
    await this.#ask('refill');
  }

  end(): void {
    this.#child.stdin?.end();
  }

  async #ask(line: string): Promise<object> {
    if (this.#child.exitCode !== null) throw new Error('the client of the probe has ended');
    const answer = await new Promise<string>((resolve) => {
      this.#waiting.push(resolve);
      this.#child.stdin?.write(`${line}\n`);
    });
    const parsed = JSON.parse(answer) as { error?: string };
    if (parsed.error !== undefined) throw new Error(`asked for ${line}: ${parsed.error}`);
    return parsed;
  }
}
