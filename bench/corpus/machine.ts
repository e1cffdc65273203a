/** A corpus of guest memory: a busy virtual machine of 512 MiB, copied four times while it stood still for a moment. */
import { spawn } from 'node:child_process';
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ended, run } from '../../test/testbed/command.js';
import type { Corpus } from './corpus.js';
import { script } from './debian.js';
import { dieWithParent } from './memory.js';

const copies = 4;
const workMs = 600_000;

/** Directories `0` to `3` with a file `memory` each. */
export const guestMemory: Corpus = {
  name: 'guest-memory',
  version: 1,
  make: async (path) => {
    await run(['bash', script('machine.sh'), path], { timeoutMs: workMs });
    const live = join(path, 'live');
    const log = join(path, 'log');
    // By translation: it works everywhere, and what the guest does with its memory is the same.
    const args = ['-nodefaults', '-display', 'none', '-no-reboot', '-smp', '1', '-m', '512', '-accel', 'tcg'];
    args.push(
      '-object',
      `memory-backend-file,id=ram,size=512M,mem-path=${live},share=on`,
      '-machine',
      'pc,memory-backend=ram',
    );
    args.push('-kernel', join(path, 'kernel'), '-initrd', join(path, 'initrd'), '-append', 'console=ttyS0 quiet');
    args.push('-serial', `file:${log}`);
    const [program = '', ...rest] = [...dieWithParent, 'qemu-system-x86_64', ...args];
    const machine = spawn(program, rest, { stdio: 'ignore' });
    try {
      for (let copy = 0; copy < copies; ++copy) {
        for (const deadline = Date.now() + workMs; !said(log).includes(`phase ${copy}\r`); await sleep(100)) {
          if (machine.pid === undefined || machine.exitCode !== null) throw new Error('the virtual machine ended');
          if (Date.now() > deadline) throw new Error('the virtual machine does not come up');
        }
        // Its processors are threads of this process: stopped, they stand still, and the memory is one state.
        machine.kill('SIGSTOP');
        mkdirSync(join(path, String(copy)));
        await run(['cp', '--sparse=always', live, join(path, String(copy), 'memory')], { timeoutMs: workMs });
        machine.kill('SIGCONT');
      }
    } finally {
      machine.kill('SIGKILL');
      await ended(machine, 5000);
    }
    await run(['rm', '-f', live, join(path, 'kernel'), join(path, 'initrd')]);
  },
};

function said(log: string): string {
  try {
    return readFileSync(log, 'latin1');
  } catch {
    return '';
  }
}
