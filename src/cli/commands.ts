/** The command line: what each command is given, asks of the agent, prints and returns. */
import { resolve } from 'node:path';
import { Command, CommanderError, InvalidArgumentError, Option } from 'commander';
import type { LocalClient } from '../agent/client.js';
import { Agent, programVersion } from '../agent/daemon.js';
import { examine } from '../agent/doctor.js';
import { type ErrorBody, errorBody, errorBodySchema, type ServiceView } from '../agent/messages.js';
import { formatAddress, parseAddress } from '../agent/peers.js';
import { DeltahopError } from '../errors.js';
import type { HealthPolicy } from '../migrate/ownership.js';
import { fail, follow, isJson, print, stateOf, withAgent } from './agent-session.js';
import { dryRunText } from './forecast-text.js';
import { addHandOffCommands } from './hand-off-commands.js';
import { addJobCommands } from './job-commands.js';
import { bytesText, printable, table } from './render.js';
import { addServeCommand } from './serve-command.js';
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
  addServiceCommands(program, around);
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
      const log = around.log();
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
    .description('Take a directory in as a layer and print its digest. With a parent, PATH is the full tree upon it.')
    .addOption(new Option('--kind <kind>', 'what the layer is').choices(['base', 'app']).makeOptionMandatory())
    .requiredOption('--name <name>', 'how the layer is called on this node')
    .option('--parent <name>', 'base layer that an app layer was built upon')
    .argument('<path>', 'directory')
    .addHelpText(
      'after',
      `
Examples:
  deltahop layer import --kind base --name debian12 /srv/rootfs/debian12
  deltahop layer import --kind app --name redis7 --parent debian12 /srv/rootfs/redis`,
    )
    .action(async (path: string, options: { kind: string; name: string; parent?: string }, command: Command) => {
      await withAgent(command, around, async (client) => {
        const { kind, name, parent = null } = options;
        const events = client.importLayer({ kind, name, parent, path: resolve(path) });
        const last = await follow(command, around, client, events, `stopping the import of ${name}`);
        if (last?.type === 'error') {
          fail(around, false, errorBodySchema.parse(last), isJson(command));
          done(last['code'] === 'DELTAHOP_E_CANCELLED' ? exitCodes.interrupted : exitCodes.failed);
        }
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
        const rows = layers.map(({ names, kind, parent, files, bytes, digest }) => [
          names.length === 0 ? '-' : names.join(' '),
          kind,
          nameOf(parent),
          String(files),
          bytesText(bytes),
          digest,
        ]);
        const text = table(['NAME', 'KIND', 'PARENT', 'FILES', 'SIZE', 'DIGEST'], rows);
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

function addServiceCommands(program: Command, around: Surroundings): void {
  const service = program.command('service').description('Add, start, stop, list, inspect and remove services.');
  service
    .command('add')
    .description('Describe a service to this node. It is not started.')
    .argument('<name>', 'letters, digits and -, at most 32')
    .argument('<command...>', 'what runs in it; write -- in front')
    .requiredOption('--driver <driver>', 'workload driver: lxc')
    .requiredOption('--base <name>', 'base layer')
    .requiredOption('--app <name>', 'app layer')
    .option('--set <key=value>', 'setting of the driver; may be given several times', collectSetting, {})
    .option('--health <probe>', 'tcp:PORT, http:PORT/PATH or exec:COMMAND, tried within the service after it has moved')
    .option('--health-for <seconds>', 'the probe has to hold for so long', readSeconds, 2)
    .option('--health-limit <seconds>', 'and to begin to by then', readSeconds, 30)
    .addOption(
      new Option('--health-fails <policy>', 'else: ask you, keep it there, or bring it back to where it was frozen')
        .choices(['ask', 'keep', 'back'])
        .default('ask'),
    )
    .addHelpText(
      'after',
      `
Example:
  deltahop service add web --driver lxc --base debian12 --app redis7 \\
    --set ip=10.0.0.5/24 -- /usr/bin/redis-server --port 6379`,
    )
    .action(
      async (
        name: string,
        words: string[],
        options: { driver: string; base: string; app: string; set: Record<string, string> } & HealthFlags,
        command: Command,
      ) => {
        await withAgent(command, around, async (client) => {
          const { driver, base, app, set } = options;
          const health = healthOf(options);
          const added = await client.addService({ name, driver, base, app, settings: set, command: words, health });
          print(command, around, { type: 'service', ...added }, `added service ${name}`);
        });
      },
    );
  for (const [change, did] of [
    ['start', 'runs'],
    ['stop', 'is stopped'],
  ] as const) {
    service
      .command(change)
      .description(change === 'start' ? 'Start a service that this node owns.' : 'Stop a service that this node owns.')
      .argument('<name>')
      .addHelpText('after', `\nExample:\n  deltahop service ${change} web`)
      .action(async (name: string, _options: object, command: Command) => {
        await withAgent(command, around, async (client) => {
          const changed = await client.changeService(name, change);
          print(command, around, { type: 'service', ...changed }, `service ${name} ${did}`);
        });
      });
  }
  service
    .command('list')
    .description('List the services that this node owns, or once had.')
    .addHelpText('after', '\nExample:\n  deltahop service list')
    .action(async (_options: object, command: Command) => {
      await withAgent(command, around, async (client) => {
        const services = await client.services();
        const rows = services.map((view) => [
          view.name,
          stateText(view),
          view.driver,
          view.base.name,
          view.app.name,
          String(view.epoch),
        ]);
        const text = table(['NAME', 'STATE', 'DRIVER', 'BASE', 'APP', 'EPOCH'], rows);
        print(command, around, { type: 'services', services }, text);
      });
    });
  service
    .command('inspect')
    .description('Show all that this node knows of a service.')
    .argument('<name>')
    .addHelpText('after', '\nExample:\n  deltahop service inspect web --json')
    .action(async (name: string, _options: object, command: Command) => {
      await withAgent(command, around, async (client) => {
        const view = await client.service(name);
        print(command, around, { type: 'service', ...view }, serviceText(view));
      });
    });
  service
    .command('rm')
    .description('Remove a stopped service from this node, with all that it has changed. Layers stay.')
    .argument('<name>')
    .addHelpText('after', '\nExample:\n  deltahop service rm web')
    .action(async (name: string, _options: object, command: Command) => {
      await withAgent(command, around, async (client) => {
        await client.removeService(name);
        print(command, around, { type: 'removed', what: 'service', name }, `removed service ${name}`);
      });
    });
}

interface MigrateFlags {
  dryRun?: boolean;
  onCommit?: string;
  maxDowntime: number;
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
    .addHelpText(
      'after',
      `
Ctrl-C cancels: the service runs on here. A terminal that goes away does not.
With --dry-run the exit code is 1 if the service could not move.
A program of --on-commit finds DELTAHOP_SERVICE, _FROM, _TO (names of the nodes), _TO_ADDRESS and _EPOCH in its
environment. If it fails, that is a warning: the service has moved.

Examples:
  deltahop migrate web 10.0.0.2:7400 --dry-run
  deltahop migrate web 10.0.0.2:7400`,
    )
    .action(async (name: string, to: string, options: MigrateFlags, command: Command) => {
      await withAgent(command, around, async (client) => {
        if (options.dryRun === true) {
          const view = await client.dryRun(name, to);
          print(command, around, view, dryRunText(view));
          done(view.possible ? exitCodes.ok : exitCodes.failed);
          return;
        }
        const onCommit = options.onCommit === undefined ? null : resolve(options.onCommit);
        const events = client.migrate(name, { to, onCommit, maxDowntimeMs: options.maxDowntime * 1000 });
        const last = await follow(command, around, client, events, `cancelling the migration of ${name}`);
        const failure = last?.type === 'error' ? last : last?.['error'];
        if (failure === undefined) return;
        const body = errorBodySchema.parse(failure);
        if (!isJson(command)) around.stderr.write(await whereabouts(client, name));
        fail(around, false, body, isJson(command));
        done(body.code === 'DELTAHOP_E_CANCELLED' ? exitCodes.interrupted : exitCodes.failed);
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
Exits with 1 if anything is missing that services need; the testbed's needs do not count.

Example:
  deltahop doctor --json`,
    )
    .action(async (_options: object, command: Command) => {
      const examinations = await examine();
      const ok = examinations.every(
        ({ group, capabilities }) => group === 'testbed' || capabilities.every((capability) => capability.ok),
      );
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

function readAddress(text: string): string {
  return orInvalid(() => formatAddress(parseAddress(text)));
}

function readNodeName(text: string): string {
  if (/^[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?$/.test(text)) return text;
  throw new InvalidArgumentError('A node name is made of letters, digits and . _ - and has 64 at the most.');
}

function orInvalid<T>(read: () => T): T {
  try {
    return read();
  } catch (error) {
    throw new InvalidArgumentError(error instanceof Error ? error.message : String(error));
  }
}

function readSeconds(text: string): number {
  const seconds = /^\d{1,6}(\.\d{1,3})?$/.test(text) ? Number(text) : Number.NaN;
  if (Number.isFinite(seconds)) return seconds;
  throw new InvalidArgumentError('Write a number of seconds, like 30 or 0.5.');
}

interface HealthFlags {
  health?: string;
  healthFor: number;
  healthLimit: number;
  healthFails: 'ask' | 'keep' | 'back';
}

function healthOf({ health, healthFor, healthLimit, healthFails }: HealthFlags): HealthPolicy | null {
  if (health === undefined) return null;
  return { probe: health, forMs: healthFor * 1000, limitMs: healthLimit * 1000, ifFails: healthFails };
}

function collectSetting(text: string, before: Record<string, string>): Record<string, string> {
  const at = text.indexOf('=');
  const key = text.slice(0, at);
  if (at < 1) throw new InvalidArgumentError('Write KEY=VALUE.');
  if (Object.hasOwn(before, key)) throw new InvalidArgumentError(`${key} is given twice.`);
  return { ...before, [key]: text.slice(at + 1) };
}

function stateText({ state, ownership, movedTo, operation }: ServiceView): string {
  if (ownership === 'arriving') return operation === null ? 'did not arrive' : `arriving (${operation})`;
  const base = ownership === 'departed' ? `moved to ${movedTo ?? '?'}` : state;
  return operation === null ? base : `${base} (${operation})`;
}

function serviceText(view: ServiceView): string {
  const settings = Object.entries(view.settings).map(([key, value]) => `${key}=${value}`);
  const lines: [string, string][] = [
    ['name', view.name],
    ['state', stateText(view)],
    ...(view.problem === null ? [] : [['problem', view.problem] as [string, string]]),
    ['pid', view.pid === null ? '-' : String(view.pid)],
    ['driver', view.driver],
    ['base', `${view.base.name}  ${view.base.digest}`],
    ['app', `${view.app.name}  ${view.app.digest}`],
    ['settings', settings.length === 0 ? '-' : settings.join(' ')],
    ['command', view.command.map((word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : JSON.stringify(word))).join(' ')],
    ['health', view.health === null ? '-' : `${view.health.probe}, else ${view.health.ifFails}`],
    ['epoch', String(view.epoch)],
  ];
  return lines.map(([label, value]) => `${label.padEnd(9)} ${printable(value)}`).join('\n');
}

function shortDigest(digest: string): string {
  return digest.slice('blake3:'.length, 'blake3:'.length + 12);
}
