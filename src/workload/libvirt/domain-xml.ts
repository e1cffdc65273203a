/**
 * Domains as libvirt describes them (libvirt.org/formatdomain.html): what of one can go to another node, and the same with
 * what each node has of its own. What is not known to be the same everywhere is refused by name, on arrival too: a peer's
 * domain could else hand a file or device of this node to its guest.
 */
import { DOMParser, type Element, onErrorStopParsing, XMLSerializer } from '@xmldom/xmldom';

/** A domain without anything of a node. */
export interface PortableDomain {
  /** `kvm` or `qemu`, libvirt's word for QEMU's own translation. */
  type: string;
  /** Its XML, by {@link portableDomain} itself: disk, network, kernel and name are each node's to fill in. */
  xml: string;
  memoryBytes: number;
  hasInterface: boolean;
  /** Its disk as the guest names it, e.g. `vda`. */
  diskTarget: string;
}

/** What of a domain belongs to the node that it was found on. */
export interface DomainParts {
  /** Its disk's image. */
  diskPath: string;
  kernel: string | null;
  initrd: string | null;
  /** Of its network interface; empty: not said. */
  mac: string;
  bridge: string;
  /** What a service will not have. */
  notes: string[];
}

/** What a node puts into a portable domain. */
export interface DomainPlace {
  name: string;
  kernel: string | null;
  initrd: string | null;
  network: { mac: string; bridge: string } | null;
  /** The chain: raw base, tables and data of the app layer, instance. */
  base: string;
  appTables: string;
  appData: string;
  instance: string;
}

/** Why a domain can not move; {@link message} is the end of a sentence about it. */
export class UnportableDomain extends Error {}

/** Elements that describe the machine itself. */
const kept = new Set(['uuid', 'memory', 'currentMemory', 'vcpu', 'os', 'features', 'cpu', 'clock', 'pm', 'devices']);
const onEvents: Readonly<Record<string, readonly string[]>> = {
  on_poweroff: ['destroy', 'restart', 'preserve'],
  on_reboot: ['destroy', 'restart', 'preserve'],
  // The others write a core file on the node.
  on_crash: ['destroy', 'restart', 'preserve'],
};
/** Elements that mean nothing to the guest. */
const dropped = new Set(['name', 'title', 'description', 'metadata', 'resource', 'seclabel']);
const osParts = ['type', 'boot', 'bootmenu', 'kernel', 'initrd', 'cmdline'];
const cpuParts = ['model', 'vendor', 'topology', 'feature', 'maxphysaddr'];

/** Devices that are the same everywhere, and which of their parts say so. */
const deviceParts: Readonly<Record<string, readonly string[]>> = {
  disk: ['target', 'boot', 'address'],
  controller: ['model', 'target', 'master', 'address'],
  interface: ['model', 'boot', 'address'],
  input: ['address'],
  video: ['model', 'address'],
  memballoon: ['address'],
  rng: ['backend', 'address'],
  watchdog: ['address'],
  serial: ['target', 'address'],
  console: ['target', 'address'],
  channel: ['target', 'address'],
  panic: ['address'],
  audio: [],
};

/** Of these devices, the only values of an attribute that name nothing of a node. */
const attributeValues: Readonly<Record<string, readonly [string, readonly string[]]>> = {
  input: ['type', ['mouse', 'keyboard', 'tablet']],
  serial: ['type', ['pty']],
  console: ['type', ['pty']],
  channel: ['type', ['unix']],
  // `dump` writes a core file on the node.
  watchdog: ['action', ['reset', 'shutdown', 'poweroff', 'pause', 'none', 'inject-nmi']],
};

/** Devices that show the machine to somebody at its node. */
const displays = new Set(['graphics', 'redirdev']);

/**
 * Takes from a domain what belongs to its node.
 * @throws UnportableDomain naming what of it can not be the same elsewhere.
 */
