"""Files are read without surprises, and replaced in one step."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import Timeout

from siamkit import files
from siamkit.errors import CheckpointError, ConfigError, ResourceError
from siamkit.files import (
    append_line,
    is_there,
    read_bytes,
    reading,
    replacing,
    require_free_folder,
    write_atomic,
)


@contextmanager
def nobody() -> Iterator[None]:
    """Run the block as a user without rights, where the tests run as root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# --- reading -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Path.mkdir, "cannot read: Is a directory"),
        (os.mkfifo, "cannot read: Not a regular file"),
        (lambda path: path.symlink_to(path), "cannot read: Too many levels of symbolic links"),
        (lambda path: path.symlink_to("nowhere"), "the file is missing"),
        (lambda path: None, "the file is missing"),
    ],
    ids=["folder", "fifo", "loop", "broken link", "nothing"],
)
@pytest.mark.timeout(20)
def test_what_cannot_be_read_is_told_with_its_path_and_nothing_hangs(
    tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    path = tmp_path / "file"
    make(path)
    with (
        pytest.raises(CheckpointError, match=f"file: {message}; do this"),
        reading(path, "do this"),
    ):
        read_bytes(path)


def test_a_name_that_is_too_long_is_told(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 300)
    with pytest.raises(CheckpointError, match="cannot read: File name too long"), reading(path):
        is_there(path)
    with pytest.raises(ResourceError, match="cannot write: File name too long"):
        write_atomic(path, "text")


def test_a_file_that_may_not_be_read_is_told(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("secret")
    path.chmod(0)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    with nobody(), pytest.raises(CheckpointError, match="file: cannot read: Permission denied"):
        with reading(path):
            read_bytes(path)
    with nobody(), pytest.raises(ResourceError, match="cannot write: Permission denied"):
        write_atomic(path.with_name("other"), "text")


def test_an_error_of_a_disk_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="here: cannot read: Input/output error"):
        with reading(tmp_path / "here"):
            raise OSError(5, "Input/output error")


def test_a_link_that_leads_nowhere_is_there(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    assert is_there(tmp_path / "link") and not is_there(tmp_path / "none")
    assert not is_there(tmp_path / "link" / "below")


@pytest.mark.timeout(20)
def test_a_line_is_appended_to_a_file_only(tmp_path: Path) -> None:
    append_line(tmp_path / "log", "a")
    append_line(tmp_path / "log", "b\udcff".encode(errors="replace").decode())
    assert (tmp_path / "log").read_text().splitlines() == ["a", "b?"]
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError):
        append_line(tmp_path / "fifo", "a")


def test_a_line_does_not_continue_one_that_a_crash_cut_off(tmp_path: Path) -> None:
    (tmp_path / "log").write_text('{"whole": 1}\n{"cut o')
    for text in ("a", "b"):
        append_line(tmp_path / "log", text)
    assert (tmp_path / "log").read_text() == '{"whole": 1}\n{"cut o\na\nb\n'


def test_a_line_that_does_not_fit_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("x" * 90 + "\n")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(OSError):
            append_line(tmp_path / "log", "y" * 50)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    append_line(tmp_path / "log", "z")
    assert (tmp_path / "log").read_text().splitlines()[-1] == "z"


# --- writing -------------------------------------------------------------------------------------


def test_a_planted_link_is_never_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / ".new.json.tmp").symlink_to(precious)
    (tmp_path / "new.json").symlink_to(precious)
    write_atomic(tmp_path / "new.json", "text")
    assert precious.read_text() == "mine"
    assert not (tmp_path / "new.json").is_symlink()
    assert (tmp_path / "new.json").read_text() == "text"


def test_the_name_of_a_file_that_is_being_written_cannot_be_guessed(tmp_path: Path) -> None:
    seen = set()
    for _ in range(2):
        with replacing(tmp_path / "file") as new:
            new.write_text("x")
            (place,) = tmp_path.glob(".siamkit-*")
            seen.add(place.name)
            assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert len(seen) == 2 and names(tmp_path) == {"file"}


