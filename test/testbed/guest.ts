import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { run } from './command.js';

/** What the test's virtual machine is made of: read it, never write into it. */
export interface GuestImages {
  kernel: string;
  initrd: string;
  /** A minimal Debian on a disk. */
  base: string;
  /** An overlay upon it: redis-server, which runs once it is booted. */
  appRedis: string;
}

/** Builds the guest's images, or finds those built before (a minute the first time). */
export async function guestImages(): Promise<GuestImages> {
  // dist/test/testbed/guest.js: the script is in the sources.
  const script = fileURLToPath(new URL('../../../test/setup/make-guest.sh', import.meta.url));
  const { stdout } = await run(['bash', script], { timeoutMs: 900_000 });
  const directory = stdout.trim();
  return {
    kernel: join(directory, 'kernel'),
    initrd: join(directory, 'initrd'),
    base: join(directory, 'base.qcow2'),
    appRedis: join(directory, 'app-redis.qcow2'),
  };
}

/** How large a machine is. */
export interface GuestSize {
  memory: string;
  cpus: number;
}

/** Arguments of `deltahop service add NAME` for it, as a machine with this address and prefix length. */
export function guestArguments(
  { kernel, initrd }: GuestImages,
  address: string,
  size: GuestSize = { memory: '512M', cpus: 2 },
): string[] {
  // What the kernel last said can be read in QEMU's ring. On a busy machine that only emulates processors the kernel's
  // test of its timer can find no tick in time, and it panics; there is nothing to be found out about that timer here.
  const append = `root=/dev/vda ip=${address} quiet console=ttyS0 no_timer_check`;
  const boot = ['--kernel', kernel, '--initrd', initrd, '--append', append];
  return ['--driver', 'qemu', '--memory', size.memory, '--cpus', `${size.cpus}`, ...boot, '--set', `ip=${address}`];
}
