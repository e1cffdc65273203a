import { readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as z from 'zod';
import { DeltahopError } from '../../errors.js';
import { interfaceFlags } from './rtnetlink.js';

/**
 * The network of a container, which this driver saves (network-saver) and makes anew (ready-network) in CRIU's stead wherever it is a plain one.
 *
 * CRIU has six programs save it and eight make it anew, one after the other, while the container stands still: a third of
 * all that CRIU took of an idle service. Here it is saved beside the dump, and made while the image is still on its way, by
 * what the last round saved: at the end there is but to see that nothing has changed. To CRIU its namespace is external
 * (criu(8), --external net[INODE]:KEY and --inherit-fd), as it is for runc.
 *
 * Plain is what has no interface but `lo` and `eth0`, no firewall and no rules of routing but the kernel's. All else is left
 * to CRIU.
 */

/** The name by which CRIU's images refer to it. */
export const networkKey = 'network';

/** The file beside CRIU's images in which it is saved. */
const fileName = 'network.json';

/** A namespace has some 450 settings, 15 KiB; a thousand routes are 200 KiB. */
const maxFileBytes = 4 * 1024 * 1024;

const maxInt = 2 ** 31 - 1;

const interfaceSchema = z.strictObject({
  mtu: z.int().min(0).max(maxInt),
  queueLength: z.int().min(0).max(maxInt),
  /** IFF_UP, IFF_NOARP, IFF_PROMISC and IFF_ALLMULTI. */
  flags: z.int().min(0).max(interfaceFlags),
});

/** A saved network. */
const schema = z.strictObject({
  lo: interfaceSchema,
  /** Null: there is none but `lo`. */
  eth0: interfaceSchema
    .extend({ index: z.int().min(2).max(maxInt), address: z.string().regex(/^[0-9a-f]{12}$/) })
    .nullable(),
  /** Messages of RTM_NEWADDR and RTM_NEWROUTE, hexadecimal, without what is not of the object but of the moment. */
  addresses: z.array(z.string().regex(/^([0-9a-f]{2})+$/)),
  routes: z.array(z.string().regex(/^([0-9a-f]{2})+$/)),
  /** Files beneath /proc/sys/net, and their values. */
  settings: z.record(z.string().regex(/^[a-z0-9]+(\/[A-Za-z0-9_-]+)+$/), z.string()),
});

/** A network as it is saved. */
export type ContainerNetwork = z.infer<typeof schema>;

/** By which CRIU knows the network namespace of a process. */
export async function namespaceInode(pid: number): Promise<number> {
  return (await stat(`/proc/${pid}/ns/net`)).ino;
}

/** Puts a saved network beside the images of a dump. */
export async function writeNetwork(images: string, network: ContainerNetwork): Promise<void> {
  await writeFile(join(images, fileName), `${JSON.stringify(network, null, 1)}\n`);
}

/** What {@link writeNetwork} has put there; null if nothing. @throws DeltahopError DELTAHOP_E_RESTORE if it is too much. */
export async function readNetwork(images: string): Promise<string | null> {
  const path = join(images, fileName);
  try {
    if ((await stat(path)).size > maxFileBytes) {
      throw new DeltahopError('DELTAHOP_E_RESTORE', `${fileName} has more than ${maxFileBytes} bytes`);
    }
    return await readFile(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  }
}

/** Reads a saved network, as it came from a peer. @throws DeltahopError DELTAHOP_E_RESTORE if it is none. */
export function parseNetwork(saved: string): ContainerNetwork {
  try {
    return schema.parse(JSON.parse(saved));
  } catch (error) {
    throw new DeltahopError('DELTAHOP_E_RESTORE', `${fileName} is not what this version writes`, { cause: error });
  }
}
