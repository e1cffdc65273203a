/** `deltahop migrate --json`, read as it comes. */
import { createInterface } from 'node:readline';
import type { MigrationEvent, MigrationSummary } from '../../../src/migrate/phases.js';
import { ended } from '../../testbed/command.js';
import type { TestbedNode } from '../../testbed/node.js';

/** A migration that has ended. */
export interface Hop {
  /** Every line but the summary. */
  events: MigrationEvent[];
  summary: MigrationSummary;
  /** Every line as it was printed. */
  lines: string[];
  exitCode: number | null;
  stderr: string;
}

/** Sees each event as it comes; `interrupt` is Ctrl-C at the command. */
export type Onlooker = (event: MigrationEvent, interrupt: () => void) => void;

/** Runs a migration to its end, whatever that is. @param options More of `deltahop migrate`'s. */
export async function hop(
  from: TestbedNode,
  service: string,
  to: string,
  onEvent: Onlooker = () => {},
  options: readonly string[] = [],
): Promise<Hop> {
  const child = from.spawnCli(['migrate', service, to, '--json', ...options], { stdio: ['ignore', 'pipe', 'pipe'] });
  if (child.stdout === null || child.stderr === null) throw new Error('no pipes');
  let stderr = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  const lines: string[] = [];
  const events: MigrationEvent[] = [];
  let summary: MigrationSummary | null = null;
  for await (const line of createInterface({ input: child.stdout })) {
    lines.push(line);
    const parsed = JSON.parse(line) as MigrationEvent | MigrationSummary;
    if (parsed.type === 'summary') {
      summary = parsed;
    } else {
      events.push(parsed);
      onEvent(parsed, () => child.kill('SIGINT'));
    }
  }
  await ended(child, 10_000);
  if (summary === null) {
    throw new Error(`no summary of the migration to ${to}; it said: ${lines.join('\n')}\n${stderr.trim()}`);
  }
  return { events, summary, lines, exitCode: child.exitCode, stderr };
}

/** An onlooker that acts once, when a phase begins. */
export function whenPhaseStarts(phase: string, act: (interrupt: () => void) => void): Onlooker {
  return once((event) => event.type === 'phase' && event.name === phase && event.state === 'start', act);
}

/**
 * An onlooker that acts once, when so much of what a phase sends has left the sender; as much as its socket holds may be
 * still under way. Of an instance its memory counts: most of the probe's files is a hole.
 */
export function whenPhaseIsThrough(phase: string, share: number, act: (interrupt: () => void) => void): Onlooker {
  return once(
    (event) =>
      event.type === 'progress' &&
      event.phase === phase &&
      event.what !== 'instance-upper' &&
      event.totalBytes > 0 &&
      event.doneBytes >= share * event.totalBytes,
    act,
  );
}

/** An onlooker that acts once, at the first event that is meant. */
export function once(when: (event: MigrationEvent) => boolean, act: (interrupt: () => void) => void): Onlooker {
  let acted = false;
  return (event, interrupt) => {
    if (acted || !when(event)) return;
    acted = true;
    act(interrupt);
  };
}
