/** The command line: what each command is given, asks of the agent, prints and returns. */
import { resolve } from 'node:path';
import { Command, CommanderError, InvalidArgumentError, Option } from 'commander';
import type { LocalClient } from '../agent/client.js';
import { type ErrorBody, errorBody } from '../agent/messages.js';
import { formatAddress, parseAddress } from '../agent/peers.js';
import { programVersion } from '../agent/version.js';
import { DeltahopError } from '../errors.js';
import { fail, failureCode, follow, isJson, jobFailure, print, stateOf, withAgent } from './agent-session.js';
import { dryRunText } from './forecast-text.js';
import { addHandOffCommands } from './hand-off-commands.js';
import { addJobCommands } from './job-commands.js';
import { readAddress, readSeconds, toMs } from './option-values.js';
import { bytesText, printable, table } from './render.js';
import { addServeCommand } from './serve-command.js';
import { addServiceCommands } from './service-commands.js';
import { exitCodes, type Surroundings } from './surroundings.js';
import { addSyncCommand } from './sync-command.js';

const exitCodeHelp = `
Exit codes:
  0    done
  1    the operation failed; the message says why and what to do
  2    the command line is not right
  23   sync: done in part
  25   sync: nothing deleted, it would have been more than --max-delete allows
  130  interrupted

With --json every command prints JSON objects, one a line, on standard output; a failure is one of type "error".`;

/** Runs one command line (without the program's own name) and gives its exit code. Never rejects. */
export async function run(args: readonly string[], around: Surroundings): Promise<number> {
  let usageError: string | null = null;
  let exitCode: number = exitCodes.ok;
  const program = new Command('deltahop')
    .description('Moves a running service between edge nodes over a slow link.')
    .version(await programVersion())
    .option('--state <dir>', 'state directory of the agent (or environment variable DELTAHOP_STATE)')
    .option('--json', 'print JSON objects, one a line')
    .configureHelp({ showGlobalOptions: true })
    .configureOutput({
      writeOut: (text) => around.stdout.write(text),
      writeErr: (text) => around.stderr.write(text),
      outputError: (text) => {
        usageError = text;
      },
    })
    .exitOverride()
    .addHelpText('after', exitCodeHelp);
  const done = (code: number): void => {
    exitCode = code;
  };
  addAgentCommand(program, around, done);
  addLayerCommands(program, around, done);
  addServiceCommands(program, around, done);
  addMigrateCommand(program, around, done);
  addJobCommands(program, around, done);
  addHandOffCommands(program, around, done);
  addSyncCommand(program, around, done);
  addServeCommand(program, around);
  addDoctorCommand(program, around, done);

  try {
    await program.parseAsync([...args], { from: 'user' });
    return exitCode;
  } catch (error) {
    const json = program.opts<{ json?: boolean }>().json === true;
    if (error instanceof CommanderError) {
      if (error.exitCode === 0) return exitCodes.ok;
      if (usageError !== null) fail(around, json, usageBody(usageError));
      return exitCodes.usage;
    }
    fail(around, json, errorBody(error));
    return error instanceof DeltahopError && error.code === 'DELTAHOP_E_CANCELLED'
      ? exitCodes.interrupted
      : exitCodes.failed;
  }
}

function addAgentCommand(program: Command, around: Surroundings, done: (code: number) => void): void {
  program
    .command('agent')
    .description('Run the agent of this node in the foreground, until SIGINT or SIGTERM; services run on without it.')
    .requiredOption('--listen <host:port>', 'where peers reach this node; port 0 takes a free one', readAddress)
    .option('--name <name>', 'how this node is called (default: the host name)', readNodeName)
    .option('--insecure', 'listen beyond this machine, though connections are neither encrypted nor authenticated')
    .addHelpText(
      'after',
      `
Examples:
  deltahop agent --state /var/lib/deltahop --listen 127.0.0.1:7400
  deltahop agent --state /var/lib/deltahop --listen 10.0.0.1:7400 --name edge-a --insecure`,
    )
    .action(async (options: { listen: string; name?: string; insecure?: boolean }, command: Command) => {
      const { Agent } = await import('../agent/daemon.js');
      const log = await around.log();
      let stop: () => void = () => {};
      const stopped = new Promise<void>((resolveStopped) => {
        stop = resolveStopped;
      });
      const off = around.onInterrupt(() => stop());
      try {
        const name = options.name ?? around.hostName;
        const agent = await Agent.start(
          {
            statePath: stateOf(command, around),
            listen: parseAddress(options.listen),
            name,
            insecure: options.insecure === true,
          },
          log,
        );
        const listen = formatAddress(agent.address);
        print(
          command,
          around,
          { type: 'agent', name, listen, socket: agent.socketPath },
          `${name} listens on ${listen}`,
        );
        await stopped;
        await agent.close();
        log.info('agent stopped');
        done(exitCodes.ok);
      } finally {
        off();
      }
    });
}

