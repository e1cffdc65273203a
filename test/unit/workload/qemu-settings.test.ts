import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { isDeltahopError } from '../../../src/errors.js';
import { qemuLayout } from '../../../src/workload/qemu/layout.js';
import { machineArguments } from '../../../src/workload/qemu/machine.js';
import { parseSettings, pinned } from '../../../src/workload/qemu/settings.js';

const test = suite('workload/qemu-settings');

test('what was not said is filled in and stays', () => {
  const complete = pinned({ memory: '1G' }, 'tcg');
  assert.equal(complete, {
    memory: '1G',
    cpus: '1',
    machine: 'pc-q35-10.0',
    cpu: 'qemu64-v1',
    accelerator: 'tcg',
  });
  assert.equal(pinned(complete, 'kvm'), complete, 'another node does not change it');
});

test('settings are refused by name', () => {
  const refusals: [Record<string, string>, RegExp][] = [
    [{ colour: 'red' }, /colour is not a setting of qemu services/],
    [{ memory: 'much' }, /memory must be/],
    [{ memory: '1048577' }, /multiple of 4096/],
    [{ cpus: '0.5' }, /cpus must be a whole number/],
    [{ kernel: 'vmlinuz' }, /kernel must be an absolute path/],
    [{ initrd: '/initrd' }, /initrd means nothing without kernel/],
    [{ append: 'quiet' }, /append means nothing without kernel/],
    [{ machine: 'q35' }, /must be a type with a version/],
    [{ machine: 'pc-q35-10.0,accel=kvm' }, /must be a plain name/],
    [{ cpu: 'host,migratable=off' }, /must be a plain name/],
    [{ accelerator: 'xen' }, /must be kvm or tcg/],
    [{ bridge: 'br0' }, /bridge means nothing without ip/],
    [{ ip: '10.0.0.1' }, /ip must be an IPv4 address with a prefix length/],
  ];
  for (const [settings, message] of refusals) {
    try {
      parseSettings('vm', settings);
    } catch (error) {
      assert.ok(isDeltahopError(error, 'DELTAHOP_E_INVALID_ARGUMENT'), String(error));
      assert.match(error.message, message);
      continue;
    }
    assert.unreachable(JSON.stringify(settings));
  }
});

test('a machine is built from its settings and from nothing that an image says', () => {
  const layout = qemuLayout({ name: 'vm', path: '/srv/a,b' });
  const settings = parseSettings('vm', { memory: '256M', cpus: '2', ip: '10.0.0.5/24', kernel: '/k', append: 'a,b' });
  const args = machineArguments({ basePath: '/base', appPath: '/app' }, layout, settings, 'incoming');
  const after = (option: string): string[] => args.filter((_, index) => args[index - 1] === option);
  assert.equal(after('-m'), ['268435456B']);
  assert.equal(after('-append'), ['a,b']);
  assert.equal(after('-kernel'), ['/srv/a,b/live/boot/kernel'], 'its own copy, whatever this node has at /k');
  const nodes = after('-blockdev').map((text) => JSON.parse(text));
  assert.equal(
    nodes.map((node) => [node['node-name'], node['read-only'] ?? false]),
    [
      ['base-file', true],
      ['base', true],
      ['app-file', true],
      ['app-data', true],
      ['app', true],
      ['instance-file', false],
      ['instance', false],
    ],
  );
  const chain = Object.fromEntries(nodes.map((node) => [node['node-name'], node.backing]));
  assert.equal([chain.instance, chain.app, chain.base], ['app', 'base', undefined]);
  assert.ok(args.includes('-S') && after('-incoming')[0] === 'defer', 'it waits');
  assert.not(machineArguments({ basePath: '/base', appPath: '/app' }, layout, settings, 'boot').includes('-S'));
});

test.run();
