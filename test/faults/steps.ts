/** The steps of a migration, of any driver, at which faults are injected, each told by what lies on the nodes' disks or is said by the agents. */
import type { Attempt } from './attempt.js';

/** A step. */
export interface Step {
  name: string;
  /** What has to be so when the migration begins: the destination lacks the layers, or what it holds is of no use. */
  needs: 'layers' | 'memory' | null;
  /** Of a step of which a part is over in less than a millisecond: whether it is about to come. */
  near?(attempt: Attempt): boolean;
  reached(attempt: Attempt): boolean;
}

const passed = (record: { state: string } | null, ...states: string[]): boolean =>
  record !== null && states.includes(record.state);

/** All steps, in their order. */
export const steps: readonly Step[] = [
  { name: 'offer', needs: null, reached: (attempt) => attempt.record('destination') !== null },
  { name: 'base', needs: 'layers', reached: (attempt) => attempt.hasMoved('base', 'layer') },
  { name: 'app', needs: 'layers', reached: (attempt) => attempt.hasMoved('app', 'layer') },
  {
    name: 'round-dump',
    needs: null,
    reached: (attempt) => attempt.operation('source') === 'round' && attempt.has('source', 'frozen-at'),
  },
  {
    name: 'round-copy',
    needs: null,
    reached: (attempt) => attempt.phase === 'rounds' && attempt.keeps('source', 'last-round'),
  },
  { name: 'round-send', needs: 'memory', reached: (attempt) => attempt.hasMoved('rounds', 'instance-memory') },
  {
    name: 'freeze-dump',
    needs: null,
    reached: (attempt) => attempt.operation('source') === 'freeze' && attempt.has('source', 'frozen-at'),
  },
  { name: 'freeze', needs: null, reached: (attempt) => attempt.operation('source') === 'freeze' },
  {
    name: 'frozen',
    needs: null,
    reached: (attempt) => attempt.operation('source') === 'freeze' && attempt.has('source', 'held'),
  },
  { name: 'final', needs: null, reached: (attempt) => attempt.phase === 'final' },
  { name: 'restore', needs: null, reached: (attempt) => attempt.operation('destination') === 'prepare' },
  {
    name: 'restored',
    needs: null,
    reached: (attempt) => attempt.operation('destination') === 'prepare' && attempt.has('destination', 'held'),
  },
  { name: 'prepared', needs: null, reached: (attempt) => passed(attempt.record('destination'), 'prepared') },
  { name: 'committed', needs: null, reached: (attempt) => passed(attempt.record('source'), 'committed') },
  {
    name: 'given-up',
    needs: null,
    near: (attempt) => attempt.operation('source') === 'freeze' && attempt.has('source', 'held'),
    reached: (attempt) => attempt.operation('source') === 'freeze' && attempt.has('source', 'ended'),
  },
  {
    name: 'heard',
    needs: null,
    reached: (attempt) => passed(attempt.record('destination'), 'committed', 'running'),
  },
  {
    name: 'released',
    needs: null,
    reached: (attempt) =>
      (attempt.operation('destination') === 'prepare' && attempt.has('destination', 'released')) ||
      passed(attempt.record('destination'), 'running'),
  },
  { name: 'running', needs: null, reached: (attempt) => passed(attempt.record('destination'), 'running') },
  {
    name: 'acknowledged',
    needs: null,
    reached: (attempt) => {
      const record = attempt.record('source');
      return record?.side === 'source' && record.acknowledged;
    },
  },
];
