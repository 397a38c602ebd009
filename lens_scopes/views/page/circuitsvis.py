"""CircuitsVis components on a page of our own: one copy of its scripts, every prop escaped, nothing fetched.

CircuitsVis' own `render` inlines its 1.3 MB bundle once per view or loads it from a CDN, leaves its `<div>`
open, and puts tokens into the page as HTML. Only this module knows the bundle; a page holds any number of
`View`s.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lens_scopes.errors import FileError
from lens_scopes.views.words.colour import LEVELS

WORD_JOINER = "\u2060"

_ID = re.compile(r"[a-z][a-z0-9-]*")
_COMPONENT = re.compile(r"[A-Z][A-Za-z]*")


@dataclass(frozen=True)
class View:
    """One CircuitsVis component and the place it takes on the page.

    Args:
        id: the `id` of its element, unique on the page: lower-case letters, digits and hyphens.
        component: a component's name as CircuitsVis exports it, such as `ColoredTokens` or `AttentionHeads`.
        props: the component's properties; numbers, strings, lists, mappings, and anything with `.tolist()`.
            Token strings go through `safe_token` first. Non-finite numbers are passed as JavaScript's NaN and
            Infinity.
        fallback: HTML shown until the scripts have run, and for good where scripts are off.
        unscaled: indices of the tokens that a strip leaves outside the colour scale; drawn hatched.
        lazy: draw it when it comes into view, for views that take long.

    Raises:
        ValueError: an id or component name of another form.

    Example:
        >>> View("strip", "ColoredTokens", {"tokens": ["a", safe_token("<b>")], "values": [0.5, 1.0]}).html
        '<div class="circuitsvis" id="strip"></div>'
    """

    id: str
    component: str
    props: Mapping[str, object]
    fallback: str = ""
    unscaled: Sequence[int] = ()
    lazy: bool = False

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.id):
            raise ValueError(f"view id {self.id!r}: lower-case letters, digits and hyphens, starting with a letter")
        if not _COMPONENT.fullmatch(self.component):
            raise ValueError(f"{self.component!r} is not the name of a CircuitsVis component")

    @property
    def html(self) -> str:
        """The closed element the component is drawn into, to be put where the view belongs in a section."""
        return f'<div class="circuitsvis" id="{self.id}">{self.fallback}</div>'

    @property
    def script(self) -> str:
        """The JavaScript statement that draws it."""
        drawing = f'draw("{self.id}","{self.component}",{encode(self.props)})'
        return f'later("{self.id}",()=>{drawing});' if self.lazy else f"{drawing};"

    @property
    def stylesheet(self) -> str:
        """CSS that takes the unscaled tokens out of the colour scale, whatever the component paints them."""
        return _hatched(self.id, self.unscaled)


@dataclass(frozen=True)
class Strips:
    """Many `ColoredTokens` strips over the same tokens, each drawn when it comes into view.

    The tokens are on the page once, so that it can hold a strip for every head of a model.

    Args:
        id: the `id` of the element that holds all the strips, unique on the page, as a view's.
        tokens: the tokens of every strip, each through `safe_token`.
        rows: the values of each strip, by a name that makes the `id` of its place; see `place`.
        bounds: the magnitude that takes the full colour, for each strip.
        colours: for positive and for negative values, as CSS.
        unscaled: indices of the tokens outside the colour scale; drawn hatched.
    """

    id: str
    tokens: Sequence[str]
    rows: Mapping[str, Sequence[float | str]]
    bounds: Mapping[str, float]
    colours: tuple[str, str]
    unscaled: Sequence[int] = ()

    def __post_init__(self) -> None:
        for name in (self.id, *self.rows):
            if not _ID.fullmatch(name):
                raise ValueError(f"strip id {name!r}: lower-case letters, digits and hyphens, starting with a letter")

    def place(self, name: str) -> str:
        """The element that the strip of this name is drawn into."""
        return f'<div class="circuitsvis" id="{name}-strip"></div>'

    @property
    def script(self) -> str:
        """The JavaScript statement that draws them."""
        rows = {name: [self.bounds[name] or 1, values] for name, values in self.rows.items()}
        shared = {"tokens": list(self.tokens), "positiveColor": self.colours[0], "negativeColor": self.colours[1]}
        return f"strips({encode(shared)},{encode(rows)});"

    @property
    def stylesheet(self) -> str:
        """CSS that takes the unscaled tokens out of the colour scale."""
        return _hatched(self.id, self.unscaled)


def _hatched(identifier: str, unscaled: Sequence[int]) -> str:
    if not unscaled:
        return ""
    cells = ",".join(f"#{identifier} .colored-tokens>span:nth-of-type({i + 1})>span" for i in unscaled)
    return f"{cells}{{background:var(--hatch-on-white) #fff!important;color:#000!important}}"


def safe_token(token: str) -> str:
    """The token with a word joiner after every `<` and `&`, so that the strip, which is HTML, shows it as it
    is.

    The joiner has no width. Entities would not do: the tooltip of the same component is plain text and would
    show them.
    """
    return re.sub(r"([<&])", rf"\1{WORD_JOINER}", token)


def encode(props: Mapping[str, object]) -> str:
    """Properties as a JavaScript expression with no `<`, `>` or `&` in it, safe inside a script element.

    A property that is None is left out, so that the component takes its default.
    """
    given = {name: value for name, value in props.items() if value is not None}
    text = json.dumps(given, ensure_ascii=True, allow_nan=True, separators=(",", ":"), default=_to_list)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@cache
def bundle() -> str:
    """The CircuitsVis scripts as they may stand inside one inline script element; defines `CircuitsVis`.

    Raises:
        FileError: CircuitsVis is not installed, or this version of it carries no bundle.
    """
    package = importlib.util.find_spec("circuitsvis")
    if package is None or not package.submodule_search_locations:
        raise FileError("HTML pages need the package circuitsvis, which is not installed: pip install circuitsvis")
    path = Path(package.submodule_search_locations[0]) / "dist" / "cdn" / "iife.js"
    try:
        source = path.read_text(encoding="utf-8")
    except OSError as error:
        raise FileError(
            f"circuitsvis has no script bundle at {path} ({error.strerror}): install circuitsvis 1.43.3"
        ) from error
    source = re.sub(r"(?m)^//# sourceMappingURL=.*$", "", source)
    # These sequences can only stand in string literals and regular expressions, where \x3c is the same
    # character.
    return re.sub(r"<(?=/script|!--)", r"\\x3c", source, flags=re.IGNORECASE)


# Strips and attention views are drawn when they come near the window, one at a time, so that the page answers in
# between: it has many, and a chart takes some tenths of a second. Zeros become holes in the arrays, cells that the
# chart leaves out, since its time goes into cells; it needs one at least. The heads of `AttentionHeads` answer the
# mouse only: they get the role and keys of buttons, and where two views stand in one `.pair`, the other follows.
#
# `ColoredTokensMulti` paints in a fixed saturated blue and red, keeps the bounds of its first column for
# every column, and its entries answer the mouse only. After each choice its cells get the classes of our
# scale (relative to the bounds given for that column), and its entries the role and keys of buttons.
DRAW = f"""
const repaint=(view,props)=>{{
  let last=-1;
  const press=event=>{{
    const step={{ArrowRight:"nextElementSibling",ArrowLeft:"previousElementSibling"}}[event.key];
    const entry=step?event.currentTarget[step]:" "===event.key||"Enter"===event.key?event.currentTarget:null;
    if(entry){{event.preventDefault();entry.focus();entry.click();}}
  }};
  const paint=()=>{{
    const entries=[...(view.firstElementChild?.firstElementChild?.children??[])];
    const chosen=entries.findIndex(entry=>entry.style.backgroundColor==="black");
    if(chosen<0||chosen===last)return;
    if(last<0)entries.forEach(entry=>{{
      entry.tabIndex=0;entry.setAttribute("role","button");entry.addEventListener("keydown",press);
    }});
    last=chosen;
    entries.forEach((entry,i)=>entry.setAttribute("aria-pressed",i===chosen));
    view.querySelectorAll(".colored-tokens>span>span").forEach((cell,i)=>{{
      const value=props.values[i][chosen];
      const bound=(value<0?props.negativeBounds:props.positiveBounds)[chosen];
      const level=Math.min({LEVELS},Math.round({LEVELS}*value/bound));
      cell.className=(value<0&&level?"n":"p")+level;
    }});
  }};
  new MutationObserver(paint).observe(view,{{childList:true,subtree:true,attributeFilter:["style"]}});
}};
const waiting=new Map(),queue=[];
let drawing=false;
const next=()=>{{
  drawing=queue.length>0;
  if(drawing){{queue.shift()();setTimeout(next,20);}}
}};
const near=new IntersectionObserver(entries=>entries.forEach(entry=>{{
  if(!entry.isIntersecting)return;
  near.unobserve(entry.target);
  queue[entry.target.id.endsWith("-strip")?"unshift":"push"](waiting.get(entry.target));
  if(!drawing)next();
}}),{{rootMargin:"200px"}});
const later=(id,act)=>{{const place=document.getElementById(id);waiting.set(place,act);near.observe(place);}};
const strips=(shared,rows)=>Object.entries(rows).forEach(([name,[bound,values]])=>later(name+"-strip",()=>
  draw(name+"-strip","ColoredTokens",{{...shared,values,minValue:-bound,maxValue:bound}})));