function addLayerCommands(program: Command, around: Surroundings, done: (code: number) => void): void {
  const layer = program.command('layer').description('Import, list and remove layers.');
  layer
    .command('import')
    .description(
      'Take a tree or a disk in as a layer and print its digest. With a parent, PATH is the full one upon it.',
    )
    .addOption(new Option('--kind <kind>', 'what the layer is').choices(['base', 'app']).makeOptionMandatory())
    .requiredOption('--name <name>', 'how the layer is called on this node')
    .option('--parent <name>', 'base layer that an app layer was built upon')
    .argument('<path>', 'directory, for containers; or image of a disk (raw, qcow2), for virtual machines')
    .addHelpText(
      'after',
      `
Examples:
  deltahop layer import --kind base --name debian12 /srv/rootfs/debian12
  deltahop layer import --kind app --name redis7 --parent debian12 /srv/rootfs/redis
  deltahop layer import --kind base --name debian12-disk /srv/images/debian12.qcow2`,
    )
    .action(async (path: string, options: { kind: string; name: string; parent?: string }, command: Command) => {
      await withAgent(command, around, async (client) => {
        const { kind, name, parent = null } = options;
        const events = client.importLayer({ kind, name, parent, path: resolve(path) });
        const last = await follow(command, around, client, events, `stopping the import of ${name}`);
        const failure = last === null ? null : jobFailure(command, around, last);
        if (failure !== null) done(failureCode(failure));
      });
    });
  layer
    .command('list')
    .description('List the layers of this node.')
    .addHelpText('after', '\nExample:\n  deltahop layer list --json')
    .action(async (_options: object, command: Command) => {
      await withAgent(command, around, async (client) => {
        const layers = await client.layers();
        const nameOf = (digest: string | null): string =>
          digest === null
            ? '-'
            : (layers.find((candidate) => candidate.digest === digest)?.name ?? shortDigest(digest));
        const rows = layers.map(({ names, kind, form, parent, files, bytes, digest }) => [
          names.length === 0 ? '-' : names.join(' '),
          kind,
          form,
          nameOf(parent),
          String(files),
          bytesText(bytes),
          digest,
        ]);
        const text = table(['NAME', 'KIND', 'FORM', 'PARENT', 'FILES', 'SIZE', 'DIGEST'], rows);
        print(command, around, { type: 'layers', layers }, text);
      });
    });
  layer
    .command('rm')
    .description('Remove a layer that no service and no other layer needs.')
    .argument('<name>', 'name, digest or beginning of a digest')
    .addHelpText('after', '\nExample:\n  deltahop layer rm redis7')
    .action(async (name: string, _options: object, command: Command) => {
      await withAgent(command, around, async (client) => {
        const { digest, removed } = await client.removeLayer(name);
        const text = removed === 'name' ? `removed the name ${name}; its layer has others` : `removed layer ${name}`;
        print(command, around, { type: 'removed', what: removed, name, digest }, text);
      });
    });
}

interface MigrateFlags {
  dryRun?: boolean;
  onCommit?: string;
  maxDowntime: number;
  autoConverge?: boolean;
}

