"""``siamkit evaluate``, on a run of its own."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from siamkit.json_files import read_sealed


@pytest.fixture(scope="module")
def run(tmp_path_factory, values_of) -> Path:
    from siamkit import api

    folder = tmp_path_factory.mktemp("evaluated") / "run"
    api.fit(values_of(folder, train={"epochs": 1}))
    return folder


def test_the_run_s_own_held_out_images_are_scored(cli, run):
    report = cli("evaluate", run, "--json").json
    assert report["schema"] == "siamkit.evaluate/1"
    assert report["data"]["part"] == "the run's validation images"
    assert (report["images"], report["classes"]) == (24, 4)
    assert 0 <= report["retrieval"]["chance"]["recall@1"] < report["retrieval"]["recall@1"] <= 1
    assert report["verification"]["same"] == 4 * 15


def test_images_that_chose_the_epoch_and_the_threshold_are_told(cli, run):
    own = cli("evaluate", run)
    assert "these images chose the best epoch and the threshold" in own.out
    assert "add a test split, or pass other images as DATA" in own.out
    found = cli("evaluate", run, "--json").json
    assert found["data"]["chose"] == ["epoch", "threshold"] and found["data"]["trained_on"] == 0
    # Nothing chose the last epoch's network, and this run's only epoch has its threshold.
    assert cli("evaluate", run, "--last", "--json").json["data"]["chose"] == ["threshold"]


@pytest.mark.slow
def test_images_that_the_run_used_are_told_wherever_they_are(cli, run, image_folder, tmp_path):
    copies = shutil.copytree(image_folder, tmp_path / "copies")
    linked = tmp_path / "linked"
    linked.symlink_to(image_folder)
    for data in (image_folder, copies, linked):
        whole = cli("evaluate", run, data, "--json").json
        assert whole["data"]["trained_on"] == 24
        assert whole["data"]["chose"] == ["epoch", "threshold"]
        assert any("the run trained on 24 of the 48 images" in text for text in whole["notices"])
        told = "24 of the 48 images chose the best epoch and the threshold"
        assert any(told in text for text in whole["notices"])

    with Image.open(image_folder / "class0/0.png") as image:
        for kind in range(2):
            (tmp_path / f"other/c{kind}").mkdir(parents=True)
            for index in range(2):
                turned = image.rotate(10 + 20 * kind + index)
                turned.save(tmp_path / f"other/c{kind}/{index}.png")
    other = cli("evaluate", run, tmp_path / "other", "--json").json
    assert other["data"]["trained_on"] == 0 and other["data"]["chose"] == []
    assert not any("these images" in text or "trained on" in text for text in other["notices"])


def test_notices_about_data_are_told_by_evaluate_and_calibrate(cli, run, image_folder, tmp_path):
    held_out = read_sealed(run / "calibration.json")["provenance"]
    assert held_out["notices"] == [
        "these images chose the best epoch, so the rates are optimistic for other images"
    ]
    for name in validation_classes(run):
        shutil.copytree(image_folder / name, tmp_path / "data" / name)
    (tmp_path / "data/lost").mkdir()
    shutil.copy(image_folder / "class0/0.png", tmp_path / "data/lost/0.heic")
    copy = shutil.copytree(run, tmp_path / "run")
    for verb in ("evaluate", "calibrate"):
        shown = " ".join(cli(verb, copy, tmp_path / "data").out.split())
        assert "lost/0.heic" in shown and "1 folder lost with them: lost" in shown
        assert "note: these images chose the best epoch" in shown
        found = cli(verb, copy, tmp_path / "data", "--json").json
        notices = found["notices"] if verb == "evaluate" else found["provenance"]["notices"]
        assert "lost/0.heic" in notices[0] and "these images chose the best epoch" in notices[2]


def test_no_threshold_is_fitted_on_training_images(cli, run, image_folder, tmp_path):
    before = read_sealed(run / "calibration.json")
    copies = shutil.copytree(image_folder, tmp_path / "copies")
    for data in (image_folder, copies):
        done = cli("calibrate", run, data)
        assert done.code == 3 and "the run trained on 24 of the 48 images" in done.err
        assert f"siamkit calibrate {run}" in done.err and "class" in done.err
    assert read_sealed(run / "calibration.json") == before


def validation_classes(run: Path) -> list[str]:
    from siamkit import api

    return list(api.open_run(run).held_out("val").images.classes)


def test_other_images_are_scored_whole_or_by_their_test_folder(cli, run, image_folder, tmp_path):
    whole = cli("evaluate", run, image_folder, "--json").json
    assert (whole["images"], whole["data"]["part"]) == (48, "all")
    for part, names in (("train", "0123"), ("test", "4567")):
        for name in names:
            shutil.copytree(image_folder / f"class{name}", tmp_path / part / f"class{name}")
    tested = cli("evaluate", run, tmp_path, "--json").json
    assert (tested["images"], tested["data"]["part"]) == (24, "test/")


def test_it_is_printed_for_people(cli, run, image_folder):
    done = cli("evaluate", run, image_folder, "--last")
    assert done.code == 0
    assert "48 images of 8 classes: all of" in done.out
    for word in ("recall@1", "map@r", "by chance", "auc", "eer", "5-way 1-shot", "accuracy"):
        assert word in done.out


def test_the_metrics_of_training_are_those_of_evaluate(cli, run):
    import json

    trained = json.loads((run / "metrics.json").read_text())["metrics"]["best"]
    found = cli("evaluate", run, "--json").json["retrieval"]
    assert found["recall@1"] == pytest.approx(trained["recall@1"])
    assert found["map@r"] == pytest.approx(trained["map@r"], abs=1e-4)


def test_what_is_no_run_or_no_data_is_told(cli, run, tmp_path):
    assert cli("evaluate", tmp_path / "none").code == 4
    assert cli("evaluate", run, tmp_path / "none").code == 3
