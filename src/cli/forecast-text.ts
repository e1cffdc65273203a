/** What a migration is expected to cost, for people. */
import type { DryRunView } from '../agent/messages.js';
import { bytesText, durationText, printable, rangeText } from './render.js';

/** The answer of `deltahop migrate --dry-run`. */
export function dryRunText(view: DryRunView): string {
  const { service, from, to, possible, findings, wayBack, missingLayers, instance, link, forecast } = view;
  const lines = [
    possible ? `${service} can move from ${from} to ${to}` : `${service} can not move from ${from} to ${to}`,
  ];
  const nodes = [...new Set(findings.map(({ node }) => node))];
  for (const node of nodes) {
    const good = findings.filter((finding) => finding.node === node && finding.ok).map(({ name }) => name);
    lines.push(`  ok at ${node}: ${good.join(', ')}`);
  }
  const way = (remedy: string | null): string => (remedy === null ? '' : ` → ${remedy}`);
  for (const { node, name, ok, detail, remedy } of findings) {
    if (!ok) lines.push(`  not ok at ${node}: ${name}: ${detail}${way(remedy)}`);
  }
  // What it would do is not said by its name.
  for (const { node, name, detail } of findings.filter(({ ok, name }) => ok && name === 'auto-converge')) {
    lines.push(`  ${name} at ${node}: ${detail}`);
  }
  for (const { name, detail, remedy } of wayBack) {
    lines.push(`  it could not come back: ${name}: ${detail}${way(remedy)}`);
  }
  const parts = missingLayers.map(({ name, bytes }) => `layer ${name} of ${bytesText(bytes)}`);
  parts.push(`${bytesText(instance.memoryBytes)} of memory`, `${bytesText(instance.filesBytes)} of changed files`);
  lines.push(`  sends ${rangeText(forecast.bytesSent, bytesText)}: ${parts.join(', ')}, compressed`);
  if (forecast.totalMs !== null) {
    const rate = `${bytesText(link.bytesPerMs * 1000)}/s, ${durationText(link.roundTripMs)} round trip`;
    lines.push(`  takes ${rangeText(forecast.totalMs, durationText)} (${rate})`);
  }
  lines.push(`  down for ${rangeText(forecast.downtimeMs, durationText)}`);
  return `${lines.map(printable).join('\n')}\n`;
}
