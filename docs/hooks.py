"""Brings the figures, the notebooks and the gallery's numbers, which stand elsewhere, into the documentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
_PAGES = {"studies.md": ROOT / "analyses" / "README.md", "log.md": ROOT / "analyses" / "LOG.md"}
_WHOLE = {"figures": ROOT / "figures", "tutorials": ROOT / "analyses" / "tutorials"}
_LINKED = {"data": ROOT / "analyses" / "data", "results": ROOT / "analyses" / "results"}
_LINKS = {"../figures/": "figures/", "](LOG.md": "](log.md", "](README.md": "](studies.md"}


def on_config(config: Any) -> None:
    """Without the script that the search would fetch from elsewhere where pages are opened as files."""
    config.extra["polyfills"] = []


def on_files(files: Files, config: Any) -> Files:
    """Adds the two pages of `analyses/`, every figure and notebook, and the data that they link to."""
    pages = {name: path.read_text(encoding="utf-8") for name, path in _PAGES.items()}
    for name, text in pages.items():
        for old, new in _LINKS.items():
            text = text.replace(old, new)
        files.append(File.generated(config, name, content=text))
    for folder, path in {**_WHOLE, **_LINKED}.items():
        for item in sorted(path.iterdir()):
            if folder in _WHOLE or any(f"]({folder}/{item.name})" in text for text in pages.values()):
                files.append(File.generated(config, f"{folder}/{item.name}", abs_src_path=str(item)))
    return files
