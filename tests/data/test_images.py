import gzip
import weakref

import numpy as np
import pytest
import torch
from PIL import Image

from ghn.data import augment, folder_hash, load_images, normalize
from ghn.data import images as images_module
from ghn.data import pictures as pictures_module
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


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (np.full(7, 2), "0 to 2|2 to 2"),
        (np.full(7, -100), "-100 to -100"),
        (np.zeros(7), "float64"),
        (np.zeros((7, 1), int), "shape"),
    ],
)
def test_labels_of_sheets_are_classes(sheets, labels, told):
    np.save(sheets / "train_labels.npy", labels)

    with pytest.raises(DataError, match=told):
        load_images("cifar10", "train")


def test_a_sheet_that_is_there_twice_is_refused(sheets):
    (sheets / "train_00.png.bak").write_bytes((sheets / "train_00.png").read_bytes())

    with pytest.raises(DataError, match=r"two files are one sheet.*train_00\.png\.bak"):
        load_images("cifar10", "train")


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


def test_augmentation_of_nothing_changes_nothing():
    images = torch.randint(0, 256, (9, 3, 8, 8), dtype=torch.uint8)
    draws = torch.Generator().manual_seed(5)

    assert torch.equal(augment(images, draws, flip=0.0, shift=0), images)
    assert torch.equal(augment(images, draws, flip=1.0, shift=0), images.flip(-1))


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


def folder_of(tmp_path, classes=("cat", "dog"), count=20, parts=("",)):
    for part in parts:
        for name in classes:
            place = tmp_path / part / name
            place.mkdir(parents=True)
            for k in range(count):
                Image.new("RGB", (8, 8), (k, 0, 0)).save(place / f"{k}.png")
    return tmp_path


def test_folders_behind_links_are_read_and_part_of_the_hash(tmp_path):
    whole = folder_of(tmp_path / "whole")
    store = folder_of(tmp_path / "store")
    linked = tmp_path / "linked"
    linked.mkdir()
    for name in ("cat", "dog"):
        (linked / name).symlink_to(store / name)
    (store / "dog" / "loop").symlink_to(store / "dog")

    data = load_images(str(linked), "train", side=8)

    assert torch.equal(data.images, load_images(str(whole), "train", side=8).images)
    assert data.hash == folder_hash(whole)
    (store / "dog" / "3.png").write_bytes((store / "dog" / "4.png").read_bytes())
    assert folder_hash(linked) != data.hash


def test_sixteen_bit_pictures_are_scaled_and_floating_point_ones_refused(tmp_path):
    folder = folder_of(tmp_path / "set")
    grey = np.full((8, 8), 32896, np.uint16)  # 128 of 255
    Image.fromarray(grey).save(folder / "cat" / "0.png")

    images = load_images(str(folder), "train", side=8).images

    assert (images == 128).flatten(1).all(1).sum() == 1
    Image.fromarray(np.zeros((8, 8), np.float32)).save(folder / "cat" / "f.tiff")
    _load_whole.cache_clear()
    with pytest.raises(DataError, match=r"f\.tiff.*floating-point"):
        load_images(str(folder), "train", side=8)


@pytest.mark.parametrize(("sixteen", "eight"), [(255, 0), (256, 0), (257, 1), (65535, 255)])
def test_dark_pictures_of_sixteen_bits_are_scaled_like_bright_ones(tmp_path, sixteen, eight):
    folder = folder_of(tmp_path / "set", count=1)
    for name in ("cat", "dog"):
        Image.fromarray(np.full((8, 8), sixteen, np.uint16)).save(folder / name / "0.png")

    assert (load_images(str(folder), "train", side=8).images == eight).all()


def test_pictures_are_kept_at_the_size_asked_for_alone(tmp_path, monkeypatch):
    folder, read_ones, alive = folder_of(tmp_path / "set", count=10), [], []
    read = pictures_module.read_picture

    def watched(*args):
        picture = read(*args)
        read_ones.append(weakref.ref(picture))
        alive.append(sum(one() is not None for one in read_ones))
        return picture

    monkeypatch.setattr(images_module, "read_picture", watched)

    assert len(load_images(str(folder), "train", side=4)) == 18
    assert max(alive) <= 2  # the one that is read, and the last one


@pytest.mark.parametrize("damage", ["chunk", "bomb"])
def test_pictures_that_no_decoder_takes_are_named(tmp_path, damage, monkeypatch):
    folder = folder_of(tmp_path / "set")
    path = folder / "dog" / "3.png"
    if damage == "bomb":
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
        Image.new("RGB", (64, 64)).save(path)
    else:
        path.write_bytes(path.read_bytes().replace(b"IDAT", b"\xc9DAT"))

    with pytest.raises(DataError, match=r"3\.png"):
        load_images(str(folder), "train", side=8)


def test_a_home_folder_may_be_written_as_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder_of(tmp_path / "mine")

    assert len(load_images("~/mine", "train", side=8)) == 36


def test_a_damaged_picture_is_named(tmp_path):
    folder = folder_of(tmp_path / "set")
    (folder / "dog" / "3.png").write_bytes((folder / "dog" / "3.png").read_bytes()[:50])

    with pytest.raises(DataError, match=r"3\.png"):
        load_images(str(folder), "train", side=8)


def test_folders_that_programs_leave_behind_are_no_classes(tmp_path):
    folder = folder_of(tmp_path / "set")
    for name in (".ipynb_checkpoints", "__MACOSX"):
        (folder / name).mkdir()

    assert load_images(str(folder), "train", side=8).classes == ("cat", "dog")


