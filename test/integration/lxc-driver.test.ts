/** The LXC driver on real containers. One machine plays both nodes: two service directories beside one bridge. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { mkdir, rename, rm } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { performance } from 'node:perf_hooks';
import { createInterface } from 'node:readline';
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { isDeltahopError } from '../../src/errors.js';
import type {
  ArrangedWorkload,
  FrozenWorkload,
  PreparedWorkload,
  Workload,
  WorkloadDriver,
} from '../../src/workload/driver.js';
import { Cgroup } from '../../src/workload/lxc/cgroup.js';
import { parseSettings } from '../../src/workload/lxc/config.js';
import { lxcLayout } from '../../src/workload/lxc/layout.js';
import { createLxcDriver } from '../../src/workload/lxc/lxc-driver.js';
import { testUnless } from '../support/obstacle.js';
import { list, read } from '../support/volatile-files.js';
import { run } from '../testbed/command.js';
import { processStartTime } from '../testbed/remnants.js';
import { rootFileSystems } from '../testbed/rootfs.js';
import { Testbed } from '../testbed/testbed.js';
import { guestProgram } from './support/lxc-guest.js';
import { setUp } from './support/set-up.js';

const obstacle = Testbed.unavailable();
const inside = process.env['DELTAHOP_TEST_INSIDE'] === '1';
const prefix = join(tmpdir(), 'deltahop-lxc-driver-');

/**
 * LXC looks for the bridge in /sys, which must be of our network namespace; a fresh /sys has no cgroup tree, so that is
 * set aside and bound back. CRIU keeps what it has learnt about the kernel only if /run is a tmpfs.
 */
const enter = `set -e
aside=$(mktemp -d)
mount --rbind /sys/fs/cgroup "$aside"
mount -t sysfs sysfs /sys
mount --rbind "$aside" /sys/fs/cgroup
[ ! -d /sys/kernel/security ] || mount -t securityfs securityfs /sys/kernel/security
umount --lazy "$aside"
rmdir "$aside"
mount -t tmpfs -o mode=755 tmpfs /run
ip link set lo up
ip link add br0 type bridge
ip addr add 10.91.0.1/24 dev br0
ip link set br0 up
exec "$@"`;

// All of it in a network and a mount namespace of its own, which take every interface and mount with them at the end. The
// guests' files come from the network outside.
if (obstacle === null && !inside) {
  await rootFileSystems();
  const argv = ['--net', '--mount', '--propagation', 'slave', '--', 'sh', '-c', enter, 'sh'];
  const { status } = spawnSync('unshare', [...argv, process.execPath, fileURLToPath(import.meta.url)], {
    stdio: 'inherit',
    env: { ...process.env, DELTAHOP_TEST_INSIDE: '1' },
  });
  process.exit(status ?? 1);
}

const directory = `${prefix}${process.pid}`;
const driver = createLxcDriver();
let base = '';
const made: Workload[] = [];

function workload(name: string, node: 'a' | 'b', settings: Record<string, string> = {}): Workload {
  const found: Workload = {
    name,
    path: join(directory, node, name),
    base: 'base',
    app: 'app',
    basePath: base,
    appPath: join(directory, 'app'),
    settings,
    command: [
      '/usr/bin/env',
      `GUEST_PORT=${settings['ip'] === undefined ? 'none' : '7'}`,
      '/usr/bin/perl',
      '-e',
      guestProgram,
    ],
  };
  made.push(found);
  return found;
}

function count(of: Workload): number {
  return Number(readFileSync(join(lxcLayout(of).upper, 'count'), 'utf8').split('\n')[0]);
}

/** Waits until the guest has counted further. */
async function counts(of: Workload, limitMs = 5000): Promise<void> {
  const deadline = Date.now() + limitMs;
  while (!existsSync(join(lxcLayout(of).upper, 'count'))) {
    if (Date.now() > deadline) throw new Error(`${of.name} does not begin to count`);
    await sleep(10);
  }
  const before = count(of);
  while (!(count(of) > before)) {
    if (Date.now() > deadline) throw new Error(`${of.name} does not count on from ${before}`);
    await sleep(10);
  }
}

/** Does what a transfer would do, with the other program that can. */
async function copyInstance(from: Workload, to: Workload): Promise<void> {
  const target = await driver.staging(to);
  for (const [index, name] of ['upper', 'memory'].entries()) {
    const filters = ['origin', 'impure', 'uuid'].flatMap((each) => ['--filter', `-x trusted.overlay.${each}`]);
    const source = join(from.path, name);
    await run([
      'rsync',
      '-aHAX',
      '--ignore-times',
      '--delete',
      ...filters,
      `${source}/`,
      `${target.trees[index]?.path}/`,
    ]);
  }
}

/** Files that are copied only once the memory is complete too. */
const filesUnlisted = new Promise<void>(() => {});

/** Freezes it and waits for its memory. */
async function freeze(of: Workload): Promise<FrozenWorkload> {
  const frozen = await driver.freeze(of, AbortSignal.timeout(30_000));
  await frozen.memory(AbortSignal.timeout(30_000), filesUnlisted);
  return frozen;
}

/** Restores what has arrived, as far as the barrier. */
async function prepare(of: Workload, by = driver): Promise<PreparedWorkload> {
  const signal = AbortSignal.timeout(30_000);
  return await (await by.arrange(of, signal)).prepare(signal);
}

/** All connections; one to a dead guest would keep this process for as long as TCP has hope. */
const sockets: Socket[] = [];

/** Asks the guest all the time over one connection. */
class Asker {
  answers = 0;
  longestGapMs = 0;
  faults = 0;
  wrong: string | null = null;
  #socket: Socket;
  #stopped = false;
  #done: Promise<void>;

