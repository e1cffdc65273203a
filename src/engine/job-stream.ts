/** Runs a job of the addon against Node's streams, with back-pressure both ways. */
import type { Duplex, Readable, Writable } from 'node:stream';
import { DeltahopError } from '../errors.js';
import type { Job, JobFailure, JobListener, JobReport } from './addon.js';
import { fileError } from './file-error.js';
import type { OperationOptions, Progress } from './operations.js';

/** How long a job may take to put away what had arrived when its connection broke, before it is cancelled. */
const putAwayMs = 2000;

/** Starts a job whose events go to `listener`. */
export type StartJob = (listener: JobListener) => Job;

/** Where a job's bytes come from and go to; null where it takes or gives none. */
export interface JobStreams {
  /** Read to its end, which ends the job's input. */
  source: Readable | null;
  /** Ended after the last byte. */
  sink: Writable | null;
}

/**
 * Runs a job from a source into a sink. As with `stream.pipeline`, both streams belong to the operation: the sink is
 * ended, and a failure destroys both, so that a partial output never looks complete.
 * @throws DeltahopError the job's own; of a stream that failed (DELTAHOP_E_IO, DELTAHOP_E_NO_SPACE, DELTAHOP_E_NOT_FOUND,
 *   DELTAHOP_E_TRUNCATED); DELTAHOP_E_CANCELLED by the signal.
 */
export async function runJob(start: StartJob, streams: JobStreams, options: OperationOptions): Promise<JobReport> {
  try {
    return await new JobRun(streams.source, streams.sink, options).run(start);
  } catch (error) {
    streams.source?.destroy();
    streams.sink?.destroy();
    throw error;
  }
}

/**
 * Runs a job whose peer is at the other end of `stream`. The stream stays open for what comes next: bytes that arrived
 * behind the job's last message are put back. After a failure the stream is still open but at no known place; the caller
 * destroys it.
 * @throws DeltahopError the job's own; DELTAHOP_E_TRUNCATED, with the stream's error as cause, when the stream ends,
 *   closes or fails before the job is done; DELTAHOP_E_CANCELLED by the signal.
 */
export async function runJobOverDuplex(start: StartJob, stream: Duplex, options: OperationOptions): Promise<JobReport> {
  return await new JobRun(stream, stream, options).run(start);
}

function cancelledError(signal: AbortSignal): DeltahopError {
  return new DeltahopError('DELTAHOP_E_CANCELLED', 'the operation was cancelled', { cause: signal.reason });
}

/** One run of one job. Two pumps that do not wait for each other: {@link feed} (input) and {@link drain} (output). */
class JobRun {
  private readonly source: Readable | null;
  private readonly sink: Writable | null;
  private readonly signal: AbortSignal | undefined;
  private readonly onProgress: ((progress: Progress) => void) | undefined;
  /** The stream goes on after the job. */
  private readonly isDuplex: boolean;
  private job!: Job;
  private resolve!: (report: JobReport) => void;
  private reject!: (error: DeltahopError) => void;
  private jobIsFull = false;
  private sinkIsFull = false;
  private inputEnded = false;
  private unflushedWrites = 0;
  private sinkEnding = false;
  /** What ended the run from our side, before the job said anything. */
  private failure: DeltahopError | null = null;
  private report: JobReport | null = null;
  private isSettled = false;
  /** Output goes nowhere any more, but the job must not wait for room. */
  private isDiscarding = false;
  private patience: NodeJS.Timeout | undefined;

  constructor(source: Readable | null, sink: Writable | null, options: OperationOptions) {
    this.source = source;
    this.sink = sink;
    this.isDuplex = source !== null && (source as unknown) === sink;
    this.signal = options.signal;
    this.onProgress = options.onProgress;
  }

