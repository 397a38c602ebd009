"""The look of every page: one stylesheet, light and dark, from phones to wide screens."""

from __future__ import annotations

from lens_scopes.views.words.colour import DARK_FILTER, LEVELS, ink, level_colour, to_hex


def stylesheet() -> str:
    """The CSS of a page, with the colour scale written out for light and dark mode."""
    return (
        f":root{{color-scheme:light dark;{_palette(on_dark=False)}{_LIGHT}}}"
        f"@media (prefers-color-scheme:dark){{:root{{{_palette(on_dark=True)}{_DARK}}}"
        f".circuitsvis{{filter:{DARK_FILTER}}}}}.circuitsvis{{{_palette(on_dark=False)}}}"
        f"{_LEVEL_RULES}{_RULES}"
    )


def _palette(*, on_dark: bool) -> str:
    colours = "".join(f"--{_name(i)}:{to_hex(level_colour(i, on_dark=on_dark))};" for i in range(-LEVELS, LEVELS + 1))
    return f"{colours}--ink:{to_hex(ink(on_dark=on_dark))};"


def _name(level: int) -> str:
    return f"{'n' if level < 0 else 'p'}{abs(level)}"


_LEVEL_RULES = "".join(
    f".{name}{{background:var(--{name})!important}}"
    f".by-row:checked~.scroll .r{name},.by-all:checked~.scroll .a{name}{{background:var(--{name})}}"
    for name in map(_name, range(-LEVELS, LEVELS + 1))
)

_LIGHT = """
--page:#f5f6f8;--card:#fff;--text:#15181e;--quiet:#555d6b;--line:#dfe3e9;--link:#1f5fbf;--strong:#2f6fd0;
--alert:#7a4b00;--alert-back:#fff4dc;--alert-line:#e0b35a;
--hatch:repeating-linear-gradient(135deg,#d3d7de 0 2px,transparent 2px 6px);
--hatch-on-white:repeating-linear-gradient(135deg,#d3d7de 0 2px,transparent 2px 6px);
--cross:repeating-linear-gradient(45deg,#b9bec8 0 1px,transparent 1px 5px),
repeating-linear-gradient(135deg,#b9bec8 0 1px,transparent 1px 5px);
"""

# The card is the colour that the dark filter makes of white, so that strips lie on it without a seam.
_DARK = """
--page:#000;--card:#0d0d0d;--text:#f2f2f2;--quiet:#a7adb8;--line:#2b2e34;--link:#8fb8ff;--strong:#5b93ea;
--alert:#ffd993;--alert-back:#2a2110;--alert-line:#7a5b1c;
--hatch:repeating-linear-gradient(135deg,#3d4046 0 2px,transparent 2px 6px);
--cross:repeating-linear-gradient(45deg,#555a64 0 1px,transparent 1px 5px),
repeating-linear-gradient(135deg,#555a64 0 1px,transparent 1px 5px);
"""