  private constructor(socket: Socket) {
    this.#socket = socket;
    this.#done = this.#ask();
  }

  static async open(address: string): Promise<Asker> {
    const deadline = Date.now() + 5000;
    for (;;) {
      const socket = connect(7, address);
      socket.setNoDelay(true);
      try {
        await once(socket, 'connect');
        sockets.push(socket);
        return new Asker(socket);
      } catch (error) {
        socket.destroy();
        if (Date.now() > deadline) throw error;
        await sleep(20);
      }
    }
  }

  async close(): Promise<void> {
    this.#stopped = true;
    await Promise.race([this.#done, sleep(3000)]);
    this.#socket.destroy();
  }

  async #ask(): Promise<void> {
    const lines = createInterface({ input: this.#socket })[Symbol.asyncIterator]();
    this.#socket.on('error', (error) => {
      this.wrong ??= `the connection broke: ${error.message}`;
    });
    for (let k = 1; !this.#stopped; k++) {
      const asked = performance.now();
      this.#socket.write(`${k}\n`);
      const { value, done } = await lines.next();
      if (done === true) {
        this.wrong ??= 'the connection was closed';
        return;
      }
      const [echo, , faults] = String(value).split(' ').map(Number);
      if (echo !== k) this.wrong ??= `asked ${k}, answered ${value}`;
      this.faults = Math.max(this.faults, faults ?? 0);
      this.longestGapMs = Math.max(this.longestGapMs, performance.now() - asked);
      this.answers++;
      await sleep(2);
    }
  }
}

/** Prints who says by ARP that an address is its own: `MAC ADDRESS`, as the interface with that index hears it. */
const arpListener = `use Socket; $| = 1; my ($index) = @ARGV;
socket(my $ears, 17, SOCK_RAW, unpack("S", pack("n", 0x0806))) or die "socket: $!";
print "listens\n";
while (my $from = recv($ears, my $frame, 1500, 0)) {
  my ($mac, $own, $asked) = unpack("x22 H12 a4 x6 a4", $frame);
  printf "%s %s\n", join(":", unpack("(A2)*", $mac)), inet_ntoa($own) if unpack("x4 i", $from) == $index && $own eq $asked;
}`;

const listeners: ChildProcess[] = [];

/** Hears what is announced on the bridge. */
class Announcements {
  readonly heard: string[] = [];
  readonly #listener: ChildProcess;

  private constructor(listener: ChildProcess, lines: AsyncIterable<string>) {
    this.#listener = listener;
    void (async () => {
      for await (const line of lines) this.heard.push(line);
    })();
  }

  static async listen(): Promise<Announcements> {
    const index = readFileSync('/sys/class/net/br0/ifindex', 'utf8').trim();
    const listener = spawn('perl', ['-e', arpListener, index], { stdio: ['ignore', 'pipe', 'inherit'] });
    const lines = createInterface({ input: listener.stdout });
    listeners.push(listener);
    await once(lines, 'line');
    return new Announcements(listener, lines);
  }

  /** Waits for the next one. */
  async next(limitMs = 2000): Promise<string> {
    const before = this.heard.length;
    for (const deadline = Date.now() + limitMs; this.heard.length === before; await sleep(5)) {
      if (Date.now() > deadline) throw new Error('nothing was announced');
    }
    return this.heard[before] ?? '';
  }

  close(): void {
    this.#listener.kill();
  }
}

/**
 * What killed runs left: their containers; their mounts and interfaces went with their namespaces. What does not go is
 * told and left: nothing here has its name.
 */
async function clearStale(): Promise<void> {
  for (const name of readdirSync(tmpdir())) {
    const path = join(tmpdir(), name);
    if (!path.startsWith(prefix)) continue;
    const pid = path.slice(prefix.length);
    if (existsSync(`/proc/${pid}`) && pid !== String(process.pid)) continue;
    try {
      await clear(path);
    } catch (error) {
      process.stdout.write(`a killed run's ${path} can not be cleared: ${(error as Error).message}\n`);
    }
  }
}

async function clear(path: string): Promise<void> {
  for (const node of ['a', 'b']) {
    const services = existsSync(join(path, node)) ? readdirSync(join(path, node)) : [];
    for (const service of services) {
      const cgroup = await Cgroup.of(lxcLayout({ name: service, path: join(path, node, service) }).id);
      await cgroup.kill(5000);
      await cgroup.removeEmpty();
    }
  }
  rmSync(path, { recursive: true, force: true });
}

/** Waits until a connection has had more answers. */
async function goesOn(asker: Asker): Promise<void> {
  const { answers } = asker;
  for (const deadline = Date.now() + 10_000; asker.answers < answers + 10; await sleep(20)) {
    if (Date.now() > deadline) throw new Error(`the connection is dead: ${asker.wrong}`);
  }
}

async function rejection(promise: Promise<unknown>): Promise<Error> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof Error) return error;
  }
  throw new Error('it did not fail');
}

const containers = suite('LXC driver');
const check = testUnless(containers, obstacle);

setUp(containers, obstacle, async () => {
  await clearStale();
  mkdirSync(join(directory, 'app'), { recursive: true });
  ({ base } = await rootFileSystems());
});

containers.after(async () => {
  if (obstacle !== null) return;
  for (const socket of sockets) socket.destroy();
  for (const listener of listeners) listener.kill();
  // As a new agent would: a failed test may have left something under way in `driver`.
  const cleaner = createLxcDriver();
  for (const each of made) {
    await cleaner.recover(each);
    await cleaner.remove(each);
  }
  rmSync(directory, { recursive: true, force: true });
});