  async run(start: StartJob): Promise<JobReport> {
    if (this.signal?.aborted) throw cancelledError(this.signal);
    const closed = [this.source, this.sink].find((stream) => stream?.destroyed || stream?.errored);
    if (closed) throw this.streamError(closed.errored, 'is closed already');
    if (this.sink !== null && !this.sink.writable) throw this.streamError(null, 'cannot be written to any more');
    return await new Promise<JobReport>((resolve, reject) => {
      this.resolve = resolve;
      this.reject = reject;
      this.job = start((...event) => this.hear(event));
      this.attach();
    });
  }

  private readonly onReadable = (): void => this.feed();
  private readonly onSourceEnd = (): void => this.endInput();
  private readonly onSinkDrain = (): void => {
    this.sinkIsFull = false;
    this.drain();
  };
  private readonly onStreamError = (error: Error): void => this.lose(this.streamError(error, 'failed'));
  private readonly onSourceClose = (): void => {
    if (!this.inputEnded) this.lose(this.streamError(null, 'closed before its end'));
  };
  private readonly onSinkClose = (): void => {
    // A peer may hang up as soon as it has said all: while its words are with the job, the job decides.
    if (this.sink?.writableFinished !== true && !this.inputEnded) this.lose(this.streamError(null, 'closed'));
  };
  private readonly onSinkFinish = (): void => {
    if (this.sinkEnding) this.settle();
    else if (!this.inputEnded) this.lose(this.streamError(null, 'was ended by somebody else'));
  };
  private readonly onAbort = (): void => this.fail(cancelledError(this.signal as AbortSignal));

  private attach(): void {
    this.signal?.addEventListener('abort', this.onAbort, { once: true });
    if (this.sink !== null) {
      this.sink.on('drain', this.onSinkDrain);
      this.sink.on('finish', this.onSinkFinish);
      this.sink.on('close', this.onSinkClose);
      if (!this.isDuplex) this.sink.on('error', this.onStreamError);
      this.sinkIsFull = this.sink.writableNeedDrain;
    }
    if (this.source === null) {
      this.endInput();
      return;
    }
    this.source.on('end', this.onSourceEnd);
    this.source.on('close', this.onSourceClose);
    this.source.on('error', this.onStreamError);
    this.source.on('readable', this.onReadable);
    if (this.source.readableEnded) this.endInput();
    else this.feed();
  }

  private detach(): void {
    this.signal?.removeEventListener('abort', this.onAbort);
    this.sink?.off('drain', this.onSinkDrain);
    this.sink?.off('finish', this.onSinkFinish);
    this.sink?.off('close', this.onSinkClose);
    this.sink?.off('error', this.onStreamError);
    this.source?.off('end', this.onSourceEnd);
    this.source?.off('close', this.onSourceClose);
    this.source?.off('error', this.onStreamError);
    this.source?.off('readable', this.onReadable);
    // A stream of ours that is destroyed next may still report an error that nobody waits for.
    if (!this.isDuplex && this.failure !== null) {
      this.source?.on('error', () => undefined);
      this.sink?.on('error', () => undefined);
    }
  }

  private hear([kind, value]: Parameters<JobListener>): void {
    switch (kind) {
      case 'output':
        if (this.isDiscarding) while (this.job.read() !== null);
        else this.drain();
        break;
      case 'drain':
        this.jobIsFull = false;
        this.feed();
        break;
      case 'progress':
        try {
          this.onProgress?.(value);
        } catch (error) {
          this.fail(new DeltahopError('DELTAHOP_E_CANCELLED', 'onProgress threw', { cause: error }));
        }
        break;
      case 'finished':
        this.report = value;
        if (this.failure === null) this.drain();
        else this.settle();
        break;
      case 'failed':
        this.onJobFailure(value);
        break;
    }
  }

  private onJobFailure(failure: JobFailure): void {
    if (this.failure === null) {
      const details = failure.sysErrno === null ? {} : { sysErrno: failure.sysErrno };
      this.failure = new DeltahopError(failure.code, failure.message, details);
      // Its last words to the peer say why; nobody waits for them.
      if (this.isDuplex) for (let last = this.job.read(); last !== null; last = this.job.read()) this.sink?.write(last);
    }
    this.settle();
  }

