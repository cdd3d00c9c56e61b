"""A file that is written is whole, on the disk, and alone: whatever stops the writing, the one before is there."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from attnreid import files
from attnreid.files import link_file, remove_drafts, replacing, system_error, write_bytes, write_text


def test_a_second_name_of_the_same_file_leaves_nothing_behind(tmp_path):
    for content in (b"one", b"another"):
        write_bytes(tmp_path / "target", content)
        for _ in range(2):  # the second time it is that file already
            link_file(tmp_path / "name", tmp_path / "target")
            assert (tmp_path / "name").read_bytes() == content
            assert (tmp_path / "name").samefile(tmp_path / "target")
            assert sorted(path.name for path in tmp_path.iterdir()) == ["name", "target"]


def test_without_links_the_content_is_copied(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    write_text(tmp_path / "target", "content")
    link_file(tmp_path / "name", tmp_path / "target")
    assert (tmp_path / "name").read_text() == "content"
    assert not (tmp_path / "name").samefile(tmp_path / "target")


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_file_that_cannot_be_written_gives_its_space_back(tmp_path, call, monkeypatch):
    write_bytes(tmp_path / "file", b"before")

    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(OSError, match="No space left"):
        write_bytes(tmp_path / "file", b"after")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"before"


def test_content_and_name_are_synchronised_before_and_after_the_renaming(tmp_path, monkeypatch):
    happened, fsync, replace = [], os.fsync, os.replace

    def synchronise(descriptor):
        happened.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    def rename(source, target):
        happened.append("renamed")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synchronise)
    monkeypatch.setattr(os, "replace", rename)
    write_text(tmp_path / "file", "content")
    draft, *rest = happened
    assert draft.startswith(".file.")
    assert draft.endswith(files.PARTIAL)
    assert rest == ["renamed", tmp_path.name]


def test_rights_are_the_usual_ones_and_a_link_is_followed(tmp_path):
    (tmp_path / "usual").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with replacing(tmp_path / "link") as draft:
        draft.unlink()
        draft.touch(mode=0o600)  # as a library that writes private files
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    for name in (".file.0123.partial", ".file", "file.partial", "file"):
        (tmp_path / name).touch()
    remove_drafts(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".file", "file", "file.partial"]


def test_a_name_may_be_as_long_as_the_file_system_takes(tmp_path):
    for name in ("x" * 255, "\N{GRINNING FACE}" * 63):
        write_text(tmp_path / name, "content")
        assert [path.name for path in tmp_path.iterdir()] == [name]
        (tmp_path / name).unlink()


def killed_while_writing(path):
    """Have a process die in the middle of a file, and return its draft."""
    if (child := os.fork()) == 0:
        with replacing(path) as draft:
            draft.write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    (draft,) = path.parent.glob(f".{path.name}.*")
    return draft


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process is forked")
def test_the_next_process_that_writes_into_a_folder_removes_what_a_killed_one_left(tmp_path):
    draft = killed_while_writing(tmp_path / "file")
    living = tmp_path / draft.name.replace(f"-{draft.name.split('-')[-2]}-", f"-{os.getppid()}-")
    elsewhere = tmp_path / draft.name.replace(".file.", ".file.f")
    others = [living, elsewhere, tmp_path / ".file.0123.partial", tmp_path / ".note"]
    for other in others:
        other.touch()
    folder = tmp_path / draft.name.replace(".file.", ".folder.")
    (folder / "inner").mkdir(parents=True)
    write_text(tmp_path / "another", "content")
    assert sorted(tmp_path.iterdir()) == sorted([*others, tmp_path / "another"])


def test_a_compiled_librarys_error_is_the_systems():
    error = system_error(RuntimeError("I/O error: No space left on device (os error 28)"), Path("a"))
    assert (error.errno, error.strerror, error.filename) == (errno.ENOSPC, "No space left on device", "a")
    assert system_error(RuntimeError("lost"), Path("a")).args == ("writing a failed with: lost",)


def test_it_is_imported_without_torch():
    code = "import sys, attnreid.files; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