check('finds on this machine all that it needs', async () => {
  const lacking = (await driver.capabilities()).filter((capability) => !capability.ok);
  assert.equal(lacking, []);
});

check('starts a service that another agent finds, and stops it', async () => {
  const service = workload('plain', 'a', { memory: '256M', cpus: '1.5' });
  assert.equal(await driver.inspect(service), { state: 'stopped', pid: null });
  await driver.start(service);
  await counts(service);
  const { state, pid } = await createLxcDriver().inspect(service);
  assert.is(state, 'running');
  assert.match(readFileSync(`/proc/${pid}/cmdline`, 'utf8'), /perl/);
  assert.equal(await driver.obstacles(service), []);
  await driver.start(service);
  assert.is((await driver.inspect(service)).pid, pid, 'starting what runs changes nothing');
  assert.is(Number(limitOf(service, 'memory', 'memory.limit_in_bytes', 'memory.max')), 256 << 20);
  await driver.stop(service);
  assert.equal(await driver.inspect(service), { state: 'stopped', pid: null });
  assert.not(existsSync(join(lxcLayout(service).merged, 'usr')), 'the overlay is unmounted');
  await driver.stop(service);
  const stopped = count(service);
  assert.ok(stopped > 0, 'its files stay');
});

function limitOf(service: Workload, controller: string, v1: string, v2: string): string {
  const name = `lxc.payload.${lxcLayout(service).id}`;
  const old = join('/sys/fs/cgroup', controller, name, v1);
  return readFileSync(existsSync(old) ? old : join('/sys/fs/cgroup', name, v2), 'utf8').trim();
}

check('probes a service from within it', async () => {
  const service = workload('probed', 'a', { ip: '10.91.0.23/24' });
  assert.match((await driver.probe(service, 'tcp:7')) ?? '', /stopped/);
  await driver.start(service);
  await counts(service);
  assert.is(await driver.probe(service, 'tcp:7'), null);
  assert.match((await driver.probe(service, 'tcp:9')) ?? '', /ECONNREFUSED/);
  assert.match((await driver.probe(service, 'http:9/x')) ?? '', /ECONNREFUSED/);
  assert.is(await driver.probe(service, 'exec:test -e /count && ! test -e /home/nobody'), null);
  assert.match((await driver.probe(service, 'exec:echo it is ill >&2; exit 3')) ?? '', /it is ill/);
  await driver.stop(service);
});

check('says what stands between two machines', async () => {
  const facts = await driver.machine();
  const service = workload('stranger', 'a', { ip: '10.91.0.24/24' });
  const bad = async (change: Record<string, string>, settings = service): Promise<string[]> => {
    const findings = await driver.admits({ ...facts, ...change }, settings);
    return findings.filter(({ ok }) => !ok).map(({ name }) => name);
  };
  assert.equal(await bad({}), []);
  // 3DNow!, which no processor has had for long: the upper bits of the second word in CRIU's cpuinfo.img, whose words are
  // varints after a byte 0x30 each.
  const rich = Buffer.from(facts['cpu'] ?? '', 'base64');
  let last = rich.indexOf(0x30);
  for (const word of [1, 2]) {
    if (word === 2) last++;
    do last++;
    while ((rich[last] ?? 0) >= 0x80);
  }
  rich[last] = (rich[last] ?? 0) | 0x0c;
  assert.equal(await bad({ cpu: rich.toString('base64') }), ['cpu']);
  assert.equal(await bad({ architecture: 'pdp11', cgroup: 'v3', criu: '99.1', lsm: 'smack' }), [
    'architecture',
    'cgroup',
    'criu version',
    'lsm',
  ]);
  assert.equal(await bad({}, { ...service, settings: { ip: '10.91.0.24/24', bridge: 'nobridge' } }), ['bridge']);
  assert.equal(await bad({}, { ...service, settings: { ip: '10.91.0.1/24' } }), ['address']);
  const holder = workload('holder', 'a', { ip: '10.91.0.25/24' });
  await driver.start(holder);
  await counts(holder);
  assert.equal(await bad({}, { ...service, settings: { ip: '10.91.0.25/24' } }), ['address'], 'another has it');
  assert.equal(await bad({}, holder), [], 'it is its own');
  const { memoryBytes, memorySample } = await driver.measure(holder);
  const sizes = `${memoryBytes} bytes, of which ${memorySample.length} are the sample`;
  assert.ok(memoryBytes > 1 << 20 && memorySample.length > 1 << 16 && memorySample.length <= 3 << 20, sizes);
  await driver.stop(holder);
});

/** Two processes of 24 MiB that they share, in what System V calls shared memory; and 16 MiB once there is a tmpfs. */
const sharingProgram = `
$SIG{TERM} = sub { exit 0 };
# shmat, by its number on x86-64
my $id = shmget(0, 24 << 20, 0600) // die; syscall(30, $id, 0, 0) > 0 or die;
shmwrite($id, "deltahop" x 8192, $_ << 16, 1 << 16) or die for 0 .. 383;
my $parent = $$; if (!fork) { sleep 1 while getppid == $parent; exit }
open my $count, '>', '/count' or die; my ($number, $file);
while (1) {
  if (!$file && -e '/mnt/go') { open $file, '>', '/mnt/data' or die; syswrite $file, "x" x 65536 for 1 .. 256 }
  sysseek $count, 0, 0; syswrite $count, ++$number . "\\n"; select undef, undef, undef, 0.01;
}`;

