/**
 * The main job, for real, on one machine: redis in a container moves from node A to node B over a slow link while one
 * TCP connection keeps writing and reading, and moves back. `--driver qemu`: in a virtual machine; `--driver libvirt`: in a domain
 * of libvirt's that is adopted. `--json` prints the
 * agents' events and one last summary.
 */
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import prettyBytes from 'pretty-bytes';
import prettyMilliseconds from 'pretty-ms';
import type { MigrationEvent, MigrationSummary } from '../../src/migrate/phases.js';
import { ended } from '../testbed/command.js';
import { guestArguments, guestImages } from '../testbed/guest.js';
import { defineGuest, startLibvirt } from '../testbed/libvirt.js';
import type { TestbedNode } from '../testbed/node.js';
import type { RedisReport } from '../testbed/redis-client.js';
import { rootFileSystems } from '../testbed/rootfs.js';
import { Testbed } from '../testbed/testbed.js';

const service = 'web';
const serviceAddress = '10.77.0.10';
const fillMib = 32;
/** How long the client goes on before, between and after the hops, so that its gaps are the hops' own. */
const restMs = 1500;

const { json, driver } = parseArgs({
  options: { json: { type: 'boolean', default: false }, driver: { type: 'string', default: 'lxc' } },
}).values;
if (driver !== 'lxc' && driver !== 'qemu' && driver !== 'libvirt') {
  throw new Error(`--driver is lxc, qemu or libvirt, not ${driver}`);
}

/** What saves and restores, by driver. */
const programs = { lxc: 'CRIU', qemu: 'QEMU', libvirt: 'libvirt' };

function say(text: string): void {
  if (!json) console.log(text);
}

async function mustSucceed(node: TestbedNode, args: readonly string[]): Promise<string> {
  const { code, stdout, stderr } = await node.cli(args, { timeoutMs: 300_000 });
  if (code !== 0)
    throw new Error(`deltahop ${args.join(' ')} on ${node.name}: ${stderr.trim() || `exit code ${code}`}`);
  return stdout.trim();
}

