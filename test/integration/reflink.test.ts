/** A file system that shares blocks: a new version of a large file costs what has changed of it. On a real XFS. */
import { spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { noise } from '../support/edits.js';
import { testUnless } from '../support/obstacle.js';
import { withScratch } from '../support/scratch.js';

const mkfs = '/usr/sbin/mkfs.xfs';
const onXfs = testUnless(
  test,
  process.getuid?.() !== 0 ? 'mounting needs root' : existsSync(mkfs) ? null : 'xfsprogs is not installed',
);

const program = fileURLToPath(new URL('../../program/cli/main.js', import.meta.url));

function must(command: string, ...args: string[]): string {
  const { status, stdout, stderr } = spawnSync(command, args, { encoding: 'utf8' });
  assert.is(status, 0, `${command} ${args.join(' ')}: ${stderr}`);
  return stdout;
}

/** Syncs in a process of its own, and gives the receiver's figures. */
function sync(source: string, target: string): Record<string, number> {
  const out = must(process.execPath, program, 'sync', '--json', source, target);
  return (JSON.parse(out.trimEnd().split('\n').at(-1) ?? '') as { receiver: Record<string, number> }).receiver;
}

async function withXfs(directory: string, use: (mountPoint: string) => Promise<void>): Promise<void> {
  const [image, mountPoint] = [join(directory, 'xfs'), join(directory, 'mount')];
  writeFileSync(image, '');
  truncateSync(image, 400 * 1024 * 1024);
  must(mkfs, '-q', '-m', 'reflink=1', image);
  mkdirSync(mountPoint);
  must('mount', '-o', 'loop', image, mountPoint);
  try {
    await use(mountPoint);
  } finally {
    must('umount', mountPoint);
  }
}

onXfs('a new version of a large file shares with the old one what did not change', () =>
  withScratch((directory) =>
    withXfs(directory, async (mountPoint) => {
      const [source, target] = [join(directory, 'source'), join(mountPoint, 'target')];
      for (const path of [source, target]) mkdirSync(path);
      const image = noise(1, 32 * 1024 * 1024);
      writeFileSync(join(target, 'image'), image);
      // So the old version's blocks stay in use, and what the new one needs shows in what is free.
      must('cp', '--reflink=always', join(target, 'image'), join(mountPoint, 'old'));
      for (let at = 0; at < image.length; at += 1024 * 1024) image.fill(at >> 20, at + 4096, at + 12_288);
      image.fill(0, 8_000_000, 12_000_000);
      writeFileSync(join(source, 'image'), image);
      must('sync', '-f', mountPoint);
      const before = await statfs(mountPoint);
      const figures = sync(`${source}/`, target);
      must('sync', '-f', mountPoint);
      const after = await statfs(mountPoint);
      // A wrong guess is repaired from a clone of what came.
      assert.ok(Number(figures['clonedFiles']) >= 1);
      assert.ok(readFileSync(join(target, 'image')).equals(image));
      assert.ok((before.bfree - after.bfree) * after.bsize < 4 * 1024 * 1024, `${before.bfree - after.bfree} blocks`);
      // Something that shares nothing is made as everywhere.
      copyFileSync(join(target, 'image'), join(source, 'second'));
      sync(`${source}/`, target);
      assert.ok(readFileSync(join(target, 'second')).equals(image));
    }),
  ),
);

test.run();
