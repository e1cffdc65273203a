/**
 * A program with a large heap: a cache of records as a web application keeps. SIGUSR2 makes it work on one record of
 * twenty; what it has done is a line in the file that it was given.
 */
import { appendFileSync } from 'node:fs';

interface Item {
  id: number;
  name: string;
  price: number;
  tags: string[];
  related: Item[];
  seenAt: number;
}

const [, , logPath = '', countText = '700000'] = process.argv;
const count = Number(countText);

// A generator of its own: the same records and the same work in every run (numbers of xorshift32).
let state = 0x2545f491;
function random(below: number): number {
  state ^= state << 13;
  state ^= state >>> 17;
  state ^= state << 5;
  return (state >>> 0) % below;
}

const items: Item[] = [];
for (let id = 0; id < count; ++id) {
  const tags = Array.from({ length: 1 + random(4) }, () => `tag-${random(5000)}`);
  items.push({
    id,
    name: `item ${random(1e9)} of ${random(1e6)}`,
    price: random(1e5) / 100,
    tags,
    related: [],
    seenAt: 0,
  });
}
for (const item of items) for (let i = 0; i < 2; ++i) item.related.push(items[random(count)] as Item);

let phase = 0;
process.on('SIGUSR2', () => {
  phase += 1;
  for (let i = 0; i < count / 20; ++i) {
    const item = items[random(count)] as Item;
    item.price = random(1e5) / 100;
    item.seenAt = phase * 1000 + random(1000);
    if (random(4) === 0) item.tags = [...item.tags.slice(-3), `tag-${random(5000)}`];
    if (random(8) === 0) item.name = `item ${random(1e9)} of ${random(1e6)}`;
  }
  appendFileSync(logPath, `phase ${phase}\n`);
});
setInterval(() => {}, 1 << 30);
appendFileSync(logPath, 'phase 0\n');
