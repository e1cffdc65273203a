/** What of a domain can go to another node, and what a peer's may not bring. */
import { DOMParser } from '@xmldom/xmldom';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { placedDomain, portableDomain, UnportableDomain } from '../../../src/workload/libvirt/domain-xml.js';
import { describeDomain } from '../../../src/workload/libvirt/foreign-domain.js';
import { parseSettings } from '../../../src/workload/libvirt/settings.js';

const disk = `<disk type='file' device='disk'>
  <driver name='qemu' type='qcow2' cache='none'/><source file='/images/shop.qcow2'/><target dev='vda' bus='virtio'/>
  <address type='pci' domain='0x0000' bus='0x02' slot='0x00' function='0x0'/>
</disk>`;
const card = `<interface type='bridge'>
  <mac address='52:54:00:01:02:03'/><source bridge='br7'/><target dev='vnet3'/><model type='virtio'/>
</interface>`;

function domain({ devices = disk, more = '', os = '', cpu = '' } = {}): string {
  return `<domain type='qemu' id='3'>
  <name>shop</name><uuid>57fa73c5-00dc-4b8c-b533-80011d339fe9</uuid>
  <description>of its owner's &amp; nobody else's</description>
  <memory unit='KiB'>524288</memory><vcpu placement='static' cpuset='0-3'>2</vcpu>
  <os><type arch='x86_64' machine='pc-q35-10.0'>hvm</type>${os}</os>
  <features><acpi/></features>${cpu}${more}
  <devices><emulator>/opt/qemu</emulator>${devices}</devices>
</domain>`;
}

const place = {
  name: 'deltahop-shop',
  kernel: null,
  initrd: null,
  network: { mac: '02:00:00:00:00:01', bridge: 'br0' },
  base: '/state/base/disk',
  appTables: '/state/app.qcow2',
  appData: '/state/app/disk',
  instance: '/state/a & b/instance.qcow2',
};

test('what belongs to a node is taken out, and what belongs to the machine stays', () => {
  const { domain: portable, parts } = portableDomain(domain({ devices: `${disk}${card}` }));
  assert.equal(parts, {
    diskPath: '/images/shop.qcow2',
    kernel: null,
    initrd: null,
    mac: '52:54:00:01:02:03',
    bridge: 'br7',
    notes: [],
  });
  assert.not.match(portable.xml, /shop|emulator|cpuset|vnet3|br7|cache|owner|id='3'|id="3"/);
  assert.match(portable.xml, /57fa73c5/);
  assert.match(portable.xml, /<address type="pci" domain="0x0000" bus="0x02"/);
  assert.is(portable.memoryBytes, 512 * 1024 * 1024);
  assert.is(portable.diskTarget, 'vda');
  assert.equal(portableDomain(portable.xml).domain, portable, 'taking out once more changes nothing');
});

test('a node puts its own chain and network in', () => {
  const { domain: portable } = portableDomain(domain({ devices: `${disk}${card}` }));
  const document = new DOMParser().parseFromString(placedDomain(portable, place), 'text/xml');
  const files = [...document.getElementsByTagName('source')].map((source) => source.getAttribute('file'));
  assert.equal(files, [place.instance, place.appTables, place.appData, place.base, null]);
  assert.is(document.getElementsByTagName('name')[0]?.textContent, 'deltahop-shop');
  assert.is(document.getElementsByTagName('mac')[0]?.getAttribute('address'), place.network.mac);
  const chain = [...document.getElementsByTagName('backingStore')];
  assert.is(chain.length, 3);
  assert.is(chain.at(-1)?.childNodes.length, 0, 'the chain ends where it is said to');
});

test('its kernel is kept beside it, under the path of each node', () => {
  const os = '<kernel>/boot/vmlinuz</kernel><initrd>/boot/initrd</initrd><cmdline>root=/dev/vda</cmdline>';
  const { domain: portable, parts } = portableDomain(domain({ os }));
  assert.equal([parts.kernel, parts.initrd], ['/boot/vmlinuz', '/boot/initrd']);
  assert.not.match(portable.xml, /vmlinuz/);
  assert.match(placedDomain(portable, { ...place, kernel: '/state/kernel' }), /<kernel>\/state\/kernel<\/kernel>/);
});

