/** QEMU's own live migration of the same guest: the disk by a mirror of its top image, the memory by its best codings. */
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { run } from '../../test/testbed/command.js';
import type { GuestImages } from '../../test/testbed/guest.js';
import type { TestbedNode } from '../../test/testbed/node.js';
import { Testbed } from '../../test/testbed/testbed.js';
import { address, booted, carried, type MoveRow, measured } from './measured.js';
import { Monitor } from './qmp.js';
import { rsyncSettings, withRsync } from './rsync.js';

/** One coding of memory. */
interface Coding {
  name: string;
  capabilities: string[];
  parameters: Record<string, unknown>;
}

const codings: readonly Coding[] = [
  {
    name: 'multifd with zstd, level 9',
    capabilities: ['multifd'],
    parameters: { 'multifd-channels': 2, 'multifd-compression': 'zstd', 'multifd-zstd-level': 9 },
  },
  { name: 'xbzrle', capabilities: ['xbzrle'], parameters: { 'xbzrle-cache-size': 256 * 1024 * 1024 } },
];

const tap = 'bench0';
const nbdPort = 10809;
const migrationPort = 10810;
const startLimitMs = 20_000;
const moveLimitMs = 600_000;

/** Every coding once, each with a guest that was just booted; its base and app are at both nodes. */
export async function liveMigrations(images: GuestImages): Promise<MoveRow[]> {
  const rows: MoveRow[] = [];
  for (const coding of codings) {
    rows.push(
      await withGuest(images, async (testbed, source) => {
        const destination = await startQemu(testbed.b, images, ['-S', '-incoming', 'defer']);
        try {
          return await withRsync(testbed, (send) =>
            measured(testbed, `QEMU, ${coding.name}`, async () => {
              // What it boots with is part of a machine: where it is not there, its next start would fail.
              await send(['-z'], [images.kernel, images.initrd]);
              await migrate(testbed, coding, source, destination);
              return null;
            }),
          );
        } finally {
          destination.close();
        }
      }),
    );
  }
  return rows;
}

/** The files of a machine that stands still: its memory, its devices, its own disk, and what it boots with. */
export async function rsyncMoves(images: GuestImages): Promise<MoveRow[]> {
  return await withGuest(images, async (testbed, source) => {
    const at = (name: string): string => join(testbed.a.stateDirectory, 'machine', name);
    await source.execute('stop');
    await setUp(source, ['x-ignore-shared'], {});
    await source.execute('migrate', { uri: `file:${at('state')}` });
    await source.event('MIGRATION', 'completed', moveLimitMs);
    const files = [images.kernel, images.initrd, at('ram'), at('state'), at('instance.qcow2')];
    return await withRsync(testbed, async (send) => {
      const rows: MoveRow[] = [];
      for (const options of rsyncSettings) {
        const before = await carried(testbed);
        const startedAt = performance.now();
        await send(options, files);
        const totalMs = Math.round(performance.now() - startedAt);
        const bytes = (await carried(testbed)) - before;
        rows.push({ way: `rsync ${options.join(' ')}`, bytes, totalMs, gapMs: null, final: null });
      }
      return rows;
    });
  });
}

/** Boots a guest on `a`, and lets it and its redis come to rest. */
async function withGuest<Result>(
  images: GuestImages,
  use: (testbed: Testbed, source: Monitor) => Promise<Result>,
): Promise<Result> {
  const testbed = await Testbed.create();
  try {
    const source = await startQemu(testbed.a, images, []);
    await booted(testbed);
    try {
      return await use(testbed, source);
    } finally {
      source.close();
    }
  } finally {
    await testbed.dispose();
  }
}

