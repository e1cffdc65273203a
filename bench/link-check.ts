/** Says whether a link gives the rate and the delay that it promises, to a plain TCP connection. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createConnection, createServer, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { ended } from '../test/testbed/command.js';
import type { LinkKind, Network } from './network.js';
import { median } from './rows.js';

/** What a link was found to give; rates are of payload. */
export interface LinkCheck {
  link: string;
  /** Null where nothing is shaped. */
  wantedBps: number | null;
  outBps: number;
  inBps: number;
  wantedRoundTripMs: number | null;
  /** The median of twenty. */
  roundTripMs: number;
}

const port = 7732;
const flowMs = 3000;
/** A connection needs a while to find its rate. */
const warmUpMs = 1500;
const thisFile = fileURLToPath(import.meta.url);

/** Checks a link in a few seconds. */
export async function checkLink(network: Network, kind: LinkKind): Promise<LinkCheck> {
  const start = (end: 'client' | 'server', ...args: string[]) => {
    const [program = '', ...rest] = [
      ...network.prefix(end),
      process.execPath,
      thisFile,
      end,
      network.serverAddress,
      ...args,
    ];
    return spawn(program, rest, { stdio: ['ignore', 'pipe', 'inherit'] });
  };
  const server = start('server');
  const ask = async (what: string): Promise<number> => {
    const client = start('client', what);
    const [line] = (await once(createInterface({ input: client.stdout }), 'line')) as [string];
    await ended(client, 1000);
    return Number(line);
  };
  try {
    await once(createInterface({ input: server.stdout }), 'line');
    return {
      link: kind.name,
      wantedBps: kind.figures?.rateBps ?? null,
      outBps: await ask('send'),
      inBps: await ask('receive'),
      wantedRoundTripMs: kind.figures === null ? null : 2 * kind.figures.delayMs,
      roundTripMs: await ask('echo'),
    };
  } finally {
    server.kill('SIGKILL');
    await ended(server, 1000);
  }
}

/** Counts what arrives after the warm-up, and gives the rate in bit/s. */
async function receivedBps(socket: Socket): Promise<number> {
  const startedAtMs = performance.now();
  let bytes = 0;
  let countedFromMs = 0;
  socket.on('data', (data: Buffer) => {
    const nowMs = performance.now();
    if (nowMs - startedAtMs < warmUpMs) return;
    if (countedFromMs === 0) countedFromMs = nowMs;
    else bytes += data.length;
  });
  await new Promise((resolve) => setTimeout(resolve, warmUpMs + flowMs));
  return (bytes * 8 * 1000) / (performance.now() - countedFromMs);
}

function flood(socket: Socket): void {
  const block = Buffer.alloc(256 * 1024);
  const more = (): void => {
    while (socket.writable && socket.write(block));
  };
  socket.on('drain', more);
  more();
}

/** The server's half: the first byte says what the client wants. */
function serve(address: string): void {
  const server = createServer((socket) => {
    socket.setNoDelay(true);
    socket.on('error', () => {});
    socket.once('data', (wish: Buffer) => {
      if (wish[0] === 's'.charCodeAt(0)) {
        void receivedBps(socket).then((bps) => {
          socket.end(String(bps));
        });
      } else if (wish[0] === 'r'.charCodeAt(0)) {
        flood(socket);
      } else {
        socket.on('data', (data: Buffer) => socket.write(data));
      }
    });
  });
  server.listen(port, address, () => console.log('ready'));
}

async function measure(address: string, what: string): Promise<void> {
  const socket = createConnection(port, address);
  socket.setNoDelay(true);
  await once(socket, 'connect');
  socket.write(what.slice(0, 1));
  if (what === 'receive') {
    console.log(await receivedBps(socket));
  } else if (what === 'send') {
    // Two packets: the wish must not be read together with the flood.
    await new Promise((resolve) => setTimeout(resolve, 200));
    flood(socket);
    const [answer] = (await once(socket, 'data')) as [Buffer];
    console.log(answer.toString());
  } else {
    const times: number[] = [];
    await new Promise((resolve) => setTimeout(resolve, 200));
    for (let i = 0; i < 20; ++i) {
      const sentAtMs = performance.now();
      socket.write('x');
      await once(socket, 'data');
      times.push(performance.now() - sentAtMs);
    }
    console.log(median(times));
  }
  process.exit();
}

const [, started, end, address = '', what = ''] = process.argv;
if (started === thisFile && end === 'server') serve(address);
if (started === thisFile && end === 'client') await measure(address, what);
