/** That an image says nothing of a lock of its network. */

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { isDeltahopError } from '../../../src/errors.js';
import { disown } from '../../../src/workload/lxc/network-lock.js';

/** The inventory of a dump by CRIU 4.2 with `network-lock nftables`; the lock's method is what follows 58. */
const dumped = (method: string): Buffer =>
  Buffer.from(
    `1631315850000000080210011a18080110011801200128013002380340044806500758086005200128013000500158${method}6200` +
      '6a2439353937663538322d396339372d346466652d383166632d303765373063323530376532',
    'hex',
  );

test('the method of its lock becomes none, and nothing else changes', () => {
  const image = dumped('01');
  disown(image);
  assert.equal(image, dumped('02'));
  disown(image);
  assert.equal(image, dumped('02'));
});

test('what is no inventory, or says nothing of a lock, is refused', () => {
  const whole = dumped('01');
  for (let length = 0; length < whole.length; length++) {
    const part = Buffer.from(whole.subarray(0, length));
    // A header alone has nothing to change.
    if (length === 4) continue;
    try {
      disown(part);
      assert.unreachable(`${length} bytes`);
    } catch (error) {
      assert.ok(isDeltahopError(error, 'DELTAHOP_E_CHECKPOINT'), String(error));
    }
  }
  const other = dumped('01');
  other[0] = 0;
  assert.throws(() => disown(other), /not in the format of CRIU/);
});

test.run();
