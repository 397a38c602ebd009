"""A self-contained HTML page: ordered sections and the CircuitsVis views in them, opened offline from a file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from html import escape
from typing import Literal

from lens_scopes.views.page.circuitsvis import DRAW, Strips, View, bundle
from lens_scopes.views.page.stylesheet import stylesheet

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:;"
    " base-uri 'none'; form-action 'none'"
)


@dataclass(frozen=True)
class Section:
    """One part of a page.

    Args:
        key: the `id` of the section, unique on the page: letters, digits and hyphens.
        title: its heading, as text.
        html: its content. Whoever makes it escapes every text in it, and places `view.html` of each view
            once.
        views: the CircuitsVis views, and sets of strips, that the content has places for.
        layout: `full` takes a whole row; `wide` and `side` share a row on wide screens, two thirds to one.
    """

    key: str
    title: str
    html: str
    views: tuple[View | Strips, ...] = ()
    layout: Literal["full", "wide", "side"] = "full"


@dataclass(frozen=True)
class Page:
    """A page of sections, in order. Pages are values: `with_section` gives a new one.

    Args:
        title: the title of the window or tab, as text.
        header: HTML above the sections: headings, prose, warnings; its maker escapes every text in it.
        sections: the parts of the page.

    Example:
        >>> page = Page("heads").with_section(Section("heads", "Heads", "<p>L3H2</p>"))
        >>> [section.key for section in page.sections]
        ['heads']
    """

    title: str
    header: str = ""
    sections: tuple[Section, ...] = ()

    def with_section(self, section: Section, *, before: str | None = None) -> Page:
        """This page with one more section, at the end or in front of the section whose key is `before`.

        Raises:
            ValueError: no section has the key `before`.
        """
        if before is None:
            return replace(self, sections=(*self.sections, section))
        keys = [present.key for present in self.sections]
        if before not in keys:
            raise ValueError(f"no section {before!r} on this page, which has {', '.join(keys) or 'none'}")
        at = keys.index(before)
        return replace(self, sections=(*self.sections[:at], section, *self.sections[at:]))

    def to_html(self) -> str:
        """The whole document, its scripts inlined once (and not at all where no section has a view).

        The same page gives the same text. Its content security policy forbids every request.

        Raises:
            ValueError: two sections or views share an id, or a view has no place, or more than one, in its
                section.
            FileError: the CircuitsVis bundle is missing.
        """
        views = [view for section in self.sections for view in section.views]
        _require_unique("section", [section.key for section in self.sections])
        _require_unique("view", [view.id for view in views])
        for section in self.sections:
            for view in section.views:
                if section.html.count(f'id="{view.id}"') != 1:
                    raise ValueError(f"section {section.key!r} must contain the html of its view {view.id!r} once")
        styles = stylesheet() + "".join(view.stylesheet for view in views)
        scripts = [bundle(), DRAW + "".join(view.script for view in views)] if views else []
        links = " ".join(f'<a href="#{section.key}">{escape(section.title)}</a>' for section in self.sections)
        navigation = f'<nav aria-label="Sections">{links}</nav>' if len(self.sections) > 1 else ""
        inline = "\n".join(f"<script>{script}</script>" for script in (*scripts, _BEHAVIOUR))
        document = (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{CONTENT_SECURITY_POLICY}">\n'
            '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
            '<meta name="referrer" content="no-referrer"><link rel="icon" href="data:,">\n'
            f"<title>{escape(self.title)}</title>\n<style>{styles}</style></head>\n"
            f"<body><header>{self.header}{navigation}</header>\n"
            f"<main>{''.join(map(_section_html, self.sections))}</main>\n"
            "<footer><p>Made with lens_scopes. This page is complete in itself: it loads nothing and sends nothing."
            "</p></footer>\n"
            f"{inline}\n</body></html>\n"
        )
        return document.encode("utf-8", "replace").decode("utf-8")


def _section_html(section: Section) -> str:
    return (
        f'<section id="{section.key}" class="{section.layout}" aria-labelledby="{section.key}-title">'
        f'<h2 id="{section.key}-title">{escape(section.title)}</h2>{section.html}</section>\n'
    )


def _require_unique(kind: str, ids: Iterable[str]) -> None:
    seen: set[str] = set()
    for identifier in ids:
        if identifier in seen:
            raise ValueError(f"two {kind}s of this page have the id {identifier!r}")
        seen.add(identifier)


# Sorts a table by the button in a heading: numbers from the largest, text from A. A link into a folded part opens it.
# A cell of the layers × tokens map chooses its layer in the switcher below. In a frame without an address of its own
# (a notebook) links would resolve against the page around it.
_BEHAVIOUR = """
const reveal=()=>{
  const target=document.getElementById(location.hash.slice(1));
  for(let fold=target?.closest("details");fold;fold=fold.parentElement.closest("details"))fold.open=true;
  target?.scrollIntoView();
};
addEventListener("hashchange",reveal);
document.addEventListener("click",event=>{
  const link=event.target.closest('a[href^="#"]');
  if(!link)return;
  const hash=link.getAttribute("href");
  if(hash===location.hash)reveal();
  else if(location.protocol==="about:")location.hash=hash;
  else return;
  event.preventDefault();
});
if(location.hash)reveal();
document.querySelector("#layers .heat tbody")?.addEventListener("click",event=>{
  const row=event.target.closest("a")?null:event.target.closest("tr");
  const entry=row&&document.querySelectorAll("#layer-switcher [role=button]")[row.sectionRowIndex];
  if(entry){entry.click();document.getElementById("layer-switcher").scrollIntoView({block:"nearest"});}
});
document.querySelectorAll("table.sortable th button").forEach(button=>button.addEventListener("click",()=>{
  const head=button.parentElement,table=head.closest("table"),body=table.tBodies[0],column=head.cellIndex;
  const text=head.dataset.kind==="text";
  const direction=head.getAttribute("aria-sort")===(text?"ascending":"descending")?(text?"descending":"ascending")
    :(text?"ascending":"descending");
  table.querySelectorAll("th[aria-sort]").forEach(other=>other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort",direction);
  const value=row=>row.cells[column].dataset.value;
  const order=(a,b)=>text?value(a).localeCompare(value(b)):
    (value(a)===""?-Infinity:+value(a))-(value(b)===""?-Infinity:+value(b));
  const rows=[...body.rows].sort((a,b)=>direction==="ascending"?order(a,b):order(b,a));
  body.append(...rows);
}));
"""
