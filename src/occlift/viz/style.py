"""The style sheet of the report: one column on screens light and dark, and on paper."""

from __future__ import annotations

from typing import Final

REPORT_CSS: Final = """
:root{color-scheme:light dark;--paper:#fff;--ink:#1d2129;--muted:#626a78;--line:#e1e4ea;--tint:#f5f6f9;--accent:#2f6fde;
--bar:#2f6fde2e}
@media (prefers-color-scheme:dark){:root{--paper:#14161b;--ink:#e6e8ee;--muted:#99a1b1;--line:#2c313c;--tint:#1c2028;
--accent:#78a5f5;--bar:#78a5f538}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,sans-serif;-webkit-text-size-adjust:100%}
main{max-width:1180px;margin:0 auto;padding:48px 24px 80px}
h1{font-size:34px;line-height:1.15;letter-spacing:-.02em;margin:0 0 10px}
h2{font-size:22px;letter-spacing:-.01em;margin:56px 0 14px;padding-top:18px;border-top:1px solid var(--line)}
h3{font-size:16px;margin:30px 0 10px}
header p{font-size:18px;color:var(--muted);max-width:52em;margin:0 0 18px}
.beside a{display:inline-block;margin:0 16px 18px 0;color:var(--accent)}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(220px,1fr));gap:14px}
.card{background:var(--tint);border-radius:12px;padding:16px 20px}
.card b{display:block;font-size:34px;line-height:1.2;letter-spacing:-.02em;font-variant-numeric:tabular-nums}
.card span{color:var(--muted);font-size:14px}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:15px}
th,td{padding:7px 14px;text-align:right;border-bottom:1px solid var(--line);font-weight:400;white-space:nowrap}
thead th{color:var(--muted);font-size:13px}
tbody th,tfoot th,thead tr:first-child th:first-child{text-align:left}
th small{display:block;font-weight:400;color:var(--muted);font-size:12.5px;white-space:normal;max-width:34em}
.scores{width:100%}
.scores thead th[colspan]{text-align:center}
.scores .group{border-left:1px solid var(--line)}
.scores tr.model th{font-weight:650}
.scores tr.reference{color:var(--muted)}
td.best{font-weight:700;color:var(--accent)}
.classes{width:100%;font-size:14px}
.classes td{position:relative;padding:3px 14px;min-width:96px}
.classes th{padding:3px 14px}
.classes td i{position:absolute;left:4px;top:4px;bottom:4px;max-width:calc(100% - 8px);background:var(--bar);
border-radius:3px}
.classes td span{position:relative}
td.absent{color:var(--muted)}
.swatch{display:inline-block;width:13px;height:13px;margin-right:8px;border-radius:3px;vertical-align:-1.5px;
box-shadow:inset 0 0 0 1px #0003;-webkit-print-color-adjust:exact;print-color-adjust:exact}
.swatch.unknown{background:repeating-linear-gradient(135deg,#bcc0c8 0 2px,#fff 2px 5px)}
.legend{display:flex;flex-wrap:wrap;gap:4px 18px;font-size:13.5px}
.caption,.ratio{color:var(--muted);font-size:14px;max-width:60em}
.ratio{font-size:16px;color:var(--ink)}
article{margin:0 0 44px;break-inside:avoid}
figure{margin:0;min-width:0}
img{display:block;width:100%;height:auto;border-radius:6px}
.images,.volumes{display:grid;grid-template-columns:repeat(3,minmax(0,1fr));gap:8px}
.images figure{position:relative}
.images figcaption{position:absolute;left:8px;bottom:6px;color:#fff;font-size:12px;
text-shadow:0 0 4px #000,0 0 2px #000}
.volumes{margin-top:14px}
.volumes figcaption{font-weight:600;font-size:14px;margin:0 0 6px}
.volumes img+img{margin-top:8px}
.volumes img{border:1px solid var(--line)}
.curves{display:grid;grid-template-columns:repeat(auto-fit,minmax(340px,1fr));gap:24px}
.curves svg{width:100%;height:auto;font-family:inherit}
.curves figcaption{text-align:center;color:var(--muted);font-size:14px}
pre{background:var(--tint);border-radius:8px;padding:14px 18px;overflow-x:auto;font-size:14px;white-space:pre-wrap}
.making{display:grid;grid-template-columns:repeat(auto-fit,minmax(380px,1fr));gap:12px 48px;align-items:start}
tfoot th,tfoot td{font-weight:650;border-bottom:0}
dl{display:grid;grid-template-columns:max-content 1fr;gap:5px 20px;margin:6px 0;font-size:14px}
dt{color:var(--muted)}
dd{margin:0;overflow-wrap:anywhere}
@media (max-width:640px){main{padding:24px 14px}h1{font-size:27px}.volumes{grid-template-columns:1fr}
.images{grid-template-columns:repeat(2,minmax(0,1fr))}.making{grid-template-columns:1fr}}
@page{margin:14mm}
@media print{:root{--paper:#fff;--ink:#000;--muted:#444;--line:#ccc;--tint:#f4f4f4;--accent:#1b4fae}
body{font-size:11pt}main{max-width:none;padding:0}h2,h3{break-after:avoid}.wide{break-inside:avoid}.cards{grid-template-columns:repeat(3,1fr)}}
"""
