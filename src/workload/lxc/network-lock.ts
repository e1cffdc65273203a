import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { entries, fields, malformed } from './criu-image.js';

/** `INVENTORY_MAGIC` (CRIU, criu/include/magic.h as of 4.x), with which inventory.img begins: it has no other. */
const inventoryHeader = Buffer.from('16313158', 'hex');
/** `network_lock_method` (CRIU, images/inventory.proto), and of `enum NETWORK_LOCK_METHOD` (criu/include/cr_options.h). */
const [lockMethodField, NETWORK_LOCK_SKIP] = [11, 2];

/**
 * Says in an image that the network of its container was not locked for the dump.
 *
 * At the end of a restore CRIU takes away the lock of which the image says how it was made. In a network of our making there
 * never was one, and finding that out costs 18 ms of downtime. The entry keeps its length: a varint of one byte.
 *
 * @param images Directory of the image.
 * @throws DeltahopError DELTAHOP_E_CHECKPOINT if inventory.img is not what CRIU 4 writes.
 */
export async function disownNetworkLock(images: string): Promise<void> {
  const path = join(images, 'inventory.img');
  const image = await readFile(path);
  disown(image);
  await writeFile(path, image);
}

/** Works on the bytes of inventory.img in place. */
export function disown(image: Buffer): void {
  for (const { start, end } of entries(image, inventoryHeader)) {
    const method = fields(image, start, end).get(lockMethodField);
    if (method === undefined || method.end !== method.start + 1) throw malformed();
    image[method.start] = NETWORK_LOCK_SKIP;
  }
}