_RULES = """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;scroll-padding-top:1rem}
body{margin:0;background:var(--page);color:var(--text);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
"Noto Sans","DejaVu Sans",sans-serif;print-color-adjust:exact;-webkit-print-color-adjust:exact}
a{color:var(--link)}
:focus-visible{outline:2px solid var(--strong);outline-offset:2px}
header,main,footer{max-width:1160px;margin:0 auto;padding:0 20px}
header{padding-top:28px;padding-bottom:6px}
.kind{margin:0;color:var(--quiet);font-size:.9rem}
.kind b{color:var(--text);font-weight:650}
h1{margin:.35rem 0 .8rem;font-size:1.55rem;line-height:1.4;font-weight:600;overflow-wrap:anywhere;text-wrap:pretty}
h1 .chip{white-space:nowrap;border:1.5px solid var(--strong);border-radius:7px;padding:.05em .35em;margin-left:.1em}
h1 .chip small{font-size:.66em;font-weight:500;color:var(--quiet);margin-left:.35em}
.lead{max-width:76ch;margin:.4rem 0;color:var(--text)}
.lead.caution{color:var(--quiet);font-size:.94rem}
nav{margin:.9rem 0 .2rem;font-size:.92rem}
nav a{margin-right:1.1rem;text-decoration:none;white-space:nowrap}
nav a:hover{text-decoration:underline}
.alert{background:var(--alert-back);color:var(--alert);border:1px solid var(--alert-line);border-radius:10px;
padding:.6rem 1rem;margin:1rem 0}
.alert ul{margin:.2rem 0;padding-left:1.2rem}
main{display:grid;grid-template-columns:minmax(0,1fr);gap:16px;padding-top:12px;padding-bottom:24px}
main>section{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:16px 20px 18px;min-width:0}
@media (min-width:900px){main{grid-template-columns:minmax(0,2fr) minmax(0,1fr)}main>section{grid-column:1/-1}
main>section.wide{grid-column:1}main>section.side{grid-column:2}}
header,footer,h2,h3,p,.alert{overflow-wrap:anywhere}
h2{font-size:1.12rem;margin:0 0 .35rem;font-weight:650}
h3{font-size:1rem;margin:1.3rem 0 .3rem;font-weight:650}
.note{margin:.1rem 0 .7rem;color:var(--quiet);font-size:.9rem;max-width:92ch}
.circuitsvis{position:relative;z-index:5;color:#000;font-size:1.08rem;line-height:1.8;max-width:100%}
.circuitsvis>div{padding-bottom:0!important}
.switcher .circuitsvis>div>div:nth-child(2),.switcher .circuitsvis>div>div:nth-child(3),.switcher br{display:none}
.switcher .circuitsvis>div>div:first-child{margin-bottom:.5rem;line-height:1.6;font-size:.9rem}
.switcher tbody{display:grid;grid-auto-flow:column;grid-template-rows:repeat(14,auto);column-gap:1.2em}
.switcher tr{display:flex;justify-content:space-between;gap:.6em}
.switcher [role=button]{border-radius:5px;margin:1px}
.colored-tokens{padding-bottom:4px!important}
.colored-tokens>span>span{color:#000!important;border-color:#e6e6e6!important;border-radius:2px;
padding:4px 0!important;max-width:100%;overflow-wrap:anywhere;unicode-bidi:isolate}
.still>span{border:1px solid #e6e6e6;padding:2px 0;margin-left:-1px;white-space:pre-wrap;
unicode-bidi:isolate;color:#000}
.legend{display:flex;flex-wrap:wrap;align-items:center;gap:.3rem .6rem;margin:.5rem 0 .1rem;color:var(--quiet);
font-size:.84rem;line-height:1.4;font-variant-numeric:tabular-nums}
.ramp{display:inline-block;width:140px;height:12px;border:1px solid var(--line);border-radius:3px}
.sequential{background:linear-gradient(90deg,var(--p0),var(--p5),var(--p10),var(--p15),var(--p20))}
.diverging{background:linear-gradient(90deg,var(--n20),var(--n10),var(--p0),var(--p10),var(--p20))}
.mark{display:inline-flex;align-items:center;gap:.4rem;margin-left:.2rem}
.mark b{display:inline-block;width:20px;height:12px;border:1px solid var(--line);border-radius:3px}
.s{background:var(--hatch)}.x{background:var(--cross)}
.scroll{overflow:auto;max-height:78vh;border:1px solid var(--line);border-radius:8px;margin-top:.5rem}
table{border-collapse:separate;border-spacing:0;font-size:.86rem;font-variant-numeric:tabular-nums}
caption{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
th{font-weight:600;text-align:left}
thead th,.scores thead td{position:sticky;top:0;background:var(--card);z-index:2}
i{font-style:normal;opacity:.5}
.heat input{accent-color:var(--strong);margin:0 .35rem 0 0;vertical-align:-1px}
.heat label{margin-right:1.1rem;font-size:.9rem;cursor:pointer}
.by-row:checked~.all-legend,.by-all:checked~.row-legend{display:none}
.heat thead th{vertical-align:bottom;padding:6px 0;border-bottom:1px solid var(--line)}
.heat thead th>span{writing-mode:vertical-rl;transform:rotate(180deg);max-height:8.5em;overflow:hidden;
white-space:nowrap;text-overflow:ellipsis;font-weight:500;margin:0 auto;display:block;line-height:1.3}
.heat thead th.special>span{color:var(--quiet)}
.heat .name{position:sticky;left:0;background:var(--card);z-index:1;padding:0 10px;white-space:nowrap;
border-bottom:1px solid var(--line)}
.heat thead .name{z-index:3}
.heat thead .name,.heat thead .top{padding-bottom:4px}
.heat .top{padding:0 12px 0 2px;white-space:nowrap}
.heat .top span{color:var(--quiet);margin-left:.3em}
.heat td{height:24px;padding:0;text-align:center;color:var(--ink);font-size:0;
border-right:1px solid var(--line);border-bottom:1px solid var(--line)}
.heat td.top{font-size:.86rem;text-align:left;color:var(--text);border-right-color:transparent;
overflow:hidden;text-overflow:ellipsis}
.with-numbers:checked~.scroll td:not(.top){font-size:.72rem}
.heat td:hover:not(.top){box-shadow:inset 0 0 0 2px var(--text)}
.bars{list-style:none;margin:.2rem 0 .8rem;padding:0;font-variant-numeric:tabular-nums}
.bars li{display:grid;grid-template-columns:minmax(3.5rem,7.5rem) minmax(0,1fr) 4.2rem;gap:.6rem;align-items:center;
padding:1.5px 0;font-size:.92rem}
.bars .token{overflow:hidden;text-overflow:ellipsis;white-space:nowrap;text-align:right}
.track{display:block;height:13px;background:var(--line);border-radius:3px;overflow:hidden}
.bar{display:block;height:100%;background:var(--p14);min-width:1px;border-radius:3px}
.bar.negative{background:var(--n14)}
.bars .target .bar{background:var(--strong)}.bars .target .token{font-weight:700}
.bars .value{text-align:right;color:var(--quiet)}
dl{display:grid;grid-template-columns:minmax(9rem,max-content) minmax(0,1fr);gap:.35rem 1.2rem;margin:.4rem 0}
dt{color:var(--quiet)}dd{margin:0;overflow-wrap:anywhere}
.facts{font-size:.92rem;gap:.15rem .9rem;grid-template-columns:max-content minmax(0,1fr)}
.large{content-visibility:auto;contain-intrinsic-size:auto calc(var(--rows)*25px + 9rem)}
.heat table{--cell:26px;table-layout:fixed;width:100%;min-width:calc(var(--tokens)*var(--cell) + 17rem);
max-width:calc(var(--tokens)*64px + 17rem)}
.heat .name{width:calc(var(--name)*1ch + 3rem);min-width:4.6rem}.heat .top{width:10rem}
.heat:has(.with-numbers:checked) table{--cell:42px}
.scores{width:100%}.scores .n{width:1%}.scores td.graph{width:45%;padding-right:16px}
.scores th,.scores td{padding:4px 12px;border-bottom:1px solid var(--line);white-space:nowrap}
.scores tbody tr:last-child td{border-bottom:0}
.scores .n{text-align:right}
.scores tr.special{color:var(--quiet)}
.scores td.token{white-space:pre-wrap;overflow-wrap:anywhere;min-width:7em}
.scores .cell{padding:2px 8px;border-radius:4px;color:var(--ink);border:1px solid var(--line)}
.scores th button{all:unset;cursor:pointer;font-weight:600}
.scores th button:focus-visible{outline:2px solid var(--strong);outline-offset:2px}
.scores th[aria-sort] button::after{content:" ▾"}.scores th[aria-sort=ascending] button::after{content:" ▴"}
details>summary{cursor:pointer;font-weight:650}
footer{padding-bottom:28px;color:var(--quiet);font-size:.86rem}
.two{display:grid;grid-template-columns:minmax(0,1fr);gap:0 28px}
.two>div{min-width:0}
.two h3{margin-top:.8rem}
.cells{font-size:.8rem}.scroll:has(>.cells){width:fit-content;max-width:100%}
.cells th,.cells td{border-right:1px solid var(--line);border-bottom:1px solid var(--line);text-align:center}
.cells th{padding:0 10px;position:sticky;left:0;background:var(--card);z-index:1}
.cells thead th{padding:4px 6px}.cells thead th:first-child{z-index:3;text-align:left}
.cells td{padding:0;min-width:3.4rem;height:26px;color:var(--ink)}
.cells td a,.cells td span{display:block;line-height:26px;padding:0 4px;color:inherit;text-decoration:none}
.cells td a:hover{box-shadow:inset 0 0 0 2px var(--text)}
.cells a:focus-visible{outline-offset:-2px}
.cells .apart{border-left:6px solid var(--card)}
.cells tr:target th,.fold:target>summary{box-shadow:inset 3px 0 0 var(--strong)}
.scores small,.words small,.note small{color:var(--quiet);font-size:.9em}
.scores .component{font-weight:600}
.scores td.little{min-width:72px;padding:4px}
.middle{background:linear-gradient(var(--quiet),var(--quiet)) 50%/1px 100% no-repeat var(--line)}
.fold{border-top:1px solid var(--line);padding:.4rem 0}
.fold>summary{font-weight:400;padding-left:.4rem}
.fold .numbers{color:var(--quiet);font-size:.9rem;font-variant-numeric:tabular-nums}
.fold .circuitsvis{min-height:2rem}
.words{width:100%}
.words th,.words td{padding:5px 12px;border-bottom:1px solid var(--line);vertical-align:top}
.words td{min-width:13em}
.charts .circuitsvis{min-height:380px;font-size:.9rem;overflow-x:clip}
.pair .circuitsvis>div{max-width:none!important;padding:0!important}
.charts .circuitsvis div[style*="-15px"]{margin-left:0!important;margin-right:0!important}
.charts .note{min-height:2.9em}
.pair .circuitsvis h3{display:none}
.pair .circuitsvis h2{position:static!important;font-size:.95rem;margin:0 0 4px!important;padding:0!important;
background:none!important;color:#000!important}
.pair .circuitsvis>div>div:nth-of-type(1){margin:6px -3px 10px!important}
.pair .circuitsvis>div>div:nth-of-type(1)>div{flex:0 0 16.66%!important;max-width:16.66%!important}
.pair .circuitsvis [role=button]{cursor:pointer;border-radius:4px}
.pair .circuitsvis [role=button]>div{border-color:#bbb!important;box-shadow:none!important}
.pair .circuitsvis [aria-pressed=true]>div{border-color:#000!important;outline:1px solid #000}
.pair .circuitsvis h4{position:static!important;background:none!important;color:#000!important;font-weight:500;
font-size:.8rem;line-height:1.5;text-align:center}
.pair .circuitsvis>div>div:nth-of-type(2)>div{padding:0!important}
.scatter{display:block;width:100%;max-width:520px;margin-top:.6rem;font-size:12px;fill:var(--text)}
.scatter .quiet{fill:var(--quiet);font-size:11px}
.scatter path{fill:none;stroke:var(--line)}.scatter .zero{stroke:var(--quiet)}
.scatter .agree{stroke:var(--quiet);stroke-dasharray:4 4}
.scatter .dot{fill:var(--p14);stroke:var(--text)}.scatter .square{fill:var(--n14);stroke:var(--text)}
.scatter a:hover>*{stroke-width:2.5}
.mark .dot{width:12px;border-radius:6px;background:var(--p14);border-color:var(--text)}
.mark .square{width:12px;background:var(--n14);border-color:var(--text)}
@media (max-width:560px){.pair .circuitsvis>div>div:nth-of-type(1)>div{
flex-basis:25%!important;max-width:25%!important}}
#layers .heat tbody td:not(.top){cursor:pointer}
.single .circuitsvis{max-width:860px}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,330px),1fr));gap:8px 32px}
.card{min-width:0}
.card h3{margin:.8rem 0 .1rem}.card h3 small{color:var(--quiet);font-weight:500;margin-left:.4em}
.double .track{height:9px;border-radius:2px}.double .track+.track{margin-top:2px}
.bars.wide li{font-size:.86rem;line-height:1.25;padding:3px 0}
.spans td{min-width:6rem}
.marked{white-space:pre-wrap;max-width:92ch}
.marked mark{background:var(--p4);color:var(--ink);border-radius:4px;padding:1px 3px}
.marked mark small{font-weight:650;opacity:.75}
.bars.named li{grid-template-columns:minmax(3.5rem,min(10rem,30%)) minmax(0,1fr) 4.2rem}
.curves{max-width:640px}
.curves .c0{stroke:var(--p14)}.curves .c1{stroke:var(--n14)}.curves .c2{stroke:var(--p20)}.curves .c3{stroke:var(--n20)}
.curves text[class^=c]{stroke:none}.curves path[class^=c]{stroke-width:2}.curves .dashed{stroke-dasharray:6 4}
@media (min-width:1000px){.two{grid-template-columns:minmax(0,2fr) minmax(0,3fr)}
.two.even{grid-template-columns:minmax(0,1fr) minmax(0,1fr)}}
@media (max-width:560px){header,main,footer{padding-left:10px;padding-right:10px}
main>section{padding:12px 12px 14px;border-radius:10px}h1{font-size:1.25rem}
dl{grid-template-columns:minmax(0,1fr);gap:0}dd{margin-bottom:.5rem}
.facts{grid-template-columns:max-content minmax(0,1fr)}
.heat .top{display:none}.heat table{min-width:calc(var(--tokens)*var(--cell) + 5rem)}
.scores th,.scores td{padding:4px 7px}.heat label{display:inline-block;padding:.2rem 0}}
@media print{.scroll{max-height:none;overflow:visible}}
"""
