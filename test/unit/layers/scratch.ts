/** A directory of one test file's own, gone after it, and trees to put into layers. */
import {
  chmodSync,
  linkSync,
  lutimesSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';

/** Makes a temporary directory that is removed when the process ends. */
export function scratchDirectory(name: string): string {
  const path = mkdtempSync(join(tmpdir(), `deltahop-test-${name}-`));
  process.once('exit', () => rmSync(path, { recursive: true, force: true }));
  return path;
}

const timeOf = (index: number): Date => new Date(Date.UTC(2020, 0, 1) + index * 86_400_000);

/** Makes a small root file system: files with modes, a hard link, a symbolic link, a hole, an empty directory. */
export function makeBase(root: string): void {
  mkdirSync(join(root, 'etc'), { recursive: true });
  mkdirSync(join(root, 'usr/bin'), { recursive: true });
  mkdirSync(join(root, 'var/empty'), { recursive: true });
  writeFileSync(join(root, 'etc/hostname'), 'guest\n');
  writeFileSync(join(root, 'etc/motd'), 'welcome\n');
  writeFileSync(join(root, 'usr/bin/tool'), '#!/bin/sh\necho tool\n');
  chmodSync(join(root, 'usr/bin/tool'), 0o4755);
  linkSync(join(root, 'usr/bin/tool'), join(root, 'usr/bin/tool-alias'));
  symlinkSync('../usr/bin', join(root, 'etc/bin'));
  writeFileSync(join(root, 'var/sparse'), 'begin');
  truncateSync(join(root, 'var/sparse'), 1024 * 1024);
  settleTimes(root);
}

/** Changes a base as an installation would: a file changed, one and a directory removed, others new. */
export function makeApp(root: string): void {
  makeBase(root);
  writeFileSync(join(root, 'etc/motd'), 'welcome to the app\n');
  rmSync(join(root, 'etc/hostname'));
  rmSync(join(root, 'var/empty'), { recursive: true });
  mkdirSync(join(root, 'srv/app/data'), { recursive: true });
  writeFileSync(join(root, 'srv/app/data/rows'), Buffer.alloc(100_000, 'row'));
  utimesSync(join(root, 'etc/motd'), timeOf(90), timeOf(90));
  for (const path of ['srv/app/data/rows', 'srv/app/data', 'srv/app', 'srv', 'etc', 'var', '.']) {
    utimesSync(join(root, path), timeOf(91), timeOf(91));
  }
}

/** Times are content: two trees are equal only if these are. */
function settleTimes(root: string): void {
  const paths = [
    'etc/hostname',
    'etc/motd',
    'usr/bin/tool',
    'var/sparse',
    'var/empty',
    'usr/bin',
    'etc',
    'usr',
    'var',
    '.',
  ];
  for (const [index, path] of paths.entries()) utimesSync(join(root, path), timeOf(index), timeOf(index));
  const link = join(root, 'etc/bin');
  lutimesSync(link, timeOf(50), timeOf(50));
  utimesSync(dirname(link), timeOf(51), timeOf(51));
}
