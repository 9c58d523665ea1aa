"""How a report looks: in light and dark, on a telephone and on paper."""

STYLE = """
:root {
  color-scheme: light dark;
  --ground: #ffffff; --panel: #f6f7f9; --rule: #d9dde3; --grid: #e9ecf0;
  --text: #1b1f24; --quiet: #57606a; --accent: #0b5cad; --second: #7a838d;
  --third: #a9b1ba;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #14171a; --panel: #1c2024; --rule: #363c43; --grid: #282d33;
    --text: #e4e7ea; --quiet: #a0a8b1; --accent: #6cb2f7; --second: #8c959e;
    --third: #626b75;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 64rem;
  background: var(--ground); color: var(--text);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
}
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem;
     overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.75rem 0 .75rem; padding-top: .75rem;
     border-top: 1px solid var(--rule); }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
p { margin: .5rem 0; max-width: 46rem; }
.quiet, .missing, figcaption, caption { color: var(--quiet); font-size: .875rem; }
.missing { padding: .75rem 1rem; background: var(--panel);
           border-left: 3px solid var(--rule); overflow-wrap: anywhere; }
code, pre { font: .85em/1.5 ui-monospace, SFMono-Regular, Consolas, monospace; }
code { overflow-wrap: anywhere; }
pre { padding: 1rem; background: var(--panel); overflow-x: auto; max-height: 32rem; }
summary { cursor: pointer; color: var(--accent); margin: .75rem 0; }
.facts { display: grid; gap: 1rem; margin: 1.25rem 0 0;
         grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); }
.facts div { border-top: 2px solid var(--rule); padding-top: .5rem; }
.facts dt { color: var(--quiet); font-size: .8rem; }
.facts dd { margin: 0; font-size: 1.35rem; font-variant-numeric: tabular-nums; }
.facts dd small { display: block; color: var(--quiet); font-size: .8rem; }
.charts { display: grid; gap: 1.5rem 2rem;
          grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); }
figure { margin: 0; break-inside: avoid; }
figcaption { margin-top: .35rem; }
.chart { display: block; width: 100%; height: auto; overflow: visible; }
.chart text { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
              fill: var(--quiet); font-variant-numeric: tabular-nums; }
.chart .x { text-anchor: middle; }
.chart .y { text-anchor: end; }
.chart .grid { stroke: var(--grid); }
.chart .axis { stroke: var(--second); }
path.line { fill: none; stroke: var(--accent); stroke-width: 1.75;
            stroke-linejoin: round; }
path.line.second { stroke: var(--second); stroke-dasharray: 6 3; }
path.line.third { stroke: var(--second); stroke-dasharray: 1.5 3; }
.dot { fill: var(--accent); }
.dot.second, .dot.third { fill: var(--second); }
.mark { stroke: var(--text); stroke-width: 1.25; fill: none; }
.mark.phase { stroke-dasharray: 5 3; }
.mark.resume { stroke-dasharray: 1 3; stroke-width: 1.75; }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1rem; margin: .25rem 0 0;
          color: var(--quiet); font-size: .8rem; }
.legend svg { width: 22px; height: 10px; margin-right: .35rem; }
.scroll { overflow: auto; }
.charts .scroll { max-height: 22rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem;
        font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: 0 0 .4rem; }
th, td { text-align: left; padding: .3rem .75rem .3rem 0;
         border-bottom: 1px solid var(--grid); vertical-align: top; }
thead th { border-bottom: 1px solid var(--rule); color: var(--quiet);
           font-weight: 600; font-size: .8rem; }
td { overflow-wrap: anywhere; }
tbody th { font-weight: 400; overflow-wrap: break-word; }
.charts table { font-size: .8rem; }
.charts th, .charts td { padding-right: .4rem; }
.number { text-align: right; white-space: nowrap; }
.bars { width: 36%; min-width: 5rem; vertical-align: middle; }
svg.bar { display: block; width: 100%; height: .6rem; }
.trough { fill: var(--grid); }
rect.bar { fill: var(--accent); }
.people { display: grid; gap: 1.25rem 1rem; align-items: start;
          grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); }
.person { display: block; width: 100%; height: 15rem; background: var(--panel); }
.people figcaption { overflow-wrap: anywhere; font-size: .8rem; }
.people b { color: var(--text); }
.people figcaption > * { display: block; }
/* Over a photograph, which has its own colours in light and dark alike. */
.person g path { fill: none; stroke-linecap: round; }
.person path.halo { stroke: #000000; stroke-opacity: .45; }
.person .true path { stroke: #ffffff; }
.person .true circle { fill: #ffffff; stroke: #000000; }
.person .predicted path { stroke: #38a3ff; }
.person .predicted circle { fill: #38a3ff; stroke: #00264a; }
.person path.halo, .person .true path.halo, .person .predicted path.halo {
  stroke: #000000; }
.key { display: inline-block; width: .75em; height: .75em; border-radius: 50%;
       border: 1px solid #57606a; background: #ffffff; }
.key.predicted { background: #38a3ff; }
@media (max-width: 30rem) {
  body { padding: 1.25rem .9rem 3rem; }
  .people { grid-template-columns: repeat(2, 1fr); }
  .bars { min-width: 3.5rem; }
  th, td { padding-right: .5rem; }
}
@media print {
  :root {
    --ground: #ffffff; --panel: #f6f7f9; --rule: #c4c9d0; --grid: #e4e7eb;
    --text: #000000; --quiet: #444a52; --accent: #0b5cad; --second: #6a727b;
    --third: #9aa2ab;
  }
  body { padding: 0; max-width: none; font-size: 10.5pt; }
  .charts { grid-template-columns: 1fr 1fr; }
  h2, h3 { break-after: avoid; }
  tr, .facts, .missing { break-inside: avoid; }
  details { display: none; }
  .scroll, .charts .scroll { max-height: none; overflow: visible; }
  .people { grid-template-columns: repeat(6, 1fr); }
  .person { height: 11rem; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""
