import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { type DowntimeFigures, downtimeStages } from '../../../src/migrate/downtime.js';

const figures: DowntimeFigures = {
  frozenAtMs: 1000,
  savedAtMs: 1150,
  saverMs: 130.4,
  sentAtMs: 1250,
  preparedAtMs: 1420,
  prepare: { tookMs: 150, restorerMs: 140 },
  decidedAtMs: 1440,
  toldAtMs: 1500,
  commit: { tookMs: 30, runningForMs: 11 },
};

test('the stages of a downtime add up to it, and say what of them is the driver’s own', () => {
  const stages = downtimeStages(figures);
  assert.equal(stages, [
    { stage: 'dump', ms: 150, driverMs: 130 },
    { stage: 'transfer', ms: 100 },
    { stage: 'restore', ms: 150, driverMs: 140 },
    { stage: 'decision', ms: 20 },
    { stage: 'release', ms: 30 },
    { stage: 'messages', ms: 39 },
  ]);
  const sum = stages.reduce((total, { ms }) => total + ms, 0);
  assert.is(sum, figures.toldAtMs - figures.commit.runningForMs - figures.frozenAtMs);
});

test('no stage is negative, nor has more of the driver in it than there is, whatever the other node says', () => {
  const stages = downtimeStages({
    ...figures,
    prepare: { tookMs: 9000, restorerMs: 99_000 },
    commit: { tookMs: 0, runningForMs: 500 },
  });
  for (const { ms, driverMs = 0 } of stages) assert.ok(ms >= 0 && driverMs <= ms);
});

test.run();
