/** Messages of netlink(7) and their attributes, to and from bytes. All numbers are the machine's own, little-endian here. */

/** `struct nlmsghdr` (linux/netlink.h). */
const headerBytes = 16;
const attributeHeaderBytes = 4;
/** Of an attribute's type, what is none of it: NLA_F_NESTED and NLA_F_NET_BYTEORDER. */
const attributeTypeMask = 0x3fff;

/** NLM_F_* (linux/netlink.h). */
export const netlinkFlags = { request: 0x1, ack: 0x4, dump: 0x300, create: 0x400, exclusive: 0x200 } as const;

/** One message; of its header, its type alone. */
export interface NetlinkMessage {
  type: number;
  /** What comes behind the header. */
  body: Buffer;
}

/** An attribute's type and what it holds: bytes, or attributes. */
export type NetlinkAttribute = readonly [type: number, value: Buffer | readonly NetlinkAttribute[]];

/** A message that asks for something. */
export function composeMessage(type: number, flags: number, body: Buffer): Buffer {
  const header = Buffer.alloc(headerBytes);
  header.writeUInt32LE(headerBytes + body.length, 0);
  header.writeUInt16LE(type, 4);
  header.writeUInt16LE(flags | netlinkFlags.request, 6);
  return Buffer.concat([header, body]);
}

/** Attributes one behind the other, each padded to four bytes. */
export function composeAttributes(attributes: readonly NetlinkAttribute[]): Buffer {
  return Buffer.concat(
    attributes.map(([type, value]) => {
      const content = Buffer.isBuffer(value) ? value : composeAttributes(value);
      const bytes = Buffer.alloc(aligned(attributeHeaderBytes + content.length));
      bytes.writeUInt16LE(attributeHeaderBytes + content.length, 0);
      bytes.writeUInt16LE(type, 2);
      content.copy(bytes, attributeHeaderBytes);
      return bytes;
    }),
  );
}

/** The messages in what the kernel answered; what is cut short at the end is left out. */
export function parseMessages(bytes: Buffer): NetlinkMessage[] {
  const messages: NetlinkMessage[] = [];
  for (let at = 0; at + headerBytes <= bytes.length; ) {
    const length = bytes.readUInt32LE(at);
    if (length < headerBytes || at + length > bytes.length) break;
    messages.push({ type: bytes.readUInt16LE(at + 4), body: bytes.subarray(at + headerBytes, at + length) });
    at += aligned(length);
  }
  return messages;
}

/** What the attributes in `bytes` hold, by type, as parts of `bytes`. */
export function parseAttributes(bytes: Buffer): Map<number, Buffer> {
  const attributes = new Map<number, Buffer>();
  for (let at = 0; at + attributeHeaderBytes <= bytes.length; ) {
    const length = bytes.readUInt16LE(at);
    if (length < attributeHeaderBytes || at + length > bytes.length) break;
    attributes.set(
      bytes.readUInt16LE(at + 2) & attributeTypeMask,
      bytes.subarray(at + attributeHeaderBytes, at + length),
    );
    at += aligned(length);
  }
  return attributes;
}

/** A 32-bit number as an attribute's value. */
export function number32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

/** A text as an attribute's value. */
export function text(value: string): Buffer {
  return Buffer.from(`${value}\0`);
}

/** The text in an attribute's value. */
export function textOf(value: Buffer | undefined): string {
  return value?.toString().replace(/\0.*$/s, '') ?? '';
}

function aligned(bytes: number): number {
  return (bytes + 3) & ~3;
}
