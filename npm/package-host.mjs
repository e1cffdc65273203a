#!/usr/bin/env node
/**
 * Makes the npm package that carries this host's addon, ready for `npm pack`, and prints its folder.
 *
 *   package-host.mjs [ADDON [FOLDER]]     by default the built addon, and build/npm
 *
 * @napi-rs/cli refuses to work as soon as one of the configured targets has no binary, so it is given a configuration
 * with the host's alone, and a folder of its own, where its copies do not lie about.
 */
import { execFileSync } from 'node:child_process';
import { copyFileSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const project = dirname(dirname(fileURLToPath(import.meta.url)));
const addon = resolve(process.argv[2] ?? join(project, 'build/addon/Release/deltahop.node'));
const output = resolve(process.argv[3] ?? join(project, 'build/npm'));
const hosts = { 'linux-x64': { target: 'x86_64-unknown-linux-gnu', suffix: 'linux-x64-gnu' } };

const host = hosts[`${process.platform}-${process.arch}`];
const manifest = JSON.parse(readFileSync(join(project, 'package.json'), 'utf8'));
if (host === undefined || !manifest.napi.targets.includes(host.target)) {
  throw new Error(`package.json names no target for ${process.platform}-${process.arch}`);
}

function napi(...args) {
  execFileSync(process.execPath, [join(project, 'node_modules/@napi-rs/cli/dist/cli.js'), ...args, '--cwd', output], {
    stdio: ['ignore', 'ignore', 'inherit'],
  });
}

for (const made of ['artifacts', 'packages']) rmSync(join(output, made), { recursive: true, force: true });
mkdirSync(join(output, 'artifacts'), { recursive: true });
// What the packages inherit (version, licence, engines), without what npm would run or install.
const { name, version, description, license, engines, repository } = manifest;
writeFileSync(
  join(output, 'package.json'),
  JSON.stringify({ name, version, description, license, engines, repository }),
);
writeFileSync(join(output, 'napi.json'), JSON.stringify({ ...manifest.napi, targets: [host.target] }));
copyFileSync(addon, join(output, 'artifacts', `${manifest.napi.binaryName}.${host.suffix}.node`));
napi('create-npm-dirs', '--config-path', 'napi.json', '--npm-dir', 'packages');
napi('artifacts', '--config-path', 'napi.json', '--npm-dir', 'packages', '--output-dir', 'artifacts');
process.stdout.write(`${join(output, 'packages', host.suffix)}\n`);
