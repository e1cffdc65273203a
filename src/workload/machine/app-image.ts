/**
 * What QEMU needs to lay an app layer over its base: a qcow2 file of tables only, whose data are the layer's own `disk`
 * (QEMU's docs/interop/qcow2.txt, "external data file": there a block lies at its own place). Made anew from `blocks`
 * whenever a machine starts; no such file ever comes from a peer.
 */
import { readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { replaceFile } from '../replaced-file.js';

const clusterBytes = 4096;
const clusterBits = 12;
const entriesPerTable = clusterBytes / 8;
/** 16 bits a count, as the header says. */
const countsPerBlock = clusterBytes / 2;
const externalData = 4n;
/** Of an entry: nothing else refers to what it names. In a file with external data it also tells offset 0 from none. */
const copied = 1n << 63n;

/** Writes the tables for the app layer in `content` to `path`. */
export async function writeAppImage(content: string, path: string): Promise<void> {
  const [{ size }, blocks] = await Promise.all([stat(join(content, 'disk')), readFile(join(content, 'blocks'))]);
  await replaceFile(path, (temporary) => writeFile(temporary, appImage(blocks, size), { mode: 0o600 }));
}

/** The file's bytes. @param blocks One bit for each 4096 bytes of the disk, 1 where the layer has data of its own. */
export function appImage(blocks: Uint8Array, diskBytes: number): Buffer {
  const clusters = diskBytes / clusterBytes;
  const isOwn = (cluster: number): boolean => ((blocks[cluster >> 3] ?? 0) & (1 << (cluster & 7))) !== 0;
  const tables = Math.ceil(clusters / entriesPerTable);
  const used = Array.from({ length: tables }, (_, table) => table).filter((table) => {
    // Whole bytes of the list: a table's 512 clusters are 64 of them.
    return blocks.subarray(table * 64, (table + 1) * 64).some((byte) => byte !== 0);
  });

  // In this order: header, level 1, the level 2 tables in use, table of counts, blocks of counts.
  const level1At = 1;
  const level1Clusters = Math.max(1, Math.ceil(tables / entriesPerTable));
  const level2At = level1At + level1Clusters;
  const countTableAt = level2At + used.length;
  let countBlocks = 1;
  let countTableClusters = 1;
  // The counts count themselves too.
  for (;;) {
    const total = countTableAt + countTableClusters + countBlocks;
    const needed = Math.ceil(total / countsPerBlock);
    const neededTable = Math.ceil(needed / entriesPerTable);
    if (needed === countBlocks && neededTable === countTableClusters) break;
    countBlocks = needed;
    countTableClusters = neededTable;
  }
  const countBlocksAt = countTableAt + countTableClusters;
  const total = countBlocksAt + countBlocks;

  const file = Buffer.alloc(total * clusterBytes);
  file.write('QFI\xfb', 0, 'latin1');
  file.writeUInt32BE(3, 4);
  file.writeUInt32BE(clusterBits, 20);
  file.writeBigUInt64BE(BigInt(diskBytes), 24);
  file.writeUInt32BE(tables, 36);
  file.writeBigUInt64BE(BigInt(level1At * clusterBytes), 40);
  file.writeBigUInt64BE(BigInt(countTableAt * clusterBytes), 48);
  file.writeUInt32BE(countTableClusters, 56);
  file.writeBigUInt64BE(externalData, 72);
  file.writeUInt32BE(4, 96);
  file.writeUInt32BE(104, 100);
  for (const [index, table] of used.entries()) {
    const at = (level2At + index) * clusterBytes;
    file.writeBigUInt64BE(BigInt(at) | copied, level1At * clusterBytes + table * 8);
    const first = table * entriesPerTable;
    for (let entry = 0; entry < entriesPerTable && first + entry < clusters; entry++) {
      if (isOwn(first + entry)) {
        file.writeBigUInt64BE(BigInt((first + entry) * clusterBytes) | copied, at + entry * 8);
      }
    }
  }
  for (let block = 0; block < countBlocks; block++) {
    file.writeBigUInt64BE(BigInt((countBlocksAt + block) * clusterBytes), countTableAt * clusterBytes + block * 8);
  }
  for (let cluster = 0; cluster < total; cluster++) {
    file.writeUInt16BE(1, countBlocksAt * clusterBytes + cluster * 2);
  }
  return file;
}
