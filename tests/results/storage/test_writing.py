"""Writing over what is there: permissions, links and read-only files, and what is refused before the work."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from lens_scopes.errors import FileError
from lens_scopes.results.storage.writing import check_writable, utf8, write_whole

WRITERS: list[Callable[[Path], None]] = [check_writable, lambda path: write_whole(path, b"new")]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("permissions", [0o600, 0o640, 0o666, 0o755])
def test_a_file_keeps_its_permissions(tmp_path: Path, permissions: int) -> None:
    path = tmp_path / "a.html"
    path.write_bytes(b"old")
    path.chmod(permissions)
    write_whole(path, b"new")
    assert path.read_bytes() == b"new" and mode(path) == permissions
    assert os.listdir(tmp_path) == ["a.html"]


def test_a_link_keeps_its_target_and_the_target_gets_the_content(tmp_path: Path) -> None:
    (tmp_path / "run1").mkdir()
    target, link = tmp_path / "run1" / "page.html", tmp_path / "latest.html"
    target.write_bytes(b"old")
    link.symlink_to(Path("run1") / "page.html")
    write_whole(link, b"new")
    assert link.is_symlink() and os.readlink(link) == "run1/page.html" and target.read_bytes() == b"new"
    dangling = tmp_path / "next.html"
    dangling.symlink_to(Path("run1") / "other.html")
    write_whole(dangling, b"new")
    assert dangling.is_symlink() and (tmp_path / "run1" / "other.html").read_bytes() == b"new"
    assert sorted(os.listdir(tmp_path / "run1")) == ["other.html", "page.html"]


@pytest.mark.parametrize("write", WRITERS)
def test_a_read_only_file_is_refused(tmp_path: Path, write: Callable[[Path], None]) -> None:
    path = tmp_path / "a.html"
    path.write_bytes(b"old")
    path.chmod(0o444)
    with pytest.raises(FileError, match="read-only"):
        write(path)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.html"]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("name", ["a" * 300, "a\0b", "missing/a.html", ".", "loop", "\ud800x" * 200])
def test_what_cannot_be_written_is_refused(tmp_path: Path, write: Callable[[Path], None], name: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(FileError, match="cannot write|no name of a file"):
        write(tmp_path / name)
    assert os.listdir(tmp_path) == ["loop"]


def test_names_as_long_as_the_system_takes_are_written(tmp_path: Path) -> None:
    path = tmp_path / ("a" * 250 + ".html")
    check_writable(path)
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"


def test_a_check_leaves_nothing(tmp_path: Path) -> None:
    check_writable(tmp_path / "a.html")
    assert not os.listdir(tmp_path)


def test_a_surrogate_is_written_as_its_escape() -> None:
    assert utf8("é\ud800") == b"\xc3\xa9\\ud800"
