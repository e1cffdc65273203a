/** What a hostile node could send as a machine's disk. */
import { spawnSync } from 'node:child_process';
import { mkdirSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { checkInstanceImage, makeInstanceImage } from '../../../src/workload/machine/instance-image.js';
import { testUnless } from '../../support/obstacle.js';
import { rejection } from '../../support/rejection.js';
import { withScratch } from '../../support/scratch.js';

const test = suite('workload/qemu-image');
const missing =
  spawnSync('qemu-img', ['--version']).status === 0 ? null : 'qemu-img is missing: run test/setup/prepare.sh';
const check = testUnless(test, missing);

function create(path: string, ...options: string[]): void {
  const { status, stderr } = spawnSync('qemu-img', ['create', '-q', '-f', 'qcow2', ...options, path, '1M']);
  assert.is(status, 0, String(stderr));
}

check('a new disk is as long as the app’s and may be opened; making it again changes nothing', () =>
  withScratch(async (directory) => {
    const app = join(directory, 'app');
    mkdirSync(app);
    writeFileSync(join(app, 'disk'), '');
    truncateSync(join(app, 'disk'), 5 << 20);
    const path = join(directory, 'disk/instance.qcow2');
    await makeInstanceImage(path, app);
    await makeInstanceImage(path, app);
    await checkInstanceImage(path);
    const { stdout } = spawnSync('qemu-img', ['info', '--output=json', path], { encoding: 'utf8' });
    assert.is(JSON.parse(stdout)['virtual-size'], 5 << 20);
  }),
);

check('an image that leads to another file is refused', () =>
  withScratch(async (directory) => {
    const at = (name: string): string => join(directory, name);
    const refused = async (path: string, why: RegExp): Promise<void> => {
      assert.match(await rejection(checkInstanceImage(path), 'DELTAHOP_E_CORRUPT'), why);
    };
    create(at('data'), '-o', `data_file=${at('secret')}`);
    await refused(at('data'), /data elsewhere/);
    create(at('parent'), '-b', at('data'), '-F', 'qcow2', '-u');
    await refused(at('parent'), /a parent of its own/);
    create(at('locked'), '-o', 'encrypt.format=aes,encrypt.key-secret=key', '--object', 'secret,id=key,data=123456');
    await refused(at('locked'), /encrypted/);
    create(at('old'), '-o', 'compat=0.10');
    await refused(at('old'), /version 3/);
    symlinkSync('/etc/hostname', at('link'));
    await refused(at('link'), /not a file/);
    writeFileSync(at('short'), 'QFI');
    await refused(at('short'), /not qcow2/);
  }),
);

test.run();
