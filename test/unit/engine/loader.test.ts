import { execFileSync, spawnSync } from 'node:child_process';
import { copyFileSync, cpSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { loadAddon } from '../../../src/engine/loader.js';
import { withScratch } from '../../support/scratch.js';

const compiled = fileURLToPath(new URL('../../../src', import.meta.url));

/** A copy of the compiled engine in a place where there is no build. */
function copyEngine(to: string): void {
  cpSync(join(compiled, 'engine'), join(to, 'dist/src/engine'), { recursive: true });
  copyFileSync(join(compiled, 'errors.js'), join(to, 'dist/src/errors.js'));
  writeFileSync(join(to, 'package.json'), '{"type":"module"}');
}

/** Loads the engine at `at` in a Node of its own: the digest of nothing, or the error's code and message. */
function loadAt(at: string, env: Record<string, string> = {}): string {
  const script = `
    const { loadEngine } = await import(${JSON.stringify(join(at, 'dist/src/engine/engine.js'))});
    try { console.log(loadEngine().digest(new Uint8Array(0))); }
    catch (error) { console.log(error.code + ' ' + error.message + ' | ' + error.remedy); }`;
  const inherited = { ...process.env };
  delete inherited['DELTAHOP_NATIVE_PATH'];
  delete inherited['DELTAHOP_ENGINE'];
  const { stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', script], {
    encoding: 'utf8',
    env: { ...inherited, ...env },
  });
  return (stdout + stderr).trim();
}

const digestOfNothing = 'blake3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262';

test('without an addon the error lists what was tried and the way out', () =>
  withScratch(async (directory) => {
    copyEngine(directory);
    const said = loadAt(directory);
    assert.match(said, /^DELTAHOP_E_NATIVE_UNAVAILABLE no native engine for Node v/);
    assert.match(said, join(directory, 'build/addon/Release/deltahop.node'));
    assert.match(said, '@deltahop/native-');
    assert.match(said, 'npm run build');
  }));

test('DELTAHOP_NATIVE_PATH names the file, and no other is tried', () =>
  withScratch(async (directory) => {
    copyEngine(directory);
    const { path } = loadAddon();
    assert.is(loadAt(directory, { DELTAHOP_NATIVE_PATH: path }), digestOfNothing);
    mkdirSync(join(directory, 'build/addon/Release'), { recursive: true });
    copyFileSync(path, join(directory, 'build/addon/Release/deltahop.node'));
    assert.is(loadAt(directory), digestOfNothing);
    const said = loadAt(directory, { DELTAHOP_NATIVE_PATH: join(directory, 'absent.node') });
    assert.match(said, /^DELTAHOP_E_NATIVE_UNAVAILABLE .*absent\.node/);
  }));

test('DELTAHOP_KERNELS forces a set of kernels, and one that cannot run here is refused', () =>
  withScratch(async (directory) => {
    copyEngine(directory);
    const { addon, path } = loadAddon();
    assert.is(addon.kernels.available.at(-1), 'portable');
    for (const name of addon.kernels.available) {
      assert.is(loadAt(directory, { DELTAHOP_NATIVE_PATH: path, DELTAHOP_KERNELS: name }), digestOfNothing);
    }
    const said = loadAt(directory, { DELTAHOP_NATIVE_PATH: path, DELTAHOP_KERNELS: 'mmx' });
    assert.match(said, /^DELTAHOP_E_NATIVE_UNAVAILABLE DELTAHOP_KERNELS=mmx: this machine can run .*portable/);
  }));

test('an addon that is there and broken is never taken for a missing one', () =>
  withScratch(async (directory) => {
    copyEngine(directory);
    const local = join(directory, 'build/addon/Release/deltahop.node');
    mkdirSync(join(directory, 'build/addon/Release'), { recursive: true });
    writeFileSync(local, 'not an addon');
    const said = loadAt(directory);
    assert.match(said, /^DELTAHOP_E_NATIVE_UNAVAILABLE .*is there but does not load/);
    assert.match(said, local);
  }));

test('an addon of another build is refused', () =>
  withScratch(async (directory) => {
    copyEngine(directory);
    const other = join(directory, 'other.cjs');
    writeFileSync(other, 'exports.abiVersion = 999;');
    const said = loadAt(directory, { DELTAHOP_NATIVE_PATH: other });
    assert.match(said, /^DELTAHOP_E_NATIVE_UNAVAILABLE .*its interface is 999, this code needs \d+/);
  }));

test('the number of the interface is one, on both sides', () => {
  const native = /kAbiVersion = (\d+)/.exec(readFileSync('bindings/addon.cc', 'utf8'))?.[1];
  const typed = /const abiVersion = (\d+)/.exec(readFileSync('src/engine/loader.ts', 'utf8'))?.[1];
  assert.ok(native !== undefined);
  assert.is(native, typed);
});

test('the package of this platform is made, packed, installed elsewhere and loaded', () =>
  withScratch(async (directory) => {
    const packages = execFileSync(
      process.execPath,
      ['npm/package-host.mjs', loadAddon().path, join(directory, 'made')],
      {
        encoding: 'utf8',
      },
    ).trim();
    const packed = join(directory, 'packed');
    mkdirSync(packed);
    execFileSync('npm', ['pack', '--silent', '--pack-destination', packed], { cwd: packages });
    const [tarball] = readdirSync(packed);
    if (tarball === undefined) throw new Error('npm pack left nothing');
    const installed = join(directory, 'node_modules/@deltahop/native-linux-x64-gnu');
    mkdirSync(installed, { recursive: true });
    execFileSync('tar', ['-xzf', join(packed, tarball), '-C', installed, '--strip-components=1']);
    const manifest = JSON.parse(readFileSync(join(installed, 'package.json'), 'utf8'));
    const own = JSON.parse(readFileSync('package.json', 'utf8'));
    assert.equal(
      [manifest.name, manifest.version, manifest.license, manifest.os, manifest.cpu, manifest.libc],
      ['@deltahop/native-linux-x64-gnu', own.version, own.license, ['linux'], ['x64'], ['glibc']],
    );
    copyEngine(directory);
    assert.is(loadAt(directory), digestOfNothing);
  }));

test.run();