export function portableDomain(xml: string): { domain: PortableDomain; parts: DomainParts } {
  const root = parse(xml);
  const parts: DomainParts = { diskPath: '', kernel: null, initrd: null, mac: '', bridge: '', notes: [] };
  const type = root.getAttribute('type') ?? '';
  if (root.tagName !== 'domain' || (type !== 'kvm' && type !== 'qemu')) {
    throw new UnportableDomain(`it is of type ${type || root.tagName}, not kvm or qemu`);
  }
  keepAttributes(root, ['type']);
  for (const element of childrenOf(root)) {
    const name = element.tagName;
    const events = onEvents[name];
    if (dropped.has(name)) root.removeChild(element);
    else if (events !== undefined) {
      if (!events.includes(textOf(element))) throw new UnportableDomain(`it has <${name}>${textOf(element)}</${name}>`);
    } else if (!kept.has(name)) throw new UnportableDomain(`it has <${name}>, which another node may not have`);
  }
  const os = only(root, 'os');
  restrict(os, osParts, 'os');
  if (textOf(only(os, 'type')) !== 'hvm') throw new UnportableDomain('it is not a full virtual machine (hvm)');
  if (!/-\d+\.\d+$/.test(only(os, 'type').getAttribute('machine') ?? '')) {
    throw new UnportableDomain('its machine type has no version, so that other versions of QEMU build other machines');
  }
  for (const name of ['kernel', 'initrd'] as const) {
    const element = optional(os, name);
    if (element === null) continue;
    parts[name] = textOf(element);
    os.removeChild(element);
  }
  const cpu = optional(root, 'cpu');
  if (cpu !== null) {
    const mode = cpu.getAttribute('mode') ?? 'custom';
    if (mode !== 'custom') {
      throw new UnportableDomain(`its processor is the node’s own (<cpu mode='${mode}'>): give it a model by its name`);
    }
    restrict(cpu, cpuParts, 'cpu');
  }
  const vcpu = optional(root, 'vcpu');
  if (vcpu !== null) keepAttributes(vcpu, ['current']);
  reduceDevices(only(root, 'devices'), parts);
  const memoryBytes = bytesOf(only(root, 'memory'));
  removeBlanks(root);
  const hasInterface = optional(only(root, 'devices'), 'interface') !== null;
  const diskTarget = only(only(only(root, 'devices'), 'disk'), 'target').getAttribute('dev') ?? '';
  if (!/^[a-z]{3,8}$/.test(diskTarget)) throw new UnportableDomain('its disk has no name');
  const described = { type, xml: new XMLSerializer().serializeToString(root), memoryBytes, hasInterface, diskTarget };
  return { domain: described, parts };
}

/** The domain as this node defines it. @param domain By {@link portableDomain}. */
export function placedDomain({ xml }: PortableDomain, place: DomainPlace): string {
  const root = parse(xml);
  add(root, 'name', {}, place.name);
  const os = only(root, 'os');
  for (const name of ['kernel', 'initrd'] as const) {
    const path = place[name];
    if (path !== null) add(os, name, {}, path);
  }
  const devices = only(root, 'devices');
  const disk = only(devices, 'disk');
  disk.setAttribute('type', 'file');
  add(disk, 'driver', { name: 'qemu', type: 'qcow2', discard: 'unmap' });
  add(disk, 'source', { file: place.instance });
  // The whole chain is said here, and nothing that an image says of others counts.
  const app = add(disk, 'backingStore', { type: 'file' });
  add(app, 'format', { type: 'qcow2' });
  const appData = add(add(app, 'source', { file: place.appTables }), 'dataStore', { type: 'file' });
  add(appData, 'format', { type: 'raw' });
  add(appData, 'source', { file: place.appData });
  const base = add(app, 'backingStore', { type: 'file' });
  add(base, 'format', { type: 'raw' });
  add(base, 'source', { file: place.base });
  add(base, 'backingStore', {});
  const card = optional(devices, 'interface');
  if (card !== null && place.network !== null) {
    card.setAttribute('type', 'bridge');
    add(card, 'mac', { address: place.network.mac });
    add(card, 'source', { bridge: place.network.bridge });
  }
  return new XMLSerializer().serializeToString(root);
}

/** The same domain with another number, so that both can be known to one libvirt. */
export function renumbered({ xml, ...rest }: PortableDomain, uuid: string): PortableDomain {
  const root = parse(xml);
  const old = optional(root, 'uuid');
  if (old !== null) root.removeChild(old);
  add(root, 'uuid', {}, uuid);
  return { ...rest, xml: new XMLSerializer().serializeToString(root) };
}

