/** `deltahop recover` and `resolve`: hand-offs that a crash or a cut has left open. */
import { type Command, Option } from 'commander';
import type { HandOffView } from '../agent/messages.js';
import { print, withAgent } from './agent-session.js';
import { printable } from './render.js';
import { exitCodes, type Surroundings } from './surroundings.js';

/** Adds `recover` and `resolve` to the program. */
export function addHandOffCommands(program: Command, around: Surroundings, done: (code: number) => void): void {
  program
    .command('recover')
    .description('Finish or undo every hand-off that is left open on this node. Every start of the agent does so too.')
    .addHelpText(
      'after',
      `
Exits with 1 if something still waits: for another node, which is asked again and again, or for you (deltahop resolve).

Example:
  deltahop recover --json`,
    )
    .action(async (_options: object, command: Command) => {
      await withAgent(command, around, async (client) => {
        const handOffs = await client.recover();
        const waiting = handOffs.filter(({ settled }) => !settled);
        const text = handOffs.length === 0 ? 'nothing is open' : handOffs.map(handOffText).join('\n');
        const summary = { settled: handOffs.length - waiting.length, waiting: waiting.length };
        print(command, around, { type: 'recovered', ...summary, handOffs }, text);
        if (waiting.length > 0) done(exitCodes.failed);
      });
    });
  program
    .command('resolve')
    .description('Decide an open hand-off yourself, when the other node is gone for good.')
    .argument('<service>')
    .addOption(
      new Option('--keep <side>', 'which side of the migration has the service from now on')
        .choices(['source', 'destination'])
        .makeOptionMandatory(),
    )
    .addHelpText(
      'after',
      `
Run it on the node that is left. Keeping this node's side runs the service here from the files that are here, as a later
owner: a node that comes back has to yield to it. If the other node does run the service, two copies run until then, so be
sure that it is gone. Keeping the other side ends the copy here. If the service can not be restored here, the agent goes on
trying; at the source, "--keep source" said once more starts it from its files then, without its memory.

Example:
  deltahop resolve web --keep destination`,
    )
    .action(async (service: string, { keep }: { keep: 'source' | 'destination' }, command: Command) => {
      await withAgent(command, around, async (client) => {
        const resolved = await client.resolve(service, keep);
        print(command, around, { type: 'resolved', keep, ...resolved }, handOffText(resolved));
      });
    });
}

function handOffText({ service, side, peer, state, settled, waitsFor, trouble }: HandOffView): string {
  const way = side === 'source' ? `to ${peer}` : `from ${peer}`;
  const open = settled ? '' : `, waits for ${waitsFor}`;
  return `${service} ${way}: ${state}${open}${trouble === '' ? '' : ` (${printable(trouble)})`}`;
}
