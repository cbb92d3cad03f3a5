import io
import json
import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from PIL import Image

from ghn.data import find_data, load_images
from ghn.data.images import _load_whole
from ghn.errors import ConfigError, DataError
from ghn.io import current_umask

NAMES = ["cat", "dog", "owl"]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder, and no other place with data."""
    monkeypatch.delenv("GHN_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    _load_whole.cache_clear()
    yield tmp_path / "ghn"
    _load_whole.cache_clear()


def write_parquet(path: Path, count: int, labels=None) -> None:
    """A file as the hub keeps images: encoded pictures, labels, names in the schema.

    With labels there are no names.
    """
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    cells = []
    for k in range(count):
        stream = io.BytesIO()
        Image.fromarray(np.full((32, 32, 3), 10 * k % 256, np.uint8)).save(stream, "PNG")
        cells.append({"bytes": stream.getvalue(), "path": None})
    table = pa.table({"img": cells, "label": labels or [k % 3 for k in range(count)]})
    info = {"info": {"features": {"label": {"names": NAMES, "_type": "ClassLabel"}}}}
    path.parent.mkdir(parents=True, exist_ok=True)
    named = {} if labels else {"huggingface": json.dumps(info)}
    pq.write_table(table.replace_schema_metadata(named), path)


def fake_download(monkeypatch, error=None):
    calls = []

    def download(repo, *, local_dir, **options):
        calls.append((repo, options))
        for split, count in (("train", 7), ("test", 2)):
            if not (error and split == "test"):
                write_parquet(Path(local_dir) / "plain_text" / f"{split}-0-of-1.parquet", count)
        notes = Path(local_dir) / ".cache" / "huggingface" / "download"
        notes.mkdir(parents=True)
        (notes / "train-0-of-1.parquet.metadata").write_text(f"etag {len(calls)}")  # and a time
        if error:
            raise error
        return str(local_dir)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    return calls


def test_what_no_folder_has_is_fetched_once_from_the_hub(cache, monkeypatch):
    calls = fake_download(monkeypatch)

    data = load_images("cifar10", "train")
    find_data("cifar10")

    assert data.images[:, 0, 4, 4].tolist() == [0, 10, 20, 30, 40, 50, 60]
    assert data.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert data.classes == tuple(NAMES)
    assert len(load_images("cifar10", "test")) == 2
    [(repo, options)] = calls
    assert repo == "uoft-cs/cifar10"
    assert options == {"repo_type": "dataset", "allow_patterns": "*.parquet"}


def test_data_are_the_same_whenever_they_were_fetched(cache, monkeypatch):
    fake_download(monkeypatch)
    first = load_images("hf:o/mine", "train").hash
    shutil.rmtree(cache / "o--mine")
    _load_whole.cache_clear()

    assert load_images("hf:o/mine", "train").hash == first
    assert (cache / "o--mine").stat().st_mode & 0o777 == 0o777 & ~current_umask()
    assert not list((cache / "o--mine").rglob(".*"))


def test_of_two_processes_that_fetch_at_once_both_have_the_data(cache, monkeypatch):
    calls = fake_download(monkeypatch)
    slow = huggingface_hub.snapshot_download

    def overtaken(repo, **options):
        if len(calls) == 0:  # the other process starts later and ends earlier
            calls.append(None)
            find_data("hf:o/mine")
        return slow(repo, **options)

    monkeypatch.setattr("huggingface_hub.snapshot_download", overtaken)

    assert find_data("hf:o/mine") == cache / "o--mine"
    assert len(load_images("hf:o/mine", "train")) == 7
    assert [p.name for p in cache.iterdir()] == ["o--mine"]


def test_pictures_that_lie_class_by_class_are_mixed_once_and_for_all(cache):
    labels = sorted(list(range(5)) * 20)
    of_colour = {10 * k % 256: label for k, label in enumerate(labels)}
    write_parquet(cache / "o--mine" / "train-0-of-1.parquet", 100, labels)

    fit, val = load_images("hf:o/mine", "fit"), load_images("hf:o/mine", "val")
    _load_whole.cache_clear()

    assert set(val.labels.tolist()) == set(fit.labels[:40].tolist()) == set(range(5))
    assert torch.equal(load_images("hf:o/mine", "fit").labels, fit.labels)
    assert [of_colour[c] for c in fit.images[:, 0, 4, 4].tolist()] == fit.labels.tolist()


def test_a_download_that_breaks_off_leaves_nothing_and_names_all_places(cache, monkeypatch):
    fake_download(monkeypatch, OSError("the network is gone"))

    with pytest.raises(DataError, match="GHN_DATA") as caught:
        load_images("cifar10")

    message = str(caught.value)
    assert str(cache / "cifar10") in message
    assert "Hugging Face hub" in message
    assert "the network is gone" in message
    assert list(cache.iterdir()) == []


def test_no_download_is_tried_where_none_is_wanted(cache, monkeypatch):
    calls = fake_download(monkeypatch)

    with pytest.raises(DataError, match="not on the Hugging Face hub"):
        find_data("cifar10", download=False)

    assert calls == []


def test_a_file_that_is_no_parquet_is_refused_in_words(cache):
    folder = cache / "cifar10"
    folder.mkdir(parents=True)
    (folder / "train-0-of-1.parquet").write_bytes(b"PAR1 not really")

    with pytest.raises(DataError, match="cannot read"):
        load_images("cifar10")


@pytest.mark.parametrize("labels", [[0, 1, -1, 1], [0, 1, None, 1], [0, 1, 10**6, 1]])
def test_labels_that_are_no_classes_are_refused(cache, labels):
    write_parquet(cache / "o--mine" / "train-0-of-1.parquet", 4, labels)

    with pytest.raises(DataError, match="labelled images"):
        load_images("hf:o/mine", "train")


def test_without_names_all_splits_say_how_many_classes_there_are(cache):
    write_parquet(cache / "o--mine" / "train-0-of-1.parquet", 4, [0, 1, 4, 1])
    write_parquet(cache / "o--mine" / "test-0-of-1.parquet", 2, [0, 1])

    assert len(load_images("hf:o/mine", "train").classes) == 5
    assert len(load_images("hf:o/mine", "test").classes) == 5


def test_a_split_that_is_not_there_is_told_in_words(cache):
    write_parquet(cache / "o--mine" / "train-0-of-1.parquet", 4)

    with pytest.raises(DataError, match="no parquet files of the split 'test'"):
        load_images("hf:o/mine", "test")


def test_several_data_sets_of_one_repository_are_told_apart(cache, monkeypatch):
    for part in ("plain", "small"):
        write_parquet(cache / "o--mine" / part / "train-0-of-1.parquet", 4)
    with pytest.raises(DataError, match="plain, small; name one of them, as in hf:OWNER/NAME/pl"):
        load_images("hf:o/mine", "train")

    calls = fake_download(monkeypatch)
    assert len(load_images("hf:o/mine/plain_text", "train")) == 7
    assert calls[0][0] == "o/mine"
    assert calls[0][1]["allow_patterns"] == "plain_text/*.parquet"


def test_a_picture_of_a_table_that_is_damaged_is_told_in_words(cache):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    path = cache / "o--mine" / "train-0-of-1.parquet"
    write_parquet(path, 4)
    table = pq.read_table(path)
    cells = [{"bytes": b"no picture", "path": None}] * 4
    pq.write_table(table.set_column(0, "img", pa.array(cells)), path)

    with pytest.raises(DataError, match=r"an image of .*train-0-of-1\.parquet"):
        load_images("hf:o/mine", "train")


@pytest.mark.parametrize("name", ["hf:", "hf:..", "hf:owner/..", "hf:owner//part"])
def test_a_name_of_the_hub_has_an_owner_and_a_name(cache, name):
    with pytest.raises(ConfigError, match="hf:OWNER/NAME"):
        find_data(name)


def test_images_for_validation_are_test_images_where_there_are_no_others(cache):
    write_parquet(cache / "o--mine" / "train-0-of-1.parquet", 10)
    write_parquet(cache / "o--mine" / "validation-0-of-1.parquet", 4)

    assert len(load_images("hf:o/mine", "test")) == 4
    assert len(load_images("hf:o/mine", "val")) == 2


def test_only_what_is_said_to_be_a_class_is_one(cache):
    pq = pytest.importorskip("pyarrow.parquet")
    path = cache / "o--mine" / "train-0-of-1.parquet"
    write_parquet(path, 10)
    table = pq.read_table(path)
    columns = ["image", "breed"]
    info = {"info": {"features": {"breed": {"names": NAMES, "_type": "ClassLabel"}}}}
    pq.write_table(
        table.rename_columns(columns).replace_schema_metadata({"huggingface": json.dumps(info)}),
        path,
    )

    assert load_images("hf:o/mine").classes == tuple(NAMES)

    other = cache / "o--other" / path.name
    other.parent.mkdir()
    pq.write_table(table.rename_columns(["image", "image_id"]).replace_schema_metadata({}), other)
    with pytest.raises(DataError, match="none of labels"):
        load_images("hf:o/other")
