/** An engine's sender and receiver in one process, with nothing between them: one way to copy a tree and all its metadata. */
import { type Duplex, duplexPair } from 'node:stream';

/**
 * Runs both sides until both have ended; the first failure aborts the other side and is the one that is thrown.
 * @param send,receive Start one side on its end of the pair; the signal is aborted when the other side fails.
 */
export async function faceToFace<Sent, Received>(
  send: (stream: Duplex, signal: AbortSignal) => Promise<Sent>,
  receive: (stream: Duplex, signal: AbortSignal) => Promise<Received>,
  signal: AbortSignal | undefined,
): Promise<[Sent, Received]> {
  const [senderSide, receiverSide] = duplexPair();
  const failed = new AbortController();
  const eitherSignal = signal === undefined ? failed.signal : AbortSignal.any([signal, failed.signal]);
  let firstError: unknown = null;
  const abortOther = (error: unknown): never => {
    firstError ??= error;
    failed.abort();
    throw error;
  };
  const [sent, received] = await Promise.allSettled([
    send(senderSide, eitherSignal).catch(abortOther),
    receive(receiverSide, eitherSignal).catch(abortOther),
  ]);
  senderSide.destroy();
  receiverSide.destroy();
  if (sent.status === 'rejected' || received.status === 'rejected') throw firstError;
  return [sent.value, received.value];
}
