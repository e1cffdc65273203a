/** This process' standard input and output as a stream to whoever started it, e.g. ssh's server. */
import { createReadStream, createWriteStream, fstatSync } from 'node:fs';
import { Socket } from 'node:net';
import type { Readable, Writable } from 'node:stream';
import { joinHalves } from './halves.js';
import type { TransportStream } from './stream.js';

/** To be called once; nothing else may use the two descriptors afterwards. */
export function stdioStream(peer: string): TransportStream {
  return joinHalves({ input: inputOf(0), output: outputOf(1), peer });
}

// process.stdout writes synchronously to pipes: two sides that do so at once wait for each other for ever.
function isPipe(fd: number): boolean {
  const status = fstatSync(fd);
  return status.isFIFO() || status.isSocket();
}

function inputOf(fd: number): Readable {
  return isPipe(fd) ? new Socket({ fd, readable: true, writable: false }) : createReadStream('', { fd });
}

function outputOf(fd: number): Writable {
  return isPipe(fd) ? new Socket({ fd, readable: false, writable: true }) : createWriteStream('', { fd });
}
