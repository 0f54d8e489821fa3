"""``siamkit calibrate`` and ``siamkit verify``, on a run of their own."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from siamkit.json_files import read_sealed, write_sealed


@pytest.fixture(scope="module")
def trained(tmp_path_factory, values_of) -> Path:
    from siamkit import api

    folder = tmp_path_factory.mktemp("verified") / "run"
    api.fit(values_of(folder, train={"epochs": 2}))
    return folder


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """A copy that a test may change."""
    return shutil.copytree(trained, tmp_path / "run")


def read(run: Path) -> dict:
    return read_sealed(run / "calibration.json")


def test_a_training_ends_with_a_threshold(run):
    found = read(run)
    assert json.loads((run / "metrics.json").read_text())["calibration"] == found
    assert (found["target"], found["provenance"]["part"]) == ("eer", "val")
    assert found["provenance"]["same"] == 4 * 15
    assert found["provenance"]["checkpoint"] == (run / "checkpoints/BEST").read_text().strip()


def test_two_images_are_verified(cli, run, image_folder):
    one, other = image_folder / "class0/0.png", image_folder / "class0/1.png"
    found = cli("verify", run, one, one, "--json").json
    assert found["schema"] == "siamkit.verify/1" and found["same"] is True
    assert found["score"] == pytest.approx(1.0, abs=1e-5) and found["probability"] > 0.5
    assert found["threshold"] == read(run)["threshold"]
    done = cli("verify", run, one, other)
    assert done.code == 0 and done.out.split("\n")[0] in ("same", "different")
    assert "probability" in done.out


def pair_file(image_folder: Path, folder: Path, same: bool = True) -> Path:
    shutil.copytree(image_folder, folder / "images")
    names = [f"images/class{c}/{i}.png" for c in range(3) for i in range(3)]
    rows = [(a, b, int(a[:13] == b[:13])) for n, a in enumerate(names) for b in names[n + 1 :]]
    path = folder / "pairs.csv"
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["a", "b", "same"][: 2 + same])
        writer.writerows(row[: 2 + same] for row in rows)
    return path


def test_a_list_of_pairs_is_verified(cli, run, image_folder, tmp_path):
    pairs, out = pair_file(image_folder, tmp_path), tmp_path / "out.csv"
    done = cli("verify", run, "--pairs", pairs, "-o", out)
    assert done.code == 0
    assert "36 pairs of 9 images" in done.out and "FAR" in done.out and "accuracy" in done.out
    with out.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 36 and rows[0]["a"] == "images/class0/0.png"
    threshold = read(run)["threshold"]
    assert all((float(row["score"]) >= threshold) == (row["same"] == "1") for row in rows)
    right = sum(row["same"] == row["expected"] for row in rows) / 36
    found = cli("verify", run, "--pairs", pairs, "--json").json
    assert found["errors"]["accuracy"] == pytest.approx(right)
    assert [row["same"] for row in found["verdicts"]] == [row["same"] == "1" for row in rows]
    assert cli("verify", run, "--pairs", pairs, "-o", out).code == 2, "it is not written over"
    assert cli("verify", run, "--pairs", pairs, "-o", tmp_path / "none/out.csv").code == 2


def test_the_verdicts_go_to_stdout_without_a_file_and_the_summary_does_not(
    cli, run, image_folder, tmp_path
):
    done = cli("verify", run, "--pairs", pair_file(image_folder, tmp_path, same=False))
    lines = done.out.splitlines()
    assert lines[0] == "a,b,same,score,probability" and len(lines) == 37
    assert "36 pairs" in done.err


def test_names_are_neither_formulas_nor_escape_sequences(cli, run, image_folder, tmp_path):
    names = ("=1+1.png", "@b.png", "c\x1b[2J.png")
    for name in names:
        shutil.copy(image_folder / "class0/0.png", tmp_path / name)
    with (tmp_path / "pairs.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("a", "b"), names[:2], names[::2]])
    done = cli("verify", run, "--pairs", tmp_path / "pairs.csv", "-o", tmp_path / "out.csv")
    assert done.code == 0
    with (tmp_path / "out.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [rows[0]["a"], rows[0]["b"], rows[1]["b"]] == ["./=1+1.png", "./@b.png", names[2]]
    # The paths lead to the same images, also when siamkit reads the table again.
    (tmp_path / "out.csv").rename(tmp_path / "again.csv")
    again = cli("verify", run, "--pairs", tmp_path / "again.csv", "--json").json
    assert again["verdicts"][0]["score"] == pytest.approx(float(rows[0]["score"]))


def test_bad_rows_are_listed(cli, run, tmp_path):
    (tmp_path / "p.csv").write_text("a,b\nnone.png,../x.png\n/x.png,y.png\n")
    done = cli("verify", run, "--pairs", tmp_path / "p.csv")
    assert done.code == 3 and "row 2: b leads out of the folder: ../x.png" in done.err
    assert "row 3: a must be a relative path: /x.png" in done.err


@pytest.mark.parametrize(
    "args", [[], ["x.png"], ["x.png", "y.png", "--pairs", "p"], ["x.png", "y.png", "-o", "o"]]
)
def test_a_call_that_makes_no_sense_is_refused(cli, run, args):
    assert cli("verify", run, *args).code == 2


def test_without_a_threshold_the_way_to_one_is_told(cli, run, image_folder):
    image = image_folder / "class0/0.png"
    (run / "calibration.json").unlink()
    done = cli("verify", run, image, image)
    assert done.code == 4 and "siamkit calibrate" in done.err
    assert cli("calibrate", run).code == 0
    assert cli("verify", run, image, image).code == 0
    (run / "calibration.json").write_text("{}")
    assert cli("verify", run, image, image).code == 4


def test_a_threshold_of_another_network_is_refused(cli, run, image_folder):
    image = image_folder / "class0/0.png"
    found = read(run)
    found["provenance"]["checkpoint"] = "epoch-00099-step-00000099"
    write_sealed(run / "calibration.json", found)
    done = cli("verify", run, image, image)
    assert done.code == 4 and "another network" in done.err


def test_it_is_fitted_again_for_another_target_or_on_other_images(cli, run, draw_image, tmp_path):
    before = read(run)
    assert {**cli("calibrate", run, "--json").json} == {
        "schema": "siamkit.calibrate/1", "run_dir": str(run), "previous": before, **before,
    }  # fmt: skip
    found = cli("calibrate", run, "--far", "0.1", "--json").json
    assert (found["target"], found["far_asked"]) == ("far", 0.1) and found["far"]["rate"] <= 0.1
    assert read(run)["target"] == "far"
    for kind in range(4):
        for index in range(6, 10):
            draw_image(tmp_path / f"others/class{kind}/{index}.png", kind, index)
    done = cli("calibrate", run, tmp_path / "others", "--target", "accuracy")
    assert done.code == 0 and "best accuracy" in done.out and "16 images" in done.out
    about = read(run)["provenance"]
    assert about["part"] == "all"
    (known,) = about["notices"]
    assert known.startswith("3 of the 4 classes have the names of classes that the run trained on")
    assert about["data"] == str(tmp_path / "others")


def test_what_cannot_be_fitted_leaves_the_threshold_there_was(cli, run):
    before = read(run)
    done = cli("calibrate", run, "--far", "1e-5")
    assert done.code == 3 and "1000000 or more" in done.err
    assert cli("calibrate", run, "--target", "luck").code == 2
    assert cli("calibrate", run, "--target", "eer", "--far", "0.1").code == 2
    assert read(run) == before


def test_the_flag_of_training_is_in_the_configuration(cli):
    assert "far: 0.001" in cli("config", "show", "--far", "1e-3").out
    done = cli("config", "show", "--set", "calibration.target=eer", "--far", "0.01")
    assert done.code == 0 and "target: far" in done.out
    assert cli("config", "show", "--set", "calibration.target=far").code == 2


def test_calibrating_shows_the_old_threshold_and_the_new_one(cli, run):
    old = cli("calibrate", run, "--target", "eer", "--json").json
    new = cli("calibrate", run, "--far", "0.1", "--json").json
    assert new["previous"]["threshold"] == old["threshold"]
    assert new["previous"]["target"] == "eer" and new["threshold"] == read(run)["threshold"]
    printed = cli("calibrate", run, "--target", "eer").out
    assert f"it replaces {new['threshold']:.4f} (FAR 0.1), fitted on val of" in printed
    (run / "calibration.json").unlink()
    assert cli("calibrate", run, "--json").json["previous"] is None
    assert "replaces" in cli("calibrate", run).out


@pytest.mark.slow
def test_several_calibrations_at_once_all_succeed(run):
    command = [sys.executable, "-m", "siamkit", "calibrate", str(run), "--json", "--target"]
    targets = ("eer", "accuracy", "eer")
    done = [subprocess.Popen([*command, target], stdout=subprocess.PIPE) for target in targets]
    printed = [json.loads(process.communicate(timeout=300)[0]) for process in done]
    assert [process.returncode for process in done] == [0, 0, 0]
    assert read(run)["threshold"] in {found["threshold"] for found in printed}
    assert not list(run.glob(".siamkit-*"))


def test_images_of_other_shapes_and_depths_than_in_training_are_told(cli, run, odd_folder):
    wide, deep = odd_folder / "class0/0.png", odd_folder / "class3/0.png"
    text = " ".join(cli("verify", run, wide, deep).out.split())
    assert "note: the centre crop leaves out 75% of the area of 1 of 2 images" in text
    assert "note: the values of 1 image of more than 8 bits end at" in text
    assert len(cli("verify", run, wide, deep, "--json").json["notices"]) == 2
    assert cli("verify", run, wide, wide, "--json").json["same"]
