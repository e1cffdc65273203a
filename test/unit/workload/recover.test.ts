/** What an agent that was killed leaves beside a driver's own files. */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Workload, WorkloadDriver } from '../../../src/workload/driver.js';
import { lxcLayout } from '../../../src/workload/lxc/layout.js';
import { createLxcDriver } from '../../../src/workload/lxc/lxc-driver.js';
import { machineLayout } from '../../../src/workload/machine/layout.js';
import { createQemuDriver } from '../../../src/workload/qemu/qemu-driver.js';
import { testUnless } from '../../support/obstacle.js';
import { withScratch } from '../../support/scratch.js';

const test = suite('workload/recover');
const missing = spawnSync('ip', ['-V']).status === 0 ? null : 'ip is missing: run test/setup/prepare.sh';
const check = testUnless(test, missing);

const drivers: [WorkloadDriver, (workload: Workload) => string[]][] = [
  [createLxcDriver(), (workload) => [lxcLayout(workload).config]],
  [
    createQemuDriver(),
    (workload) => {
      const { kernel, initrd, appImage } = machineLayout(workload);
      return [kernel, initrd, appImage];
    },
  ],
];

for (const [driver, filesOf] of drivers) {
  check(`${driver.name}: files that were being replaced stay as they were, and nothing lies beside them`, () =>
    withScratch(async (directory) => {
      const [path, basePath, appPath] = [join(directory, 'workload'), join(directory, 'base'), join(directory, 'app')];
      const layers = { base: 'base', app: 'app', basePath, appPath };
      const workload: Workload = { name: 'web', path, ...layers, settings: {}, command: [] };
      for (const file of filesOf(workload)) {
        mkdirSync(dirname(file), { recursive: true });
        writeFileSync(file, 'whole');
        writeFileSync(`${file}.new`, 'ha');
      }
      assert.equal(await driver.recover(workload), { released: false });
      for (const file of filesOf(workload)) {
        assert.is(readFileSync(file, 'utf8'), 'whole');
        assert.not.ok(existsSync(`${file}.new`));
      }
    }),
  );
}

test.run();
