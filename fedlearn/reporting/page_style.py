"""The style sheet of every page: light and dark by the reader's own setting, fit for printing."""

# No fonts, images or imports: a page asks no network.
CSS = """
:root {
  --paper: #f6f7f9; --card: #ffffff; --ink: #16202e; --soft: #5b6675; --line: #e2e6eb;
  --accent: #0b63a5; --good: #10743c; --good-paper: #e3f4ea; --bad: #b3261e;
  --bad-paper: #fbe7e5; --wait: #8a5a00; --wait-paper: #fdf1d8; --code: #f0f2f5;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #0f1318; --card: #1a1a1a; --ink: #e8ebef; --soft: #9aa5b1; --line: #30363d;
    --accent: #6cb6f2; --good: #6bd394; --good-paper: #12301f; --bad: #ff9b93;
    --bad-paper: #3a1715; --wait: #f0c36a; --wait-paper: #362a0f; --code: #12161b;
  }
  /* A light plot made dark: 0.898 turns white into the card's colour,
     the rotation gives the hues back. */
  figure img { filter: invert(0.898) hue-rotate(180deg); }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "Helvetica Neue", "DejaVu Sans", sans-serif;
}
main { max-width: 1160px; margin: 0 auto; padding: 40px 24px 64px; }
header .kind {
  color: var(--soft); font-size: 13px; letter-spacing: .08em; text-transform: uppercase;
  margin: 0;
}
h1 {
  font-size: 34px; line-height: 1.15; margin: 4px 0 10px; letter-spacing: -.01em;
  overflow-wrap: anywhere;
}
h2 { font-size: 20px; margin: 44px 0 4px; letter-spacing: -.005em; }
.lead { color: var(--soft); margin: 0 0 4px; }
.lead b { color: var(--ink); font-weight: 600; }
.note { color: var(--soft); font-size: 14px; margin: 0 0 12px; max-width: 90ch; }
.chip {
  display: inline-block; border-radius: 999px; padding: 1px 11px; font-size: 13px;
  font-weight: 600; vertical-align: middle; white-space: nowrap;
}
.good { color: var(--good); background: var(--good-paper); }
.bad { color: var(--bad); background: var(--bad-paper); }
.wait { color: var(--wait); background: var(--wait-paper); }
.warning {
  border-left: 4px solid var(--wait); background: var(--wait-paper); padding: 8px 14px;
  border-radius: 6px; margin: 16px 0 0; font-size: 14px;
}
dl.tiles {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(170px, 1fr)); gap: 12px;
  margin: 24px 0 0;
}
.tile {
  background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 14px 16px 12px;
}
.tile dt { color: var(--soft); font-size: 13px; }
.tile dd {
  margin: 0; font-size: 25px; font-weight: 650; letter-spacing: -.01em;
  font-variant-numeric: tabular-nums; line-height: 1.3;
}
.tile dd.below {
  font-size: 13px; font-weight: 400; color: var(--soft); letter-spacing: 0;
  line-height: 1.45;
}
.plots {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(min(480px, 100%), 1fr));
  gap: 16px; align-items: stretch;
}
figure {
  margin: 0; background: var(--card); border: 1px solid var(--line);
  border-radius: 12px; padding: 10px 10px 12px; break-inside: avoid;
}
figure img { display: block; width: 100%; height: auto; }
figcaption { color: var(--soft); font-size: 13px; padding: 6px 10px 0; }
.scroll + .plots, .plots + .scroll, .scroll + pre, .note + .plots, pre + .note {
  margin-top: 14px;
}
.scroll {
  overflow-x: auto; background: var(--card); border: 1px solid var(--line);
  border-radius: 12px;
}
table {
  border-collapse: collapse; width: 100%; font-size: 14px;
  font-variant-numeric: tabular-nums;
}
th, td {
  padding: 7px 14px; text-align: left; border-top: 1px solid var(--line);
  vertical-align: top; overflow-wrap: anywhere;
}
thead th, tbody:first-child tr:first-child td { border-top: 0; }
th { color: var(--soft); font-weight: 600; font-size: 13px; white-space: nowrap; }
th.n, td.n { text-align: right; white-space: nowrap; }
tbody tr:hover { background: var(--code); }
details {
  background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  margin: 0 0 10px;
}
summary { cursor: pointer; padding: 11px 16px; font-weight: 600; }
summary:focus-visible { outline: 2px solid var(--accent); border-radius: 12px; }
details .inside > .scroll {
  border: 0; border-top: 1px solid var(--line); border-radius: 0 0 12px 12px;
}
details .scroll { max-height: 560px; }
details thead th { position: sticky; top: 0; background: var(--card); }
pre {
  margin: 0; padding: 14px 16px; overflow-x: auto; background: var(--code);
  border-radius: 12px;
  font: 13px/1.55 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
}
details pre {
  border-radius: 0 0 12px 12px; border-top: 1px solid var(--line); max-height: 560px;
}
code {
  font: 13px ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  overflow-wrap: anywhere;
}
footer { margin-top: 48px; color: var(--soft); font-size: 13px; }
@media print {
  body { background: none; }
  main { max-width: none; padding: 0; }
  details .scroll, details pre { max-height: none; }
}
"""
