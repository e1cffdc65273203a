/** A virtual machine that deltahop runs by QEMU itself: a real guest with redis. */
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { Qmp } from '../../src/workload/qemu/qmp.js';
import { testUnless } from '../support/obstacle.js';
import { mustRun } from '../testbed/probe/probe-service.js';
import { Testbed } from '../testbed/testbed.js';
import { MachineBench } from './support/machine-bench.js';
import { checkMoves } from './support/machine-moves.js';
import { setUp } from './support/set-up.js';

const obstacle = Testbed.unavailable();
const check = testUnless(test, obstacle);

let bench: MachineBench;

setUp(test, obstacle, async () => {
  bench = await MachineBench.create();
});

test.after(async () => {
  await bench?.testbed.dispose();
});

check('the command says what runs the machine', async () => {
  assert.match(bench.added, /runs (by KVM|without KVM \(tcg\))/);
  assert.is(await bench.stateOn(bench.testbed.a), 'owned running');
});

check('one that QEMU has stopped, as it does on a full disk, goes on when it is started again', async () => {
  const { a } = bench.testbed;
  const monitor = await Qmp.connect(join(a.stateDirectory, 'services', bench.service, 'workload/machine/qmp'));
  await monitor.execute('stop');
  monitor.close();
  assert.is(await bench.stateOn(a), 'owned frozen');
  await mustRun(a, ['service', 'start', bench.service]);
  assert.is(await bench.stateOn(a), 'owned running');
  await bench.assertClientWhole();
});

check('an agent that is told to stop ends, and its machine runs on', async () => {
  const { a } = bench.testbed;
  const before = bench.machines();
  await a.stopAgent();
  await bench.assertClientWhole();
  await a.startAgent();
  assert.is(await bench.stateOn(a), 'owned running');
  assert.equal(bench.machines(), before);
});

checkMoves(check, () => bench, {
  findings: ['running', 'qemu', 'qemu version', 'accelerator here', 'bridge', 'address', 'space', 'memory'],
  missingLayers: ['debian', 'redis'],
  // 47 million without.
  firstRoundBytes: 30_000_000,
  finalBytes: 1.5 * 1024 * 1024,
  moved: async () => {},
  removed: async () => {
    for (const node of [bench.testbed.a, bench.testbed.b]) {
      const { stdout } = await node.exec(['ip', '-oneline', 'link', 'show', 'type', 'tun']);
      assert.not.match(stdout, /: dh[0-9a-f]{12}/);
    }
  },
});

test.run();
