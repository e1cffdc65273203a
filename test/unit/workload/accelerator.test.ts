import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { hasVirtualization } from '../../../src/workload/accelerator.js';

const test = suite('workload/qemu-capabilities');

test('a processor runs guests itself if it says so among its flags', () => {
  const described = (flags: string): string => `processor\t: 0\nmodel name\t: a vmx and svm one\nflags\t\t: ${flags}\n`;
  assert.ok(hasVirtualization(described('fpu vmx ssse3')));
  assert.ok(hasVirtualization(described('fpu lahf_lm svm')));
  assert.not(hasVirtualization(described('fpu hypervisor vmx_like')));
  assert.not(hasVirtualization(described('fpu hypervisor')));
});

test.run();
