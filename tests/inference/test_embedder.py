from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import siamkit
from siamkit import api
from siamkit.data.views import EvalView
from siamkit.errors import CheckpointError, ConfigError, DataError, NonFiniteError
from siamkit.inference import embedder as module
from siamkit.inference.embedder import Embedder
from siamkit.portable.decode import Decoding, decode
from siamkit.portable.inputs import files_of

RunValues = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def net() -> siamkit.SiameseNet:
    torch.manual_seed(0)
    return api.create_model("timm:resnet10t", pretrained=False, head="bnneck", image_size=32)


def plain(net: siamkit.SiameseNet, paths: list[Path]) -> torch.Tensor:
    view = EvalView(net.backbone.preprocessing)
    return torch.cat([net.embed(view(decode(path, Decoding(3)))[None]) for path in paths])


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["auto", "eager", "folded", "onnxruntime"])
def test_embeddings_are_those_of_the_network(
    net: siamkit.SiameseNet, image_folder: Path, kernel: str
) -> None:
    embedder = Embedder(net, kernel=kernel)
    paths = files_of(image_folder)
    assert len(paths) == 48 and paths == sorted(paths)
    found = embedder.embed(image_folder)
    assert found.shape == (48, embedder.embedding_dim) and found.dtype == torch.float32
    torch.testing.assert_close(found, plain(net, paths), rtol=1e-4, atol=1e-5)
    assert embedder.choice is not None
    # 48 images through a tiny network are over before anything else is built.
    assert embedder.choice.kernel.name == ("eager" if kernel == "auto" else kernel)


def test_files_come_back_in_the_order_in_which_they_are_given(
    net: siamkit.SiameseNet, image_folder: Path
) -> None:
    some = files_of(image_folder)[5::-2]
    embedder = Embedder(net)
    torch.testing.assert_close(embedder.embed(some), plain(net, some), rtol=1e-4, atol=1e-5)
    assert torch.equal(embedder.embed(str(some[0])), embedder.embed([str(some[0])]))
    assert embedder.embed([]).shape == (0, embedder.embedding_dim)


def test_an_embedder_tells_which_network_it_has(net: siamkit.SiameseNet) -> None:
    embedder = Embedder(net)
    first, second = repr(embedder).split("\n")[0], repr(embedder).split("\n")[-1]
    assert first.startswith("Embedder: ResNet -> 512 features")
    assert f"{net.embedding_dim}-dimensional embeddings" in first
    assert second == "  on cpu, kernel auto; no threshold, so verify() is unavailable"


def test_what_is_no_network_and_no_gallery_is_refused(net: siamkit.SiameseNet) -> None:
    with pytest.raises(ConfigError, match=r"net: is not a siamkit\.SiameseNet, got .*Conv2d"):
        Embedder(torch.nn.Conv2d(3, 4, 3))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"gallery: is not a gallery, got .*list"):
        Embedder(net).search([], [])  # type: ignore[arg-type]


def test_a_stream_goes_batch_by_batch(net: siamkit.SiameseNet, image_folder: Path) -> None:
    many = files_of(image_folder) * 3
    parts = list(Embedder(net).stream(many))
    assert [len(part.paths) for part in parts] == [64, 64, 16]
    assert [path for part in parts for path in part.paths] == many
    assert all(len(part.embeddings) == len(part.paths) for part in parts)
    assert torch.equal(parts[0].embeddings[:16], parts[0].embeddings[48:])


