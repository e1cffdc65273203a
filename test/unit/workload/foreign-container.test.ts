import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { isDeltahopError } from '../../../src/errors.js';
import { describeContainer, readAnswers } from '../../../src/workload/lxc/foreign-container.js';

/** As lxc-info 5.0 prints it. */
const output = `State:          STOPPED
lxc.rootfs.path = /srv/lxc/shop/rootfs
lxc.idmap =
lxc.uts.name = shop
lxc.init.cmd = /usr/bin/redis-server --port 6379
lxc.net.0.type = veth
lxc.net.0.link = br1
lxc.net.0.hwaddr = 02:00:00:11:22:33
lxc.net.0.ipv4.address = 10.77.0.30/24
lxc.net.0.ipv4.gateway = 10.77.0.1
lxc.mount.entry = /sys/fs/fuse/connections sys/fs/fuse/connections none bind,optional 0 0
/proc/x proc/x none bind 0 0

lxc.cgroup2.memory.max = 256M

lxc.cgroup2.cpu.max = 50000 100000

lxc.environment = LANG=C
TZ=UTC

`;

const nothing = { settings: {}, command: [] };

function refusal(text: string, code: string): string {
  try {
    describeContainer('shop', readAnswers(text), nothing);
  } catch (error) {
    assert.ok(isDeltahopError(error));
    assert.is(error.code, code);
    return error.message;
  }
  throw new Error('it was accepted');
}

test('what a container is configured with becomes the service’s settings', () => {
  const { path, settings, command, notes } = describeContainer('shop', readAnswers(output), nothing);
  assert.is(path, '/srv/lxc/shop/rootfs');
  assert.equal(settings, {
    hostname: 'shop',
    memory: '256M',
    cpus: '0.5',
    ip: '10.77.0.30/24',
    bridge: 'br1',
    mac: '02:00:00:11:22:33',
    gateway: '10.77.0.1',
  });
  assert.equal(command, ['/usr/bin/redis-server', '--port', '6379']);
  assert.is(notes.length, 2);
  assert.match(notes[1] ?? '', /TZ=UTC/);
});

test('what the caller says comes before what the container says', () => {
  const given = { settings: { ip: '10.0.0.9/24', memory: '1G' }, command: ['/bin/app'] };
  const { settings, command } = describeContainer('shop', readAnswers(output), given);
  assert.is(settings['ip'], '10.0.0.9/24');
  assert.is(settings['memory'], '1G');
  assert.equal(command, ['/bin/app']);
});

test('what can not become a service is refused by its name', () => {
  const unsupported = 'DELTAHOP_E_UNSUPPORTED';
  const with_ = (line: string): string => output.replace(/\n$/, `${line}\n`);
  assert.match(refusal(output.replace('/srv/lxc/shop/rootfs', 'overlay:/a:/b'), unsupported), /overlay:\/a:\/b/);
  assert.match(refusal(output.replace('lxc.idmap =', 'lxc.idmap = u 0 100000 65536'), unsupported), /idmap/);
  assert.match(refusal(output.replace('/proc/x proc/x', '/srv/data data'), unsupported), /\/srv\/data/);
  assert.match(refusal(output.replace('type = veth', 'type = macvlan'), unsupported), /macvlan/);
  assert.match(refusal(with_('lxc.net.1.type = veth'), unsupported), /more than one/);
});

test('what it leaves open has to be said', () => {
  const invalid = 'DELTAHOP_E_INVALID_ARGUMENT';
  assert.match(refusal(output.replace(/^lxc.init.cmd.*$/m, 'lxc.init.cmd ='), invalid), /init system/);
  assert.match(
    refusal(output.replace(/^lxc.net.0.ipv4.address.*$/m, 'lxc.net.0.ipv4.address ='), invalid),
    /--set ip=/,
  );
});

test('no limit is none, and no network is none', () => {
  const bare = output
    .replace('256M', 'max')
    .replace('50000 100000', 'max 100000')
    .replace('type = veth', 'type = empty');
  assert.equal(describeContainer('shop', readAnswers(bare), nothing).settings, { hostname: 'shop' });
});

test.run();
