import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { isDeltahopError } from '../../../src/errors.js';
import { parseNetwork } from '../../../src/workload/lxc/container-network.js';
import {
  composeAttributes,
  composeMessage,
  type NetlinkAttribute,
  type NetlinkMessage,
  netlinkFlags,
  number32,
  parseAttributes,
  parseMessages,
  text,
  textOf,
} from '../../../src/workload/lxc/netlink.js';
import { areOwnRules, lastingAddresses, lastingRoutes } from '../../../src/workload/lxc/network-saver.js';

function object(type: number, head: number[], attributes: NetlinkAttribute[]): NetlinkMessage {
  return { type, body: Buffer.concat([Buffer.from(head), composeAttributes(attributes)]) };
}

// As a kernel 6.18 shows them of a new namespace: multicast routing has rules of its own families, 128 and 129.
const newRules = [
  '02000000ff0000010000000008000f00ff00000008000e00ffffffff0500150002000000',
  '02000000fe0000010000000008000f00fe00000008000e00ffffffff050015000200000008000600fe7f0000',
  '02000000fd0000010000000008000f00fd00000008000e00ffffffff050015000200000008000600ff7f0000',
  '80000000fd0000010000000008000f00fd00000008000e00ffffffff050015000200000008000600ff7f0000',
  '0a000000ff0000010000000008000f00ff00000008000e00ffffffff0500150002000000',
  '0a000000fe0000010000000008000f00fe00000008000e00ffffffff050015000200000008000600fe7f0000',
].map((hex) => ({ type: 32, body: Buffer.from(hex, 'hex') }));

test('messages and attributes come back as they were composed', () => {
  const attributes: NetlinkAttribute[] = [
    [3, text('eth0')],
    [18, [[1, text('veth')]]],
    [4, number32(1500)],
  ];
  const body = composeAttributes(attributes);
  const bytes = Buffer.concat([composeMessage(16, netlinkFlags.ack, body), composeMessage(20, 0, Buffer.alloc(0))]);
  const [link, address, ...others] = parseMessages(bytes);
  assert.equal([link?.type, address?.type, others.length], [16, 20, 0]);
  const found = parseAttributes(link?.body ?? Buffer.alloc(0));
  assert.is(textOf(found.get(3)), 'eth0');
  assert.is(textOf(parseAttributes(found.get(18) ?? Buffer.alloc(0)).get(1)), 'veth');
  assert.is(found.get(4)?.readUInt32LE(0), 1500);
});

test('what is cut short, or says that it has no length, ends what is read', () => {
  const whole = Buffer.concat([composeMessage(16, 0, number32(7)), composeMessage(17, 0, number32(8))]);
  assert.is(parseMessages(whole.subarray(0, whole.length - 1)).length, 1);
  assert.is(parseMessages(Buffer.alloc(64)).length, 0);
  assert.is(parseAttributes(Buffer.alloc(64)).size, 0);
  assert.is(parseAttributes(Buffer.from('ffff0100', 'hex')).size, 0);
});

test('rules that a new namespace has are the kernel’s own, and no others', () => {
  assert.ok(areOwnRules(newRules));
  assert.ok(areOwnRules(newRules.slice(0, 4)), 'without IPv6');
  assert.not(areOwnRules(newRules.slice(1)), 'one is gone');
  const more = (head: number[], ...attributes: NetlinkAttribute[]) =>
    areOwnRules([...newRules, object(32, head, attributes)]);
  assert.not(more([2, 0, 0, 0, 100, 0, 0, 1, 0, 0, 0, 0], [6, number32(5)], [15, number32(100)]));
  assert.not(more([2, 0, 32, 0, 254, 0, 0, 1, 0, 0, 0, 0], [6, number32(5)], [15, number32(254)], [2, number32(1)]));
});

test('of a route stays what it is, not what use was made of it, and ways through others come last', () => {
  const head = (table: number, flags = 0) => [2, 16, 0, 0, table, 3, 0, 1, flags, 0, 0, 0];
  const via = object(24, head(254, 0x10), [
    [1, number32(0x0a5d)],
    [5, number32(1)],
    [12, Buffer.alloc(32, 7)],
  ]);
  const straight = object(24, head(254), [[1, number32(0x0a5c)]]);
  const routes = lastingRoutes([
    via,
    straight,
    object(24, head(255), []),
    object(24, [...head(254, 0).slice(0, 9), 2, 0, 0], []),
  ]);
  assert.is(routes.length, 2, 'neither the kernel’s local ones nor a cached one');
  assert.is(routes[0], straight.body.toString('hex'));
  const same = object(24, head(254), [
    [1, number32(0x0a5d)],
    [5, number32(1)],
    [12, Buffer.alloc(32)],
  ]);
  assert.is(routes[1], same.body.toString('hex'));
  assert.is(via.body[8], 0x10, 'what was asked for is as it was');
});

test('the address that the kernel makes itself is left to it', () => {
  const address = (family: number, scope: number) => object(20, [family, 128, 0, scope, 1, 0, 0, 0], []);
  assert.is(lastingAddresses([address(2, 254), address(10, 254), address(10, 0)]).length, 2);
});

test('a saved network is refused that says something else', () => {
  const lo = { mtu: 65536, queueLength: 1000, flags: 1 };
  const eth0 = { mtu: 1500, queueLength: 1000, flags: 1, index: 2, address: '020000000001' };
  const whole = { lo, eth0, addresses: ['0a'], routes: [], settings: { 'ipv4/conf/eth0/rp_filter': '2' } };
  const refused = (network: unknown): boolean => {
    try {
      parseNetwork(JSON.stringify(network));
      return false;
    } catch (error) {
      return isDeltahopError(error, 'DELTAHOP_E_RESTORE');
    }
  };
  assert.not(refused(whole));
  assert.not(refused({ ...whole, eth0: null }));
  for (const wrong of [
    { ...whole, settings: { '../kernel/core_pattern': '|/bin/sh' } },
    { ...whole, settings: { 'ipv4/../../kernel/core_pattern': '|/bin/sh' } },
    { ...whole, settings: { 'ipv4/a b': '1' } },
    { ...whole, eth0: { ...eth0, index: 1 } },
    { ...whole, eth0: { ...eth0, address: '02' } },
    { ...whole, eth0: { ...eth0, flags: 0x1000 } },
    { ...whole, addresses: ['0'] },
    { ...whole, more: 1 },
  ]) {
    assert.ok(refused(wrong), JSON.stringify(wrong));
  }
});

test.run();