/** Runs `deltahop migrate` and shows what it says; the summary is the last thing it says. */
async function hop(from: TestbedNode, to: TestbedNode): Promise<MigrationSummary> {
  say(`\n${from.name} → ${to.name}`);
  const child = from.spawnCli(['migrate', service, to.agentAddress, '--json'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let summary: MigrationSummary | null = null;
  if (child.stdout !== null) {
    for await (const line of createInterface({ input: child.stdout })) {
      const event = JSON.parse(line) as MigrationEvent | MigrationSummary;
      if (event.type === 'summary') summary = event;
      else if (json) console.log(line);
      else show(event);
    }
  }
  await ended(child, 10_000);
  if (summary === null) throw new Error(`the migration from ${from.name} to ${to.name} ended without a summary`);
  const { result, totalMs, downtimeMs, downtime, bytesSent, bytesReceived, error } = summary;
  const traffic = `${prettyBytes(bytesSent)} sent, ${prettyBytes(bytesReceived)} received`;
  say(`  ${result} in ${prettyMilliseconds(totalMs)}, down for ${downtimeMs ?? '-'} ms, ${traffic}`);
  const stages = downtime.map(
    ({ stage, ms, driverMs }) =>
      `${stage} ${ms}${driverMs === undefined ? '' : ` (${programs[driver as keyof typeof programs]} ${driverMs})`}`,
  );
  if (stages.length > 0) say(`    ms of downtime: ${stages.join(', ')}`);
  if (error !== undefined) say(`  ${error.message}\n  → ${error.remedy}  [${error.code}]`);
  return summary;
}

function show(event: MigrationEvent): void {
  if (event.type === 'phase' && event.state === 'end') {
    const traffic = `${prettyBytes(event.bytesSent).padStart(9)} sent ${prettyBytes(event.bytesReceived).padStart(9)} received`;
    say(`  ${event.name.padEnd(9)} ${prettyMilliseconds(event.ms).padStart(7)}  ${traffic}`);
  } else if (event.type === 'round') {
    say(
      `    round ${event.round}: ${prettyBytes(event.bytesSent)} in ${prettyMilliseconds(event.ms)}, then: ${event.next}`,
    );
  } else if (event.type === 'warning') {
    say(`  warning: ${event.message}`);
  }
}

/** What the client saw, in the words of the summary. */
function clientFigures({ requests, lost, duplicated, reconnects, longestGapMs }: RedisReport): object {
  return { requests, lost, duplicated, reconnects, longestGapMs };
}

/** What is imported and said of the service in a container. */
async function container(): Promise<{ base: string; appRedis: string; description: string[] }> {
  const command = ['/usr/bin/redis-server', '--bind', '0.0.0.0', '--protected-mode', 'no', '--save', ''];
  const description = [
    '--driver',
    'lxc',
    '--set',
    `ip=${serviceAddress}/24`,
    '--',
    ...command,
    '--dir',
    '/var/lib/redis',
  ];
  return { ...(await rootFileSystems()), description };
}

/** The same in a virtual machine. */
async function virtualMachine(): Promise<{ base: string; appRedis: string; description: string[] }> {
  const images = await guestImages();
  return { ...images, description: guestArguments(images, `${serviceAddress}/24`) };
}

/** The same in a domain that a's libvirt has already. */
async function adoptDomain({ a, b }: Testbed): Promise<void> {
  const images = await guestImages();
  await Promise.all([startLibvirt(a), startLibvirt(b)]);
  await defineGuest(a, service, images, `${serviceAddress}/24`);
  const base = await mustSucceed(a, ['layer', 'import', '--kind', 'base', '--name', 'debian', images.base]);
  say(`  base layer debian ${base}`);
  const address = ['--set', `ip=${serviceAddress}/24`];
  say(`  ${await mustSucceed(a, ['service', 'adopt', `libvirt:${service}`, '--base', 'debian', ...address])}`);
}

/** What is imported, and a service described upon it. */
async function addService(
  a: TestbedNode,
  { base, appRedis, description }: Awaited<ReturnType<typeof container>>,
): Promise<void> {
  const baseDigest = await mustSucceed(a, ['layer', 'import', '--kind', 'base', '--name', 'debian', base]);
  const appDigest = await mustSucceed(a, [
    ...['layer', 'import', '--kind', 'app', '--name', 'redis', '--parent', 'debian', appRedis],
  ]);
  say(`  base layer debian ${baseDigest}\n  app layer redis   ${appDigest}`);
  await mustSucceed(a, ['service', 'add', service, '--base', 'debian', '--app', 'redis', ...description]);
}

async function demonstrate(testbed: Testbed): Promise<boolean> {
  const { a, b, user } = testbed;
  await Promise.all([a.startAgent(), b.startAgent()]);
  say('Two nodes, a 50 Mbit/s link of 20 ms round trip between them, and a user.');

  if (driver === 'libvirt') await adoptDomain(testbed);
  else await addService(a, await (driver === 'lxc' ? container() : virtualMachine()));
  say(`  ${await mustSucceed(a, ['service', 'start', service])}`);
  const client = await user.startRedisClient({ host: serviceAddress, fillMib });
  say(`  redis runs on a with ${fillMib} MiB of data; one client on one connection writes and reads`);

  const rest = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, restMs));
  await rest();
  const hops = [await hop(a, b)];
  await rest();
  if (hops[0]?.result === 'moved') hops.push(await hop(b, a));
  await rest();
  const report = await client.stop();
  const moved = hops.length === 2 && hops.every(({ result }) => result === 'moved');
  const { requests, lost, duplicated, reconnects, longestGapMs } = report;
  say(
    `\nThe client: ${requests} requests, ${lost} lost, ${duplicated} duplicated, ${reconnects} reconnects, longest gap ${longestGapMs} ms`,
  );
  if (json) {
    const result = moved ? 'moved' : 'failed';
    console.log(JSON.stringify({ type: 'summary', result, hops, client: clientFigures(report) }));
  }
  return moved && lost === 0 && duplicated === 0 && reconnects === 0;
}

const unavailable = Testbed.unavailable();
if (unavailable !== null) {
  console.error(`The demo can not run here: ${unavailable}`);
  process.exit(1);
}
const testbed = await Testbed.create();
let interrupted = false;
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, () => {
    interrupted = true;
    void testbed.dispose().finally(() => process.exit(130));
  });
}
try {
  process.exitCode = (await demonstrate(testbed)) ? 0 : 1;
} catch (error) {
  if (!interrupted) {
    console.error(error instanceof Error ? error.message : error);
    process.exitCode = 1;
  }
} finally {
  if (!interrupted) await testbed.dispose();
}