function addMigrateCommand(program: Command, around: Surroundings, done: (code: number) => void): void {
  program
    .command('migrate')
    .description('Move a running service to another node. A failure leaves it running here.')
    .argument('<name>', 'service')
    .argument('<host:port>', 'where the agent of the other node listens', readAddress)
    .option('--dry-run', 'move nothing: say what stands against it, and what it would send, take and stop for')
    .option('--on-commit <program>', 'run this here once the service runs there, for 10 s at the most')
    .option(
      '--max-downtime <seconds>',
      'the service may stand still for so long, else it runs on here',
      readSeconds,
      30,
    )
    .option(
      '--auto-converge',
      'slow a virtual machine down that changes more than the link carries, until it is frozen',
    )
    .addHelpText(
      'after',
      `
Ctrl-C cancels: the service runs on here. A terminal that goes away does not.
With --dry-run the exit code is 1 if the service could not move.
With --auto-converge a machine whose rounds do not shrink is left with a quarter of its processors, then a sixteenth, then
a 64th. At the other node, and here if it does not move, it has all of them.
A program of --on-commit finds DELTAHOP_SERVICE, _FROM, _TO (names of the nodes), _TO_ADDRESS and _EPOCH in its
environment. If it fails, that is a warning: the service has moved. It is run again if the agent ended meanwhile, and with
this node in _TO if the service comes back because it is not well there.

Examples:
  deltahop migrate web 10.0.0.2:7400 --dry-run
  deltahop migrate web 10.0.0.2:7400`,
    )
    .action(async (name: string, to: string, options: MigrateFlags, command: Command) => {
      await withAgent(command, around, async (client) => {
        const { autoConverge = false } = options;
        const onCommit = options.onCommit === undefined ? null : resolve(options.onCommit);
        if (options.dryRun === true) {
          const view = await client.dryRun(name, { to, autoConverge, onCommit });
          print(command, around, view, dryRunText(view));
          done(view.possible ? exitCodes.ok : exitCodes.failed);
          return;
        }
        const maxDowntimeMs = toMs(options.maxDowntime);
        const events = client.migrate(name, { to, onCommit, maxDowntimeMs, autoConverge });
        const last = await follow(command, around, client, events, `cancelling the migration of ${name}`);
        const failure = last === null ? null : jobFailure(command, around, last);
        if (failure === null) return;
        if (!isJson(command)) around.stderr.write(await whereabouts(client, name));
        done(failureCode(failure));
      });
    });
}

/** What has become of a service whose migration failed: what people want to know first. Asked for, not assumed. */
async function whereabouts(client: LocalClient, name: string): Promise<string> {
  try {
    const { state, ownership } = await client.service(name);
    return ownership === 'owned' && state === 'running' ? `${printable(name)} runs on here\n` : '';
  } catch {
    return '';
  }
}

function addDoctorCommand(program: Command, around: Surroundings, done: (code: number) => void): void {
  program
    .command('doctor')
    .description('Say what this machine can do, and what to install. Needs no agent.')
    .addHelpText(
      'after',
      `
Exits with 1 if anything is missing that every service needs, or if this machine can run services of no driver.

Example:
  deltahop doctor --json`,
    )
    .action(async (_options: object, command: Command) => {
      const { examine } = await import('../agent/doctor.js');
      const examinations = await examine();
      const able = new Set(
        examinations.filter(({ capabilities }) => capabilities.every((found) => found.ok)).map(({ group }) => group),
      );
      // A node that has one kind of service only needs nothing of the others.
      const ok = able.has('deltahop') && [...able].some((group) => group !== 'deltahop' && group !== 'testbed');
      const text = examinations
        .map(({ group, capabilities }) => {
          const lines = capabilities.map((found) => {
            const line = `  ${found.ok ? 'ok     ' : 'missing'}  ${printable(found.name)}: ${printable(found.detail)}`;
            return found.remedy === null ? line : `${line}\n             → ${printable(found.remedy)}`;
          });
          return [printable(group), ...lines].join('\n');
        })
        .join('\n');
      const groups = examinations.map(({ group, capabilities }) => ({ group, capabilities }));
      print(command, around, { type: 'doctor', ok, groups }, text);
      done(ok ? exitCodes.ok : exitCodes.failed);
    });
}

function usageBody(text: string): ErrorBody {
  const message = text
    .trim()
    .replace(/^error: /, '')
    .replace(/\s*\n\s*/g, ' ');
  return { code: 'DELTAHOP_E_INVALID_ARGUMENT', message, remedy: 'see --help of the command' };
}

function readNodeName(text: string): string {
  if (/^[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?$/.test(text)) return text;
  throw new InvalidArgumentError('A node name is made of letters, digits and . _ - and has 64 at the most.');
}

function shortDigest(digest: string): string {
  return digest.slice('blake3:'.length, 'blake3:'.length + 12);
}
