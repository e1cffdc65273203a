/** The report's looks. */
export const style = `
:root { color-scheme: light; --ink: #0f172a; --soft: #475569; --line: #e2e8f0; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); max-width: 1120px; margin: 0 auto; padding: 24px; background: #fff; }
header { border-bottom: 3px solid #0d9488; margin-bottom: 16px; }
h1 { font-size: 30px; margin: 0; letter-spacing: -0.02em; }
header p { color: var(--soft); margin: 4px 0 12px; font-size: 13px; }
h2 { font-size: 20px; margin: 40px 0 8px; }
h3 { font-size: 15px; margin: 24px 0 6px; color: var(--soft); }
.lead { color: var(--soft); }
.win { color: #0f766e; font-weight: 600; }
.loss { color: #b91c1c; font-weight: 600; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(165px, 1fr)); gap: 12px; margin: 16px 0; }
.tile { border: 1px solid var(--line); border-radius: 10px; padding: 12px 14px; font-size: 13px; }
.tile .figure { font-size: 26px; font-weight: 650; letter-spacing: -0.02em; }
small { color: var(--soft); font-size: 11px; font-weight: 400; }
table { border-collapse: collapse; font-size: 13px; width: 100%; }
th { text-align: left; font-weight: 600; color: var(--soft); }
td, th { padding: 4px 8px; border-bottom: 1px solid var(--line); white-space: nowrap; }
table.losses td { white-space: normal; vertical-align: top; }
table.losses small { display: block; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
table.heat th { text-align: left; }
table.heat thead th { text-align: center; }
table.heat td { text-align: center; border: 2px solid #fff; border-radius: 4px; }
table.heat tbody th { color: var(--ink); font-weight: 500; }
td.none { color: #94a3b8; font-size: 11px; text-align: center; }
tr.ours td { background: #f0fdfa; }
details { border-bottom: 1px solid var(--line); overflow-x: auto; }
summary { cursor: pointer; padding: 8px 0; font-weight: 500; }
svg { fill: #334155; display: block; max-width: 100%; height: auto; }
`;
