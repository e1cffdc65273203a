/** Domains that somebody else made, as services could be made of them. */
import { randomUUID } from 'node:crypto';
import { DeltahopError } from '../../errors.js';
import type { ForeignWorkload } from '../driver.js';
import { portableDomain, renumbered, UnportableDomain } from './domain-xml.js';
import { domainState, virsh } from './virsh.js';

/**
 * Looks at a domain that libvirt knows and that is shut off.
 * @throws DeltahopError DELTAHOP_E_NOT_FOUND, DELTAHOP_E_IN_USE if it runs, DELTAHOP_E_UNSUPPORTED naming what of it can not
 *   become a service's, DELTAHOP_E_INVALID_ARGUMENT naming what has to be said because the domain does not.
 */
export async function foreignDomain(
  reference: string,
  given: { settings: Readonly<Record<string, string>>; command: readonly string[] },
): Promise<ForeignWorkload> {
  // A word that begins with - would be an option of virsh's.
  const state = reference.startsWith('-') ? null : await domainState(reference);
  if (state === null) throw new DeltahopError('DELTAHOP_E_NOT_FOUND', `libvirt knows no domain ${reference} here`);
  if (state !== 'shut off') {
    throw new DeltahopError('DELTAHOP_E_IN_USE', `domain ${reference} is ${state}; shut it down first`);
  }
  if (given.command.length > 0) {
    throw new DeltahopError('DELTAHOP_E_INVALID_ARGUMENT', `${reference} is a virtual machine, which takes no command`);
  }
  return describeDomain(
    reference,
    await virsh(['dumpxml', reference, '--inactive', '--security-info']),
    given.settings,
  );
}

/** See {@link foreignDomain}. */
export function describeDomain(
  reference: string,
  xml: string,
  given: Readonly<Record<string, string>>,
): ForeignWorkload {
  const { domain, parts } = portable(reference, xml);
  if (parts.diskPath === '') {
    throw new DeltahopError('DELTAHOP_E_UNSUPPORTED', `domain ${reference} can not be adopted: its disk is not a file`);
  }
  const network: Record<string, string> = {};
  if (domain.hasInterface) {
    if (given['ip'] === undefined) {
      throw new DeltahopError(
        'DELTAHOP_E_INVALID_ARGUMENT',
        `nobody but its guest knows the address of domain ${reference}; say --set ip=ADDRESS/PREFIX`,
      );
    }
    if (parts.mac !== '') network['mac'] = parts.mac;
    if (parts.bridge !== '') network['bridge'] = parts.bridge;
    else if (given['bridge'] === undefined) {
      throw new DeltahopError(
        'DELTAHOP_E_INVALID_ARGUMENT',
        `domain ${reference} hangs on no bridge that is named; say --set bridge=NAME, of one that every node has`,
      );
    }
  }
  const settings: Record<string, string> = { domain: renumbered(domain, randomUUID()).xml, ...network };
  for (const name of ['kernel', 'initrd'] as const) {
    const path = parts[name];
    if (path !== null) settings[name] = path;
  }
  const note = 'it has a new number (<uuid>), since the domain that it was made of stays; its guest can see it';
  return { path: parts.diskPath, settings: { ...settings, ...given }, command: [], notes: [...parts.notes, note] };
}

function portable(reference: string, xml: string): ReturnType<typeof portableDomain> {
  try {
    return portableDomain(xml);
  } catch (error) {
    if (!(error instanceof UnportableDomain)) throw error;
    const why = `domain ${reference} can not be adopted: ${error.message}`;
    throw new DeltahopError('DELTAHOP_E_UNSUPPORTED', why);
  }
}