def test_a_larger_task_may_get_a_better_kernel(
    net: siamkit.SiameseNet, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from siamkit.inference import embedder as embedding

    counts: list[int] = []
    choose = embedding.choose

    def counted(module: Any, images: Any, count: int, **options: Any) -> Any:
        counts.append(count)
        return choose(module, images, count, **options)

    monkeypatch.setattr(embedding, "choose", counted)
    embedder = Embedder(net)
    paths = files_of(image_folder)
    for some in (paths[:3], paths[:2], paths, paths[:20]):
        embedder.embed(some)
    assert counts == [3, 48]


def test_what_cannot_be_embedded_is_named(net: siamkit.SiameseNet, tmp_path: Path) -> None:
    embedder = Embedder(net)
    with pytest.raises(DataError, match="no such file or folder"):
        embedder.embed(tmp_path / "missing")
    with pytest.raises(DataError, match=r"gone\.png"):
        embedder.embed([tmp_path / "gone.png"])
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(DataError, match=r"broken\.png"):
        embedder.embed(tmp_path / "broken.png")


def test_images_of_too_many_pixels_are_refused_before_they_are_decoded(
    net: siamkit.SiameseNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large.png"
    Image.new("RGB", (50, 50)).save(path)
    embedder = Embedder(net, workers=0, max_pixels=2499)
    with Image.open(path) as opened:
        monkeypatch.setattr(Image.Image, "load", lambda image: pytest.fail("was decoded"))
        monkeypatch.setattr(type(opened), "load", lambda image: pytest.fail("was decoded"))
        for image in (path, [path], opened, [opened, path]):
            with pytest.raises(DataError, match="too many pixels: 2,500, allowed: up to 2,499"):
                embedder.embed(image)


def test_a_poisoned_network_is_an_error_that_names_the_image(tmp_path: Path) -> None:
    net = api.create_model("timm:resnet10t", pretrained=False, head="linear", image_size=32)
    with torch.no_grad():
        next(net.head.parameters()).fill_(float("nan"))
    Image.new("RGB", (40, 40)).save(tmp_path / "black.png")
    with pytest.raises(NonFiniteError, match=r"black\.png"):
        Embedder(net, kernel="eager").embed(tmp_path)


def test_a_trained_run_is_loaded_as_an_embedder(run_values: RunValues, image_folder: Path) -> None:
    values = run_values(train={"epochs": 1})
    api.fit(values)
    embedder = siamkit.load_embedder(values["run_dir"], "last", device="cpu")
    paths = files_of(image_folder)[:3]
    trained = api.load_model(values["run_dir"], "last")
    torch.testing.assert_close(embedder.embed(paths), plain(trained, paths), rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match=r"which"):
        siamkit.load_embedder(values["run_dir"], "latest")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"kernel.*eager"):
        siamkit.load_embedder(values["run_dir"], kernel="tensorrt")
    with pytest.raises(ConfigError, match=r"no such device"):
        siamkit.load_embedder(values["run_dir"], device="tpu")
    with pytest.raises((CheckpointError, ConfigError)):
        siamkit.load_embedder(image_folder)


def test_pillows_images_and_tensors_give_what_files_give(
    net: siamkit.SiameseNet, image_folder: Path
) -> None:
    embedder = Embedder(net, kernel="eager")
    paths = files_of(image_folder)[:3]
    expected = embedder.embed(paths)
    opened = [Image.open(path) for path in paths]
    torch.testing.assert_close(embedder.embed(opened), expected)
    torch.testing.assert_close(embedder.embed([opened[0], paths[1], str(paths[2])]), expected)
    torch.testing.assert_close(embedder.embed(opened[0]), expected[:1])
    view = EvalView(net.backbone.preprocessing)
    tensors = torch.stack([view(decode(path, Decoding(3))) for path in paths])
    torch.testing.assert_close(embedder.embed(tensors), expected)
    assert embedder.embed(tensors[:0]).shape == (0, embedder.embedding_dim)
    many = embedder.embed([opened[0]] * 70)
    torch.testing.assert_close(many, expected[:1].expand(70, -1))


@pytest.mark.parametrize("number", [1, 130])
def test_an_image_in_memory_whose_embedding_is_not_finite_is_numbered(
    net: siamkit.SiameseNet, number: int
) -> None:
    images = torch.zeros(140, 3, *net.preprocessing.size)
    images[number] = torch.nan
    with pytest.raises(NonFiniteError, match=f"image {number}: the embedding is NaN"):
        Embedder(net, kernel="eager").embed(images)


def test_tensors_of_another_shape_are_refused(net: siamkit.SiameseNet) -> None:
    embedder = Embedder(net, kernel="eager")
    for shape in [(3, 32, 32), (1, 1, 32, 32), (1, 3, 40, 40)]:
        with pytest.raises(DataError, match=r"allowed: \(N, 3, 32, 32\)"):
            embedder.embed(torch.zeros(shape))
    with pytest.raises(DataError, match="another width"):
        embedder.similarity(torch.zeros(2, 7), torch.zeros(2, 7))


def test_similarity_is_the_cosine_of_each_to_each(
    net: siamkit.SiameseNet, image_folder: Path
) -> None:
    embedder = Embedder(net, kernel="eager")
    paths = files_of(image_folder)[:5]
    vectors = embedder.embed(paths)
    found = embedder.similarity(paths[:2], vectors)
    expected = torch.nn.functional.cosine_similarity(vectors[:2, None], vectors[None], dim=-1)
    assert found.shape == (2, 5)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert found.max() <= 1


def test_verify_decides_by_the_calibration(net: siamkit.SiameseNet, image_folder: Path) -> None:
    from siamkit.portable.calibration import Calibration, Provenance, Rate

    rate, about = Rate(0.1, 0, 1), Provenance("d", "val", "", 2, 2, 1, 1, True, "c", "n", 0, "0")
    calibration = Calibration("eer", None, 0.9999, rate, rate, 5.0, -1.0, about)
    embedder = Embedder(net, kernel="eager", calibration=calibration)
    assert repr(embedder).endswith("kernel eager; same at a similarity of 0.9999 or more")
    one, other = (Image.open(path) for path in files_of(image_folder)[::40][:2])
    assert embedder.verify(one, one).same
    found = embedder.verify(one, other)
    score = float(embedder.similarity(one, other))
    assert (found.same, found.score, found.threshold) == (score >= 0.9999, score, 0.9999)
    assert found.probability == calibration.probability(score)
    with pytest.raises(DataError, match="got '2 and 1'"):
        embedder.verify([one, one], other)
    with pytest.raises(CheckpointError, match=r"siamkit\.calibrate"):
        Embedder(net).verify(one, other)
    nothing = torch.zeros(1, embedder.embedding_dim)
    with pytest.raises(NonFiniteError, match="b item 0: the embedding is NaN or infinite"):
        embedder.verify(one, nothing / 0)
    with pytest.raises(DataError, match="b: the embedding consists of zeros"):
        embedder.verify(one, nothing)


@pytest.fixture
def own() -> siamkit.SiameseNet:
    """Return a network with batch norms that the test may change."""
    torch.manual_seed(0)
    return api.create_model("timm:resnet10t", pretrained=False, head="bnneck", image_size=32)


def test_a_network_in_training_mode_runs_in_eval_mode(
    own: siamkit.SiameseNet, image_folder: Path
) -> None:
    embedder = Embedder(own, kernel="eager")
    paths = files_of(image_folder)[:5]
    expected, fingerprint = embedder.embed(paths), embedder.fingerprint
    before = {name: tensor.clone() for name, tensor in own.state_dict().items()}
    embedder.net.train()
    assert torch.equal(embedder.embed(paths), expected)
    assert embedder.fingerprint == fingerprint
    assert all(torch.equal(before[name], tensor) for name, tensor in own.state_dict().items())


def state_of(net: siamkit.SiameseNet) -> list[Any]:
    """Return all that a training needs of a network: modes, what trains, and tensors."""
    modes = [module.training for module in net.modules()]
    trains = [parameter.requires_grad for parameter in net.parameters()]
    return [modes, trains, [tensor.numpy().tobytes() for tensor in net.state_dict().values()]]


@pytest.mark.parametrize("kernel", [
    "eager", "folded", "onnxruntime", pytest.param("inductor", marks=pytest.mark.slow),
])  # fmt: skip
def test_a_network_trains_on_after_it_was_used(
    own: siamkit.SiameseNet, image_folder: Path, kernel: str
) -> None:
    own.train()
    own.backbone.eval()
    next(own.parameters()).requires_grad_(False)
    before = state_of(own)
    embedder = Embedder(own, kernel=kernel)
    embeddings = embedder.embed(image_folder)
    assert not embeddings.requires_grad
    assert state_of(own) == before
    if kernel == "eager":
        siamkit.evaluate(embedder, image_folder)
        siamkit.create_model(own.backbone.model, head=own.head, image_size=32)
        siamkit.phases(own)
        own.embed(torch.randn(2, 3, 32, 32))
        assert state_of(own) == before


@pytest.mark.slow
def test_a_network_trains_on_after_it_was_saved_and_cut(
    own: siamkit.SiameseNet, tmp_path: Path
) -> None:
    from siamkit.engine import cut
    from siamkit.freezing import FreezeController

    stages = own.stages()
    plan = siamkit.FreezePlan.of(stages, ["head"])
    own.train()
    FreezeController(own, stages).apply(plan)
    before = state_of(own)
    own.save_pretrained(tmp_path / "saved")
    cut(own, stages, plan, torch.randn(4, 3, 32, 32))
    assert state_of(own) == before


def trained_a_step(net: siamkit.SiameseNet) -> None:
    net.requires_grad_(True)
    net(torch.randn(4, 3, 32, 32)).sum().backward()
    torch.optim.SGD(net.parameters(), 1.0).step()


def moved_its_statistics(net: siamkit.SiameseNet) -> None:
    net.train()(torch.randn(4, 3, 32, 32))
    net.eval()


@pytest.mark.parametrize(
    "change",
    [
        trained_a_step,
        moved_its_statistics,
        lambda net: net.half(),
        lambda net: net.load_state_dict({k: v + 1 for k, v in net.state_dict().items()}),
        lambda net: setattr(net, "head", copy.deepcopy(net.head)),
    ],
    ids=["a step", "statistics", "half", "a load", "a part"],
)
def test_a_changed_network_is_refused(
    own: siamkit.SiameseNet, image_folder: Path, change: Callable[[Any], None]
) -> None:
    embedder = Embedder(own, kernel="eager")
    assert embedder.fingerprint
    change(own)
    with pytest.raises(ConfigError, match=r"net: the network changed.*siamkit\.Embedder\(NET\)"):
        embedder.embed(image_folder)
    with pytest.raises(ConfigError, match="the network changed"):
        assert embedder.fingerprint
    with pytest.raises(ConfigError, match="the network changed"):
        copy.deepcopy(embedder)


@pytest.mark.parametrize("change", ["preprocessing", "normalize"])
def test_a_network_that_prepares_or_normalises_otherwise_is_refused(
    own: siamkit.SiameseNet, image_folder: Path, change: str
) -> None:
    embedder = Embedder(own)
    other = {"preprocessing": replace(own.preprocessing, fit="squash"), "normalize": False}
    setattr(own, change, other[change])
    for use in (lambda: embedder.embed(image_folder), lambda: embedder.fingerprint):
        with pytest.raises(ConfigError, match="the network changed since the embedder was made"):
            use()


def test_a_missing_calibration_is_a_new_error_each_time(net: siamkit.SiameseNet) -> None:
    stored = CheckpointError("there is none", where="run", hint="calibrate")
    embedder, caught = Embedder(net, calibration=stored), []
    for _ in range(2):
        with pytest.raises(CheckpointError) as info:
            embedder.verify("a", "b")
        caught.append(info.value)
    assert caught[0] is not caught[1] and stored.__traceback__ is None
    assert [error.to_dict() for error in caught] == [stored.to_dict()] * 2


def test_statistics_that_torch_does_not_count_are_seen(image_folder: Path) -> None:
    from torch import nn

    norm = nn.InstanceNorm2d(4, track_running_stats=True)
    net = api.create_model(
        nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        head="linear", image_size=32,
    )  # fmt: skip
    embedder = Embedder(net, kernel="eager")
    embedder.embed(image_folder)
    moved_its_statistics(net)
    with pytest.raises(ConfigError, match="the network changed"):
        embedder.embed(image_folder)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["eager", "folded", "onnxruntime"])