def test_each_file_is_on_the_disk_before_its_folder_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, flushed = tmp_path / "folder", set()
    flush = files.fsync

    def noted(path: Path) -> None:
        assert path == tmp_path or not target.exists()
        flushed.add(path.name)
        flush(path)

    monkeypatch.setattr(files, "fsync", noted)
    with replacing(target) as new:
        (new / "inner").mkdir(parents=True)
        (new / "inner" / "file").write_text("x")
    assert flushed >= {"folder", "inner", "file"}


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_the_umask_gives_the_mode(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_atomic(tmp_path / "file", "text")
        with replacing(tmp_path / "folder") as new:
            new.mkdir()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~mask
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o777 & ~mask


def test_a_block_that_raises_leaves_everything_as_it_was(tmp_path: Path) -> None:
    write_atomic(tmp_path / "file", "old")
    with pytest.raises(KeyError), replacing(tmp_path / "file") as new:
        new.write_text("new")
        raise KeyError
    assert (tmp_path / "file").read_text() == "old" and names(tmp_path) == {"file"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Path.mkdir, "Is a directory"),
        (os.mkfifo, "Not a regular file"),
    ],
    ids=["folder", "fifo"],
)
def test_something_else_in_its_place_stays(
    tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    make(tmp_path / "file")
    with pytest.raises(ResourceError, match=f"file: cannot write: {message}; move away"):
        write_atomic(tmp_path / "file", "text")
    assert names(tmp_path) == {"file"} and not (tmp_path / "file").is_file()


def test_a_device_stays_one() -> None:
    """The device is a terminal of its own: a test that fails must not replace one of the system."""
    ends = os.openpty()
    device = Path(os.ttyname(ends[1]))
    with pytest.raises(ResourceError, match="Not a regular file"):
        write_atomic(device, "text")
    assert stat.S_ISCHR(device.stat().st_mode)
    for end in ends:
        os.close(end)


def test_a_folder_is_replaced_as_a_whole_and_passes_its_hidden_entries_on(tmp_path: Path) -> None:
    target = tmp_path / "net"
    for content in ("old", "new"):
        with replacing(target) as new:
            new.mkdir()
            (new / content).write_text(content)
        (target / ".git").mkdir(exist_ok=True)
        (target / ".git" / content).write_text("")
    assert names(target) == {"new", ".git"} and names(target / ".git") == {"old", "new"}
    assert names(tmp_path) == {"net"}


KILLED = """
import os, sys
from pathlib import Path
from siamkit import files
target = Path(sys.argv[1])
when = sys.argv[2]
def die(*_): os.kill(os.getpid(), 9)
if when == "before":
    files._publish = die
elif when == "between":
    replace = Path.replace
    Path.replace = die
elif when == "after":
    files._settle = die
with files.replacing(target) as new:
    new.mkdir()
    (new / "new").write_text("")
    if when == "within":
        die()
"""


@pytest.mark.parametrize(
    ("when", "left"), [("within", "old"), ("before", "old"), ("between", "old"), ("after", "new")]
)
def test_the_next_writer_tidies_up_after_a_killed_one_and_loses_nothing(
    tmp_path: Path, when: str, left: str
) -> None:
    target = tmp_path / "net"
    (target / ".git").mkdir(parents=True)
    (target / "old").write_text("")
    done = subprocess.run([sys.executable, "-c", KILLED, str(target), when])
    assert done.returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob(".siamkit-*"))) == 1
    write_atomic(tmp_path / "other", "text")
    assert names(tmp_path) == {"net", "other"}
    assert names(target) == {left, ".git"}