check('measures memory that processes share once, and files in memory, at both nodes', async () => {
  const command = ['/usr/bin/perl', '-e', sharingProgram];
  const [a, b] = [
    { ...workload('sharing', 'a'), command },
    { ...workload('sharing', 'b'), command },
  ];
  const mib = async (of: Workload): Promise<number> => (await driver.measure(of)).memoryBytes / 2 ** 20;
  await driver.start(a);
  await counts(a);
  const { memoryBytes, memorySample } = await driver.measure(a);
  assert.ok(Buffer.from(memorySample).includes('deltahop'.repeat(512)), 'the sample has some of it');
  const before = memoryBytes / 2 ** 20;
  assert.ok(before > 24 && before < 40, `${before} MiB`);
  const { pid } = await driver.inspect(a);
  // mount, by its number on x86-64
  const mount = `my ($type, $at) = ('tmpfs', '/mnt'); syscall(165, $type, $at, $type, 0, 0) == 0 or die "$!";
open my $go, '>', "$at/go" or die "$!"`;
  await run(['nsenter', `--mount=/proc/${pid}/ns/mnt`, '--', 'perl', '-e', mount]);
  const grown = before + 16;
  for (const deadline = Date.now() + 5000; (await mib(a)) < grown - 0.5 && Date.now() < deadline; ) await sleep(20);
  const here = await mib(a);
  await hop(a, b);
  const there = await mib(b);
  process.stdout.write(`${before} MiB, ${here} with a tmpfs, ${there} at the other node\n`);
  for (const found of [here, there]) assert.ok(Math.abs(found - grown) < 2, `${found} MiB instead of ${grown}`);
  await driver.stop(b);
});

check('says why a service does not start', async () => {
  const service = { ...workload('broken', 'a'), command: ['/no/such/program'] };
  const error = await rejection(driver.start(service));
  assert.ok(isDeltahopError(error, 'DELTAHOP_E_WORKLOAD'));
  assert.match(error.message, /\/no\/such\/program/);
  assert.equal(await driver.inspect(service), { state: 'stopped', pid: null });
  await driver.start(workload('broken', 'a'));
  await driver.stop(service);
});

check('rounds leave the service running', async () => {
  const service = workload('rounds', 'a', { ip: '10.91.0.20/24' });
  await driver.start(service);
  const asker = await Asker.open('10.91.0.20');
  for (let round = 0; round < 2; round++) {
    const { instance, pausedMs } = await driver.round(service, AbortSignal.timeout(30_000));
    const { trees } = instance;
    assert.ok(pausedMs > 0, 'it stood still for the dump');
    assert.equal(
      trees.map((tree) => tree.name),
      ['upper', 'memory'],
    );
    const images = readdirSync(trees[1]?.path ?? '');
    assert.ok(images.includes('inventory.img') && images.some((name) => name.startsWith('pages-')));
    assert.not(images.includes('dump.log'));
    assert.is((await driver.inspect(service)).state, 'running');
    await counts(service);
  }
  const error = await rejection(driver.round(service, AbortSignal.abort()));
  assert.ok(isDeltahopError(error, 'DELTAHOP_E_CANCELLED'));
  const late = new AbortController();
  const cancelledRound = rejection(driver.round(service, late.signal));
  await sleep(60);
  late.abort();
  assert.ok(isDeltahopError(await cancelledRound, 'DELTAHOP_E_CANCELLED'));
  await counts(service);
  await asker.close();
  assert.equal([asker.wrong, asker.faults], [null, 0]);
  await driver.stop(service);
});

check('an aborted freeze lets the service run on, its connection too', async () => {
  const service = workload('thawed', 'a', { ip: '10.91.0.21/24' });
  await driver.start(service);
  const asker = await Asker.open('10.91.0.21');
  await counts(service);
  const before = Date.now();
  const frozen = await freeze(service);
  assert.ok(frozen.frozenAtMs >= before - 10 && frozen.frozenAtMs <= Date.now());
  assert.is((await driver.inspect(service)).state, 'frozen');
  const held = count(service);
  await sleep(150);
  assert.is(count(service), held, 'nothing runs while it is frozen');
  const busy = await rejection(driver.round(service, AbortSignal.timeout(1000)));
  assert.ok(isDeltahopError(busy, 'DELTAHOP_E_BUSY'));
  await frozen.abort();
  assert.is((await driver.inspect(service)).state, 'running');
  await counts(service);
  const again = await freeze(service);
  await again.abort();
  await counts(service);
  await asker.close();
  assert.equal([asker.wrong, asker.faults], [null, 0]);
  assert.ok(asker.answers > 20);
  await driver.stop(service);
});

check('a CRIU that is killed at the barrier costs neither the service nor its connection', async () => {
  const service = workload('bereaved', 'a', { ip: '10.91.0.26/24' });
  const { operation } = lxcLayout(service);
  await driver.start(service);
  const asker = await Asker.open('10.91.0.26');
  await counts(service);
  const frozen = await freeze(service);
  const held = count(service);
  process.kill(Number.parseInt(readFileSync(join(operation, 'criu'), 'utf8'), 10), 'SIGKILL');
  await frozen.abort();
  assert.is((await driver.inspect(service)).state, 'running');
  await counts(service);
  assert.ok(count(service) > held);
  await goesOn(asker);
  // The agent too, so that nobody but the supervisor is left.
  await dieAfter('freeze', service);
  process.kill(Number.parseInt(readFileSync(join(operation, 'criu'), 'utf8'), 10), 'SIGKILL');
  await counts(service, 20_000);
  await goesOn(asker);
  await driver.recover(service);
  await asker.close();
  assert.equal([asker.wrong, asker.faults], [null, 0]);
  const again = await freeze(service);
  await again.abort();
  await counts(service);
  await driver.stop(service);
});

