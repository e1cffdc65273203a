/** Agents die at points of the hand-off of a domain of libvirt's. */
import { test } from 'uvu';
import { checkHandOffs } from './support/machine-hand-offs.js';

checkHandOffs(test, 'libvirt', [
  ['destination', 'prepared', ['destination']],
  ['source', 'committed', ['source', 'destination']],
]);

test.run();
