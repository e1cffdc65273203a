import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { Pace } from '../../../src/migrate/pace.js';

test('rate and remaining time are those of the thing itself, from its own beginning on', () => {
  const pace = new Pace();
  assert.equal(pace.measure('base', 1000, 9000, 10), { bytesPerSecond: null, etaMs: null });
  assert.equal(pace.measure('base', 3000, 9000, 1010), { bytesPerSecond: 2000, etaMs: 3000 });
  assert.equal(pace.measure('base', 9000, 9000, 4010), { bytesPerSecond: 2000, etaMs: null });
  assert.equal(pace.measure('app', 0, 0, 5000), { bytesPerSecond: null, etaMs: null });
  assert.equal(pace.measure('app', 500, 0, 5100), { bytesPerSecond: 5000, etaMs: null });
  // Begun anew on another connection.
  assert.equal(pace.measure('app', 0, 1000, 6000), { bytesPerSecond: null, etaMs: null });
});

test.run();