// Where the kernel tracks memory, the rounds after the first are pre-dumps, of which CRIU calls no action script.
check('a CRIU that is killed in a round costs neither the service nor its connection', async () => {
  const service = workload('unseeded', 'a', { ip: '10.91.0.27/24' });
  const { operation } = lxcLayout(service);
  await driver.start(service);
  const asker = await Asker.open('10.91.0.27');
  for (const laterMs of [0, 5, 10, 20, 40]) {
    await driver.round(service, AbortSignal.timeout(30_000));
    const outcome = driver.round(service, AbortSignal.timeout(30_000)).then(
      () => null,
      (error: unknown) => error,
    );
    while (!existsSync(join(operation, 'stopped'))) await sleep(1);
    await sleep(laterMs);
    // It may have come to its end by then.
    const criu = Number.parseInt(readFileSync(join(operation, 'criu'), 'utf8'), 10);
    if (existsSync(`/proc/${criu}`)) process.kill(criu, 'SIGKILL');
    const error = await outcome;
    assert.ok(error === null || isDeltahopError(error, 'DELTAHOP_E_CHECKPOINT'), String(error));
    await counts(service);
    await goesOn(asker);
  }
  await asker.close();
  assert.equal([asker.wrong, asker.faults], [null, 0]);
  await driver.stop(service);
});

check('a service hops there and back with its memory, files, pipe and connection', async () => {
  const settings = { ip: '10.91.0.22/24', memory: '512M', cpus: '1' };
  const nodes = [workload('hopper', 'a', settings), workload('hopper', 'b', settings)];
  const [a, b] = nodes as [Workload, Workload];
  await driver.create(b);
  await driver.start(a);
  const asker = await Asker.open('10.91.0.22');
  await counts(a);
  const announcements = await Announcements.listen();
  const { network } = parseSettings(a.name, settings);
  for (const [from, to] of [
    [a, b],
    [b, a],
  ] as const) {
    const ms: Record<string, number> = {};
    const time = async <T>(name: string, work: Promise<T>): Promise<T> => {
      const began = performance.now();
      const result = await work;
      ms[name] = Math.round(performance.now() - began);
      return result;
    };
    await driver.round(from, AbortSignal.timeout(30_000));
    await copyInstance(from, to);
    const frozen = await time('freeze', freeze(from));
    const at = count(from);
    await time('copy', copyInstance(from, to));
    const prepared = await time('prepare', prepare(to));
    assert.is((await driver.inspect(to)).state, 'frozen');
    assert.is(count(to), at, 'nothing runs while it is held');
    await time('give up', frozen.commit());
    assert.equal(onBridge(), [], 'nobody has its address any more, and nobody has it yet');
    assert.is((await driver.inspect(from)).state, 'stopped');
    assert.equal(announcements.heard, [], 'nobody has said that it has its address');
    const announced = announcements.next();
    await time('let go', prepared.commit());
    assert.is(await announced, `${network?.mac} 10.91.0.22`);
    assert.equal(onBridge(), [lxcLayout(to).hostInterface]);
    process.stdout.write(`hop: down ${Date.now() - frozen.frozenAtMs} ms, of which ${JSON.stringify(ms)}\n`);
    await counts(to);
    assert.ok(count(to) > at);
    assert.is((await driver.inspect(to)).state, 'running');
    assert.is(Number(limitOf(to, 'memory', 'memory.limit_in_bytes', 'memory.max')), 512 << 20);
    assert.is(Number.parseInt(limitOf(to, 'cpu', 'cpu.cfs_quota_us', 'cpu.max'), 10), 100_000);
    await sleep(200);
    assert.is(count(from), at, 'it never ran on at the source');
    const { stdout } = await run(['nsenter', `--net=/proc/${(await driver.inspect(to)).pid}/ns/net`, 'iptables-save']);
    assert.not.match(stdout, /CRIU/, 'no lock of the network is left');
    // The last one comes half a second after the service.
    await sleep(500);
    announcements.heard.length = 0;
  }
  announcements.close();
  await asker.close();
  assert.equal([asker.wrong, asker.faults], [null, 0]);
  process.stdout.write(`hops: ${asker.answers} answers, longest gap ${Math.round(asker.longestGapMs)} ms\n`);
  await driver.stop(a);
});

/** Containers’ interfaces on the bridge. */
function onBridge(): string[] {
  return readdirSync('/sys/class/net/br0/brif').filter((name) => name.startsWith('dh'));
}

/** Runs a script in a container's network. */
async function inNetworkOf(of: Workload, script: string): Promise<string> {
  const { pid } = await driver.inspect(of);
  return (await run(['nsenter', `--net=/proc/${pid}/ns/net`, '--', 'sh', '-ec', script])).stdout;
}

const showNetwork = `ip -brief link show eth0 | tr -s ' ' | cut -d@ -f1; ip link show eth0 | grep -o 'mtu [0-9]*\\|qlen [0-9]*\\|ALLMULTI'
ip link show eth0 | cut -d: -f1 | head -1; ip -brief address show | sed 's/@if[0-9]*//'; ip route show; ip -6 route show
cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/conf/eth0/rp_filter /proc/sys/net/ipv4/tcp_rmem`;