const sparse=rows=>{{
  rows.forEach(row=>row.forEach((value,i)=>{{if(value===0)delete row[i];}}));
  if(!rows.some(row=>row.some(()=>true)))rows[0][0]=0;
}};
const thumbnails=view=>[...view.querySelectorAll("h4")].map(name=>name.parentElement.parentElement);
const operable=view=>new MutationObserver((_,observer)=>{{
  const heads=thumbnails(view);
  if(!heads.length)return;
  observer.disconnect();
  const others=[...view.closest(".pair")?.querySelectorAll(".circuitsvis")??[]].filter(other=>other!==view);
  const press=chosen=>heads.forEach((head,i)=>head.setAttribute("aria-pressed",i===chosen));
  press(0);
  heads.forEach((head,i)=>{{
    head.tabIndex=0;head.setAttribute("role","button");
    head.addEventListener("click",event=>{{
      press(i);
      if(event.isTrusted)others.forEach(other=>thumbnails(other)[i]?.click());
    }});
    head.addEventListener("keydown",event=>{{
      if(event.key!==" "&&event.key!=="Enter")return;
      event.preventDefault();
      [view,...others].forEach(one=>thumbnails(one)[i]?.click());
    }});
  }});
}}).observe(view,{{childList:true,subtree:true}});
const draw=(id,component,props)=>{{
  if(component==="AttentionPattern")sparse(props.attention);
  if(component==="AttentionHeads"){{props.attention.forEach(sparse);operable(document.getElementById(id));}}
  if(component==="ColoredTokensMulti"&&props.positiveBounds&&props.negativeBounds)repaint(document.getElementById(id),props);
  CircuitsVis.render(id,CircuitsVis[component],props);
}};
"""


def _to_list(value: object) -> object:
    to_list = getattr(value, "tolist", None)
    if to_list is None:
        raise TypeError(f"a property of type {type(value).__name__} cannot be passed to CircuitsVis")
    return to_list()