def test_a_reader_tidies_up_without_other_packages(tmp_path: Path) -> None:
    """siamkit-runtime brings no package for locks."""
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "net"), "within"])
    code = (
        "import sys; sys.modules['filelock'] = None; from pathlib import Path;"
        "from siamkit.portable.manifest import is_export; print(is_export(Path(sys.argv[1])))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "gone")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "False\n" and not names(tmp_path), done.stderr


def test_what_a_living_process_writes_stays(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from siamkit.files import replacing\n"
        "with replacing(Path(sys.argv[1])) as new:\n"
        "    new.write_text('text'); print('open', flush=True); sys.stdin.read()\n"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "slow")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert writer.stdout is not None and writer.stdout.readline() == "open\n"
        write_atomic(tmp_path / "quick", "text")
        writer.communicate("", timeout=60)
        assert writer.returncode == 0 and names(tmp_path) == {"slow", "quick"}
    finally:
        writer.kill()


def test_a_folder_of_such_a_name_that_is_a_link_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("")
    (tmp_path / ".siamkit-0123456789abcdef").symlink_to(tmp_path / "mine")
    (tmp_path / ".siamkit-notes").mkdir()
    write_atomic(tmp_path / "other", "text")
    assert names(tmp_path / "mine") == {"file"} and (tmp_path / ".siamkit-notes").is_dir()


def test_a_place_that_is_not_yet_locked_is_left_to_its_writer_for_an_hour(tmp_path: Path) -> None:
    place = tmp_path / ".siamkit-new-0123456789abcdef"
    place.mkdir()
    write_atomic(tmp_path / "other", "text")
    assert names(tmp_path) == {"other", place.name}
    long_ago = time.time() - 3601
    os.utime(place, (long_ago, long_ago))
    write_atomic(tmp_path / "other", "text")
    assert names(tmp_path) == {"other"}


def test_what_is_left_alone_hides_nothing_that_is_to_go(tmp_path: Path) -> None:
    stay, go = set(), set()
    for number in range(8):  # folders are listed in any order
        (tmp_path / f".siamkit-notes{number}").mkdir()
        (tmp_path / f".siamkit-new-{number:016x}").mkdir()
        stay |= {f".siamkit-notes{number}", f".siamkit-new-{number:016x}"}
        (tmp_path / f".siamkit-{number:016x}").mkdir()
        go.add(f".siamkit-{number:016x}")
    assert names(tmp_path) == stay | go
    files.sweep(tmp_path)
    assert names(tmp_path) == stay


def _write_often(path: Path, text: str) -> None:
    for _ in range(60):
        write_atomic(path, text)


@pytest.mark.parametrize("attempt", range(4))
def test_several_processes_may_write_one_file_at_once(tmp_path: Path, attempt: int) -> None:
    texts = [letter * 10_000 for letter in "abcd"]
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_often, args=(tmp_path / "f", t)) for t in texts]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0, 0, 0]
    assert (tmp_path / "f").read_text() in texts and names(tmp_path) == {"f"}


def test_a_full_disk_is_told_and_leaves_the_old_file(tmp_path: Path) -> None:
    write_atomic(tmp_path / "file", "old")
    with pytest.raises(ResourceError, match="No space left on device; check the free space"):
        with replacing(tmp_path / "file"):
            raise OSError(28, "No space left on device")
    assert (tmp_path / "file").read_text() == "old"


def test_an_error_without_a_number_is_not_the_systems(tmp_path: Path) -> None:
    with pytest.raises(Timeout), files.writing(tmp_path):
        raise Timeout("lock")


def test_a_folder_that_a_killed_writer_moved_away_is_not_replaced_unasked(tmp_path: Path) -> None:
    target = tmp_path / "model"
    place = tmp_path / ".siamkit-0123456789abcdef" / "old"
    (place / "model").mkdir(parents=True)
    (place / "model" / "mine").write_text("old")
    with pytest.raises(ConfigError, match="already holds a model"):
        require_free_folder(target, "a model", lambda _: {"mine"}, force=False)
    assert (target / "mine").read_text() == "old"
    require_free_folder(target, "a model", lambda _: {"mine"}, force=True)


# --- paths ---------------------------------------------------------------------------------------