check('what a service has changed of its network goes with it, early or late', async () => {
  const [a, b] = [workload('wired', 'a', { ip: '10.91.0.29/24' }), workload('wired', 'b', { ip: '10.91.0.29/24' })];
  await driver.start(a);
  await counts(a);
  const changes = [
    `ip link set eth0 mtu 1400 txqueuelen 77 allmulticast on; ip address add 10.92.0.7/32 dev eth0
ip address add fd00:92::7/64 dev eth0 nodad; ip address add 10.92.0.8/32 dev lo; ip route add 10.93.0.0/16 via 10.91.0.1
ip -6 route add fd00:93::/64 via fd00:92::1; echo 81 >/proc/sys/net/ipv4/ip_unprivileged_port_start
echo 2 >/proc/sys/net/ipv4/conf/eth0/rp_filter; echo '4096 87380 5000000' >/proc/sys/net/ipv4/tcp_rmem`,
    // Of what has been made ready by the first already, nothing may be left.
    `ip link set eth0 mtu 1300 allmulticast off; ip address del 10.92.0.7/32 dev eth0; ip address add 10.92.0.9/32 dev lo
ip address del 10.92.0.8/32 dev lo; ip route del 10.93.0.0/16; echo 0 >/proc/sys/net/ipv4/conf/eth0/rp_filter`,
  ];
  await inNetworkOf(a, changes[0] ?? '');
  await driver.round(a, AbortSignal.timeout(30_000));
  await copyInstance(a, b);
  const arranged = await driver.arrange(b, AbortSignal.timeout(30_000));
  await inNetworkOf(a, changes[1] ?? '');
  const before = await inNetworkOf(a, showNetwork);
  assert.match(before, /mtu 1300.*10\.92\.0\.9.*fd00:93::/s);
  const frozen = await freeze(a);
  await arrive(frozen, a, b, arranged);
  assert.is(await inNetworkOf(b, showNetwork), before);
  // And once more, by what was made ready alone.
  await hop(b, a);
  assert.is(await inNetworkOf(a, showNetwork), before);
  await driver.stop(a);
});

check('a network that is not plain is left to CRIU, with its firewall and its other interfaces', async () => {
  const [a, b] = [workload('walled', 'a', { ip: '10.91.0.30/24' }), workload('walled', 'b', { ip: '10.91.0.30/24' })];
  await driver.start(a);
  await counts(a);
  await driver.round(a, AbortSignal.timeout(30_000));
  assert.ok(existsSync(join(a.path, 'memory/network.json')));
  await copyInstance(a, b);
  const arranged = await driver.arrange(b, AbortSignal.timeout(30_000));
  await inNetworkOf(a, 'ip link add other type bridge; nft add table inet wall');
  const frozen = await freeze(a);
  assert.not(existsSync(join(a.path, 'memory/network.json')));
  await arrive(frozen, a, b, arranged);
  assert.match(await inNetworkOf(b, 'ip link show; nft list tables'), /other.*inet wall/s);
  await inNetworkOf(b, 'ip link delete other; nft delete table inet wall');
  await hop(b, a);
  assert.ok(existsSync(join(b.path, 'memory/network.json')), 'it is plain again');
  await driver.stop(a);
});

/** Moves a service whose files are complete at the stop. */
async function hop(from: Workload, to: Workload): Promise<void> {
  const frozen = await freeze(from);
  await copyInstance(from, to);
  await handOver(frozen, await prepare(to), to);
}

/** Moves what is frozen to where its restore is arranged already, so that nothing may be staged there any more. */
async function arrive(frozen: FrozenWorkload, from: Workload, to: Workload, arranged: ArrangedWorkload): Promise<void> {
  for (const name of ['upper', 'memory']) {
    await run(['rsync', '-aHAX', '--ignore-times', '--delete', join(from.path, name, '/'), join(to.path, name, '/')]);
  }
  await handOver(frozen, await arranged.prepare(AbortSignal.timeout(30_000)), to);
}

async function handOver(frozen: FrozenWorkload, prepared: PreparedWorkload, to: Workload): Promise<void> {
  await frozen.commit();
  await prepared.commit();
  await counts(to);
}

check('a restore that is given up can be made again', async () => {
  const [a, b] = [workload('again', 'a'), workload('again', 'b')];
  await driver.start(a);
  await counts(a);
  const frozen = await freeze(a);
  const at = count(a);
  await copyInstance(a, b);
  const first = await prepare(b);
  await first.abort();
  assert.equal(await driver.inspect(b), { state: 'stopped', pid: null });
  assert.is(count(b), at);
  const second = await prepare(b);
  await frozen.commit();
  await second.commit();
  await counts(b);
  assert.is(count(a), at);
  await driver.stop(b);
});

/** The CRIU of a restore that is under way: of all that have its arguments the one that LXC has started. */
function restorer(operation: string): number | null {
  for (const entry of list('/proc')) {
    const argv = read(`/proc/${entry}/cmdline`).split('\0');
    if (!argv.includes('restore') || !argv.includes(`${operation}/action`)) continue;
    const parent = read(`/proc/${entry}/stat`).split(' ')[3];
    if (read(`/proc/${parent}/comm`) === 'lxc-checkpoint\n') return Number(entry);
  }
  return null;
}

check(
  'a CRIU that is killed behind the barrier of a restore lets nothing run, and all can be restored again',
  async () => {
    const [a, b] = [workload('rebuilt', 'a'), workload('rebuilt', 'b')];
    const { operation } = lxcLayout(b);
    await driver.start(a);
    await counts(a);
    const frozen = await freeze(a);
    const at = count(a);
    await copyInstance(a, b);
    let killed = 0;
    for (const laterMs of [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 5, 6, 8]) {
      const arranged = await driver.arrange(b, AbortSignal.timeout(30_000));
      const preparing = arranged.prepare(AbortSignal.timeout(30_000));
      let criu: number | null = null;
      while (!existsSync(join(operation, 'held'))) {
        criu ??= restorer(operation);
        await nextTurn();
      }
      for (const until = performance.now() + laterMs; performance.now() < until; );
      if (criu !== null && processStartTime(criu) !== undefined && process.kill(criu, 'SIGKILL')) killed++;
      const prepared = await preparing;
      // As long as two nodes talk before a verdict.
      await sleep(100);
      assert.is(count(b), at, `it has run, as CRIU was killed ${laterMs} ms behind the barrier`);
      await prepared.abort();
      assert.equal(await driver.inspect(b), { state: 'stopped', pid: null });
    }
    assert.ok(killed > 0, 'CRIU was there to be killed');
    process.stdout.write(`killed behind the barrier: ${killed} of 12\n`);
    const prepared = await prepare(b);
    await frozen.commit();
    await prepared.commit();
    await counts(b);
    await driver.stop(b);
  },
);

