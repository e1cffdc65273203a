/** The domain of one service: how it is defined, saved, restored and ended. Its QEMU goes on without agent and libvirt. */
import { mkdir, open, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { DeltahopError } from '../../errors.js';
import type { Capability, InstanceSize, MachineFacts, Workload } from '../driver.js';
import { writeAppImage } from '../machine/app-image.js';
import type { HoldActions } from '../machine/barrier.js';
import type { ArrangedMachine, Machine, Saving } from '../machine/hypervisor.js';
import { mustBeFile } from '../machine/kept-file.js';
import { endEveryQemu, endQemu, findQemu, type QemuMark } from '../machine/qemu-process.js';
import { replaceFile } from '../replaced-file.js';
import { quote } from '../verdict.js';
import { acceleratorNote, differences } from './capabilities.js';
import { placedDomain } from './domain-xml.js';
import { type LibvirtLayout, libvirtLayout } from './layout.js';
import { type LibvirtSettings, parseSettings } from './settings.js';
import { domainState, libvirtUri, pauseReason, virsh } from './virsh.js';

const resumeLimitMs = 10_000;
/** Saving all of its memory to a file, or loading it. */
const saveLimitMs = 300_000;
const pollMs = 20;

/** `LibvirtQemudSave`, then five numbers of 32 bits: version, bytes of XML, whether it ran, format, place of a cookie. */
const savedMagic = 'LibvirtQemudSave';
const savedHeaderBytes = 92;
/** The format `raw`: a plain stream of QEMU's. */
const rawFormat = 0;

/**
 * A domain of the node's libvirt. A round is a snapshot of the memory of the running domain; so is the last pass, of the
 * suspended one. Not `virsh save`, which ends the domain: this way it only has to be resumed if it is to stay. The
 * destination restores that file, paused.
 */
export class LibvirtMachine implements Machine {
  readonly layout: LibvirtLayout;
  readonly #workload: Workload;
  /** What QEMU's arguments say of this service's own disk, and of no other's. */
  readonly #diskWord: string;
  readonly #mark: QemuMark;

  constructor(workload: Workload) {
    const layout = libvirtLayout(workload);
    this.layout = layout;
    this.#workload = workload;
    const diskWord = `"filename":${JSON.stringify(layout.instanceImage)}`;
    this.#diskWord = diskWord;
    this.#mark = {
      id: layout.domain,
      pidFile: layout.pidFile,
      isIts: (words) => words.some((word) => word.startsWith('{') && word.includes(diskWord)),
    };
  }

  get settings(): LibvirtSettings {
    return parseSettings(this.#workload.name, this.#workload.settings);
  }

  get note(): string {
    return acceleratorNote(this.settings);
  }

  get paths(): readonly string[] {
    return [this.layout.definition];
  }

  get savedState(): string {
    return this.layout.saved;
  }

  /** By libvirt once it answers; it is ended whether libvirt answers or not. */
  get holdActions(): HoldActions {
    const command = `virsh --quiet --connect ${libvirtUri}`;
    const domain = quote(this.layout.domain);
    const alive = `read -r pid <${quote(this.layout.pidFile)} && tr '\\0' '\\n' <"/proc/$pid/cmdline" | grep -qF ${quote(this.#diskWord)}`;
    return {
      lives: alive,
      resume: `while ${alive}; do
    timeout -s KILL 10 ${command} resume ${domain} >/dev/null
    case $(timeout -s KILL 10 ${command} domstate ${domain}) in running*) break ;; esac
    sleep 0.2
  done`,
      end: `while ${alive}; do kill -KILL "$pid"; sleep 0.02; done`,
    };
  }

  differences(source: MachineFacts): Promise<readonly Capability[]> {
    return differences(source, this.settings);
  }

  find(): Promise<number | null> {
    return findQemu(this.#mark);
  }

  processors(): Promise<readonly number[]> {
    const why = 'libvirt keeps the processors of its domains in cgroups of its own';
    return Promise.reject(new DeltahopError('DELTAHOP_E_UNSUPPORTED', `${this.layout.domain}: ${why}`));
  }

  async isSuspended(): Promise<boolean> {
    // By libvirt's own tools; if that does not answer, nobody has.
    return (await domainState(this.layout.domain).catch(() => null)) === 'paused';
  }

  async isStalled(): Promise<boolean> {
    return (await pauseReason(this.layout.domain).catch(() => null)) === 'I/O error';
  }

  async boot(): Promise<void> {
    await this.#define();
    await virsh(['start', this.layout.domain]);
  }

  async askToShutDown(): Promise<void> {
    // One that is suspended hears nothing.
    await virsh(['resume', this.layout.domain]).catch(() => {});
    await virsh(['shutdown', this.layout.domain]).catch(() => {});
  }

  async resume(before: () => Promise<void> = async () => {}): Promise<void> {
    const { domain } = this.layout;
    if ((await this.find()) === null) throw new DeltahopError('DELTAHOP_E_WORKLOAD', `domain ${domain} has ended`);
    await before();
    for (const deadline = Date.now() + resumeLimitMs; ; await sleep(pollMs)) {
      const state = await domainState(domain);
      if (state === 'running') return;
      if (Date.now() > deadline) {
        throw new DeltahopError('DELTAHOP_E_WORKLOAD', `domain ${domain} is ${state ?? 'gone'} and does not run`);
      }
      // Somebody else may have been quicker.
      await virsh(['resume', domain]).catch(() => {});
      // It ran, and has found no room at once.
      if (await this.isStalled()) return;
    }
  }

  end(): Promise<void> {
    return endQemu(this.#mark);
  }

  async clear(): Promise<void> {
    await endEveryQemu(this.#mark);
    // It takes libvirt a moment to see that.
    const state = await domainState(this.layout.domain);
    if (state !== null && state !== 'shut off') await virsh(['destroy', this.layout.domain]).catch(() => {});
  }

  async forget(): Promise<void> {
    // What is defined can be started by anybody.
    if ((await domainState(this.layout.domain)) !== null) await virsh(['undefine', this.layout.domain]);
  }

  async measureMemory(): Promise<Pick<InstanceSize, 'memoryBytes' | 'memorySample'>> {
    const pid = await this.find();
    const status = pid === null ? '' : await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '');
    const residentBytes = Number(/^RssAnon:\s+(\d+) kB/m.exec(status)?.[1] ?? 0) * 1024;
    return {
      // QEMU itself and its translated code are in there too.
      memoryBytes: Math.min(residentBytes, this.settings.domain.memoryBytes),
      // It would have to be saved to be seen.
      memorySample: new Uint8Array(),
    };
  }

  async saveRunning(directory: string, signal: AbortSignal): Promise<number> {
    await this.#save(join(directory, 'saved'), ['--live'], signal);
    const said = await virsh(['domjobinfo', this.layout.domain, '--completed', '--anystats']);
    return Number(/^Total downtime:\s+(\d+)/m.exec(said)?.[1] ?? 0);
  }

  async freeze(signal: AbortSignal): Promise<Saving> {
    const { domain, memory, saved } = this.layout;
    await mkdir(memory, { recursive: true, mode: 0o700 });
    await rm(saved, { force: true });
    const frozenAtMs = Date.now();
    await virsh(['suspend', domain], { code: 'DELTAHOP_E_CHECKPOINT' });
    return { frozenAtMs, done: this.#save(saved, [], signal), cancel: () => this.#abortJob() };
  }

  async checkArrived(): Promise<void> {}

  async arrange(): Promise<ArrangedMachine> {
    await this.#define();
    const { saved, definition } = this.layout;
    const { name } = this.#workload;
    return {
      load: async (signal) => {
        await mustBeFile(saved, `the saved state of ${name}`);
        const problem = await savedProblem(saved);
        if (problem !== null) throw new DeltahopError('DELTAHOP_E_RESTORE', `${saved}: ${problem}`);
        await virsh(['restore', saved, '--xml', definition, '--paused'], {
          limitMs: saveLimitMs,
          signal,
          code: 'DELTAHOP_E_RESTORE',
        });
        if ((await this.find()) !== null) return;
        throw new DeltahopError('DELTAHOP_E_RESTORE', `${name} ended as soon as it was restored`);
      },
    };
  }

  /** Tells libvirt of the domain as it is on this node. */
  async #define(): Promise<void> {
    const { layout, settings } = this;
    const { basePath, appPath } = this.#workload;
    await writeAppImage(appPath, layout.appImage);
    const xml = placedDomain(settings.domain, {
      name: layout.domain,
      kernel: settings.kernel === null ? null : layout.kernel,
      initrd: settings.initrd === null ? null : layout.initrd,
      network: settings.network,
      base: join(basePath, 'disk'),
      appTables: layout.appImage,
      appData: join(appPath, 'disk'),
      instance: layout.instanceImage,
    });
    await replaceFile(layout.definition, (temporary) => writeFile(temporary, xml, { mode: 0o600 }));
    await virsh(['define', layout.definition]);
  }

  /** Saves the memory and devices of the domain, which goes on as it was. */
  async #save(path: string, how: readonly string[], signal: AbortSignal): Promise<void> {
    const failure = (why: string) =>
      new DeltahopError('DELTAHOP_E_CHECKPOINT', `${this.#workload.name} could not be saved: ${why}`);
    if (path.includes(',')) throw failure(`${path} has a comma, which libvirt does not take`);
    const argv = ['snapshot-create-as', this.layout.domain, 'deltahop', '--no-metadata', ...how];
    const { diskTarget } = this.settings.domain;
    argv.push('--memspec', `file=${path},snapshot=external`, '--diskspec', `${diskTarget},snapshot=no`);
    try {
      await virsh(argv, { limitMs: saveLimitMs, signal, code: 'DELTAHOP_E_CHECKPOINT' });
    } catch (error) {
      // With its client the job does not end.
      await this.#abortJob();
      throw error;
    }
    const problem = await savedProblem(path);
    if (problem !== null) throw failure(problem);
  }

  async #abortJob(): Promise<void> {
    await virsh(['domjobabort', this.layout.domain]).catch(() => {});
  }
}

/**
 * Whether a file is what libvirt saves of a domain and can take back.
 * @returns what is wrong with it; null if nothing is.
 */
async function savedProblem(path: string): Promise<string | null> {
  const header = Buffer.alloc(savedHeaderBytes);
  const file = await open(path, 'r');
  try {
    await file.read(header, 0, savedHeaderBytes, 0);
  } finally {
    await file.close();
  }
  if (header.toString('latin1', 0, savedMagic.length) !== savedMagic || header.readUInt32LE(16) !== 2) {
    return 'it is no state that libvirt has saved';
  }
  if (header.readUInt32LE(28) === rawFormat) return null;
  return 'it is compressed, or sparse: take snapshot_image_format out of libvirt’s qemu.conf';
}
