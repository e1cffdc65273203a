/** `deltahop jobs`, `watch` and `cancel`: the long operations of an agent, which outlive the terminal that began them. */
import type { Command } from 'commander';
import { follow, jobFailure, print, withAgent } from './agent-session.js';
import { durationText, table } from './render.js';
import { exitCodes, type Surroundings } from './surroundings.js';

/** Enough of an id to tell jobs apart by. */
const shownIdLength = 8;

/** Adds `jobs`, `watch` and `cancel` to the program. */
export function addJobCommands(program: Command, around: Surroundings, done: (code: number) => void): void {
  program
    .command('jobs')
    .description('List the migrations and imports of this node: those under way, and the results of the last ones.')
    .addHelpText('after', '\nExample:\n  deltahop jobs --json')
    .action(async (_options: object, command: Command) => {
      await withAgent(command, around, async (client) => {
        const jobs = await client.jobs();
        const rows = jobs.map(({ id, title, state, startedAtMs, endedAtMs }) => [
          id.slice(0, shownIdLength),
          state,
          new Date(startedAtMs).toISOString(),
          endedAtMs === null ? '-' : durationText(endedAtMs - startedAtMs),
          title,
        ]);
        print(command, around, { type: 'jobs', jobs }, table(['ID', 'STATE', 'STARTED', 'TOOK', 'WHAT'], rows));
      });
    });
  program
    .command('watch')
    .description('Follow a job to its end. Ctrl-C ends the watching, not the job.')
    .argument('<id>', 'id of the job, or its beginning')
    .addHelpText('after', '\nExample:\n  deltahop watch 3f2a')
    .action(async (id: string, _options: object, command: Command) => {
      await withAgent(command, around, async (client) => {
        const last = await follow(command, around, client, client.followJob(id), null);
        if (last === null) {
          done(exitCodes.interrupted);
          return;
        }
        if (jobFailure(command, around, last) !== null) done(exitCodes.failed);
      });
    });
  program
    .command('cancel')
    .description('Ask a job to stop. A migration that is not decided yet ends, and the service runs on where it is.')
    .argument('<id>', 'id of the job, or its beginning')
    .addHelpText('after', '\nExits with 1 if the job has ended already.\n\nExample:\n  deltahop cancel 3f2a')
    .action(async (id: string, _options: object, command: Command) => {
      await withAgent(command, around, async (client) => {
        await client.cancelJob(id);
        print(command, around, { type: 'cancelled', id }, 'asked to stop; `deltahop watch` tells what becomes of it');
      });
    });
}
