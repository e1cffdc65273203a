/** As much of QEMU's monitor as a benchmark of its own live migration takes. */
import { connect, type Socket } from 'node:net';
import { createInterface } from 'node:readline';

interface Line {
  return?: unknown;
  error?: { desc: string };
  event?: string;
  data?: Record<string, unknown>;
}

/** A connection to one monitor. */
export class Monitor {
  readonly #socket: Socket;
  readonly #waiting: { resolve: (value: unknown) => void; reject: (error: Error) => void }[] = [];
  readonly #seen: Line[] = [];

  private constructor(socket: Socket) {
    this.#socket = socket;
    createInterface({ input: socket }).on('line', (text) => {
      const line = JSON.parse(text) as Line;
      if (line.event !== undefined) this.#seen.push(line);
      else if (line.error !== undefined) this.#waiting.shift()?.reject(new Error(line.error.desc));
      else if ('return' in line) this.#waiting.shift()?.resolve(line.return);
    });
    socket.on('error', () => {});
    socket.once('close', () => {
      for (const { reject } of this.#waiting.splice(0)) reject(new Error('QEMU has ended'));
    });
  }

  static async connect(path: string): Promise<Monitor> {
    const socket = connect(path);
    await new Promise<void>((resolve, reject) => socket.once('connect', resolve).once('error', reject));
    const monitor = new Monitor(socket);
    await monitor.execute('qmp_capabilities');
    return monitor;
  }

  /** @throws Error with what QEMU said against it. */
  async execute(command: string, args: Record<string, unknown> = {}): Promise<unknown> {
    const answer = new Promise<unknown>((resolve, reject) => this.#waiting.push({ resolve, reject }));
    this.#socket.write(`${JSON.stringify({ execute: command, arguments: args })}\n`);
    return await answer.catch((error: Error) => {
      throw new Error(`QEMU on ${command}: ${error.message}`);
    });
  }

  /** Fulfilled when an event has come, before or after this call; with `status` one that has it. */
  async event(name: string, status: string | null, limitMs: number): Promise<void> {
    for (const deadline = Date.now() + limitMs; ; await new Promise((resolve) => setTimeout(resolve, 2))) {
      const came = (wanted: string | null) =>
        this.#seen.some((line) => line.event === name && (wanted === null || line.data?.['status'] === wanted));
      if (came(status)) return;
      if (came('failed') || Date.now() > deadline) throw new Error(`${name} ${status ?? ''} does not come`);
    }
  }

  close(): void {
    this.#socket.destroy();
  }
}
