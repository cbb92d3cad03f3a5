import numpy as np
import pytest
import torch
from PIL import Image

from ghn.data import augment, folder_hash, load_images, normalize
from ghn.data.images import _load_whole
from ghn.errors import ConfigError, DataError


@pytest.fixture
def sheets(tmp_path, monkeypatch):
    """A data set of 7 flat tiles in two lossless sheets of 2 x 2, as the packs lay them out."""
    folder = tmp_path / "cifar10"
    folder.mkdir()
    for split in ("train", "test"):
        for number in range(2):
            sheet = np.zeros((64, 64, 3), np.uint8)
            for k in range(4):
                row, column = divmod(k, 2)
                sheet[row * 32 : row * 32 + 32, column * 32 : column * 32 + 32] = number * 4 + k
            Image.fromarray(sheet).save(folder / f"{split}_{number:02d}.png")
        np.save(folder / f"{split}_labels.npy", np.arange(7, dtype=np.uint8) % 2)
    (folder / "classes.txt").write_text("cat\ndog\n")
    monkeypatch.setenv("GHN_DATA", str(tmp_path))
    _load_whole.cache_clear()
    yield folder
    _load_whole.cache_clear()


def test_tiles_are_read_row_by_row_and_blank_ones_dropped(sheets):
    data = load_images("cifar10", "train")

    assert data.images.shape == (7, 3, 32, 32)
    assert data.images[:, 0, 5, 5].tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert data.labels.tolist() == [0, 1, 0, 1, 0, 1, 0]
    assert data.classes == ("cat", "dog")


def test_the_hash_follows_contents_and_not_only_sizes(sheets):
    before = folder_hash(sheets)
    assert load_images("cifar10").hash == before

    (sheets / "classes.txt").write_text("cat\ncow\n")

    assert folder_hash(sheets) != before


def test_fit_and_val_divide_the_training_images(sheets):
    fit, val = load_images("cifar10", "fit"), load_images("cifar10", "val")

    both = torch.cat([fit.images, val.images])
    assert torch.equal(both, load_images("cifar10", "train").images)
    assert len(val) == 1


def test_missing_and_broken_data_are_refused_in_words(sheets, monkeypatch, tmp_path):
    with pytest.raises(ConfigError, match="unknown image data"):
        load_images("imagenet")
    with pytest.raises(ConfigError, match="split must be"):
        load_images("cifar10", "dev")
    (sheets / "train_01.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match="cannot read cifar10"):
        load_images("cifar10")
    monkeypatch.setenv("GHN_DATA", str(tmp_path / "nowhere"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    _load_whole.cache_clear()
    with pytest.raises(DataError, match=r"GHN_DATA.*hub"):
        load_images("cifar10")


def test_digits_are_on_every_machine_and_their_splits_are_disjoint():
    train, test = load_images("digits"), load_images("digits", "test")

    assert train.images.shape == (1437, 3, 32, 32)
    seen = {bytes(i.numpy().tobytes()) for i in train.images[:, 0]}
    repeated = sum(bytes(i.numpy().tobytes()) in seen for i in test.images[:, 0])
    assert repeated == 0
    assert torch.bincount(test.labels).min() > 20


def test_augmentation_equals_a_loop_over_images():
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (20, 3, 12, 12), generator=generator).to(torch.uint8)

    got = augment(images, torch.Generator().manual_seed(5))

    draws = torch.Generator().manual_seed(5)
    top = torch.randint(0, 9, (20, 1), generator=draws)[:, 0]
    left = torch.randint(0, 9, (20, 1), generator=draws)[:, 0]
    flip = torch.rand(20, 1, generator=draws)[:, 0] < 0.5
    for i in range(20):
        padded = torch.zeros(3, 20, 20, dtype=torch.uint8)
        padded[:, 4:16, 4:16] = images[i]
        window = padded[:, top[i] : top[i] + 12, left[i] : left[i] + 12]
        assert torch.equal(got[i], window.flip(-1) if flip[i] else window)


def test_normalised_pixels_are_of_order_one():
    assert normalize(torch.tensor([[[[120]]]], dtype=torch.uint8)).item() == 0.0
    assert normalize(torch.tensor([[[[183]]]], dtype=torch.uint8)).item() == 1.0
