import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, mkdirSync, openSync, readFileSync } from 'node:fs';
import { connect } from 'node:net';
import { delimiter, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Completed, ended, type RunOptions, run } from './command.js';

/** Where test/setup/install-criu.sh puts CRIU. */
export const criuDirectory = '/opt/deltahop/criu/bin';

/**
 * Makes a mount namespace fit for LXC and CRIU in the network namespace it is started in, says so, and holds it open
 * until its stdin closes. LXC looks for the bridge in /sys, which must therefore be of this network namespace; but a
 * fresh /sys has no cgroup tree, so that is set aside and bound back, and not what tells LXC that the kernel's AppArmor is
 * whole, without which it starts no container. /run is a tmpfs because only there does CRIU keep
 * what it has learnt about the kernel (it saves 100 ms of every freeze), and a private one keeps nodes apart.
 */
const holderScript = `set -e
mkdir "$1"
mount --rbind /sys/fs/cgroup "$1"
mount -t sysfs sysfs /sys
mount --rbind "$1" /sys/fs/cgroup
[ ! -d /sys/kernel/security ] || mount -t securityfs securityfs /sys/kernel/security
umount --lazy "$1"
rmdir "$1"
mount -t tmpfs -o mode=755 tmpfs /run
echo ready
exec cat >/dev/null`;

/** What a node is made of. */
export interface NodeParts {
  /** Short name, `a` for the first. */
  name: string;
  /** Name of its network namespace. */
  netns: string;
  /** Its address on the links between nodes. */
  address: string;
  /** Its address on the service network (of its bridge br0). */
  serviceAddress: string;
  /** Its own directory. */
  directory: string;
  /** The project's root, where dist/ is. */
  project: string;
}

/** One node of a testbed: a network and a mount namespace of its own, a state directory, and an agent when started. */
export class TestbedNode {
  readonly name: string;
  readonly netns: string;
  readonly address: string;
  readonly serviceAddress: string;
  readonly directory: string;
  /** The agent's `--state`. */
  readonly stateDirectory: string;
  /** For containers started by hand (`lxc-start -P`); removed with the testbed. */
  readonly lxcPath: string;
  /** Where the agent's stdout and stderr go, of all its starts. */
  readonly agentLog: string;
  readonly #main: string;
  readonly #holder: ChildProcess;
  readonly #children = new Set<ChildProcess>();
  #agent: ChildProcess | undefined;

  private constructor(parts: NodeParts, holder: ChildProcess) {
    this.name = parts.name;
    this.netns = parts.netns;
    this.address = parts.address;
    this.serviceAddress = parts.serviceAddress;
    this.directory = parts.directory;
    this.stateDirectory = join(parts.directory, 'state');
    this.lxcPath = join(this.stateDirectory, 'lxc');
    this.agentLog = join(parts.directory, 'agent.log');
    this.#main = join(parts.project, 'dist/program/cli/main.js');
    this.#holder = holder;
  }

  /** Makes the node's mount namespace; its network namespace is there already. */
  static async create(parts: NodeParts): Promise<TestbedNode> {
    mkdirSync(join(parts.directory, 'state/lxc'), { recursive: true });
    const argv = [`--net=/run/netns/${parts.netns}`, '--', 'unshare', '--mount', '--propagation', 'slave', '--'];
    argv.push('sh', '-c', holderScript, 'sh', join(parts.directory, 'cgroup'));
    const holder = spawn('nsenter', argv, { stdio: ['pipe', 'pipe', 'pipe'] });
    const said = { out: '', error: '' };
    holder.stderr.on('data', (chunk: Buffer) => {
      said.error += chunk;
    });
    await new Promise<void>((resolve, reject) => {
      holder.stdout.on('data', (chunk: Buffer) => {
        said.out += chunk;
        if (said.out.includes('ready\n')) resolve();
      });
      holder.once('error', reject);
      holder.once('close', () => reject(new Error(`no mount namespace for node ${parts.name}: ${said.error.trim()}`)));
    });
    return new TestbedNode(parts, holder);
  }

  /** `HOST:PORT` of its agent, as `deltahop migrate` takes it. */
  get agentAddress(): string {
    return `${this.address}:7701`;
  }

