"""What users pass as images: recognised alike for networks with torch and without."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

import siamkit
from siamkit.errors import DataError, NonFiniteError
from siamkit.portable.inputs import files_of, listed
from siamkit.portable.model import ExportedModel

rng = np.random.default_rng(0)
PICTURE = rng.integers(0, 256, (40, 32, 3), dtype=np.uint8)  # [H, W, C]
PICTURES = rng.integers(0, 256, (3, 20, 30, 3), dtype=np.uint8)  # [N, H, W, C]
SMALL = rng.integers(0, 256, (6, 8), dtype=np.uint8)  # a grey picture as wide as an embedding
GREY = rng.random((8, 9))
EMBEDDINGS = rng.normal(size=(5, 8)).astype(np.float32)

IMAGES = {
    "array HWC": PICTURE,
    "array HW": SMALL,
    "array NHWC": PICTURES,
    "array CHW of 3 rows": rng.integers(0, 256, (3, 32, 3), dtype=np.uint8),
    "float array HWC": PICTURE / 255,
    "float array HW": GREY,
    "Pillow": Image.fromarray(PICTURE),
    "list": [PICTURE, Image.fromarray(PICTURE), SMALL],
    "tuple of tensors": (torch.tensor(PICTURE).movedim(-1, 0), torch.tensor(SMALL)),
    "tensor CHW": torch.tensor(PICTURE).movedim(-1, 0),
    "tensor HW": torch.tensor(SMALL),
    "tensor NCHW": torch.tensor(PICTURES).movedim(-1, 1),
    "prepared": torch.randn(70, 3, 32, 32, generator=torch.Generator().manual_seed(0)),
    "prepared in other numbers": torch.ones(2, 3, 32, 32, dtype=torch.bfloat16),
    "prepared with a gradient": torch.ones(2, 3, 32, 32, dtype=torch.float64, requires_grad=True),
    "prepared, none": torch.ones(0, 3, 32, 32),
    "nothing": [],
    "no arrays": np.zeros((0, 4, 4, 3), np.uint8),
}
NOT_IMAGES = {
    "number": 3,
    "array of one number": np.array(3),
    "tensor of one number": torch.tensor(3.0),
    "None": None,
    "list of None": [None],
    "bytes": b"abc",
    "dict": {"a": PICTURE},
    "set": {"a.png", "b.png"},
    "prepared for another size": torch.ones(2, 3, 30, 30),
    "one prepared image": torch.ones(3, 32, 32),
    "floats of one row": torch.ones(8),
    "empty path": "",
    "nowhere": "no such folder",
    "list with an empty path": [""],
}
VECTORS = {
    "array": EMBEDDINGS,
    "doubles": EMBEDDINGS.astype(np.float64),
    "halves": EMBEDDINGS.astype(np.float16),
    "tensor": torch.tensor(EMBEDDINGS),
    "bfloat16": torch.tensor(EMBEDDINGS).bfloat16(),
    "tensor with a gradient": torch.tensor(EMBEDDINGS, requires_grad=True),
    "read-only": np.broadcast_to(EMBEDDINGS[0], (5, 8)),
    "none": EMBEDDINGS[:0],
}


@pytest.fixture(scope="module")
def embedder(exported_run):
    return siamkit.load_embedder(exported_run[0], device="cpu", workers=0, kernel="eager")


@pytest.fixture(scope="module")
def model(exported_run):
    return ExportedModel(exported_run[1], threads=1)


def shown(result) -> np.ndarray:
    return result.numpy() if isinstance(result, torch.Tensor) else result


@pytest.mark.parametrize("kind", IMAGES)
def test_images_have_the_same_embeddings_with_torch_and_without(kind, embedder, model):
    ours, theirs = model.embed(IMAGES[kind]), shown(embedder.embed(IMAGES[kind]))
    assert ours.shape == theirs.shape and ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, atol=5e-6)


def test_one_picture_is_one_picture(model):
    counts = {kind: len(model.embed(images)) for kind, images in IMAGES.items()}
    assert counts == {
        "array HWC": 1, "array HW": 1, "array NHWC": 3, "array CHW of 3 rows": 1,
        "float array HWC": 1, "float array HW": 1, "Pillow": 1, "list": 3, "tuple of tensors": 2,
        "tensor CHW": 1, "tensor HW": 1, "tensor NCHW": 3, "prepared": 70,
        "prepared in other numbers": 2, "prepared with a gradient": 2, "prepared, none": 0,
        "nothing": 0, "no arrays": 0,
    }  # fmt: skip


@pytest.mark.parametrize("kind", NOT_IMAGES)
@pytest.mark.parametrize("verb", ["embed", "similarity", "verify"])
def test_what_is_no_image_is_refused_alike(kind, verb, embedder, model):
    messages = []
    for network in (embedder, model):
        sides = (NOT_IMAGES[kind],) if verb == "embed" else (NOT_IMAGES[kind], PICTURE)
        with pytest.raises(DataError) as caught:
            getattr(network, verb)(*sides)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize("kind", VECTORS)
def test_embeddings_are_compared_as_they_are(kind, embedder, model):
    given = VECTORS[kind]
    ours, theirs = model.similarity(given, EMBEDDINGS), embedder.similarity(given, EMBEDDINGS)
    assert ours.shape == (len(given), 5)
    np.testing.assert_allclose(ours, theirs, atol=5e-6)
    if kind == "array":
        assert np.diag(ours).tolist() == [1] * 5
    if len(given):
        ours, theirs = model.verify(given[:1], PICTURE), embedder.verify(given[:1], PICTURE)
        assert ours.score == pytest.approx(theirs.score, abs=5e-6)


@pytest.mark.parametrize(
    ("vectors", "error", "message"),
    [
        (np.ones((2, 9), np.float32), DataError, "another width than those of the network, got 9"),
        (torch.full((2, 8), torch.nan), NonFiniteError, "a item 0: the embedding is NaN"),
    ],
)
def test_other_vectors_are_refused_alike(vectors, error, message, embedder, model):
    for network in (embedder, model):
        with pytest.raises(error, match=message):
            network.similarity(vectors, PICTURE)


def test_bytes_of_two_dimensions_are_a_picture_everywhere(embedder, model):
    for network in (embedder, model):
        for picture in (SMALL, torch.tensor(SMALL), SMALL.astype(np.uint16)):
            assert network.similarity(picture, [picture]) == 1
            assert network.verify(picture, [picture]).same


def test_an_iterator_on_both_sides_is_read_once(embedder, model):
    for network in (embedder, model):
        pictures = iter(PICTURES)
        assert shown(network.similarity(pictures, pictures)).shape == (3, 3)
        one = iter(PICTURES[:1])
        assert network.verify(one, one).score == 1


def test_files_are_recognised(image_folder):
    first = image_folder / "class0/0.png"
    assert files_of(str(first)) == files_of([first]) == files_of(iter([str(first)])) == [first]
    assert files_of(image_folder / "class0") == sorted((image_folder / "class0").iterdir())
    with pytest.raises(DataError, match="images item 1: must be a file, got 'ndarray'"):
        files_of([first, PICTURE])


def frames(folder):
    """Yield three frames of a file, which Pillow hands out as one object."""
    one, *others = map(Image.fromarray, PICTURES)
    one.save(folder / "frames.tif", save_all=True, append_images=others)
    yield from frames_of(folder / "frames.tif")


def frames_of(path):
    with Image.open(path) as image:
        yield from ImageSequence.Iterator(image)


def filled_anew(buffer, pictures):
    for picture in pictures:
        buffer[:] = picture
        yield buffer


def turned(pictures):
    """Hand out one Pillow image again and again, which a camera turned."""
    image = Image.new("RGB", (30, 20))
    image.getexif()[0x0112] = 3
    for picture in pictures:
        image.paste(Image.fromarray(picture[::-1, ::-1]))
        yield image


def test_one_object_that_is_handed_out_again_and_again_is_several_images(embedder, model, tmp_path):
    for network in (embedder, model):
        expected = network.embed(PICTURES)
        for images in (
            frames(tmp_path),
            filled_anew(np.empty_like(PICTURES[0]), PICTURES),
            (tensor.movedim(-1, 0) for tensor in filled_anew(
                torch.empty(PICTURES[0].shape, dtype=torch.uint8), torch.tensor(PICTURES)
            )),
            turned(PICTURES),
        ):  # fmt: skip
            np.testing.assert_allclose(network.embed(images), expected, atol=5e-6)


def test_a_frame_that_cannot_be_read_is_named(embedder, model, tmp_path):
    path = tmp_path / "frames.tif"
    Image.fromarray(PICTURE).save(path, save_all=True, append_images=[Image.fromarray(PICTURE)])
    path.write_bytes(path.read_bytes()[: -PICTURE.nbytes])
    for network in (embedder, model):
        with pytest.raises(DataError, match="image 1"):
            network.embed(frames_of(path))


def test_files_of_an_iterator_are_not_read_before_they_are_needed(tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        (item,) = listed(iter([image]))
        assert item is image and image.fp is not None


@pytest.mark.parametrize("vectors", [EMBEDDINGS, EMBEDDINGS.astype(np.float64), EMBEDDINGS[:0]])
def test_embeddings_are_not_taken_for_a_grey_image(vectors, embedder, model):
    for network in (embedder, model):
        with pytest.raises(DataError, match=r"could hold embeddings.*search of an index"):
            network.embed(vectors)
