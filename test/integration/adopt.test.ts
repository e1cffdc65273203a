/** A container that deltahop did not make becomes a service, moves, and its data with it. */
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { ServiceView } from '../../src/agent/messages.js';
import { testUnless } from '../support/obstacle.js';
import { run } from '../testbed/command.js';
import { mustRun } from '../testbed/probe/probe-service.js';
import { rootFileSystems } from '../testbed/rootfs.js';
import { Testbed } from '../testbed/testbed.js';
import { hop } from './support/hop.js';
import { setUp } from './support/set-up.js';

const obstacle = Testbed.unavailable();
const check = testUnless(test, obstacle);

const address = '10.77.0.40';
let testbed: Testbed;
let container: string;

setUp(test, obstacle, async () => {
  testbed = await Testbed.create();
  const { a, b, id, directory } = testbed;
  await Promise.all([a.startAgent(), b.startAgent()]);
  const { base, appRedis } = await rootFileSystems();
  await mustRun(a, ['layer', 'import', '--kind', 'base', '--name', 'debian', base]);
  // As lxc-create leaves one: a directory with a configuration and a plain root, and files of its own in it.
  container = join(directory, 'their-lxc', `shop-${id}`);
  await mkdir(container, { recursive: true });
  await run(['cp', '--archive', appRedis, join(container, 'rootfs')]);
  await writeFile(join(container, 'rootfs/srv/of-its-own'), 'kept\n');
  await writeFile(
    join(container, 'config'),
    `lxc.include = /usr/share/lxc/config/common.conf
lxc.rootfs.path = dir:${join(container, 'rootfs')}
lxc.uts.name = shop
lxc.net.0.type = veth
lxc.net.0.link = br0
lxc.net.0.ipv4.address = ${address}/24
lxc.cgroup2.memory.max = 256M
`,
  );
});

test.after(async () => {
  await testbed?.dispose();
});

check('an existing container becomes a service that moves', async () => {
  const { a, b, user, id } = testbed;
  const name = `shop-${id}`;
  const command = ['/usr/bin/redis-server', '--bind', '0.0.0.0', '--protected-mode', 'no', '--save', ''];
  const undecided = await a.cli(['service', 'adopt', `lxc:${container}`, '--base', 'debian']);
  assert.is(undecided.code, 1);
  assert.match(undecided.stderr, /init system/);
  await mustRun(a, ['service', 'adopt', `lxc:${container}`, '--base', 'debian', '--', ...command]);
  const view = JSON.parse(await mustRun(a, ['service', 'inspect', name, '--json'])) as ServiceView;
  assert.equal(view.settings, { hostname: 'shop', memory: '256M', ip: `${address}/24`, bridge: 'br0' });
  assert.equal(view.command, command);
  const { layers } = JSON.parse(await mustRun(a, ['layer', 'list', '--json'])) as {
    layers: { name: string; kind: string; files: number; bytes: number }[];
  };
  const [baseLayer, app] = [layers.find(({ kind }) => kind === 'base'), layers.find(({ kind }) => kind === 'app')];
  assert.is(app?.name, name);
  assert.ok((app?.bytes ?? 0) < (baseLayer?.bytes ?? 0) / 2, 'what the base has was not copied');

  await mustRun(a, ['service', 'start', name]);
  const client = await user.startRedisClient({ host: address });
  const moved = await hop(a, name, b.agentAddress);
  assert.is(moved.summary.result, 'moved', JSON.stringify(moved.summary.error));
  const { lost, duplicated, reconnects } = await client.stop();
  assert.equal([lost, duplicated, reconnects], [0, 0, 0]);
  const { pid } = JSON.parse(await mustRun(b, ['service', 'inspect', name, '--json'])) as ServiceView;
  assert.is((await b.exec(['cat', `/proc/${pid}/root/srv/of-its-own`])).stdout, 'kept\n');
});

check('one that runs, and one that is not there, are refused', async () => {
  const { a, directory, id } = testbed;
  const nowhere = await a.cli(['service', 'adopt', `lxc:${directory}/nobody`, '--base', 'debian', '--json']);
  assert.is(nowhere.code, 1);
  assert.match(nowhere.stdout, /DELTAHOP_E_NOT_FOUND/);
  const paths = ['-n', `shop-${id}`, '-P', join(directory, 'their-lxc')];
  const config = ['-s', 'lxc.net.0.type=empty', '-s', 'lxc.net.0.link='];
  await a.exec(['lxc-start', ...paths, '-s', 'lxc.init.cmd=/usr/bin/sleep 600', ...config]);
  try {
    const runs = await a.cli(['service', 'adopt', `lxc:${container}`, '--name', 'other', '--base', 'debian', '--json']);
    assert.is(runs.code, 1);
    assert.match(runs.stdout, /DELTAHOP_E_IN_USE/);
  } finally {
    await a.exec(['lxc-stop', '-k', ...paths]);
  }
});

test.run();