check('files have to be sent again if CRIU was in their /tmp before they had been listed', async () => {
  const service = workload('visited', 'a');
  await driver.start(service);
  await counts(service);
  // The first look at /tmp makes its entry in the upper directory.
  await driver.round(service, AbortSignal.timeout(30_000));
  for (const [filesListed, filesChanged] of [
    [Promise.resolve(), false],
    [filesUnlisted, true],
  ] as const) {
    const frozen = await driver.freeze(service, AbortSignal.timeout(30_000));
    assert.is((await frozen.memory(AbortSignal.timeout(30_000), filesListed)).filesChanged, filesChanged);
    await frozen.abort();
    await counts(service);
  }
  await driver.stop(service);
});

check('a damaged image is refused with its cause, and the source runs on', async () => {
  const [a, b] = [workload('damaged', 'a'), workload('damaged', 'b')];
  await driver.start(a);
  await counts(a);
  const frozen = await freeze(a);
  await copyInstance(a, b);
  await run(['truncate', '-s', '10', join(b.path, 'memory/files.img')]);
  const error = await rejection(prepare(b));
  assert.ok(isDeltahopError(error, 'DELTAHOP_E_RESTORE'));
  assert.match(error.message, /CRIU/);
  assert.equal(await driver.inspect(b), { state: 'stopped', pid: null });
  await frozen.abort();
  await counts(a);
  await driver.stop(a);
});

check('without CRIU the error says so, and the service runs on', async () => {
  const service = workload('nocriu', 'a');
  await driver.start(service);
  await counts(service);
  const before = process.env['DELTAHOP_CRIU'];
  process.env['DELTAHOP_CRIU'] = '/no/such/criu';
  try {
    for (const attempt of ['round', 'freeze'] as const) {
      const error = await rejection(driver[attempt](service, AbortSignal.timeout(10_000)));
      assert.ok(isDeltahopError(error, 'DELTAHOP_E_TOOL_MISSING'));
      assert.match(error.message, /\/no\/such\/criu/);
    }
    const criu = (await driver.capabilities()).find((capability) => capability.name === 'criu');
    assert.is(criu?.ok, false);
    assert.ok(criu?.remedy);
  } finally {
    if (before === undefined) delete process.env['DELTAHOP_CRIU'];
    else process.env['DELTAHOP_CRIU'] = before;
  }
  await counts(service);
  const frozen = await freeze(service);
  await frozen.abort();
  await counts(service);
  await driver.stop(service);
});

check('a restore waits for its memory at a gate, and leaves nothing if it is given up or bereft there', async () => {
  const [a, b] = [workload('gated', 'a'), workload('gated', 'b')];
  await driver.start(a);
  await counts(a);
  const early = await driver.freeze(a, AbortSignal.timeout(30_000));
  const at = count(a);
  await early.memory(AbortSignal.timeout(30_000), filesUnlisted);
  await copyInstance(a, b);
  await rename(join(b.path, 'memory'), join(b.path, 'kept-back'));
  await mkdir(join(b.path, 'memory'));
  await dieAfter('arrange', b);
  assert.equal(await driver.inspect(b), { state: 'stopped', pid: null });
  await driver.recover(b);
  const given = await driver.arrange(b, AbortSignal.timeout(30_000));
  await given.abandon();
  assert.equal(await driver.inspect(b), { state: 'stopped', pid: null });
  const empty = await rejection(prepare(b));
  assert.ok(isDeltahopError(empty, 'DELTAHOP_E_RESTORE'));
  assert.match(empty.message, /no complete image/);
  const arranged = await driver.arrange(b, AbortSignal.timeout(30_000));
  const busy = await rejection(driver.arrange(b, AbortSignal.timeout(1000)));
  assert.ok(isDeltahopError(busy, 'DELTAHOP_E_BUSY'));
  await rm(join(b.path, 'memory'), { recursive: true });
  await rename(join(b.path, 'kept-back'), join(b.path, 'memory'));
  const prepared = await arranged.prepare(AbortSignal.timeout(30_000));
  assert.is((await driver.inspect(b)).state, 'frozen');
  await early.commit();
  await prepared.commit();
  await counts(b);
  assert.is(count(a), at);
  await driver.stop(b);
});

check('recovery removes what is left of an operation that was over', async () => {
  const a = workload('half-removed', 'a');
  await driver.staging(a);
  const left = `${lxcLayout(a).operation}.old`;
  await mkdir(join(left, 'images'), { recursive: true });
  assert.equal(await driver.recover(a), { released: false });
  assert.not(existsSync(left));
  await driver.remove(a);
});

check('a restore whose configuration can not be written leaves no mount', async () => {
  const a = workload('unwritable', 'a');
  await driver.staging(a);
  const { config, merged } = lxcLayout(a);
  const obstructed = `${config}.new`;
  await mkdir(obstructed, { recursive: true });
  const refused = await rejection(driver.arrange(a, AbortSignal.timeout(30_000)));
  assert.is((refused as NodeJS.ErrnoException).code, 'EISDIR');
  // A mount that was still being made comes within a moment.
  for (let look = 0; look < 20; look++) {
    assert.not.match(readFileSync('/proc/self/mountinfo', 'utf8'), `${merged} `);
    await sleep(10);
  }
  await driver.remove(a);
});

