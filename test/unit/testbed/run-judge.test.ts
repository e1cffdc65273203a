/** The judge of `npm run faults` finds two copies that run, and takes no hand-off for that. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { RunJudge } from '../../faults/run-judge.js';

function judged(...sightings: [identity: string, tick: number][]): string[] {
  const judge = new RunJudge();
  for (const [identity, tick] of sightings) judge.see({ identity, tick });
  return judge.takeViolations();
}

test('a hand-off and a return', () => {
  const there: [string, number][] = [
    ['a1', 1],
    ['a1', 2],
    ['b1', 2],
    ['a1', 2],
    ['b1', 3],
    ['b1', 9],
  ];
  assert.equal(judged(...there, ['a2', 9], ['a2', 10]), []);
});

test('a hand-off that came to nothing, its copy held and ended', () => {
  assert.equal(judged(['a1', 1], ['a1', 2], ['b1', 2], ['b1', 2], ['a1', 3], ['a1', 4]), []);
});

test('the source runs on beside the destination', () => {
  assert.is(judged(['a1', 1], ['a1', 2], ['b1', 2], ['b1', 3], ['a1', 3], ['b1', 4]).length, 2);
});

test('the source runs on after the destination has died', () => {
  assert.is(judged(['a1', 1], ['a1', 2], ['b1', 2], ['b1', 3], ['a1', 3]).length, 1);
});

test('the destination begins from an image that is older than what has run', () => {
  assert.is(judged(['a1', 1], ['a1', 2], ['a1', 7], ['b1', 2], ['b1', 3]).length, 1);
});

test('a service that was started anew has lost its state', () => {
  assert.is(judged(['a1', 1], ['a1', 7], ['a2', 0], ['a2', 1]).length, 1);
});

function ran(...identities: string[]): string[] {
  const judge = new RunJudge();
  for (const identity of identities) judge.seeRun(identity);
  return judge.takeViolations();
}

test('machines that are seen to run, one after the other', () => {
  assert.equal(ran('a1', 'a1', 'b1', 'b1', 'a2'), []);
});

test('a machine that runs beside its successor', () => {
  assert.is(ran('a1', 'b1', 'a1', 'b1').length, 2);
});

test('a machine that runs on after its successor has died', () => {
  assert.is(ran('a1', 'b1', 'b1', 'a1').length, 1);
});

test.run();
