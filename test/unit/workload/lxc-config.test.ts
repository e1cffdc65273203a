import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { isDeltahopError } from '../../../src/errors.js';
import { containerConfig, parseSettings } from '../../../src/workload/lxc/config.js';
import { lxcLayout } from '../../../src/workload/lxc/layout.js';

function refusal(settings: Record<string, string>): string {
  try {
    parseSettings('web', settings);
  } catch (error) {
    assert.ok(isDeltahopError(error, 'DELTAHOP_E_INVALID_ARGUMENT'));
    return (error as Error).message;
  }
  throw new Error(`accepted ${JSON.stringify(settings)}`);
}

test('no settings: no network, no limits, its own name', () => {
  assert.equal(parseSettings('web', {}), { network: null, memoryBytes: null, cpus: null, hostname: 'web' });
});

test('all settings are read', () => {
  const settings = parseSettings('web', {
    ip: '10.77.0.10/24',
    gateway: '10.77.0.1',
    mac: '02:0A:4D:00:00:10',
    bridge: 'br1',
    tcp: 'close',
    memory: '1G',
    cpus: '1.5',
    hostname: 'edge-web',
  });
  assert.equal(settings, {
    network: { address: '10.77.0.10/24', gateway: '10.77.0.1', mac: '02:0a:4d:00:00:10', bridge: 'br1', tcp: 'close' },
    memoryBytes: 2 ** 30,
    cpus: 1.5,
    hostname: 'edge-web',
  });
});

test('a MAC made from the name is the same everywhere, another for another name, and a local unicast one', () => {
  const mac = (name: string) => parseSettings(name, { ip: '10.0.0.5/8' }).network?.mac ?? '';
  assert.is(mac('web'), mac('web'));
  assert.is.not(mac('web'), mac('web2'));
  assert.match(mac('web'), /^02(:[0-9a-f]{2}){5}$/);
});

test('each bad setting is refused by its name', () => {
  const bad: [Record<string, string>, RegExp][] = [
    [{ colour: 'red' }, /setting colour is not a setting.*ip, gateway/],
    [{ ip: '10.0.0.5' }, /setting ip .*10\.0\.0\.5\/24/],
    [{ ip: '10.0.0.5/33' }, /setting ip /],
    [{ ip: '10.0.0.5/0' }, /setting ip /],
    [{ ip: '10.0.0.256/24' }, /setting ip /],
    [{ ip: '10.0.0.5/24\nlxc.hook.start = /bin/sh' }, /setting ip /],
    [{ ip: '10.0.0.5/24', gateway: 'gw' }, /setting gateway /],
    [{ gateway: '10.0.0.1' }, /setting gateway means nothing without ip/],
    [{ ip: '10.0.0.5/24', bridge: 'a bridge' }, /setting bridge /],
    [{ ip: '10.0.0.5/24', bridge: 'br0123456789abcdef' }, /setting bridge /],
    [{ ip: '10.0.0.5/24', tcp: 'perhaps' }, /setting tcp must be keep or close/],
    [{ ip: '10.0.0.5/24', mac: '02:00:00:00:00' }, /setting mac /],
    [{ ip: '10.0.0.5/24', mac: '01:00:00:00:00:01' }, /setting mac .*group/],
    [{ memory: '12X' }, /setting memory /],
    [{ memory: '100' }, /setting memory .*1M/],
    [{ memory: '99999999999999T' }, /setting memory /],
    [{ cpus: '0' }, /setting cpus /],
    [{ cpus: '-1' }, /setting cpus /],
    [{ cpus: '1e9' }, /setting cpus /],
    [{ hostname: '-web' }, /setting hostname /],
    [{ hostname: 'web\nlxc.hook.start = x' }, /setting hostname /],
    [{ hostname: '' }, /setting hostname /],
  ];
  for (const [settings, message] of bad) assert.match(refusal(settings), message);
});

test('the configuration has every setting, and on the bridge only where told', () => {
  const settings = parseSettings('web', { ip: '10.77.0.10/24', gateway: '10.77.0.1' });
  const place = { root: '/state/web/merged', hostInterface: 'dh0123', cgroup: 'v1' } as const;
  const attached = containerConfig(settings, { ...place, bridge: 'attached' }).split('\n');
  for (const line of [
    'lxc.rootfs.path = dir:/state/web/merged',
    'lxc.uts.name = web',
    'lxc.net.0.type = veth',
    'lxc.net.0.link = br0',
    'lxc.net.0.veth.pair = dh0123',
    'lxc.net.0.ipv4.address = 10.77.0.10/24',
    'lxc.net.0.ipv4.gateway = 10.77.0.1',
    'lxc.cgroup.devices.deny = a',
    'lxc.cgroup.devices.allow = c 1:3 rwm',
  ]) {
    assert.ok(attached.includes(line), line);
  }
  const apart = containerConfig(settings, { ...place, bridge: 'apart', cgroup: 'v2' });
  assert.not.match(apart, /net\.0\.link/);
  // Of a v2 cgroup a lone denial would be a list of what is allowed: nothing.
  assert.match(apart, /^lxc\.cgroup2\.devices\.deny = a\nlxc\.cgroup2\.devices\.allow = c \*:\* m$/m);
  assert.match(apart, /^lxc\.cgroup2\.devices\.allow = c 1:3 rwm$/m);
  const bare = containerConfig(parseSettings('web', {}), { ...place, bridge: 'attached' });
  assert.match(bare, /^lxc\.net\.0\.type = empty$/m);
  assert.not.match(bare, /veth|ipv4/);
});

test('two nodes on one machine do not share a name that the kernel sees', () => {
  const a = lxcLayout({ name: 'web', path: '/state/a/services/web' });
  const b = lxcLayout({ name: 'web', path: '/state/b/services/web' });
  assert.is.not(a.id, b.id);
  assert.is.not(a.hostInterface, b.hostInterface);
  assert.ok(a.hostInterface.length <= 15);
  assert.equal(a, lxcLayout({ name: 'web', path: '/state/a/../a/services/web/' }));
});

test.run();
