/** Bytes that look random and are the same in every run. */
import { type Cipher, createCipheriv, createHash } from 'node:crypto';

/** A stream of such bytes: AES-128 in counter mode over zeros, keyed by its name. */
export class RandomBytes {
  readonly #cipher: Cipher;

  constructor(name: string) {
    const key = createHash('sha256').update(name).digest();
    this.#cipher = createCipheriv('aes-128-ctr', key.subarray(0, 16), key.subarray(16, 32));
  }

  /** The next `length` bytes. */
  next(length: number): Buffer {
    return this.#cipher.update(Buffer.alloc(length));
  }

  /** The next whole number from 0 to `below` - 1. */
  below(below: number): number {
    return Number(this.next(8).readBigUInt64LE() % BigInt(below));
  }
}
