import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { processorsIn } from '../../../src/workload/lxc/machine.js';

const test = suite('workload/lxc/machine');

test('lists of processors as the kernel writes them', () => {
  assert.equal(processorsIn('0\n'), [0]);
  assert.equal(processorsIn('0-1\n'), [0, 1]);
  assert.equal(processorsIn('0-2,5,8-9\n'), [0, 1, 2, 5, 8, 9]);
});

test.run();
