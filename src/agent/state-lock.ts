/** One agent to a state directory. */
import { type FileHandle, open, stat } from 'node:fs/promises';
import { connect, createServer, type Server } from 'node:net';
import { DeltahopError } from '../errors.js';
import { systemCode } from '../layers/durable-file.js';

/** How long a living agent may take to accept a connection on its socket. */
const answerLimitMs = 2_000;

/**
 * Held by the agent of a state directory. It is an abstract unix socket named after the directory's inode: binding one is
 * atomic, and the kernel lets go of it when the process ends, however it ends. Abstract sockets belong to a network
 * namespace, so the agent's own socket in the directory is asked as well: an agent in another namespace answers there.
 */
export class StateLock {
  readonly #server: Server;
  readonly #directory: FileHandle;

  private constructor(server: Server, directory: FileHandle) {
    this.#server = server;
    this.#directory = directory;
  }

  /** @throws DeltahopError DELTAHOP_E_AGENT_RUNNING. */
  static async take(statePath: string, socketPath: string): Promise<StateLock> {
    const { dev, ino } = await stat(statePath);
    // Open as long as the lock is held, so that the inode's number can not come to mean another directory.
    const directory = await open(statePath, 'r');
    const server = createServer((socket) => socket.destroy());
    const running = (cause?: unknown): DeltahopError =>
      new DeltahopError('DELTAHOP_E_AGENT_RUNNING', `an agent already serves ${statePath}`, { cause });
    try {
      await new Promise<void>((resolve, reject) => {
        server.once('error', (error) => reject(systemCode(error) === 'EADDRINUSE' ? running(error) : error));
        server.listen(`\0deltahop-agent-${dev}-${ino}`, resolve);
      });
      server.unref();
      if (await answers(socketPath)) throw running();
    } catch (error) {
      server.close();
      await directory.close();
      throw error;
    }
    return new StateLock(server, directory);
  }

  async release(): Promise<void> {
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
    await this.#directory.close();
  }
}

/** Whether somebody accepts connections on a unix socket. */
async function answers(path: string): Promise<boolean> {
  return await new Promise<boolean>((resolve) => {
    const socket = connect(path);
    const settle = (answer: boolean): void => {
      socket.destroy();
      resolve(answer);
    };
    socket.once('connect', () => settle(true));
    // A stale socket refuses; one whose owner hangs has an owner.
    socket.once('error', (error) => settle(systemCode(error) === 'EAGAIN'));
    socket.setTimeout(answerLimitMs, () => settle(true));
  });
}