function reduceDevices(devices: Element, parts: DomainParts): void {
  let [disks, cards] = [0, 0];
  for (const device of childrenOf(devices)) {
    const kind = device.tagName;
    const source = optional(device, 'source');
    if (kind === 'emulator') {
      devices.removeChild(device);
      continue;
    }
    const isDisplay = displays.has(kind) || (kind === 'channel' && device.getAttribute('type') === 'spicevmc');
    if (isDisplay) {
      parts.notes.push(`its <${kind}> is not kept: nobody sits at the node that it will be on`);
      devices.removeChild(device);
      continue;
    }
    if (kind === 'disk' && device.getAttribute('device') === 'cdrom' && source === null) {
      parts.notes.push('its empty CD drive is not kept');
      devices.removeChild(device);
      continue;
    }
    const known = deviceParts[kind];
    if (known === undefined) throw new UnportableDomain(`it has a <${kind}>, which another node may not have`);
    const [attribute, values] = attributeValues[kind] ?? [];
    const value = attribute === undefined ? null : device.getAttribute(attribute);
    if (value !== null && values !== undefined && !values.includes(value)) {
      throw new UnportableDomain(`it has a <${kind}> with ${attribute}='${value}', which is this node’s own`);
    }
    if (kind === 'disk') {
      disks++;
      if ((device.getAttribute('device') ?? 'disk') !== 'disk') {
        throw new UnportableDomain(`it has a ${device.getAttribute('device')} with a medium in it`);
      }
      parts.diskPath = source?.getAttribute('file') ?? '';
      keepAttributes(device, ['device']);
    } else if (kind === 'interface') {
      cards++;
      parts.mac = optional(device, 'mac')?.getAttribute('address') ?? '';
      parts.bridge = source?.getAttribute('bridge') ?? '';
      keepAttributes(device, []);
    } else if (kind === 'rng') {
      const backend = optional(device, 'backend');
      if (backend?.getAttribute('model') !== 'random') throw new UnportableDomain('its <rng> is not of model random');
      backend.textContent = '/dev/urandom';
    } else if (kind === 'audio') {
      keepAttributes(device, ['id']);
      device.setAttribute('type', 'none');
    } else if (kind === 'console' || kind === 'serial') {
      keepAttributes(device, ['type']);
    }
    for (const part of childrenOf(device)) {
      if (!known.includes(part.tagName)) device.removeChild(part);
    }
  }
  if (disks !== 1) throw new UnportableDomain(`it has ${disks} disks, and a service has one`);
  if (cards > 1) throw new UnportableDomain('it has more than one network interface');
}

function parse(xml: string): Element {
  let problem = '';
  try {
    const document = new DOMParser({ onError: onErrorStopParsing }).parseFromString(xml, 'text/xml');
    // No entity but XML's own five is ever needed.
    if (document.doctype !== null) problem = 'it has a document type';
    else if (document.documentElement !== null) return document.documentElement;
  } catch (error) {
    problem = (error as Error).message.split('\n')[0] ?? '';
  }
  throw new UnportableDomain(`its description is no XML of libvirt’s: ${problem}`);
}

function childrenOf(element: Element): Element[] {
  return [...element.childNodes].filter((node): node is Element => node.nodeType === node.ELEMENT_NODE);
}

function optional(element: Element, name: string): Element | null {
  return childrenOf(element).find(({ tagName }) => tagName === name) ?? null;
}

function only(element: Element, name: string): Element {
  const found = childrenOf(element).filter(({ tagName }) => tagName === name);
  const [first] = found;
  if (first === undefined || found.length > 1) throw new UnportableDomain(`it has ${found.length} <${name}>, not one`);
  return first;
}

function restrict(element: Element, names: readonly string[], where: string): void {
  for (const { tagName } of childrenOf(element)) {
    if (!names.includes(tagName)) throw new UnportableDomain(`it has <${tagName}> in <${where}>`);
  }
}

function keepAttributes(element: Element, names: readonly string[]): void {
  for (const { name } of [...element.attributes]) if (!names.includes(name)) element.removeAttribute(name);
}

function textOf(element: Element): string {
  return (element.textContent ?? '').trim();
}

function add(parent: Element, name: string, attributes: Readonly<Record<string, string>>, text = ''): Element {
  const element = (parent.ownerDocument as NonNullable<typeof parent.ownerDocument>).createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== '') element.textContent = text;
  parent.appendChild(element);
  return element;
}

/** Comments and the blanks between elements. */
function removeBlanks(element: Element): void {
  const children = childrenOf(element);
  if (children.length === 0) return;
  for (const node of [...element.childNodes]) if (node.nodeType !== node.ELEMENT_NODE) element.removeChild(node);
  for (const child of children) removeBlanks(child);
}

function bytesOf(element: Element): number {
  const units: Readonly<Record<string, number>> = { b: 1, bytes: 1, KiB: 1024, k: 1024, MiB: 1 << 20, GiB: 1 << 30 };
  const bytes = Number(textOf(element)) * (units[element.getAttribute('unit') ?? 'KiB'] ?? Number.NaN);
  if (!Number.isSafeInteger(bytes) || bytes <= 0) throw new UnportableDomain('its <memory> is no size');
  return bytes;
}