@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))],
    ids=["copy", "deepcopy", "pickle"],
)  # fmt: skip
def test_an_embedder_is_copied_after_it_chose_a_kernel(
    net: siamkit.SiameseNet, image_folder: Path, kernel: str, copied: Callable[[Any], Any]
) -> None:
    embedder = Embedder(net, kernel=kernel)
    paths = files_of(image_folder)[:5]
    expected = embedder.embed(paths)
    again = copied(embedder)
    torch.testing.assert_close(again.embed(paths), expected, rtol=1e-5, atol=1e-6)
    assert again.choice.kernel.name == kernel and again.fingerprint == embedder.fingerprint


def test_an_embedder_without_a_threshold_is_copied_too(net: siamkit.SiameseNet) -> None:
    missing = CheckpointError("the run has no threshold", where="run", hint="fit one")
    again = pickle.loads(pickle.dumps(Embedder(net, calibration=missing)))
    with pytest.raises(CheckpointError, match="run: the run has no threshold; fit one"):
        assert again.calibration


def test_one_iterator_for_both_sides_is_read_once(
    net: siamkit.SiameseNet, image_folder: Path
) -> None:
    embedder = Embedder(net, kernel="eager")
    paths = files_of(image_folder)[:4]
    both = iter(paths)
    torch.testing.assert_close(embedder.similarity(both, both), embedder.similarity(paths, paths))
    assert embedder.similarity(iter(paths), iter(paths)).shape == (4, 4)


