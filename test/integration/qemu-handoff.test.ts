/** Agents die at points of the hand-off of a machine of QEMU's. */
import { test } from 'uvu';
import { checkHandOffs } from './support/machine-hand-offs.js';

checkHandOffs(test, 'qemu', [
  ['destination', 'prepared', ['destination']],
  ['source', 'committed', ['source', 'destination']],
  ['destination', 'running', ['destination']],
]);

test.run();
