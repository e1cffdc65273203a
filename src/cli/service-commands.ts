/** `deltahop service`: what a node is told of its services. */
import { basename, resolve } from 'node:path';
import { type Command, InvalidArgumentError, Option } from 'commander';
import type { ServiceView } from '../agent/messages.js';
import { DeltahopError } from '../errors.js';
import type { HealthPolicy } from '../migrate/ownership.js';
import { failureCode, follow, jobFailure, print, withAgent } from './agent-session.js';
import { readSeconds, toMs } from './option-values.js';
import { printable, table } from './render.js';
import type { Surroundings } from './surroundings.js';

/** Adds the commands below `service`. `done` is told the exit code. */
export function addServiceCommands(program: Command, around: Surroundings, done: (code: number) => void): void {
  const service = program.command('service').description('Add, adopt, start, stop, list, inspect and remove services.');
  service
    .command('add')
    .description('Describe a service to this node. It is not started.')
    .argument('<name>', 'letters, digits and -, at most 32')
    .argument('[command...]', 'what runs in a container; write -- in front')
    .requiredOption('--driver <driver>', 'workload driver: lxc (containers), qemu (virtual machines)')
    .requiredOption('--base <name>', 'base layer')
    .requiredOption('--app <name>', 'app layer')
    .option('--set <key=value>', 'setting of the driver; may be given several times', collectSetting, {})
    .option(
      '--memory <size>',
      'setting memory, e.g. 512M: all that a virtual machine has, the most that a container may use',
    )
    .option('--cpus <count>', 'setting cpus: processors of a virtual machine, or worth of time for a container')
    .option('--kernel <file>', 'setting kernel of a virtual machine; without it, it boots by its firmware')
    .option('--initrd <file>', 'setting initrd, with --kernel')
    .option('--append <text>', 'setting append: the command line of --kernel')
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
Examples:
  deltahop service add web --driver lxc --base debian12 --app redis7 \\
    --set ip=10.0.0.5/24 -- /usr/bin/redis-server --port 6379
  deltahop service add vm --driver qemu --base debian12-disk --app redis7-disk --memory 512M --cpus 2 \\
    --set ip=10.0.0.6/24`,
    )
    .action(
      async (
        name: string,
        words: string[],
        options: { driver: string; base: string; app: string; set: Record<string, string> } & HealthFlags &
          SettingFlags,
        command: Command,
      ) => {
        await withAgent(command, around, async (client) => {
          const { driver, base, app } = options;
          const [settings, health] = [settingsOf(options), healthOf(options)];
          const added = await client.addService({ name, driver, base, app, settings, command: words, health });
          print(command, around, { type: 'service', ...added }, withNote(`added service ${name}`, added));
        });
      },
    );
  service
    .command('adopt')
    .description(
      'Make a service of a stopped container of LXC’s or a domain of libvirt’s that is shut off: what its base does not have becomes its app layer.',
    )
    .argument('<driver:what>', 'lxc:NAME, or lxc:DIRECTORY of the container, or libvirt:NAME of the domain')
    .argument('[command...]', 'what runs in it, if it begins with an init system; write -- in front')
    .requiredOption('--base <name>', 'base layer that it was built upon')
    .option('--name <name>', 'how the service and its app layer are called (default: like what is adopted)')
    .option('--set <key=value>', 'setting of the driver, where its own is not to be kept', collectSetting, {})
    .addHelpText(
      'after',
      `
What is adopted stays as it is. Never start it beside the service; remove it once the service has shown to be well.

Examples:
  deltahop service adopt lxc:shop --base debian12 -- /usr/bin/redis-server
  deltahop service adopt libvirt:shop --base debian12-disk --set ip=10.0.0.6/24`,
    )
    .action(
      async (
        what: string,
        words: string[],
        options: { base: string; name?: string; set: Record<string, string> },
        command: Command,
      ) => {
        const [, driver = '', reference = ''] = /^([a-z]+):(.+)$/.exec(what) ?? [];
        if (driver === '') command.error('error: write DRIVER:NAME, like lxc:shop');
        await withAgent(command, around, async (client) => {
          const { base, name = basename(reference), set: settings } = options;
          const asked = { name, driver, reference, base, settings, command: words, health: null };
          const last = await follow(
            command,
            around,
            client,
            client.adoptService(asked),
            `stopping the adoption of ${name}`,
          );
          const failure = last === null ? null : jobFailure(command, around, last);
          if (failure !== null) done(failureCode(failure));
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
          print(command, around, { type: 'service', ...changed }, withNote(`service ${name} ${did}`, changed));
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

interface HealthFlags {
  health?: string;
  healthFor: number;
  healthLimit: number;
  healthFails: 'ask' | 'keep' | 'back';
}

/** Options that stand for a setting of the same name. */
type SettingFlags = Partial<Record<'memory' | 'cpus' | 'kernel' | 'initrd' | 'append', string>>;

function settingsOf({ set, ...flags }: { set: Record<string, string> } & SettingFlags): Record<string, string> {
  const settings = { ...set };
  for (const key of ['memory', 'cpus', 'kernel', 'initrd', 'append'] as const) {
    const value = flags[key];
    if (value === undefined) continue;
    if (settings[key] !== undefined) throw new DeltahopError('DELTAHOP_E_INVALID_ARGUMENT', `${key} is given twice`);
    // The agent's working directory is not the caller's.
    settings[key] = key === 'kernel' || key === 'initrd' ? resolve(value) : value;
  }
  return settings;
}

function withNote(text: string, { note }: ServiceView): string {
  return note === null ? text : `${text}\n  ${printable(note)}`;
}

function healthOf({ health, healthFor, healthLimit, healthFails }: HealthFlags): HealthPolicy | null {
  if (health === undefined) return null;
  return { probe: health, forMs: toMs(healthFor), limitMs: toMs(healthLimit), ifFails: healthFails };
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
    ...(view.note === null ? [] : [['note', view.note] as [string, string]]),
    ['base', `${view.base.name}  ${view.base.digest}`],
    ['app', `${view.app.name}  ${view.app.digest}`],
    ['settings', settings.length === 0 ? '-' : settings.join(' ')],
    ['command', view.command.map((word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : JSON.stringify(word))).join(' ')],
    ['health', view.health === null ? '-' : `${view.health.probe}, else ${view.health.ifFails}`],
    ['epoch', String(view.epoch)],
  ];
  return lines.map(([label, value]) => `${label.padEnd(9)} ${printable(value)}`).join('\n');
}