  /** Input: from the source into the job until either has enough. */
  private feed(): void {
    const { source } = this;
    if (source === null || this.isSettled || this.failure !== null || this.report !== null) return;
    while (!this.jobIsFull) {
      const chunk: unknown = source.read();
      if (chunk === null) return;
      if (!(chunk instanceof Uint8Array)) {
        this.fail(
          new DeltahopError('DELTAHOP_E_INVALID_ARGUMENT', 'a stream of bytes is needed, not of text or objects'),
        );
        return;
      }
      this.jobIsFull = !this.job.write(chunk);
    }
  }

  private endInput(): void {
    this.inputEnded = true;
    this.job.endInput();
  }

  /** Output: from the job into the sink until either has no more. */
  private drain(): void {
    const { job, sink } = this;
    if (this.isSettled || this.failure !== null) return;
    if (sink !== null) {
      while (!this.sinkIsFull) {
        const piece = job.read();
        if (piece === null) break;
        if (!sink.writable) {
          this.lose(this.streamError(null, 'was closed'));
          return;
        }
        this.unflushedWrites += 1;
        this.sinkIsFull = !sink.write(piece, this.onWritten);
      }
    }
    if (this.report === null || this.unflushedWrites > 0 || !job.outputEnded()) return;
    if (this.isDuplex || sink === null) this.settle();
    else if (!this.sinkEnding) {
      this.sinkEnding = true;
      sink.end();
    }
  }

  private readonly onWritten = (error?: Error | null): void => {
    this.unflushedWrites -= 1;
    if (error) this.lose(this.streamError(error, 'failed'));
    if (this.report !== null) this.drain();
  };

  /** A stream is gone. What had come through it is still worth having: the next try goes on from there. */
  private lose(error: DeltahopError): void {
    if (this.isSettled || this.failure !== null) return;
    if (!this.isDuplex || this.report !== null) {
      this.fail(error);
      return;
    }
    this.failure = error;
    this.isDiscarding = true;
    while (this.job.read() !== null);
    this.endInput();
    this.patience = setTimeout(() => this.job.cancel(), putAwayMs);
  }

  /** Ends the run for a reason of our own; the job is given the time to keep what it has. */
  private fail(error: DeltahopError): void {
    if (this.isSettled || this.failure !== null) return;
    this.failure = error;
    if (this.report === null) this.job.cancel();
    else this.settle();
  }

  private settle(): void {
    if (this.isSettled) return;
    this.isSettled = true;
    clearTimeout(this.patience);
    this.detach();
    if (this.failure === null && this.isDuplex) this.putBackUnread();
    this.job.close();
    if (this.failure !== null) this.reject(this.failure);
    else this.resolve(this.report as JobReport);
  }

  /** The peer may have begun what comes next before we heard that our job was done. */
  private putBackUnread(): void {
    const unread: Buffer[] = [];
    for (let piece = this.job.unreadInput(); piece !== null; piece = this.job.unreadInput()) unread.push(piece);
    if (unread.length === 0) return;
    if (this.inputEnded) {
      this.failure = new DeltahopError('DELTAHOP_E_PROTOCOL', 'the peer sent more after the end, and hung up');
    } else {
      this.source?.unshift(Buffer.concat(unread));
    }
  }

  private streamError(cause: Error | null | undefined, what: string): DeltahopError {
    if (this.isDuplex) {
      const reason = cause ? `: ${cause.message}` : '';
      return new DeltahopError(
        'DELTAHOP_E_TRUNCATED',
        `the stream to the other side ${what} before the transfer was done${reason}`,
        cause ? { cause } : {},
      );
    }
    if (cause) return fileError(cause, `a stream ${what}`);
    return new DeltahopError('DELTAHOP_E_TRUNCATED', `a stream ${what}`);
  }
}
