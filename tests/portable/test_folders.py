import os
from pathlib import Path

import pytest
from PIL import Image

from siamkit.data.class_folders import class_images
from siamkit.data.images import ImageSet, Sample
from siamkit.errors import DataError
from siamkit.portable import folders
from siamkit.portable.folders import files_in, scan


def test_a_class_is_a_folder_that_directly_holds_images(make_images):
    root = make_images({"cat": 2, "dog/big": 1, "dog/small": 3})
    images = class_images(scan(root))
    assert images.classes == ("cat", "dog/big", "dog/small")
    assert images.labels == [0, 0, 1, 2, 2, 2]
    assert images.counts == {"cat": 2, "dog/big": 1, "dog/small": 3}
    assert images.samples[2] == Sample(root / "dog/big/0.png", 1, "dog/big/0.png")


def test_classes_within_a_folder_are_named_from_there_and_keys_from_the_root(make_images):
    root = make_images({"train/cat": 1, "train/dog/big": 1, "val/cat": 1})
    found = scan(root)
    assert found.top == {"train", "val"}
    images = class_images(found, "train")
    assert images.classes == ("cat", "dog/big")
    assert [sample.key for sample in images.samples] == ["train/cat/0.png", "train/dog/big/0.png"]


def test_order_is_by_name_whatever_the_file_system_says(make_images, monkeypatch):
    root = make_images({"b": 3, "a": 12, "C": 1})
    images = class_images(scan(root))
    listing = os.scandir
    monkeypatch.setattr("os.scandir", lambda path: reversed(list(listing(path))))
    assert class_images(scan(root)) == images
    assert images.classes == ("C", "a", "b")


def test_every_image_ending_counts_in_any_case(make_images, tmp_path):
    endings = "jpg jpeg jpe jfif mpo png apng webp bmp gif tif tiff ppm pgm JPG JFIF Png".split()
    folder = tmp_path / "images" / "a"
    folder.mkdir(parents=True)
    for i, ending in enumerate(endings):
        image_format = "PPM" if ending in ("ppm", "pgm") else "PNG"
        Image.new("RGB", (1, 1)).save(folder / f"{i}.{ending}", image_format)
    assert len(class_images(scan(tmp_path / "images"))) == len(endings)


def test_clutter_is_ignored_and_reported(make_images):
    root = make_images({"cat": 2, "cat/.ipynb_checkpoints": 1, "dog": 1})
    (root / ".DS_Store").touch()
    (root / "cat/._0.png").touch()
    (root / "labels.csv").touch()
    (root / "empty/inner").mkdir(parents=True)
    found = scan(root)
    assert class_images(found).counts == {"cat": 2, "dog": 1}
    assert found.notices == (
        "ignored 3 hidden files or folders: .DS_Store, cat/._0.png, cat/.ipynb_checkpoints",
        "ignored 1 file that is not an image: labels.csv",
        "ignored 1 folder without images: empty",
    )


def test_images_that_are_not_read_are_said_with_the_folders_that_are_lost(make_images):
    root = make_images({"cat": 2, "dog": 2, "owl": 1})
    (root / "dog/0.png").rename(root / "dog/0.heic")
    (root / "dog/1.png").rename(root / "dog/1")
    (root / "cat/1.png").rename(root / "cat/1.png_large")
    (root / "cat/notes.txt").write_text("text")
    (root / "cat/README").write_text("a text without an ending")
    os.mkfifo(root / "cat/pipe")
    assert scan(root).notices == (
        "left out 3 images whose format or name siamkit does not read: cat/1.png_large, "
        "dog/0.heic, dog/1; 1 folder lost with them: dog; convert images to PNG or JPEG, "
        "or give them the ending of their format",
        "ignored 3 files that are not images: cat/README, cat/notes.txt, cat/pipe",
        "ignored 1 folder without images: dog",
    )


def test_a_folder_of_images_without_endings_says_what_to_do(make_images):
    root = make_images({"cat": 1})
    (root / "cat/0.png").rename(root / "cat/0")
    with pytest.raises(DataError, match=r"no images in this folder, .*give them the ending"):
        scan(root)


def test_clean_folders_give_no_notices(make_images):
    assert scan(make_images({"a/b": 1, "c": 1})).notices == ()


@pytest.mark.parametrize("name", ["<img onerror=x>", "[/bold]", "a b\n", "ünï", "-x"])
def test_class_names_are_data(make_images, name):
    assert class_images(scan(make_images({name: 1}))).classes == (name,)


def test_file_names_need_not_be_unicode(make_images):
    root = make_images({"a": 1})
    (root / "a/0.png").rename(root / "a" / os.fsdecode(b"\xff.png"))
    assert class_images(scan(root)).samples[0].path.exists()


def test_images_in_no_class_folder_are_counted(make_images):
    found = scan(make_images({".": 3, "a": 1}))
    assert (found.loose(), len(class_images(found))) == (3, 1)


def test_links_within_the_root_are_followed(make_images):
    root = make_images({"a": 1, "b": 1})
    (root / "b/1.png").symlink_to("../a/0.png")
    (root / "c").symlink_to("a")
    assert class_images(scan(root)).counts == {"a": 1, "b": 2, "c": 1}


