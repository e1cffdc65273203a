import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { cgroupVersion, type Hierarchy, parseHierarchies } from '../../../src/workload/cgroup-hierarchies.js';
import { Cgroup } from '../../../src/workload/lxc/cgroup.js';
import { yardOf } from '../../../src/workload/lxc/cgroup-yard.js';
import { overlayOptions } from '../../../src/workload/lxc/overlay.js';
import { parseMounts } from '../../../src/workload/mounts.js';
import { parseStat } from '../../../src/workload/process.js';

const cgroups = suite('cgroups');
let root = '';

cgroups.before.each(() => {
  root = mkdtempSync(join(tmpdir(), 'deltahop-cgroup-'));
});

cgroups.after.each(() => {
  rmSync(root, { recursive: true, force: true });
});

/** A directory with control files, as the kernel would make it. */
function fake(path: string, files: Record<string, string>): void {
  mkdirSync(join(root, path), { recursive: true });
  for (const [name, text] of Object.entries(files)) writeFileSync(join(root, path, name), text);
}

function text(path: string): string {
  return readFileSync(join(root, path), 'utf8');
}

const v2 = (): Hierarchy[] => [{ base: root, path: '/', version: 'v2', controllers: [] }];

const v1 = (): Hierarchy[] =>
  ['freezer', 'memory', 'cpu'].map((name) => ({
    base: join(root, name),
    path: '/',
    version: 'v1',
    controllers: [name],
  }));

cgroups('a machine with v1 hierarchies and a v2 tree beside', () => {
  const mountinfo = `30 24 0:26 / /sys/fs/cgroup rw shared:4 - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu rw shared:5 - cgroup cgroup rw,cpu
32 30 0:28 / /sys/fs/cgroup/freezer rw shared:6 - cgroup cgroup rw,freezer
33 30 0:29 / /sys/fs/cgroup/systemd rw shared:7 - cgroup cgroup rw,xattr,name=systemd
34 30 0:30 / /sys/fs/cgroup/memory rw shared:8 - cgroup cgroup rw,memory
35 30 0:31 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw
`;
  const found = parseHierarchies(mountinfo, '5:memory:/vm/7\n4:name=systemd:/init.scope\n2:freezer:/\n1:cpu:/\n0::/\n');
  assert.is(cgroupVersion(found), 'v1');
  const base = (controller: string) => found.find((each) => each.controllers.includes(controller))?.base;
  assert.is(base('freezer'), '/sys/fs/cgroup/freezer/');
  assert.is(base('memory'), '/sys/fs/cgroup/memory/vm/7');
  assert.is(new Cgroup('web-1', found).unifiedRoot, '/lxc.payload.web-1');
  assert.is(new Cgroup('web-1', found).intendedPayload, '/sys/fs/cgroup/freezer/lxc.payload.web-1');
});

cgroups('CRIU finds every hierarchy of a process by its name, or is left to look for itself', () => {
  const mount = (name: string, type: string, root = '/'): string =>
    `31 30 0:27 ${root} /sys/fs/cgroup${name} rw shared:5 - ${type} ${type} rw\n`;
  const v1 = `${mount('', 'tmpfs')}${mount('/cpu,cpuacct', 'cgroup')}${mount('/systemd', 'cgroup')}`;
  const hybrid = `${v1}${mount('/unified', 'cgroup2')}`;
  const cgroups = '3:cpu,cpuacct:/lxc.payload.web\n1:name=systemd:/lxc.payload.web\n0::/lxc.payload.web\n';
  assert.is(yardOf(hybrid, cgroups), '/sys/fs/cgroup');
  assert.is(yardOf(v1, cgroups), null, 'one is not mounted');
  assert.is(yardOf(`${v1}${mount('/unified', 'cgroup2', '/lxc')}`, cgroups), null, 'one is not mounted whole');
  assert.is(yardOf(`${hybrid}${mount('/systemd', 'tmpfs')}`, cgroups), null, 'one is hidden');
  assert.is(yardOf(mount('', 'cgroup2'), '0::/lxc.payload.web\n'), null, 'version 2 alone');
  assert.is(yardOf(hybrid, ''), null);
});

cgroups('a machine with v2 alone, process 1 in systemd’s init.scope', () => {
  const mountinfo = '30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n';
  const found = parseHierarchies(mountinfo, '0::/init.scope\n');
  assert.is(cgroupVersion(found), 'v2');
  assert.equal(
    found.map((each) => each.base),
    ['/sys/fs/cgroup/'],
  );
  assert.is(new Cgroup('web-1', found).unifiedRoot, '/lxc.payload.web-1');
});

cgroups('v2: frozen, thawed, limited', async () => {
  fake('lxc.payload.web-1', { 'cgroup.procs': '', 'cgroup.freeze': '1\n', 'memory.max': 'max\n', 'cpu.max': 'max\n' });
  const cgroup = new Cgroup('web-1', v2());
  assert.is(cgroup.version, 'v2');
  assert.is(await cgroup.isFrozen(), true);
  await cgroup.thaw();
  assert.is(text('lxc.payload.web-1/cgroup.freeze').trim(), '0\n'.trim());
  await cgroup.applyLimits({ memoryBytes: 64 << 20, cpus: 0.5 });
  assert.is(text('lxc.payload.web-1/memory.max'), String(64 << 20));
  assert.is(text('lxc.payload.web-1/cpu.max'), '50000 100000');
});

