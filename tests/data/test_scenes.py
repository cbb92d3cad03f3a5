import numpy as np
import pytest
import torch
from PIL import Image

from ghn.data import load_scenes
from ghn.data.scenes import _read
from ghn.errors import ConfigError, DataError

HEIGHT, WIDTH = 144, 192


@pytest.fixture
def pack(tmp_path, monkeypatch):
    """Five scenes of one colour, and of the class of the same number, in sheets of 2 x 2."""
    folder = tmp_path / "camvid"
    folder.mkdir()
    for number in range(2):
        sheet = np.zeros((2 * HEIGHT, 2 * WIDTH), np.uint8)
        for k in range(4):
            top, left = (k // 2) * HEIGHT, (k % 2) * WIDTH
            sheet[top : top + HEIGHT, left : left + WIDTH] = number * 4 + k
        picture = np.repeat(10 * sheet[:, :, None], 3, 2)
        Image.fromarray(picture).save(folder / f"val_{number:02d}.png")
        Image.fromarray(sheet).save(folder / f"val_{number:02d}_label.png")
    (folder / "val_frames.txt").write_text("a\nb\nc\nd\ne\n")
    (folder / "classes.txt").write_text("sky\nroad\ntree\ncar\nvoid\n")
    monkeypatch.setenv("GHN_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    _read.cache_clear()
    yield folder
    _read.cache_clear()


def test_every_pixel_has_the_class_of_its_own_scene(pack):
    data = load_scenes("camvid", "val")

    assert data.images.shape == (5, 3, HEIGHT, WIDTH)
    assert data.classes == ("sky", "road", "tree", "car")
    for number in range(5):
        assert data.images[number].unique().tolist() == [10 * number]
        assert data.labels[number].unique().tolist() == [number]


def test_missing_and_broken_scenes_are_refused_in_words(pack):
    with pytest.raises(ConfigError, match="camvid"):
        load_scenes("cityscapes")
    with pytest.raises(ConfigError, match="dev"):
        load_scenes("camvid", "dev")
    (pack / "val_frames.txt").write_text("a\n" * 9)
    with pytest.raises(DataError, match="9 frames, 8 images"):
        load_scenes("camvid", "val")
    for file in pack.iterdir():
        file.unlink()
    pack.rmdir()
    with pytest.raises(DataError, match="GHN_DATA"):
        load_scenes("camvid", "val")


@pytest.mark.data
def test_the_pack_has_its_published_splits_and_classes():
    for split, count in (("train", 367), ("val", 101), ("test", 233)):
        data = load_scenes("camvid", split)
        assert data.images.shape == (count, 3, HEIGHT, WIDTH)
        assert len(data.classes) == 11
        shares = torch.bincount(data.labels.flatten().long(), minlength=12) / data.labels.numel()
        assert shares.argmax() in (1, 3)  # buildings or road
        assert 0 < shares[11] < 0.1
