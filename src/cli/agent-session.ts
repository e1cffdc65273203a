/** What commands that talk to an agent share: finding it, following its jobs, printing what it says. */
import { resolve } from 'node:path';
import type { Command } from 'commander';
import type { LocalClient } from '../agent/client.js';
import { type ErrorBody, errorBodySchema, type StreamedEvent } from '../agent/messages.js';
import { DeltahopError } from '../errors.js';
import { errorText, eventView, jsonLine, printable } from './render.js';
import { exitCodes, type Surroundings } from './surroundings.js';

/**
 * Shows a job's events until its end; its last event is returned.
 * @param cancelling What is said when an interrupt cancels the job and its word is waited for; null: an interrupt only ends
 *   the watching, and null is returned.
 */
export async function follow(
  command: Command,
  around: Surroundings,
  client: LocalClient,
  events: AsyncGenerator<StreamedEvent>,
  cancelling: string | null,
): Promise<StreamedEvent | null> {
  const view = eventView(isJson(command), around.stdout, around.stderr);
  let job: string | null = null;
  let interrupted = false;
  const cancel = (): void => {
    if (cancelling === null) client.close();
    if (cancelling === null || job === null) return;
    around.stderr.write(`${printable(cancelling)}...\n`);
    // If it cannot be told, the job's own events end too, and that error is the one to show.
    client.cancelJob(job).catch(() => {});
  };
  const off = around.onInterrupt(() => {
    if (interrupted) return;
    interrupted = true;
    cancel();
  });
  try {
    let last: StreamedEvent | null = null;
    for await (const event of events) {
      last = event;
      if (event.type === 'job') {
        job = typeof event['id'] === 'string' ? event['id'] : null;
        if (interrupted) cancel();
      }
      view.show(event);
    }
    if (last === null || !['layer', 'service', 'summary', 'error'].includes(last.type)) {
      throw new DeltahopError('DELTAHOP_E_NO_AGENT', 'the agent ended before the job did; its log says more');
    }
    return last;
  } catch (error) {
    if (interrupted && cancelling === null) return null;
    throw error;
  } finally {
    view.close();
    off();
  }
}

/** The error of a job by its last event, shown to whom `follow` has not shown it; null if it went well. */
export function jobFailure(command: Command, around: Surroundings, last: StreamedEvent): ErrorBody | null {
  const failure = last.type === 'error' ? last : last['error'];
  if (failure === undefined) return null;
  const body = errorBodySchema.parse(failure);
  fail(around, false, body, isJson(command));
  return body;
}

/** The exit code of a job that failed. */
export function failureCode({ code }: ErrorBody): number {
  return code === 'DELTAHOP_E_CANCELLED' ? exitCodes.interrupted : exitCodes.failed;
}

/** Runs `work` with a client of the agent of the node that the command line names. */
export async function withAgent(
  command: Command,
  around: Surroundings,
  work: (client: LocalClient) => Promise<void>,
): Promise<void> {
  const statePath = resolve(stateOf(command, around));
  const { LocalClient, localSocketPath } = await import('../agent/client.js');
  const client = new LocalClient(localSocketPath(statePath), statePath);
  try {
    await work(client);
  } finally {
    client.close();
  }
}

/** The state directory that the command line or the environment names; without one the command ends. */
export function stateOf(command: Command, around: Surroundings): string {
  const given = command.optsWithGlobals<{ state?: string }>().state ?? around.env['DELTAHOP_STATE'];
  if (given !== undefined && given !== '') return given;
  return command.error('error: which node? give --state DIR or set DELTAHOP_STATE');
}

/** Whether --json was given. */
export function isJson(command: Command): boolean {
  return command.optsWithGlobals<{ json?: boolean }>().json === true;
}

/** Prints a command's result: `value` as JSON, or `text` for people. */
export function print(command: Command, around: Surroundings, value: object, text: string): void {
  if (isJson(command)) around.stdout.write(jsonLine(value));
  // Lines are ours; what is within them came from elsewhere.
  else around.stdout.write(`${text.split('\n').map(printable).join('\n').replace(/\n$/, '')}\n`);
}

/**
 * Prints an error.
 * @param told The reader of JSON has had this error already, as the last event.
 */
export function fail(around: Surroundings, json: boolean, body: ErrorBody, told = false): void {
  if (told) return;
  if (json) around.stdout.write(jsonLine({ type: 'error', ...body }));
  else around.stderr.write(errorText(body));
}