cgroups('v1: frozen, thawed, limited', async () => {
  fake('freezer/lxc.payload.web-1', { 'cgroup.procs': '', 'freezer.state': 'FREEZING\n' });
  fake('memory/lxc.payload.web-1', { 'memory.limit_in_bytes': '0' });
  fake('cpu/lxc.payload.web-1', { 'cpu.cfs_period_us': '0', 'cpu.cfs_quota_us': '-1' });
  const cgroup = new Cgroup('web-1', v1());
  assert.is(cgroup.version, 'v1');
  assert.is(await cgroup.isFrozen(), true);
  await cgroup.thaw();
  assert.match(text('freezer/lxc.payload.web-1/freezer.state'), /^THAWED/);
  await cgroup.applyLimits({ memoryBytes: 1 << 30, cpus: 2 });
  assert.is(text('memory/lxc.payload.web-1/memory.limit_in_bytes'), String(1 << 30));
  assert.is(text('cpu/lxc.payload.web-1/cpu.cfs_quota_us'), '200000');
  await cgroup.applyLimits({ memoryBytes: null, cpus: null });
  assert.is(text('memory/lxc.payload.web-1/memory.limit_in_bytes'), String(1 << 30), 'no limit changes nothing');
});

cgroups('shared and swapped memory is what the kernel has counted, with all that is below', async () => {
  fake('lxc.payload.web-1', { 'memory.stat': 'anon 5\nfile 90\nshmem 70\n', 'memory.swap.current': '3\n' });
  assert.is(await new Cgroup('web-1', v2()).sharedAndSwapped(), 73);
  const old = 'shmem 1\nswap 2\ntotal_cache 90\ntotal_shmem 40\ntotal_swap 9\n';
  fake('memory/lxc.payload.web-1', { 'memory.stat': old });
  assert.is(await new Cgroup('web-1', v1()).sharedAndSwapped(), 49);
  assert.is(await new Cgroup('web-2', v2()).sharedAndSwapped(), 0);
  fake('lxc.payload.web-3', {});
  assert.is(await new Cgroup('web-3', v2()).sharedAndSwapped(), 0, 'memory is not counted');
});

cgroups('only the container’s own cgroups are touched', async () => {
  for (const name of ['web-1', 'web-1-2', 'web-12', 'web-1-x', 'web', 'other']) {
    fake(`lxc.payload.${name}`, {});
    fake(`lxc.monitor.${name}`, {});
  }
  fake('lxc.payload.web-1-2/nested/deeper', {});
  await new Cgroup('web-1', v2()).removeEmpty();
  const left = ['web-1', 'web-1-2', 'web-12', 'web-1-x', 'web', 'other'].filter((name) =>
    existsSync(join(root, `lxc.payload.${name}`)),
  );
  assert.equal(left, ['web-12', 'web-1-x', 'web', 'other']);
  assert.not(existsSync(join(root, 'lxc.monitor.web-1')));
});

cgroups('processes of nested cgroups count; a process of ours is not a container’s first', async () => {
  fake('lxc.payload.web-1', { 'cgroup.procs': '' });
  fake('lxc.payload.web-1/system.slice', { 'cgroup.procs': `${process.pid}\n` });
  const cgroup = new Cgroup('web-1', v2());
  assert.equal(await cgroup.processes(), [process.pid]);
  assert.is(await cgroup.initPid(), null);
  assert.is(await cgroup.payload(), join(root, 'lxc.payload.web-1'));
});

cgroups('what is not there is no error', async () => {
  const cgroup = new Cgroup('web-1', v2());
  assert.is(await cgroup.payload(), null);
  assert.is(await cgroup.isFrozen(), false);
  await cgroup.thaw();
  await cgroup.applyLimits({ memoryBytes: 1 << 20, cpus: 1 });
  assert.is(await cgroup.kill(100), true);
  await cgroup.removeEmpty();
});

cgroups('mountinfo: escaped paths, super options', () => {
  const line = '99 24 0:50 / /mnt/a\\040b\\134c rw,relatime shared:9 - overlay overlay rw,lowerdir=/a:/b,upperdir=/u\n';
  assert.equal(parseMounts(line), [
    { mountPoint: '/mnt/a b\\c', root: '/', fileSystem: 'overlay', options: 'rw,lowerdir=/a:/b,upperdir=/u' },
  ]);
});

cgroups('overlay options: switched off what would not travel; no path that could be read as an option', () => {
  const overlay = { lower: ['/app', '/base'], upper: '/u', work: '/w', merged: '/m' };
  assert.is(
    overlayOptions(overlay),
    'lowerdir=/app:/base,upperdir=/u,workdir=/w,redirect_dir=off,metacopy=off,index=off,xino=off',
  );
  for (const path of ['/a:b', '/a,b', '/a b', '/a\\b', 'relative', '/a\nb', '/a"b']) {
    assert.throws(() => overlayOptions({ ...overlay, upper: path }), /can not be part of an overlay/);
  }
});

cgroups('/proc/PID/stat of a program whose name looks like fields', () => {
  const fields = Array.from({ length: 50 }, (_, index) => index + 4).join(' ');
  assert.equal(parseStat(`42 (a) S 1 (b) T ${fields}`), { pid: 42, state: 'T', startTime: '22' });
  assert.is(parseStat(''), null);
  assert.is(parseStat('42 (a) S 1'), null);
});

cgroups.run();