for (const [what, parts, why] of [
  [
    'a directory of the node',
    { devices: `${disk}<filesystem type='mount'><source dir='/'/></filesystem>` },
    /filesystem/,
  ],
  ['a device of the node', { devices: `${disk}<hostdev mode='subsystem' type='pci'/>` }, /hostdev/],
  [
    'an input device of the node',
    { devices: `${disk}<input type='evdev'><source dev='/dev/input/event0'/></input>` },
    /evdev/,
  ],
  [
    'a file for its console',
    { devices: `${disk}<serial type='file'><source path='/etc/cron.d/x'/></serial>` },
    /serial/,
  ],
  ['a second disk', { devices: `${disk}${disk}` }, /2 disks/],
  ['no disk', { devices: '' }, /0 disks/],
  ['a medium', { devices: `${disk}<disk device='cdrom'><source file='/x.iso'/></disk>` }, /cdrom/],
  ['arguments for QEMU', { more: "<commandline xmlns='http://libvirt.org/schemas/domain/qemu/1.0'/>" }, /commandline/],
  ['a core file', { more: '<on_crash>coredump-destroy</on_crash>' }, /on_crash/],
  ['the processor of the node', { cpu: "<cpu mode='host-passthrough'/>" }, /host-passthrough/],
  ['variables of UEFI', { os: '<nvram>/var/lib/x</nvram>' }, /nvram/],
  ['huge pages', { more: '<memoryBacking><hugepages/></memoryBacking>' }, /memoryBacking/],
] as const) {
  test(`a domain with ${what} is refused, from its owner and from a peer`, () => {
    const xml = domain(parts);
    assert.throws(
      () => portableDomain(xml),
      (error: unknown) => error instanceof UnportableDomain && why.test(error.message),
    );
    assert.throws(
      () => parseSettings('shop', { domain: xml }),
      (error: { code?: string }) => error.code === 'DELTAHOP_E_INVALID_ARGUMENT',
    );
    assert.throws(
      () => describeDomain('shop', xml, {}),
      (error: { code?: string }) => error.code === 'DELTAHOP_E_UNSUPPORTED',
    );
  });
}

test('a peer’s source is never a file here, whatever stands beside it', () => {
  const evil = disk.replace(
    "<target dev='vda'",
    "<backingStore type='file'><source file='/etc/shadow'/></backingStore><target dev='vda'",
  );
  const { domain: portable } = parseSettings('shop', { domain: domain({ devices: evil }) });
  assert.not.match(placedDomain(portable, place), /shadow|images/);
  const rng = "<rng model='virtio'><backend model='random'>/dev/sda</backend></rng>";
  assert.match(parseSettings('shop', { domain: domain({ devices: disk + rng }) }).domain.xml, />\/dev\/urandom</);
});

test('what is no XML, or declares entities, is refused in words', () => {
  for (const xml of [
    '',
    '<domain',
    '<!DOCTYPE d [<!ENTITY x SYSTEM "file:///etc/passwd">]><domain type="kvm">&x;</domain>',
  ]) {
    assert.throws(
      () => portableDomain(xml),
      (error: unknown) => error instanceof UnportableDomain,
    );
  }
});

test('an adopted domain has a number of its own, and its address has to be said', () => {
  const xml = domain({ devices: `${disk}${card}` });
  assert.throws(
    () => describeDomain('shop', xml, {}),
    (error: { message?: string }) => /--set ip=/.test(error.message ?? ''),
  );
  const { path, settings, notes } = describeDomain('shop', xml, { ip: '10.0.0.6/24' });
  assert.is(path, '/images/shop.qcow2');
  assert.equal([settings['mac'], settings['bridge'], settings['ip']], ['52:54:00:01:02:03', 'br7', '10.0.0.6/24']);
  assert.not.match(settings['domain'] ?? '', /57fa73c5/);
  assert.match(settings['domain'] ?? '', /<uuid>[0-9a-f-]{36}<\/uuid>/);
  assert.is(notes.length, 1);
  assert.is(parseSettings('shop', settings).network?.bridge, 'br7');
});

test.run();