check('if the agent dies and stays dead, a frozen service resumes and a held one is ended', async () => {
  const [a, b] = [workload('bereft', 'a'), workload('bereft', 'b')];
  await driver.start(a);
  await counts(a);
  await dieAfter('freeze', a);
  assert.is((await driver.inspect(a)).state, 'frozen');
  await copyInstance(a, b);
  await dieAfter('prepare', b);
  const at = count(a);
  assert.is((await driver.inspect(b)).state, 'frozen');
  const deadline = Date.now() + 45_000;
  while ((await driver.inspect(a)).state !== 'running' || (await driver.inspect(b)).state !== 'stopped') {
    if (Date.now() > deadline) throw new Error('they are held for longer than the barrier’s patience');
    await sleep(200);
  }
  await counts(a);
  assert.is(count(b), at, 'it never ran at the destination');
  for (const each of [a, b]) await driver.recover(each);
  await counts(a);
  await driver.stop(a);
});

/** Has another process do it and then kills that process, as a crash of the agent would. */
async function dieAfter(what: 'freeze' | 'arrange' | 'prepare', service: Workload): Promise<void> {
  const module = new URL('../../src/workload/lxc/lxc-driver.js', import.meta.url).href;
  const how = {
    freeze: '(await driver.freeze(service, signal)).memory(signal, new Promise(() => {}))',
    arrange: 'driver.arrange(service, signal)',
    prepare: '(await driver.arrange(service, signal)).prepare(signal)',
  };
  const program = `const { createLxcDriver } = await import(${JSON.stringify(module)});
    const [driver, signal, service] = [createLxcDriver(), AbortSignal.timeout(30_000), ${JSON.stringify(service)}];
    await (${how[what]});
    process.kill(process.pid, 'SIGKILL');`;
  const { signal, stderr } = await run([process.execPath, '--input-type=module', '-e', program], { check: false });
  assert.is(signal, 'SIGKILL', stderr);
}

check('names what can not be saved before and after it is tried', async () => {
  const watch = (directory: string) => ({
    ...workload('watcher', 'a'),
    command: [
      '/usr/bin/perl',
      '-e',
      // inotify_init1 and inotify_add_watch(…, IN_MODIFY), by their numbers on x86-64
      '$SIG{TERM} = sub { exit }; my $d = shift; mkdir $d; my $f = syscall 294, 0; syscall 254, $f, $d, 2; sleep 1 while 1',
      directory,
    ],
  });
  const watching = async (service: Workload) => {
    const { pid } = await driver.inspect(service);
    const deadline = Date.now() + 5000;
    const has = (fd: string) => /^inotify /m.test(readFileSync(`/proc/${pid}/fdinfo/${fd}`, 'utf8'));
    while (!readdirSync(`/proc/${pid}/fdinfo`).some(has)) {
      if (Date.now() > deadline) throw new Error('it does not begin to watch');
      await sleep(20);
    }
  };
  const inEtc = watch('/etc');
  await driver.start(inEtc);
  await watching(inEtc);
  assert.equal(await driver.obstacles(inEtc), []);
  await driver.round(inEtc, AbortSignal.timeout(30_000));
  await driver.stop(inEtc);
  const elsewhere = watch('/srv/watched');
  await driver.start(elsewhere);
  await watching(elsewhere);
  const [obstacleFound] = await driver.obstacles(elsewhere);
  assert.match(obstacleFound?.detail ?? '', /^perl \(\d+\) watches files/);
  const error = await rejection(driver.round(elsewhere, AbortSignal.timeout(30_000)));
  assert.ok(isDeltahopError(error, 'DELTAHOP_E_CHECKPOINT'));
  assert.match(error.message, /inotify/);
  assert.is((await driver.inspect(elsewhere)).state, 'running');
  await driver.stop(elsewhere);
});

check('recovery after an agent’s death lets a frozen service run on and ends a held one', async () => {
  const [a, b] = [workload('orphan', 'a'), workload('orphan', 'b')];
  await driver.start(a);
  await counts(a);
  // These objects are never asked for a verdict, as if the agent had died with them.
  const [dead, other]: WorkloadDriver[] = [createLxcDriver(), createLxcDriver()];
  await (await dead?.freeze(a, AbortSignal.timeout(30_000)))?.memory(AbortSignal.timeout(30_000), filesUnlisted);
  await copyInstance(a, b);
  await prepare(b, other);
  await driver.recover(b);
  assert.equal(await driver.inspect(b), { state: 'stopped', pid: null });
  await driver.recover(a);
  assert.is((await driver.inspect(a)).state, 'running');
  await counts(a);
  await driver.recover(a);
  const frozen = await freeze(a);
  await copyInstance(a, b);
  const prepared = await prepare(b);
  await frozen.commit();
  await prepared.commit();
  await counts(b);
  await driver.recover(b);
  await counts(b);
  await driver.stop(b);
});

check('nothing is left of all this', async () => {
  for (const each of made) await createLxcDriver().remove(each);
  const ids = made.map((each) => lxcLayout(each).id);
  for (const controller of ['freezer', 'memory', 'unified', '.']) {
    const at = join('/sys/fs/cgroup', controller);
    const names = existsSync(at) ? readdirSync(at) : [];
    assert.equal(
      names.filter((name) => ids.some((id) => name.includes(id))),
      [],
    );
  }
  assert.not.match(readFileSync('/proc/self/mountinfo', 'utf8'), new RegExp(`${directory}/`));
  const { stdout } = await run(['ip', '-brief', 'link']);
  assert.not.match(stdout, /^dh/m);
});

containers.run();