def test_the_root_itself_may_be_a_link(make_images, tmp_path):
    (tmp_path / "link").symlink_to(make_images({"a": 1}))
    assert len(class_images(scan(tmp_path / "link"))) == 1


def test_links_out_of_the_root_are_rejected(make_images, tmp_path):
    root = make_images({"a": 1})
    outside = make_images({"secret": 1}, tmp_path / "outside")
    (root / "a/1.png").symlink_to(outside / "secret/0.png")
    (root / "b").symlink_to(outside)
    with pytest.raises(DataError, match=r"2 symbolic links out of the folder:\n  a/1.png\n  b"):
        scan(root)


def test_links_that_go_round_are_not_walked(make_images):
    root = make_images({"a/b": 1})
    (root / "a/b/up").symlink_to("..")
    (root / "a/self.txt").symlink_to("self.txt")
    (root / "a/b/self.png").symlink_to("self.png")
    found = scan(root)
    assert "self.png" in found.folders["a", "b"], "the check of the images says what is wrong"
    assert class_images(found).classes == ("a/b",)
    assert "ignored 1 link to a folder around it: a/b/up" in found.notices


def test_no_folder(tmp_path):
    with pytest.raises(DataError, match="gone: no such file or folder; pass a folder of"):
        scan(tmp_path / "gone")


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "a.zip").touch()
    with pytest.raises(DataError, match=r"a.zip: not a folder; .*unpack"):
        scan(tmp_path / "a.zip")


def test_a_name_that_no_file_system_takes(tmp_path):
    with pytest.raises(DataError):
        scan(tmp_path / ("x" * 5000))


def test_no_images_tells_what_is_there_instead(tmp_path):
    for name in ("1.heic", "2.HEIC", "notes.txt"):
        (tmp_path / name).touch()
    with pytest.raises(DataError) as caught:
        scan(tmp_path)
    assert caught.value.what == "no images in this folder"
    assert caught.value.got == ".heic (2), .txt (1)"
    assert ".jpg" in caught.value.allowed


def test_sets_are_sorted():
    images = ImageSet.of(Path("/r"), {"b": ["b/2", "b/1"], "a": ["a/1"]})
    assert images.classes == ("a", "b")
    assert [sample.key for sample in images.samples] == ["a/1", "b/1", "b/2"]


def test_the_content_decides_whatever_the_ending(make_images):
    names = ("a.bin", "b.txt", "c.obj", "d.php", "e.json", "f.tar.gz", "g.mp4", "h.odd", "i")
    root = make_images({"cat": 1, **{f"z{name}": 1 for name in names}})
    for name in names:
        (root / f"z{name}/0.png").rename(root / f"z{name}/{name}")
        (root / "cat" / name).write_text("BM, Python and P0 begin texts, too")
    [left_out, ignored, empty] = scan(root).notices
    assert left_out.startswith("left out 9 images whose format or name siamkit does not read: ")
    assert "; 9 folders lost with them: " in left_out
    assert ignored.startswith("ignored 9 files that are not images: cat/a.bin, ")
    assert empty.startswith("ignored 9 folders without images: ")


def test_every_file_is_looked_at_except_hidden_ones_and_tables(make_images, monkeypatch):
    looked_at: list[str] = []
    monkeypatch.setattr(folders, "holds_image", lambda path: looked_at.append(path.name))
    root = make_images({"a": 1})
    for name in ("t.csv", "t.TSV", "t.parquet", ".hidden"):
        (root / "a" / name).touch()
    for number in range(1200):
        (root / "a" / f"{number}.txt").touch()
    assert scan(root).notices[1].startswith("ignored 1203 files that are not images")
    assert len(looked_at) == 1200


def test_images_to_embed_need_no_class_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no images in .*; choose a folder that holds") as e:
        files_in(tmp_path)
    assert "class" not in str(e.value)


def test_a_folder_that_cannot_be_read_is_named(make_images, monkeypatch):
    root = make_images({"a": 1, "locked": 1})
    scandir = os.scandir

    def refusing(path):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(DataError, match="cannot read the folder: Permission denied") as raised:
        scan(root)
    assert raised.value.where == str(root / "locked")


@pytest.mark.parametrize("name", ["locked", "locked/inner", "locked/a.png"])
def test_what_lies_in_a_folder_that_cannot_be_entered_is_no_traceback(nobody, tmp_path, name):
    (tmp_path / "locked" / "inner").mkdir(parents=True)
    (tmp_path / "locked" / "a.png").touch()
    (tmp_path / "locked").chmod(0o700)
    told = f"{name}: cannot read the folder: Permission denied"
    with nobody(), pytest.raises(DataError, match=told):
        files_in(tmp_path / name)


def test_a_file_stands_for_itself_and_what_is_not_there_is_told(tmp_path):
    (tmp_path / "a.txt").touch()
    assert files_in(tmp_path / "a.txt") == [tmp_path / "a.txt"]
    with pytest.raises(DataError, match="gone: no such file or folder"):
        files_in(tmp_path / "gone")
