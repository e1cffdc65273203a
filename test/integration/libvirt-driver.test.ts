/** A domain that libvirt has becomes a service: a real guest with redis. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { testUnless } from '../support/obstacle.js';
import { virsh } from '../testbed/libvirt.js';
import type { TestbedNode } from '../testbed/node.js';
import { Testbed } from '../testbed/testbed.js';
import { MachineBench } from './support/machine-bench.js';
import { checkMoves } from './support/machine-moves.js';
import { setUp } from './support/set-up.js';

const obstacle = Testbed.unavailable();
const check = testUnless(test, obstacle);

let bench: MachineBench;

setUp(test, obstacle, async () => {
  bench = await MachineBench.create('libvirt');
});

test.after(async () => {
  await bench?.testbed.dispose();
});

/** The domain of the service as a node's libvirt has it: its state, or that there is none. */
async function domainOn(node: TestbedNode): Promise<string> {
  const { code, stdout } = await virsh(node, ['domstate', `deltahop-${bench.service}`]);
  return code === 0 ? stdout.trim() : 'none';
}

check('what is adopted stays as it was, and says what of it is not kept', async () => {
  const { a } = bench.testbed;
  assert.is(await bench.stateOn(a), 'owned running');
  assert.is((await virsh(a, ['domstate', 'machine'])).stdout.trim(), 'shut off');
  const { settings, note } = await bench.inspect(a);
  assert.match(note ?? '', /runs without KVM \(tcg\)/);
  assert.not.match(settings['domain'] ?? '', /graphics|emulator|source|libvirt/);
});

check('a domain that runs, and one that is not there, are refused', async () => {
  const { a } = bench.testbed;
  for (const [name, code] of [
    [`deltahop-${bench.service}`, 'DELTAHOP_E_IN_USE'],
    ['nobody', 'DELTAHOP_E_NOT_FOUND'],
  ]) {
    const argv = ['service', 'adopt', `libvirt:${name}`, '--name', 'other', '--base', 'debian', '--json'];
    const refused = await a.cli(argv);
    assert.is(refused.code, 1);
    assert.match(refused.stdout, new RegExp(code ?? ''));
  }
});

checkMoves(check, () => bench, {
  findings: ['running', 'libvirt', 'libvirt version', 'qemu version', 'accelerator here', 'bridge', 'address'],
  missingLayers: ['debian', 'machine'],
  // All that its libvirt has written of it, devices and all, beside what the destination holds.
  // 39 million without.
  firstRoundBytes: 25_000_000,
  finalBytes: 8 * 1024 * 1024,
  moved: async () => {
    const { a, b } = bench.testbed;
    assert.equal([await domainOn(a), await domainOn(b)], ['none', 'running']);
  },
  removed: async () => {
    const { a, b } = bench.testbed;
    assert.equal([await domainOn(a), await domainOn(b)], ['none', 'none']);
  },
});

test.run();
