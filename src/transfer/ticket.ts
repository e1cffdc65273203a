/** Tickets: what lets a peer's data connections in, and to which directories. Kept in memory; they die with the agent. */
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { isAbsolute } from 'node:path';
import type { CommonFile } from '../engine/engine.js';
import { DeltahopError } from '../errors.js';
import { slotName, ticketIdBytes } from '../wire/messages.js';

/** A directory that a ticket opens. The peer knows it by the slot's name only. */
export interface Slot {
  /** Absolute path of the tree. */
  path: string;
  /** Everything is on stable storage before the peer hears that it is done. */
  durable: boolean;
  /** `ReceiveOptions.inPlace`; false when absent. */
  inPlace?: boolean;
  /** Where the engine keeps the record of the tree (`ReceiveOptions.recordPath`); without it none is kept. */
  recordPath?: string;
  /** What may help with a large file that is not there yet (`ReceiveOptions.common`). */
  common?: readonly CommonFile[];
  /** `write` (the peer may send into it) when absent; `read`: the peer may fetch it. */
  access?: 'write' | 'read';
}

const secretBytes = 24;
/** A ticket that no connection has used for so long is void. */
const defaultLifetimeMs = 10 * 60 * 1000;

/** One ticket as its issuer holds it. */
export class Ticket {
  readonly id: Buffer;
  readonly slots: ReadonlyMap<string, Slot>;
  readonly #secretDigest: Buffer;
  readonly #lifetimeMs: number;
  #expiresAt: number;
  #holds = 0;
  #revoked = false;

  constructor(id: Buffer, secret: string, slots: ReadonlyMap<string, Slot>, lifetimeMs: number) {
    this.id = id;
    this.slots = slots;
    this.#secretDigest = digestOf(secret);
    this.#lifetimeMs = lifetimeMs;
    this.#expiresAt = performance.now() + lifetimeMs;
  }

  /** Compares in constant time, whatever the length. */
  admits(secret: string): boolean {
    return timingSafeEqual(digestOf(secret), this.#secretDigest) && this.valid;
  }

  get valid(): boolean {
    return !this.#revoked && (this.#holds > 0 || performance.now() < this.#expiresAt);
  }

  /** An admitted connection keeps its ticket alive; the returned function ends that, and the lifetime starts anew. */
  hold(): () => void {
    this.#holds += 1;
    let held = true;
    return () => {
      if (!held) return;
      held = false;
      this.#holds -= 1;
      this.#expiresAt = performance.now() + this.#lifetimeMs;
    };
  }

  revoke(): void {
    this.#revoked = true;
  }
}

/** The tickets of one agent, by id. */
export class TicketBook {
  readonly #tickets = new Map<string, Ticket>();

  /**
   * @returns the ticket and its text for the peer: 128 bits of id, 192 bits of secret.
   * @throws DeltahopError DELTAHOP_E_INVALID_ARGUMENT for a slot's name or a path that is not absolute.
   */
  issue(slots: Readonly<Record<string, Slot>>, lifetimeMs = defaultLifetimeMs): { ticket: Ticket; text: string } {
    for (const [name, slot] of Object.entries(slots)) {
      if (!slotName.safeParse(name).success || !isAbsolute(slot.path)) {
        throw new DeltahopError(
          'DELTAHOP_E_INVALID_ARGUMENT',
          `slot ${name} at ${slot.path}: a plain name and an absolute path are needed`,
        );
      }
    }
    this.#sweep();
    const id = randomBytes(ticketIdBytes);
    const secret = randomBytes(secretBytes);
    const ticket = new Ticket(id, secret.toString('base64url'), new Map(Object.entries(slots)), lifetimeMs);
    this.#tickets.set(id.toString('hex'), ticket);
    return { ticket, text: Buffer.concat([id, secret]).toString('base64url') };
  }

  /** The ticket with this id, if it is still good. The id is no secret: the secret is asked for in the hello. */
  find(id: Uint8Array): Ticket | null {
    const ticket = this.#tickets.get(Buffer.from(id).toString('hex'));
    return ticket?.valid ? ticket : null;
  }

  /** Makes a ticket void and gives it back; null if there is none (any more). */
  revoke(text: string): Ticket | null {
    const parts = ticketParts(text);
    const key = parts?.ticketId.toString('hex') ?? '';
    const ticket = this.#tickets.get(key);
    if (parts === null || ticket === undefined) return null;
    ticket.revoke();
    this.#tickets.delete(key);
    return ticket;
  }

  #sweep(): void {
    for (const [key, ticket] of this.#tickets) if (!ticket.valid) this.#tickets.delete(key);
  }
}

/** The two parts of a ticket's text, or null if it cannot be one. */
export function ticketParts(text: string): { ticketId: Buffer; secret: string } | null {
  const bytes = Buffer.from(text, 'base64url');
  if (bytes.length !== ticketIdBytes + secretBytes || bytes.toString('base64url') !== text) return null;
  return {
    ticketId: bytes.subarray(0, ticketIdBytes),
    secret: bytes.subarray(ticketIdBytes).toString('base64url'),
  };
}

function digestOf(secret: string): Buffer {
  return createHash('sha256').update(secret).digest();
}
