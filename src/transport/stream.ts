/** A connection to a peer as the floors above see it, whatever carries it. */
import type { Duplex } from 'node:stream';

/** An ordered byte stream to one peer. Whoever holds it destroys `duplex` when done. */
export interface TransportStream {
  readonly duplex: Duplex;
  /** The peer for messages, e.g. `192.0.2.1:7400`. */
  readonly peer: string;
  /** Bytes handed to the carrier so far, everything included. */
  readonly bytesSent: number;
  /** Bytes taken from the carrier so far, everything included. */
  readonly bytesReceived: number;
}
