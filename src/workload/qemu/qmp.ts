/** QEMU's monitor (QEMU's docs/interop/qmp-spec.txt): commands in, answers and events out, JSON a line. */
import { connect, type Socket } from 'node:net';
import { z } from 'zod';
import { DeltahopError } from '../../errors.js';

const lineSchema = z.looseObject({
  QMP: z.unknown().optional(),
  return: z.unknown().optional(),
  error: z.object({ class: z.string(), desc: z.string() }).optional(),
  event: z.string().optional(),
  data: z.record(z.string(), z.unknown()).optional(),
});

/** Bound of one command; QEMU answers them while it does nothing else that could take long. */
const commandLimitMs = 10_000;

interface Waiting {
  resolve: (value: unknown) => void;
  reject: (error: Error) => void;
}

/** One connection to one machine's monitor, which serves one at a time. */
export class Qmp {
  readonly #socket: Socket;
  readonly #waiting: Waiting[] = [];
  readonly #listeners = new Set<(event: string, data: Readonly<Record<string, unknown>>) => void>();
  #failure: DeltahopError | null = null;
  /** The beginning of a line whose end has not come. */
  #rest = '';

  private constructor(socket: Socket) {
    this.#socket = socket;
  }

  /**
   * Connects to the monitor at a socket and takes its greeting.
   * @throws DeltahopError DELTAHOP_E_NOT_RUNNING if nobody listens there, DELTAHOP_E_WORKLOAD.
   */
  static async connect(path: string): Promise<Qmp> {
    const socket = connect(path);
    const qmp = new Qmp(socket);
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve);
      socket.once('error', (error) => {
        reject(new DeltahopError('DELTAHOP_E_NOT_RUNNING', `no QEMU listens at ${path}: ${error.message}`));
      });
    });
    socket.on('error', () => {}); // 'close' follows
    socket.once('close', () => qmp.#end(new DeltahopError('DELTAHOP_E_WORKLOAD', 'QEMU has ended')));
    socket.setEncoding('utf8').on('data', (text: string) => qmp.#read(text));
    try {
      await qmp.execute('qmp_capabilities');
    } catch (error) {
      qmp.close();
      throw error;
    }
    return qmp;
  }

  /**
   * Runs a command.
   * @throws DeltahopError DELTAHOP_E_WORKLOAD with what QEMU said against it, DELTAHOP_E_TIMEOUT.
   */
  async execute(command: string, args: Readonly<Record<string, unknown>> = {}): Promise<unknown> {
    if (this.#failure !== null) throw this.#failure;
    const answer = new Promise<unknown>((resolve, reject) => this.#waiting.push({ resolve, reject }));
    const timer = setTimeout(() => {
      // Answers come in order: after one that is missing none can be told from another.
      this.#end(new DeltahopError('DELTAHOP_E_TIMEOUT', `QEMU does not answer to ${command}`));
      this.close();
    }, commandLimitMs);
    this.#socket.write(`${JSON.stringify({ execute: command, arguments: args })}\n`);
    try {
      return await answer;
    } catch (error) {
      if (error instanceof DeltahopError) throw error;
      throw new DeltahopError('DELTAHOP_E_WORKLOAD', `QEMU on ${command}: ${(error as Error).message}`);
    } finally {
      clearTimeout(timer);
    }
  }

  /** Runs a command that begins a saving or loading of state, and waits for its end. @returns why it failed, or null. */
  async migrate(command: 'migrate' | 'migrate-incoming', uri: string, limitMs: number): Promise<string | null> {
    let resolve: () => void = () => {};
    const promise = new Promise<void>((ended) => {
      resolve = ended;
    });
    const onEvent = (event: string, data: Readonly<Record<string, unknown>>): void => {
      if (event === 'MIGRATION' && (data['status'] === 'completed' || data['status'] === 'failed')) resolve();
    };
    this.#listeners.add(onEvent);
    const timer = setTimeout(resolve, limitMs);
    try {
      await this.execute('migrate-set-capabilities', {
        capabilities: [
          { capability: 'events', state: true },
          // The memory is a file that both machines map: it is left out.
          { capability: 'x-ignore-shared', state: true },
        ],
      });
      await this.execute(command, command === 'migrate' ? { uri } : { uri, 'exit-on-error': false });
      await promise;
      const { status, 'error-desc': why } = migrationSchema.parse(await this.execute('query-migrate'));
      return status === 'completed' ? null : (why ?? `it is ${status ?? 'nowhere'} after ${limitMs} ms`);
    } finally {
      clearTimeout(timer);
      this.#listeners.delete(onEvent);
    }
  }

  /** What the machine is doing, e.g. `running`, `paused` (QEMU's RunState). */
  async status(): Promise<string> {
    return statusSchema.parse(await this.execute('query-status')).status;
  }

  /** The threads that are the machine's processors. */
  async processors(): Promise<number[]> {
    return processorsSchema.parse(await this.execute('query-cpus-fast')).map((processor) => processor['thread-id']);
  }

  close(): void {
    this.#socket.destroy();
  }

  #read(text: string): void {
    const lines = (this.#rest + text).split('\n');
    this.#rest = lines.pop() ?? '';
    for (const line of lines) this.#take(line);
  }

  #take(line: string): void {
    let message: z.infer<typeof lineSchema>;
    try {
      message = lineSchema.parse(JSON.parse(line));
    } catch {
      this.#end(new DeltahopError('DELTAHOP_E_WORKLOAD', 'QEMU’s monitor says what is not QMP'));
      this.close();
      return;
    }
    if (message.event !== undefined) {
      for (const listener of this.#listeners) listener(message.event, message.data ?? {});
    } else if (message.error !== undefined) {
      this.#waiting.shift()?.reject(new Error(message.error.desc));
    } else if (message.return !== undefined) {
      this.#waiting.shift()?.resolve(message.return);
    }
  }

  #end(failure: DeltahopError): void {
    this.#failure ??= failure;
    for (const { reject } of this.#waiting.splice(0)) reject(failure);
  }
}

const migrationSchema = z.looseObject({ status: z.string().optional(), 'error-desc': z.string().optional() });
const statusSchema = z.looseObject({ status: z.string() });
const processorsSchema = z.array(z.looseObject({ 'thread-id': z.int().positive() })).min(1);
