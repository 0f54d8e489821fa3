"""The command and the Python functions, held against siamkit's own."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import siamkit
from siamkit.cli.app import main as siamkit_main

FORBIDDEN = """
import sys
sys.path.insert(0, sys.argv.pop(1))

class OnlyRuntime:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in (
            "torch", "siamkit", "pydantic", "timm", "rich", "typer", "filelock", "sklearn"
        ):
            raise ImportError(f"{name} was imported")

sys.meta_path.insert(0, OnlyRuntime())
from siamkit_runtime.cli import main
sys.exit(main())
"""


@pytest.fixture
def both(runtime, capsys, monkeypatch):
    """A function that runs a command of siamkit-runtime, and one of siamkit on the same model."""
    monkeypatch.delenv("COLUMNS", raising=False)
    from siamkit_runtime.cli import main

    def run(ours: list, theirs: list) -> tuple[tuple, tuple]:
        results = []
        for function, words in ((main, ours), (siamkit_main, theirs)):
            capsys.readouterr()
            code = function([str(word) for word in words])
            results.append((code, *capsys.readouterr()))
        return tuple(results)

    return run


@pytest.fixture
def model(runtime, exported):
    from siamkit_runtime import load

    return load(exported[1], threads=1)


def timeless(text: str) -> dict:
    return {key: value for key, value in json.loads(text).items() if key != "seconds"}


@pytest.fixture
def listing(photos, tmp_path):
    """A list of pairs beside a copy of the photos; one name looks like a formula."""
    shutil.copytree(photos, tmp_path / "images")
    shutil.copy(photos / "class0/0.png", tmp_path / "=1+1.png")
    path = tmp_path / "pairs.csv"
    names = ("images/class0/0.png", "images/class0/1.png", "images/class5/0.png", "=1+1.png")
    rows = [f"{a};{b};{int(a[:13] == b[:13])}" for a in names for b in names]
    path.write_text("\n".join(["a;b;same", *rows]))
    return path


@pytest.mark.slow
def test_nothing_but_the_runtime_is_needed(site, exported, photos, listing, tmp_path):
    one, other = photos / "class0/0.png", photos / "class1/0.png"
    for words in (
        ["verify", exported[1], one, other],
        ["embed", exported[1], photos, "-o", tmp_path / "out.npy"],
        ["search", exported[1], tmp_path / "out.npy", one, "--json"],
        ["search", exported[1], photos, one],
        ["verify", exported[1], "--pairs", listing, "-o", tmp_path / "verdicts.csv"],
    ):
        run = [sys.executable, "-c", FORBIDDEN, str(site), *map(str, words)]
        done = subprocess.run(run, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_verify_prints_what_siamkit_prints(flags, both, exported, photos):
    images = sorted(photos.rglob("*.png"))
    for a, b in ((images[0], images[0]), (images[0], images[1]), (images[0], images[-1])):
        ours, theirs = both(["verify", exported[1], a, b, *flags],
                            ["verify", exported[1], a, b, *flags])  # fmt: skip
        assert ours == theirs and ours[0] == 0


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_list_of_pairs_gets_the_verdicts_of_siamkit(flags, both, exported, listing, tmp_path):
    command, out = ["verify", exported[1], "--pairs", listing, *flags], tmp_path / "out.csv"
    ours, theirs = both(command, command)
    assert ours == theirs and ours[0] == 0
    ours, _ = both([*command, "-o", out], ["-V"])
    text = out.read_text()
    out.unlink()
    _, theirs = both(["-V"], [*command, "-o", out])
    assert ours == theirs and ours[0] == 0 and text == out.read_text()
    assert text.splitlines()[-1].startswith("./=1+1.png,./=1+1.png,1,1,1.0,")
    ours, theirs = both([*command, "-o", out], [*command, "-o", out])
    assert ours == theirs and ours[0] == 2 and "the file already exists" in ours[2]
    listing.write_text("a,b\nimages/class0/0.png,gone.png\n../x.png,=1+1.png\n")
    ours, theirs = both(command, command)
    assert ours == theirs and ours[0] == 3 and "row 2: gone.png: no such file" in ours[2]


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_lost_shapes_and_depths_are_told_as_siamkit_tells_them(
    flags, both, exported, photos, tmp_path
):
    with Image.open(photos / "class0/0.png") as image:
        grey = np.asarray(image.convert("L"))
    wide, dark = tmp_path / "wide.png", tmp_path / "dark.png"
    Image.fromarray(np.tile(grey, (1, 4))).save(wide)
    Image.fromarray(grey.astype(np.uint16) * 16).save(dark)
    listing, out = tmp_path / "pairs.csv", tmp_path / "out.npy"
    listing.write_text("a,b\nwide.png,dark.png\n")
    verdict = ["verify", exported[1], wide, dark, *flags]
    pairs = ["verify", exported[1], "--pairs", listing, *flags]
    for command in (verdict, pairs):
        ours, theirs = both(command, command)
        assert ours == theirs and ours[0] == 0
        text = " ".join((ours[1] + ours[2]).split())
        assert "leaves out 75% of the area of 1 of 2 images" in text
        assert "the values of 1 image of more than 8 bits end at" in text
    ours, _ = both(["embed", exported[1], wide, "-o", out, *flags], ["-V"])
    assert "leaves out 75% of the area of 1 of 1 image" in " ".join(ours[1].split())
    ours, _ = both(["search", exported[1], photos, wide, *flags], ["-V"])
    assert "leaves out 75% of the area of 1 of 1 image" in " ".join(ours[1].split())


def test_embed_writes_what_siamkit_writes(both, exported, photos, tmp_path):
    ours, theirs = both(
        ["embed", exported[1], photos, "-o", tmp_path / "ours.npy", "--json"],
        ["embed", exported[1], photos, "-o", tmp_path / "theirs.npy", "--json"],
    )
    swapped = json.loads(theirs[1].replace("theirs.", "ours."))
    assert timeless(ours[1]) == timeless(json.dumps(swapped)) and ours[0] == theirs[0] == 0
    assert list(json.loads(ours[1])) == list(swapped)
    for ending in (".npy", ".csv"):
        written = [(tmp_path / f"{name}{ending}").read_bytes() for name in ("ours", "theirs")]
        assert written[0] == written[1]
    assert {path.name for path in tmp_path.iterdir()} == {
        "ours.npy", "ours.csv", "theirs.npy", "theirs.csv",
    }  # fmt: skip
    again, _ = both(["embed", exported[1], photos, "-o", tmp_path / "ours.npy", "--force"], ["-V"])
    assert again[0] == 0 and again[1].startswith(
        f"30 embeddings of 8 dimensions, float32: {tmp_path}"
    )


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_search_prints_what_siamkit_prints(flags, both, exported, photos, tmp_path):
    odd = tmp_path / "写真 [red]"
    shutil.copytree(photos / "class2", odd / "猫")
    shutil.copytree(photos / "class3", odd / "loose")
    shutil.copy(photos / "class1/0.png", odd / "0.png")
    siamkit.build_index(exported[1], odd, tmp_path / "index")
    query = photos / "class2"
    theirs = ["search", tmp_path / "index", query, "-k", "7", *flags]
    ours = ["search", exported[1], tmp_path / "index", query, "-k", "7", *flags]
    ours, expected = both(ours, theirs)
    assert ours == expected and ours[0] == 0
    # The folder itself, which is embedded now, gives the same results.
    direct, _ = both(["search", exported[1], odd, query, "-k", "7", *flags], theirs)
    if flags:
        found, wanted = ({**json.loads(one[1]), "index": None} for one in (direct, expected))
        assert found == wanted
    else:
        assert direct[1] == expected[1]


def test_an_index_is_told_from_a_folder_of_images_when_it_is_damaged(
    both, exported, photos, tmp_path
):
    index, query = tmp_path / "index", photos / "class0/0.png"
    siamkit.build_index(exported[1], photos, index)
    # As a writer that was killed between its two moves leaves it.
    place = tmp_path / ".siamkit-0123456789abcdef" / "old"
    place.mkdir(parents=True)
    index.rename(place / "index")
    ours, _ = both(["search", exported[1], index, query, "-k", "1"], ["-V"])
    assert ours[0] == 0 and not place.exists()
    (index / "meta.json").unlink()
    ours, _ = both(["search", exported[1], index, query], ["-V"])
    assert ours[0] == 4 and "is not an index: it has no meta.json" in ours[2]


def test_a_folder_of_photos_may_have_a_file_of_an_index(both, exported, photos, tmp_path):
    gallery, query = shutil.copytree(photos, tmp_path / "gallery"), photos / "class0/0.png"
    (gallery / "meta.json").write_text('{"title": "holiday"}')
    ours, _ = both(["search", exported[1], gallery, query, "-k", "1"], ["-V"])
    assert ours[0] == 0 and "gallery/class0/0.png" in ours[1]


def test_a_missing_query_is_noticed_before_the_gallery_is_embedded(both, exported, tmp_path):
    gallery = tmp_path / "gallery"
    gallery.mkdir()
    (gallery / "bad.png").write_bytes(b"no image")
    ours, _ = both(["search", exported[1], gallery, tmp_path / "none.png"], ["-V"])
    assert ours[0] == 3 and "none.png: no such file or folder" in ours[2]


def test_a_file_of_embeddings_is_searched_with_a_notice(both, exported, photos, tmp_path):
    out, query = tmp_path / "out.npy", photos / "class0/0.png"
    both(["embed", exported[1], photos, "-o", out], ["-V"])
    ours, _ = both(["search", exported[1], out, query, "-k", "3", "--json"], ["-V"])
    assert "does not say which network made it" in ours[2]
    best = json.loads(ours[1])["queries"][0]["neighbours"][0]
    assert best == {"rank": 1, "score": 1.0, "label": None, "path": str(query)}
    np.save(out, np.zeros((30, 9), np.float32))
    ours, _ = both(["search", exported[1], out, query], ["-V"])
    assert ours[0] == 3 and "got 9, allowed: 8" in ours[2]
    np.save(out, np.zeros((31, 8), np.float32))
    ours, _ = both(["search", exported[1], out, query], ["-V"])
    assert ours[0] == 4 and "does not match the list of images" in ours[2]
    out.write_bytes(b"x")
    ours, _ = both(["search", exported[1], out, query], ["-V"])
    assert ours[0] == 4 and "the file is damaged" in ours[2]


def test_a_name_with_odd_separators_is_kept(both, exported, photos, tmp_path):
    odd = tmp_path / "odd"
    odd.mkdir()
    names = {"a\nb.png", "c\u2028d.png", "e\x0bf.png", 'g"h.png'}
    for name in names:
        shutil.copy(photos / "class0/0.png", odd / name)
    both(["embed", exported[1], odd, "-o", tmp_path / "out.npy"], ["-V"])
    ours, _ = both(["search", exported[1], tmp_path / "out.npy", odd, "--json"], ["-V"])
    found = {Path(one["path"]).name for one in json.loads(ours[1])["queries"][0]["neighbours"]}
    assert found == names


def test_errors_are_those_of_siamkit(both, exported, photos, tmp_path):
    one, model = photos / "class0/0.png", exported[1]
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    damaged = shutil.copytree(model, tmp_path / "model")
    card = damaged / "README.md"
    card.write_text(card.read_text() + " ")
    for words in (
        ["verify", model, one, tmp_path / "none.png"],
        ["verify", model, one, tmp_path / "bad.png"],
        ["verify", model, one, photos],
        ["verify", damaged, one, one],
        ["embed", model, tmp_path / "no folder", "-o", tmp_path / "x.npy"],
    ):
        ours, theirs = both([*words, "--json"], [*words, "--json"])
        assert ours == theirs and ours[0] in (3, 4)
        assert "Traceback" not in ours[2] and ours[2].startswith("error: ")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 0, ""),
        (["--version"], 0, ""),
        (["sing"], 2, "invalid choice: 'sing'"),
        (["verify"], 2, "the following arguments are required: MODEL"),
        (["verify", "m", "a"], 2, "needs either two images, A and B, or a list of pairs"),
        (["verify", "m", "a", "--pairs", "p"], 2, "needs either two images, A and B, or a list"),
        (["verify", "m", "a", "b", "-o", "x"], 2, "--output: works only with a list of pairs"),
        (["verify", "", "a", "b"], 2, "must not be empty"),
        (["verify", "nowhere", "a", "b"], 2, "nowhere: no such folder"),
        (["verify", ".", "a", "b"], 2, "is not an exported model: it has no export.json"),
        (["verify", "m", "a", "b", "--loud"], 2, "unrecognized arguments: --loud"),
        (["search", "m", "g", "q", "-k", "0"], 2, "must be a whole number of 1 or more, got '0'"),
        (
            ["embed", "m", "i", "-o", "x.txt"],
            2,
            "--output: must end in .npy or .parquet",
        ),
        (["embed", "m", "i"], 2, "the following arguments are required: --output/-o"),
    ],
)
def test_usage_errors_have_the_code_2_and_no_traceback(words, code, message, runtime, capsys):
    from siamkit_runtime.cli import main

    assert main(words) == code
    err = capsys.readouterr().err
    assert message in err and "Traceback" not in err
    assert not code or len(err.splitlines()) == 1


def test_existing_files_are_kept(both, exported, photos, tmp_path):
    out = tmp_path / "out.npy"
    (tmp_path / "out.csv").write_text("my notes\n")
    command = ["embed", exported[1], photos, "-o", out]
    ours, _ = both(command, ["-V"])
    assert ours[0] == 2 and "out.csv: the file already exists" in ours[2]
    ours, _ = both([*command, "--force"], ["-V"])
    assert ours[0] == 2 and "is no list of images that siamkit wrote" in ours[2]
    assert (tmp_path / "out.csv").read_text() == "my notes\n" and not out.exists()


def test_the_same_command_goes_on_after_an_unreadable_image(both, exported, photos, tmp_path):
    images = shutil.copytree(photos, tmp_path / "images")
    (images / "class5/9.png").write_bytes(b"no image")
    command = ["embed", exported[1], images, "-o", tmp_path / "out.npy", "--batch-size", "10"]
    ours, _ = both(command, ["-V"])
    assert ours[0] == 3 and "9.png: not an image" in ours[2]
    assert {path.name for path in tmp_path.iterdir()} == {"images", ".out.npy.partial"}
    shutil.copy(images / "class5/0.png", images / "class5/9.png")
    ours, _ = both([*command, "--json"], ["-V"])
    assert json.loads(ours[1])["resumed_at"] == 30
    assert {path.name for path in tmp_path.iterdir()} == {"images", "out.npy", "out.csv"}


def test_sigterm_ends_a_command_and_the_same_command_goes_on(
    both, exported, photos, tmp_path, monkeypatch
):
    from siamkit_runtime.portable import filling

    append, out = filling.GrowingFile.append, tmp_path / "out.npy"

    def stopping(self, vectors):
        append(self, vectors)
        os.kill(os.getpid(), signal.SIGTERM)

    command = ["embed", exported[1], photos, "-o", out, "--batch-size", "10", "--json"]
    with monkeypatch.context() as patch:
        patch.setattr(filling.GrowingFile, "append", stopping)
        ours, _ = both(command, ["-V"])
    assert ours[0] == json.loads(ours[1])["error"]["exit_code"] == 143
    assert "stopped by SIGTERM after 10 of 30 images, which are kept" in ours[2]
    ours, _ = both(command, ["-V"])
    assert ours[0] == 0 and json.loads(ours[1])["resumed_at"] == 10


def test_a_reader_that_leaves_is_no_error(site, exported, photos):
    command = [sys.executable, "-m", "siamkit_runtime", "search", str(exported[1]), str(photos),
               str(photos), "-k", "30"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(site)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        process.stdout.close()
        err = process.stderr.read()
        assert process.wait() == 0 and err == b""


def test_three_lines_of_python(model, exported, photos):
    one, other = photos / "class0/0.png", photos / "class0/1.png"
    verdict, known = model.verify(one, other), siamkit.ExportedModel(exported[1]).verify(one, other)
    assert verdict.to_json() == known.to_json()
    assert model.embed(Image.open(one)).tolist() == model.embed(one).tolist()
    assert type(model).__module__ == "siamkit_runtime.portable.model"


def test_the_public_names_exist(runtime):
    import siamkit_runtime

    for name in siamkit_runtime.__all__:
        assert getattr(siamkit_runtime, name) is not None
    assert dir(siamkit_runtime) == siamkit_runtime.__all__
    with pytest.raises(AttributeError, match="has no attribute 'train'"):
        _ = siamkit_runtime.train


def test_prepared_images_have_the_bits_of_training(runtime, exported, tmp_path, photos):
    from siamkit_runtime import load

    from siamkit.data.views import EvalView
    from siamkit.portable.decode import Decoding, decode

    net = siamkit.load_model(exported[0])
    view, how = EvalView(net.preprocessing), Decoding.of(net.preprocessing)
    model = load(exported[1])
    odd = Path(__file__).parents[3] / "tests/portable"
    sys.path.insert(0, str(odd))
    try:
        from odd import odd_images
    finally:
        sys.path.remove(str(odd))
    files = odd_images(tmp_path)
    for kind, path in files.items():
        (ours,) = model._inputs([path], [str(path)])
        assert ours.tobytes() == view(decode(path, how)).numpy().tobytes(), kind
        with Image.open(path) as opened:
            (in_memory,) = model._inputs([opened], ["image"])
        assert in_memory.tobytes() == ours.tobytes(), kind
