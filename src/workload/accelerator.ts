/** What this machine runs virtual machines by. */
import { closeSync, openSync, readFileSync } from 'node:fs';

/** What runs a machine here: KVM where it works, else QEMU's own translation; and why. */
export function accelerator(): { name: 'kvm' | 'tcg'; why: string } {
  try {
    closeSync(openSync('/dev/kvm', 'r+'));
  } catch (error) {
    const why = (error as NodeJS.ErrnoException).code === 'ENOENT' ? 'is missing' : 'does not open';
    return { name: 'tcg', why: `/dev/kvm ${why}` };
  }
  return hasVirtualization(readFileSync('/proc/cpuinfo', 'utf8'))
    ? { name: 'kvm', why: '/dev/kvm works' }
    : { name: 'tcg', why: '/dev/kvm is there, but the processor has neither vmx nor svm' };
}

/**
 * Whether the processor that `/proc/cpuinfo` describes runs guests itself. A KVM without that help exists (PVM, for machines
 * that are virtual themselves): it emulates an ordinary guest kernel, and stops it at instructions that it does not know.
 */
export function hasVirtualization(cpuinfo: string): boolean {
  return /^flags\s*:.*\s(vmx|svm)(\s|$)/m.test(cpuinfo);
}
