/** A virtual machine whose probe writes all the time moves there and back five times; then its file system is checked. */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { unsoundDisks } from '../faults/disks.js';
import { testUnless } from '../support/obstacle.js';
import { run } from '../testbed/command.js';
import { mustRun, type ProbeState } from '../testbed/probe/probe-service.js';
import { askAgent } from './support/agent-client.js';
import { hop } from './support/hop.js';
import { benchUnavailable, ProbeBench } from './support/probe-bench.js';
import { setUp } from './support/set-up.js';

const obstacle = benchUnavailable();
const check = testUnless(test, obstacle);

const hops = 10;

let bench: ProbeBench;
let before: ProbeState;

setUp(test, obstacle, async () => {
  bench = await ProbeBench.create({ driver: 'qemu', link: { rateBps: 300_000_000, delayMs: 2 } });
  before = await bench.client.state();
});

test.after(async () => {
  await bench?.testbed.dispose();
});

check('ten hops, each of them whole, its disks sound', async () => {
  const { testbed, service } = bench;
  for (let number = 0; number < hops; number++) {
    const [from, to] = number % 2 === 0 ? [testbed.a, testbed.b] : [testbed.b, testbed.a];
    const { summary, stderr } = await hop(from, service.name, to.agentAddress);
    assert.is(summary.error, undefined, stderr);
    assert.is(summary.result, 'moved');
    before = await bench.assertGoesOnFrom(before);
    await bench.assertConnectionWhole();
    assert.equal(await unsoundDisks(testbed, service.name), [], `after hop ${number + 1}`);
  }
});

check('the file system that it has written all the while is sound', async () => {
  const { testbed, service } = bench;
  bench.client.end();
  await mustRun(testbed.a, ['service', 'stop', service.name]);
  const flat = join(testbed.directory, 'flat');
  await run(['qemu-img', 'convert', '-O', 'raw', `json:${JSON.stringify(await chain())}`, flat]);
  // A guest that was too slow to switch itself off was killed: the journal is for its next mount then, as this one is.
  const mounted = join(testbed.directory, 'flat.mounted');
  await mkdir(mounted);
  await run(['mount', '-o', 'loop', flat, mounted]);
  await run(['umount', mounted]);
  const { code, stdout, stderr } = await run(['e2fsck', '-f', '-n', flat], { check: false });
  assert.is(code, 0, `${stdout}${stderr}`);
});

/** The machine's disk on node `a`, as its QEMU is given it: nothing that an image says of others counts. */
async function chain(): Promise<object> {
  const { a } = bench.testbed;
  const layers = await askAgent(a, (agent) => agent.layers());
  const content = (kind: string): string => {
    const digest = layers.find((layer) => layer.kind === kind)?.digest.replace('blake3:', '') ?? '';
    return join(a.stateDirectory, 'layers', digest, 'content/disk');
  };
  const workload = join(a.stateDirectory, 'services', bench.service.name, 'workload');
  const file = (filename: string): object => ({ driver: 'file', filename });
  return {
    driver: 'qcow2',
    file: file(join(workload, 'live/disk/instance.qcow2')),
    backing: {
      driver: 'qcow2',
      file: file(join(workload, 'app.qcow2')),
      'data-file': file(content('app')),
      backing: { driver: 'raw', file: file(content('base')) },
    },
  };
}

test.run();
