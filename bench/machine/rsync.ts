/** rsync of files from one node to the other, which has nothing of them. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ended } from '../../test/testbed/command.js';
import type { Testbed } from '../../test/testbed/testbed.js';
import { rsyncProgram } from '../contenders.js';

/** Settings that can be the best where nothing is there to compare with. */
export const rsyncSettings: readonly (readonly string[])[] = [['-z'], ['-z', '--zc=zstd', '--zl=9']];

/** Sends files of node `a` to an empty directory of `b`. */
export type SendFiles = (options: readonly string[], files: readonly string[]) => Promise<void>;

const port = 7731;
const tries = 100;
const sendLimitMs = 600_000;

/** Has rsync's daemon at `b` while `use` runs. */
export async function withRsync<Result>({ a, b }: Testbed, use: (send: SendFiles) => Promise<Result>): Promise<Result> {
  const target = join(b.stateDirectory, 'received');
  const configPath = join(b.stateDirectory, 'rsyncd.conf');
  const module = ['[module]', `path = ${target}`, 'read only = no', 'uid = 0', 'gid = 0'];
  writeFileSync(configPath, `${['use chroot = no', ...module].join('\n')}\n`);
  const argv = [rsyncProgram, '--daemon', '--no-detach', `--config=${configPath}`];
  const daemon = b.spawn([...argv, `--address=${b.address}`, `--port=${port}`], { stdio: 'ignore' });
  try {
    for (let left = tries; ; left--) {
      const { code, stderr } = await a.exec([rsyncProgram, `rsync://${b.address}:${port}/`], { check: false });
      if (code === 0) break;
      if (left === 0) throw new Error(`no rsync answers: ${stderr}`);
      await sleep(50);
    }
    return await use(async (options, files) => {
      await b.exec(['rm', '-rf', target]);
      await b.exec(['mkdir', target]);
      const to = `rsync://${b.address}:${port}/module/`;
      await a.exec([rsyncProgram, '-a', '-S', ...options, ...files, to], { timeoutMs: sendLimitMs });
    });
  } finally {
    daemon.kill('SIGTERM');
    await ended(daemon, 5_000);
  }
}
