import os
import subprocess
import sys
from pathlib import Path

import pytest

from siamkit.data import sample
from siamkit.data.sample import sample_dir
from siamkit.errors import ResourceError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    sample._temporary.cache_clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "siamkit"


def images(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_size for p in folder.glob("*/*.png")}


def test_the_set_is_unpacked_into_the_cache_once(cache):
    folder = sample_dir()
    assert folder.parent == cache
    assert folder.name.startswith("sample-") and len(folder.name) == len("sample-") + 12
    assert len(list(folder.iterdir())) == 60
    assert len(images(folder)) == 360
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    inode = folder.stat().st_ino
    assert sample_dir() == folder
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before
    assert folder.stat().st_ino == inode
    assert list(cache.iterdir()) == [folder]


def test_damage_is_repaired_and_what_is_whole_stays(cache):
    folder = sample_dir()
    whole = images(folder)
    paths = sorted(folder.glob("*/*.png"))
    paths[0].unlink()
    paths[1].write_bytes(b"")
    for path in (gone := paths[12].parent).iterdir():
        path.unlink()
    gone.rmdir()
    kept = paths[40].stat().st_ino
    assert sample_dir() == folder
    assert images(folder) == whole
    assert paths[40].stat().st_ino == kept
    assert list(cache.iterdir()) == [folder]


def test_processes_may_unpack_at_once(cache):
    code = "from siamkit.data.sample import sample_dir as s; print(len(list(s().glob('*/*.png'))))"
    runs = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(6)
    ]
    assert [run.communicate()[0] for run in runs] == [b"360\n"] * 6
    assert len(list(cache.iterdir())) == 1


def test_without_a_cache_it_goes_to_a_temporary_folder_that_is_removed(cache, tmp_path):
    cache.parent.write_text("a file where the folder should be")
    code = (
        "from siamkit.data.sample import sample_dir as s; print(s(), len(list(s().rglob('*.png'))))"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env=environment, text=True, check=True
    ).stdout
    folder, count = out.split()
    assert Path(folder).is_relative_to(tmp_path) and count == "360"
    assert not list(tmp_path.glob("siamkit-*"))


def test_nowhere_to_unpack_is_an_error(cache, monkeypatch):
    cache.parent.write_text("a file where the folder should be")
    monkeypatch.setattr("tempfile.mkdtemp", lambda **_: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(ResourceError, match=r"cannot unpack .*: full; set XDG_CACHE_HOME"):
        sample_dir()


def test_a_relative_cache_home_is_ignored(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert sample_dir().parent == tmp_path / ".cache" / "siamkit"


def test_the_notice_names_every_drawer():
    notice = Path(sample.__file__).with_name("NOTICE").read_text()
    drawings = {path.name for path in sample_dir().glob("*/*.png")}
    assert len(drawings) == 6
    assert all(f"\n{name} " in notice for name in drawings)
    for name in ("Google", "Mozilla", "Twitter", "jdecked", "EmojiOne", "EmojiTwo", "Microsoft"):
        assert name in notice