/** As deltahop starts it (src/workload/qemu/machine.ts), its memory a file too. */
async function startQemu(node: TestbedNode, images: GuestImages, more: readonly string[]): Promise<Monitor> {
  const directory = join(node.stateDirectory, 'machine');
  const at = (name: string): string => join(directory, name);
  await node.exec(['mkdir', '-p', directory]);
  await run(['qemu-img', 'create', '-q', '-f', 'qcow2', '-b', images.appRedis, '-F', 'qcow2', at('instance.qcow2')]);
  await node.exec(['ip', 'tuntap', 'add', 'dev', tap, 'mode', 'tap']);
  await node.exec(['ip', 'link', 'set', 'dev', tap, 'master', 'br0', 'up']);
  const memory = {
    'qom-type': 'memory-backend-file',
    id: 'ram',
    size: 512 * 1024 * 1024,
    'mem-path': at('ram'),
    share: true,
  };
  const disk = {
    driver: 'qcow2',
    'node-name': 'disk0',
    file: { driver: 'file', filename: at('instance.qcow2') },
    discard: 'unmap',
  };
  const args = ['-nodefaults', '-no-user-config', '-display', 'none', '-object', JSON.stringify(memory)];
  args.push('-machine', 'pc-q35-10.0,accel=tcg,memory-backend=ram', '-cpu', 'qemu64-v1', '-smp', '2', '-m', '512M');
  args.push(
    '-blockdev',
    JSON.stringify(disk),
    '-device',
    'virtio-blk-pci,drive=disk0,id=disk',
    '-device',
    'virtio-rng-pci',
  );
  args.push('-netdev', `tap,id=net0,ifname=${tap},script=no,downscript=no`);
  args.push('-device', 'virtio-net-pci,netdev=net0,mac=52:54:00:00:00:10,romfile=');
  args.push('-kernel', images.kernel, '-initrd', images.initrd, '-append', `root=/dev/vda ip=${address}/24 quiet`);
  args.push('-qmp', `unix:${at('qmp')},server=on,wait=off`, ...more);
  node.spawn(['qemu-system-x86_64', ...args], { stdio: ['ignore', 'inherit', 'inherit'] });
  for (const deadline = Date.now() + startLimitMs; ; await sleep(50)) {
    try {
      return await Monitor.connect(at('qmp'));
    } catch (error) {
      if (Date.now() > deadline) throw error;
    }
  }
}

async function setUp(monitor: Monitor, capabilities: string[], parameters: Record<string, unknown>): Promise<void> {
  const on = ['events', ...capabilities].map((capability) => ({ capability, state: true }));
  await monitor.execute('migrate-set-capabilities', { capabilities: on });
  await monitor.execute('migrate-set-parameters', { 'max-bandwidth': 10_000_000_000, ...parameters });
}

/** In the order in which libvirt does it (`--live --copy-storage-inc`). */
async function migrate(testbed: Testbed, coding: Coding, source: Monitor, destination: Monitor): Promise<void> {
  const { address: host } = testbed.b;
  const inet = { host, port: `${nbdPort}` };
  await destination.execute('nbd-server-start', { addr: { type: 'inet', data: inet } });
  await destination.execute('nbd-server-add', { device: 'disk0', writable: true });
  await source.execute('blockdev-add', {
    driver: 'nbd',
    'node-name': 'target',
    server: { type: 'inet', ...inet },
    export: 'disk0',
  });
  await source.execute('blockdev-mirror', { 'job-id': 'mirror', device: 'disk0', target: 'target', sync: 'top' });
  await source.event('BLOCK_JOB_READY', null, moveLimitMs);

  await setUp(destination, [...coding.capabilities, 'late-block-activate'], coding.parameters);
  await setUp(source, [...coding.capabilities, 'pause-before-switchover'], coding.parameters);
  const uri = `tcp:${host}:${migrationPort}`;
  await destination.execute('migrate-incoming', { uri });
  await source.execute('migrate', { uri });
  await source.event('MIGRATION', 'pre-switchover', moveLimitMs);
  await source.execute('block-job-cancel', { device: 'mirror' });
  await source.event('BLOCK_JOB_COMPLETED', null, moveLimitMs);
  await source.execute('migrate-continue', { state: 'pre-switchover' });
  await source.event('MIGRATION', 'completed', moveLimitMs);
  await destination.event('MIGRATION', 'completed', moveLimitMs);
  await destination.execute('nbd-server-stop');
  await destination.execute('cont');
}