def test_only_a_name_that_the_system_refuses_for_its_length_is_too_long(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for short in ("file", "none", "file/below", "a\0b", "\ud800"):
        assert not files.is_too_long(tmp_path / short), short
    assert files.is_too_long(str(tmp_path / ("n" * 300)))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "run: must be the path of a run's directory, got 'None', allowed: text or a pathli"),
        (3, "run: must be the path of a run's directory, got 'int'"),
        (b"a", "run: must be the path of a run's directory, got 'bytes'"),
        ("", "must be the path of a run's directory, but is empty, got ''"),
        ("a\0b", "must be the path of a run's directory, but contains a NUL character"),
        ("n" * 300, f"but is longer than the system allows, got '{'n' * 40}...'"),
    ],
)
def test_what_is_no_path_is_refused(value: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        files.path_of(value, "run", "a run's directory")
    assert message in str(caught.value)


def test_a_path_is_text_or_an_object_of_its_own(tmp_path: Path) -> None:
    assert files.path_of("a/b", "run") == Path("a/b")
    assert files.path_of(tmp_path, "run") == tmp_path


def test_the_cache_is_where_the_environment_says_if_that_is_absolute(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    for given, expected in (
        (str(tmp_path), tmp_path),
        ("relative", Path("/home/me/.cache")),
        ("", Path("/home/me/.cache")),
    ):
        monkeypatch.setenv("XDG_CACHE_HOME", given)
        assert files.cache_home() == expected
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert files.cache_home() == Path("/home/me/.cache")


# --- the system's refusals -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(28, "No space left on device", "a"),
         "a: no space left on disk; free some space"),
        (OSError(28, "No space left on device"), "no space left on disk; free some space"),
        (PermissionError(13, "Permission denied", "a"),
         "a: cannot be used: Permission denied; check its permissions"),
        (OSError(1, "Operation not permitted", "a"),
         "a: cannot be used: Operation not permitted; check its permissions"),
        (OSError(5, "Input/output error", "a"), "a: cannot be used: Input/output error"),
        (OSError(5, None, "a"), "a: cannot be used: Input/output error"),
        (OSError(5, "Input/output error"), None),
        (OSError("from a library"), None),
        (ValueError("odd"), None),
    ],
)  # fmt: skip
def test_an_error_of_the_system_says_what_to_do(error: Exception, message: str | None) -> None:
    found = files.refused_by_system(error)
    assert (None if found is None else str(found)) == message


# --- folders to write ----------------------------------------------------------------------------


def entries(*names: str) -> Callable[[Path], set[str]]:
    return lambda path: set(names)


@pytest.mark.parametrize("make", [None, Path.mkdir], ids=["nothing", "empty folder"])
def test_a_free_folder_may_be_written(
    tmp_path: Path, make: Callable[[Path], object] | None
) -> None:
    if make is not None:
        make(tmp_path / "index")
    require_free_folder(tmp_path / "index", "an index", lambda path: None, force=False)


def damaged(path: Path) -> set[str]:
    raise CheckpointError("the file is damaged")


@pytest.mark.parametrize(
    ("names_there", "own", "force", "message"),
    [
        ("", entries(), True, "is a file, not a folder; choose another output"),
        ("x", lambda path: None, True, "already exists and is not an index, so it is not replaced"),
        ("x", damaged, True, "looks like an index, but is damaged or of another version, so it is "
                             "not replaced: the file is damaged; remove it yourself, or choose"),
        ("x", entries("x"), False, "already holds an index; choose another output, or replace it "
                                   "with force=True"),
        ("x y", entries("x"), True, "holds more than an index: y; choose another output, or move"),
        ("abcdefg", entries("a"), True, "holds more than an index: b, c, d, e, f;"),
    ],
)  # fmt: skip
def test_a_folder_that_holds_something_else_stays(
    tmp_path: Path,
    names_there: str,
    own: Callable[[Path], set[str] | None],
    force: bool,
    message: str,
) -> None:
    target = tmp_path / "index"
    if names_there:
        target.mkdir()
        for name in names_there.split() if " " in names_there else names_there:
            (target / name).write_text("")
    else:
        target.write_text("")
    with pytest.raises(ConfigError) as caught:
        require_free_folder(target, "an index", own, force=force)
    assert str(caught.value).startswith(f"{target}: {message}")


def test_a_folder_of_the_same_kind_may_be_replaced_if_asked_also_with_git(tmp_path: Path) -> None:
    target = tmp_path / "index"
    (target / ".git").mkdir(parents=True)
    for name in ("x", ".gitattributes"):
        (target / name).write_text("")
    require_free_folder(target, "an index", entries("x", "another"), force=True)