  /** Runs a program inside the node to its end. Throws if it fails, unless `check` is false. */
  exec(argv: readonly string[], options: RunOptions = {}): Promise<Completed> {
    return run(this.#enter(argv), { ...options, env: { ...this.#environment(), ...options.env } });
  }

  /** Starts a program inside the node; it is killed at the latest when the testbed is disposed of. */
  spawn(argv: readonly string[], options: SpawnOptions = {}): ChildProcess {
    const [program = '', ...args] = this.#enter(argv);
    const child = spawn(program, args, { ...options, env: { ...this.#environment(), ...options.env } });
    this.#children.add(child);
    child.once('exit', () => this.#children.delete(child));
    return child;
  }

  /** Runs `deltahop ARGS` against this node's agent; any exit code is an answer. */
  cli(args: readonly string[], options: RunOptions = {}): Promise<Completed> {
    return this.exec([process.execPath, this.#main, ...args], { check: false, ...options });
  }

  /** Starts `deltahop ARGS` against this node's agent, for a caller that reads its output as it comes. */
  spawnCli(args: readonly string[], options: SpawnOptions = {}): ChildProcess {
    return this.spawn([process.execPath, this.#main, ...args], options);
  }

  /** Starts the node's agent and waits until it answers on its socket. */
  async startAgent(extraArgs: readonly string[] = []): Promise<void> {
    if (this.#agent !== undefined) throw new Error(`node ${this.name} has an agent already`);
    const log = openSync(this.agentLog, 'a');
    const args = ['agent', '--state', this.stateDirectory, '--listen', this.agentAddress, '--name', this.name];
    const agent = this.spawnCli([...args, '--insecure', ...extraArgs], { stdio: ['ignore', log, log] });
    closeSync(log);
    this.#agent = agent;
    const deadline = Date.now() + 60_000;
    while (!(await this.#agentAnswers())) {
      const gone = agent.exitCode ?? agent.signalCode;
      if (gone !== null || Date.now() > deadline) {
        await this.stopAgent('SIGKILL');
        const why = gone === null ? 'does not answer' : `ended with ${gone}`;
        throw new Error(`the agent of node ${this.name} ${why}; its log ends:\n${this.agentLogTail()}`);
      }
      await sleep(25);
    }
  }

  /**
   * Ends the node's agent: cleanly, or with `SIGKILL` as a crash would. Its services run on.
   * @throws Error if it has to be killed though it was told to end.
   */
  async stopAgent(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    const agent = this.#agent;
    this.#agent = undefined;
    if (agent === undefined) return;
    // nsenter has become the agent by exec, so this is the agent's own process.
    agent.kill(signal);
    await ended(agent, 10_000);
    if (agent.signalCode === 'SIGKILL' && signal !== 'SIGKILL') {
      throw new Error(`the agent of node ${this.name} does not end at ${signal}`);
    }
  }

  /** What its agent said last. */
  agentLogTail(): string {
    return readFileSync(this.agentLog, 'utf8').split('\n').slice(-20).join('\n');
  }

  /** Ends the agent, what spawn() started, and the mount namespace. The testbed clears the rest. */
  async dispose(): Promise<void> {
    // Whether it ends cleanly is a test's question, not that of its cleaning.
    await this.stopAgent().catch(() => {});
    const children = [...this.#children];
    for (const child of children) child.kill('SIGKILL');
    await Promise.all(children.map((child) => ended(child, 2000)));
    this.#holder.stdin?.end();
    await ended(this.#holder, 2000);
  }

  #enter(argv: readonly string[]): string[] {
    return ['nsenter', `--target=${this.#holder.pid}`, '--net', '--mount', '--', ...argv];
  }

  #environment(): NodeJS.ProcessEnv {
    const path = `${criuDirectory}${delimiter}${process.env['PATH'] ?? ''}`;
    return { ...process.env, PATH: path, DELTAHOP_STATE: this.stateDirectory };
  }

  async #agentAnswers(): Promise<boolean> {
    const socket = connect(join(this.stateDirectory, 'agent.sock'));
    try {
      await once(socket, 'connect');
      return true;
    } catch {
      return false;
    } finally {
      socket.destroy();
    }
  }
}