def test_hidden_files_are_no_pictures_and_change_no_hash(tmp_path):
    before = load_images(str(folder_of(tmp_path / "one")), "train", side=8)
    folder = folder_of(tmp_path / "two")
    hidden = folder / "cat" / ".ipynb_checkpoints"
    hidden.mkdir()
    Image.new("RGB", (8, 8)).save(hidden / "0.png")
    (folder / "dog" / "._0.png").write_bytes(b"no picture")

    after = load_images(str(folder), "train", side=8)

    assert after.hash == before.hash
    assert torch.equal(after.images, before.images)


@pytest.mark.parametrize(
    "parts", [("train", "validation"), ("Train", "Test"), ("training", "testing"), ("train", "VAL")]
)
def test_parts_go_by_the_names_that_are_in_use(tmp_path, parts):
    folder = str(folder_of(tmp_path, parts=parts))

    train, test = (load_images(folder, split, 8) for split in ("train", "test"))

    assert train.classes == test.classes == ("cat", "dog")
    assert len(train) == len(test) == 40


def test_a_class_may_be_called_train(tmp_path):
    folder = folder_of(tmp_path / "vehicles", classes=("bus", "train", "test"))

    assert load_images(str(folder), "train", side=8).classes == ("bus", "test", "train")
    assert len(load_images(str(folder), "test", side=8)) == 6


@pytest.mark.parametrize("part", ["", "train"])
def test_a_class_without_an_image_is_named(tmp_path, part):
    folder = folder_of(tmp_path / "set", parts=(part,))
    (folder / part / "owl").mkdir()

    with pytest.raises(DataError, match="without an image: owl; remove"):
        load_images(str(folder), "train", side=8)


@pytest.mark.parametrize(
    ("name", "side", "message"),
    [
        ("", 8, "is empty"),
        ("digits", 0, "side must be at least 1, got 0"),
        ("FILE", 8, "a folder of classes, .* is a file"),
    ],
)
def test_wrong_arguments_are_told_in_words(tmp_path, name, side, message):
    (tmp_path / "text.txt").write_text("abc")
    name = str(tmp_path / "text.txt") if name == "FILE" else name

    with pytest.raises(ConfigError, match=message):
        load_images(name, "train", side)


def test_classes_must_be_two_and_the_same_in_both_parts(tmp_path):
    with pytest.raises(DataError, match="1 folders of classes"):
        load_images(str(folder_of(tmp_path / "one", classes=("cat",))), "train", side=8)

    folder = folder_of(tmp_path / "two", parts=("train", "test"))
    folder_of(tmp_path / "two", classes=("owl",), parts=("test",))
    with pytest.raises(DataError, match="lacks: owl"):
        load_images(str(folder), "test", side=8)


def test_too_few_images_to_hold_some_back_are_refused(tmp_path):
    folder = folder_of(tmp_path / "set", count=2)

    with pytest.raises(DataError, match="4 training images, too few"):
        load_images(str(folder), "val", side=8)


def test_a_folder_is_followed_from_where_the_process_is(tmp_path, monkeypatch):
    counts = []
    for count in (10, 20):
        folder_of(tmp_path / str(count) / "mine", count=count)
        monkeypatch.chdir(tmp_path / str(count))
        counts.append(len(load_images("mine", "train", side=8)))

    assert counts == [18, 36]


def idx(shape, data):
    return bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4) for n in shape) + bytes(data)


@pytest.fixture
def mnist(tmp_path, monkeypatch):
    folder = tmp_path / "mnist"
    folder.mkdir()
    (folder / "train-images-idx3-ubyte").write_bytes(idx((3, 4, 4), range(48)))
    (folder / "train-labels-idx1-ubyte").write_bytes(idx((3,), (0, 9, 5)))
    monkeypatch.setenv("GHN_DATA", str(tmp_path))
    _load_whole.cache_clear()
    yield folder
    _load_whole.cache_clear()


def test_digits_are_read_as_their_files_headers_say_packed_or_not(mnist):
    (mnist / "train-images-idx3-ubyte.gz").write_bytes(b"")  # torchvision leaves both

    data = load_images("mnist", "train", side=4)

    assert data.images[:, 0].flatten().tolist() == list(range(48))
    assert data.labels.tolist() == [0, 9, 5]


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "train-images-idx3-ubyte.gz"])
def test_digits_of_damaged_files_are_refused_in_words(mnist, name):
    whole = gzip.compress(idx((3, 4, 4), range(48)))
    (mnist / "train-images-idx3-ubyte").unlink()
    damaged = [b"", whole[:20], whole[:10] + b"\xff\xff" + whole[12:], b"\0\0\x08"]
    for data in damaged:
        (mnist / name).write_bytes(data)
        with pytest.raises(DataError, match="cannot read mnist"):
            load_images("mnist", "train", side=4)


@pytest.mark.parametrize("labels", [(0, 9, 200), (0, 9), (0, 9, 5, 1)])
def test_digits_whose_labels_do_not_fit_are_refused(mnist, labels):
    (mnist / "train-labels-idx1-ubyte").write_bytes(idx((len(labels),), labels))
    with pytest.raises(DataError, match="not images of ten digits"):
        load_images("mnist", "train", side=4)

    (mnist / "train-labels-idx1-ubyte").write_bytes(idx((3,), (0, 9)))
    with pytest.raises(DataError, match="damaged"):
        load_images("mnist", "train", side=4)
