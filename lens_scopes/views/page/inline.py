"""The scripts of a page in one piece: modules joined in the order of their imports, and the CircuitsVis bundle."""

from __future__ import annotations

import importlib.util
import json
import re
from functools import cache
from pathlib import Path
from posixpath import dirname, join, normpath
from typing import Any

from lens_scopes.errors import FileError

SCRIPTS = Path(__file__).parent / "scripts"

_IMPORT = re.compile(r'^import \{ (?P<names>[^}]*) \} from "(?P<module>\.[\w./]*)\.js";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function|class|const) (?P<name>\w+))", re.MULTILINE)


_COMMENTS = re.compile(r"^[ \t]*(?://[^\n]*|/\*.*?\*/)\n", re.MULTILINE | re.DOTALL)
_SPACE = re.compile(r"^[ \t]+|\n(?=\n)", re.MULTILINE)


def encode(value: Any) -> str:
    """JSON with no `<`, `>` or `&` in it, safe inside a script element."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@cache
def join_modules(entry: str = "page", folder: Path = SCRIPTS, *, light: bool = False) -> str:
    """The module `entry` and all that it imports as one classic script, each module in a scope of its own.

    A page that is opened as a file may not load modules, and its policy allows inline scripts alone. A light one has no
    blocks that CircuitsVis draws, and goes without the quarter of the scripts that is for them. Modules import by
    `import { a, b } from "../folder/name.js";` and export functions, classes and constants where they are declared.

    Raises:
        FileError: a module imports or exports in another way.
    """
    modules: dict[str, str] = {}

    def add(name: str) -> None:
        if name in modules:
            return
        modules[name] = ""  # two modules that import each other would otherwise never end
        file = "circuitsvis/absent" if light and name == "circuitsvis/blocks" else name
        source = (folder / f"{file}.js").read_text(encoding="utf-8")

        def scope(match: re.Match[str]) -> str:
            module = normpath(join(dirname(name), match["module"]))
            add(module)
            return f"const {{ {match['names']} }} = {_scope(module)};\n"

        exported = [match["name"] for match in _EXPORT.finditer(source)]
        body = _EXPORT.sub("", _IMPORT.sub(scope, source))
        if re.search(r"^(import|export)\b", body, re.MULTILINE):
            raise FileError(f"the script {name}.js imports or exports in a way that cannot be joined.")
        del modules[name]  # to stand behind what it imports
        modules[name] = f"const {_scope(name)} = (() => {{\n{body}return {{ {', '.join(exported)} }};\n}})();"

    add(entry)
    return _escape_ends('"use strict";\n' + lean("\n".join(modules.values())))


@cache
def bundle() -> str:
    """The scripts of CircuitsVis as they may stand inside one inline script element; defines `CircuitsVis`.

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
    return _escape_ends(re.sub(r"(?m)^//# sourceMappingURL=.*$", "", source))


def lean(source: str) -> str:
    """A script or stylesheet without the comments and the space that have lines of their own, a seventh of its size.

    Text within the lines stays as it is, so no string may go over several of them.
    """
    return _SPACE.sub("", _COMMENTS.sub("", source))


def _scope(module: str) -> str:
    return f"_{module.replace('/', '_')}"


def _escape_ends(script: str) -> str:
    """A script that cannot be left early: these sequences stand in strings and patterns alone, where \\x3c is `<`."""
    return re.sub(r"<(?=/script|!--)", r"\\x3c", script, flags=re.IGNORECASE)
