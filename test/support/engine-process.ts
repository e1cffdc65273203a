/**
 * One side of an engine operation in a process of its own, so that its memory can be told from the other's. Connects to
 * a port on loopback and prints {report, peakBytes} as JSON.
 *
 *   engine-process.js send|receive|signature|delta|patch PORT ARGUMENT...
 */
import { readFileSync } from 'node:fs';
import { connect } from 'node:net';
import { loadEngine, type OperationReport } from '../../src/engine/engine.js';

/** The most memory that this process ever had, from the kernel. */
function peakBytes(): number {
  const kilobytes = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1];
  return Number(kilobytes) * 1024;
}

async function run([operation, port, ...paths]: string[]): Promise<OperationReport> {
  const engine = loadEngine();
  const [first = '', second = '', third = ''] = paths;
  if (operation === 'signature') return await engine.signature(first, second);
  if (operation === 'delta') return await engine.delta(first, second, third);
  if (operation === 'patch') return await engine.patch(first, second, third);
  const socket = connect(Number(port), '127.0.0.1');
  const done = operation === 'send' ? engine.send(first, socket) : engine.receive(first, socket, { durable: false });
  return await done.finally(() => socket.destroy());
}

const report = await run(process.argv.slice(2));
process.stdout.write(JSON.stringify({ report, peakBytes: peakBytes() }));
