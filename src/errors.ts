/**
 * The one catalogue of errors. Each code has a cause (what happened, in one line) and a remedy (what the reader can do).
 * src/ERRORS.md documents every code; a test holds the two together.
 */
export const errorCatalogue = {
  DELTAHOP_E_INVALID_ARGUMENT: {
    cause: 'a value is outside of what is accepted here',
    remedy: 'see the message for the value and its bounds, and the command’s --help',
  },
  DELTAHOP_E_IO: {
    cause: 'the operating system refused a file operation',
    remedy: 'see the message for the file and the reason; check permissions and the disk’s health',
  },
  DELTAHOP_E_NO_SPACE: {
    cause: 'a disk or a quota is full',
    remedy: 'free space on the file system that the message names, then run the same command again',
  },
  DELTAHOP_E_NOT_FOUND: {
    cause: 'a file, directory or named thing does not exist',
    remedy: 'check the name; `deltahop service list` and `deltahop layer list` show what there is',
  },
  DELTAHOP_E_CORRUPT: {
    cause: 'data cannot be what it claims to be',
    remedy: 'run the same command again; if it repeats, check the disk and memory of the node that sent it',
  },
  DELTAHOP_E_TRUNCATED: {
    cause: 'a stream ended before its end mark',
    remedy: 'run the same command again; what arrived is kept and not sent twice',
  },
  DELTAHOP_E_LIMIT: {
    cause: 'a length or count is above its bound',
    remedy: 'check that both sides run the same version; a peer that insists is faulty or hostile',
  },
  DELTAHOP_E_PROTOCOL: {
    cause: 'the peer sent a message that has no place here',
    remedy: 'check that both sides run the same version',
  },
  DELTAHOP_E_UNSUPPORTED: {
    cause: 'a version, algorithm or kind of file that this build does not know',
    remedy: 'bring both sides to the same version of deltahop',
  },
  DELTAHOP_E_MISMATCH: {
    cause: 'what was rebuilt does not have the announced digest; nothing was replaced',
    remedy: 'run the same command again; if it repeats, check the memory and disks of both nodes',
  },
  DELTAHOP_E_CHANGED: {
    cause: 'a file changed while it was read',
    remedy: 'stop what writes to it, or run the same command again',
  },
  DELTAHOP_E_UNSAFE_PATH: {
    cause: 'a path would lead outside of its tree',
    remedy: 'look for symbolic links placed in the tree; a peer that insists is faulty or hostile',
  },
  DELTAHOP_E_PEER: {
    cause: 'the other side reported a failure',
    remedy: 'the message carries its words; mend it there, then run the same command again',
  },
  DELTAHOP_E_LINK: {
    cause: 'the connection could not be made, broke or fell silent',
    remedy: 'check the network between the nodes and that the other agent runs, then run the same command again',
  },
  DELTAHOP_E_HEALTH: {
    cause: 'a service has moved and its health probe does not hold',
    remedy:
      'look at it there; where both copies are kept, `deltahop resolve SERVICE --keep destination` or `--keep source` chooses one',
  },
  DELTAHOP_E_HOOK: {
    cause: 'a program that was to be run after the hand-off failed; the service has moved',
    remedy: 'run the program by hand, with the environment that `deltahop migrate --help` describes',
  },
  DELTAHOP_E_TIMEOUT: {
    cause: 'a deadline passed though the connection is alive',
    remedy: 'check the load of both nodes, then run the same command again; what arrived is kept',
  },
  DELTAHOP_E_DENIED: {
    cause: 'the other side does not grant what was asked for',
    remedy: 'run the same command again to obtain a new grant; check that it goes to the right node',
  },
  DELTAHOP_E_WORKER: {
    cause: 'the worker process of a transfer ended unexpectedly',
    remedy: 'run the same command again; if it repeats, look for the signal in the message and in the kernel log',
  },
  DELTAHOP_E_CANCELLED: {
    cause: 'the work was cancelled',
    remedy: 'run the same command again to go on from where it stopped',
  },
  DELTAHOP_E_INTERRUPTED: {
    cause: 'the agent ended in the midst of a job',
    remedy:
      'run the same command again: what arrived is kept and not sent twice; of a migration that was decided already, the agent goes on by itself (`deltahop recover`)',
  },
  DELTAHOP_E_ENDED: {
    cause: 'the job has ended already',
    remedy: '`deltahop watch ID` shows its result; `deltahop jobs` lists what is under way',
  },
  DELTAHOP_E_NATIVE_UNAVAILABLE: {
    cause: 'the native engine could not be loaded',
    remedy: 'run `npm run build`, or install the platform package; the message lists what was tried',
  },
  DELTAHOP_E_EPOCH: {
    cause: 'the service has changed owner since this was begun',
    remedy: 'see `deltahop service list` on both nodes for the present owner; start again from there',
  },
  DELTAHOP_E_NOT_RUNNING: {
    cause: 'the service does not run where it should',
    remedy: '`deltahop service inspect NAME` says where it is; `deltahop service start NAME` starts it on its owner',
  },
  DELTAHOP_E_PREFLIGHT: {
    cause: 'the service can not be moved as things are; it was not touched',
    remedy: 'the message names each obstacle with its way out; `deltahop doctor` on both nodes shows the rest',
  },
  DELTAHOP_E_OWNED_ELSEWHERE: {
    cause: 'this node does not own the service',
    remedy: 'run the command on the node that `deltahop service list` names',
  },
  DELTAHOP_E_BUSY: {
    cause: 'another operation on the same thing is under way, or as many as may run at once do',
    remedy: 'wait for what runs or cancel it, then run the same command again',
  },
  DELTAHOP_E_EXISTS: {
    cause: 'there is something of that name already',
    remedy: 'choose another name, or remove what has it first',
  },
  DELTAHOP_E_IN_USE: {
    cause: 'something else needs what should be removed',
    remedy: 'stop or remove what the message names first',
  },
  DELTAHOP_E_NO_AGENT: {
    cause: 'no agent answers for this state directory',
    remedy: 'start one: `deltahop agent --state DIR --listen HOST:PORT`, and give its DIR by --state or DELTAHOP_STATE',
  },
  DELTAHOP_E_AGENT_RUNNING: {
    cause: 'an agent already serves this state directory',
    remedy: 'use the one that runs, or stop it first; a second node needs a state directory of its own',
  },
  DELTAHOP_E_INSECURE_REFUSED: {
    cause: 'plain TCP to other machines can be read and changed by anyone on the way',
    remedy: 'use a loopback address, or accept the risk on a network that you trust with `deltahop agent --insecure`',
  },
  DELTAHOP_E_TOOL_MISSING: {
    cause: 'a program that this needs is missing, too old or does not run',
    remedy: '`deltahop doctor` names it and says how to install it',
  },
  DELTAHOP_E_WORKLOAD: {
    cause: 'the container or virtual machine could not be started, stopped or set up',
    remedy: 'the message carries the reason; check the service’s command and settings, and `deltahop doctor`',
  },
  DELTAHOP_E_CHECKPOINT: {
    cause: 'the running service could not be saved; it runs on here',
    remedy: 'the message names what stood in the way; mend it, then run the same command again',
  },
  DELTAHOP_E_RESTORE: {
    cause: 'the saved service could not be brought back to life here; what was saved is kept',
    remedy:
      'the message names what stood in the way; compare `deltahop doctor` of both nodes, then run the same command again',
  },
  DELTAHOP_E_INTERNAL: {
    cause: 'deltahop itself did something wrong',
    remedy: 'the agent’s log has the details; please report it with them',
  },
} as const satisfies Record<string, { cause: string; remedy: string }>;

/** A code of the catalogue. */
export type ErrorCode = keyof typeof errorCatalogue;

/** What an error may carry beside its message. */
export interface ErrorDetails {
  /** The error that led to this one. */
  cause?: unknown;
  /** errno of the system call that failed, as a positive number. */
  sysErrno?: number;
}

/** The only class of error that deltahop throws: a code of the catalogue and a one-line message that names the thing. */
export class DeltahopError extends Error {
  override readonly name = 'DeltahopError';
  readonly code: ErrorCode;
  /** errno of the system call that failed, if one did. */
  readonly sysErrno: number | null;

  constructor(code: ErrorCode, message: string, details: ErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.code = code;
    this.sysErrno = details.sysErrno ?? null;
  }

  /** What the reader can do about it, from the catalogue. */
  get remedy(): string {
    return errorCatalogue[this.code].remedy;
  }
}

/** Whether `value` is a DeltahopError, optionally with this code. */
export function isDeltahopError(value: unknown, code?: ErrorCode): value is DeltahopError {
  return value instanceof DeltahopError && (code === undefined || value.code === code);
}