def test_an_empty_path_among_files_is_refused(net: siamkit.SiameseNet, image_folder: Path) -> None:
    with pytest.raises(DataError, match="images item 1: must be a file, got ''"):
        Embedder(net).embed([str(files_of(image_folder)[0]), ""])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"workers": -1}, "workers: must be a whole number, got -1, allowed: 0 or more"),
        ({"precision": "nope"}, "precision: no such precision, got 'nope', allowed: fp32, "),
        ({"kernel": "nope"}, "kernel: no such kernel, got 'nope', allowed: auto, eager"),
        ({"max_pixels": 0}, "max_pixels: must be a whole number, got 0"),
    ],
)
def test_a_wrong_setting_is_refused_at_once(
    net: siamkit.SiameseNet, arguments: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        Embedder(net, **arguments)


@pytest.mark.parametrize("size", [-1, 0, 1.5, None])
def test_a_batch_holds_at_least_one_image(
    net: siamkit.SiameseNet, image_folder: Path, size: Any
) -> None:
    with pytest.raises(ConfigError, match="batch_size: must be a whole number"):
        Embedder(net).stream(image_folder, batch_size=size)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_embeddings_without_a_value_have_no_similarity(
    net: siamkit.SiameseNet, value: float
) -> None:
    embedder = Embedder(net, kernel="eager")
    right = torch.randn(3, embedder.embedding_dim)
    wrong = right.clone()
    wrong[1, 2] = value
    with pytest.raises(NonFiniteError, match="b item 1: the embedding is NaN or infinite"):
        embedder.similarity(right, wrong)


@pytest.mark.parametrize(("kind", "pinned"), [("cpu", False), ("cuda", True), ("mps", False)])
def test_memory_is_pinned_for_cuda_alone(
    net: siamkit.SiameseNet, image_folder: Path, monkeypatch: pytest.MonkeyPatch,
    kind: str, pinned: bool,
) -> None:  # fmt: skip
    class Asked(Exception):
        pass

    def loader(dataset: object, workers: int, *, pin_memory: bool) -> None:
        raise Asked(pin_memory)

    monkeypatch.setattr(module, "Loader", loader)
    embedder = Embedder(net, workers=0)
    embedder._device = torch.device(kind)
    with pytest.raises(Asked, match=str(pinned)):
        list(embedder.stream(image_folder))


def test_a_batch_may_hold_one_image(net: siamkit.SiameseNet, image_folder: Path) -> None:
    embedder = Embedder(net, workers=0)
    parts = list(embedder.stream(image_folder / "class0", batch_size=1))
    assert [len(part.paths) for part in parts] == [1] * 6
    with pytest.raises(ConfigError, match="batch_size: must be a whole number, got 0"):
        embedder.stream(image_folder / "class0", batch_size=0)
