import bz2
import gzip
import lzma

import pytest
import torch

from ghn.data import load_text, token_entropies
from ghn.data.text import TextData, _load, load_tokenizer
from ghn.errors import ConfigError, DataError


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    monkeypatch.setenv("GHN_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    _load.cache_clear()
    yield
    _load.cache_clear()


def test_hidden_files_are_no_texts(tmp_path):
    (tmp_path / "mine.txt").write_bytes(b"abc" * 100)
    (tmp_path / "._mine.txt").write_bytes(b"no text")

    assert len(load_text(str(tmp_path), "train")) == 270


def test_a_text_too_short_to_divide_is_refused(tmp_path):
    (tmp_path / "short.txt").write_text("hello")

    with pytest.raises(DataError, match="5 bytes is too short"):
        load_text(str(tmp_path / "short.txt"), "val")


def test_a_file_is_read_as_bytes_and_its_end_is_held_out(tmp_path):
    text = bytes(range(32, 232)) * 3
    (tmp_path / "mine.txt").write_bytes(text)

    splits = [load_text(str(tmp_path / "mine.txt"), s) for s in ("train", "val", "test")]

    assert b"".join(bytes(s.tokens.tolist()) for s in splits) == text
    assert [len(s) for s in splits] == [540, 30, 30]
    assert splits[0].vocabulary == 256


def test_a_folder_has_a_file_for_each_split_compressed_or_not(tmp_path):
    folder = tmp_path / "data" / "books"
    folder.mkdir(parents=True)
    (folder / "train.txt.xz").write_bytes(lzma.compress(b"to train on"))
    (folder / "valid.txt.gz").write_bytes(gzip.compress(b"to choose on"))
    (folder / "test.txt").write_bytes(b"to report")

    found = [bytes(load_text("books", s).tokens.tolist()) for s in ("fit", "val", "test")]

    assert found == [b"to train on", b"to choose on", b"to report"]


def test_a_lone_file_of_a_folder_is_divided_whatever_its_name(tmp_path):
    text = bytes(range(32, 232)) * 3
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "train.txt").write_bytes(text)

    splits = [load_text(str(tmp_path / "mine"), s) for s in ("train", "val", "test")]

    assert b"".join(bytes(s.tokens.tolist()) for s in splits) == text
    assert [len(s) for s in splits] == [540, 30, 30]


def test_a_table_for_training_alone_is_divided_and_one_beside_others_is_whole(tmp_path):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    folder = tmp_path / "data" / "o--mine"
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"text": ["abcdefghi\n" * 10]}), folder / "train-0-of-1.parquet")

    alone = [len(load_text("hf:o/mine", s)) for s in ("train", "val", "test")]
    pq.write_table(pa.table({"text": ["kl\n"]}), folder / "validation-0-of-1.parquet")
    _load.cache_clear()

    assert alone == [90, 5, 5]
    assert [len(load_text("hf:o/mine", s)) for s in ("train", "val")] == [100, 3]
    with pytest.raises(DataError, match="no text for 'test'"):
        load_text("hf:o/mine", "test")


def test_a_name_is_followed_from_where_the_process_is(tmp_path, monkeypatch):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.txt").write_bytes(folder.encode() * 100)

    found = []
    for folder in ("a", "b"):
        monkeypatch.chdir(tmp_path / folder)
        found.append(int(load_text("mine.txt").tokens[0]))

    assert found == [ord("a"), ord("b")]


def test_a_damaged_archive_is_told_in_words(tmp_path):
    data = bytearray(gzip.compress(bytes(range(256)) * 40))
    data[30] ^= 0xFF
    (tmp_path / "mine.txt.gz").write_bytes(data)

    with pytest.raises(DataError, match="cannot read"):
        load_text(str(tmp_path / "mine.txt.gz"))


def test_texts_are_unpacked_and_what_is_no_text_is_refused(tmp_path):
    (tmp_path / "mine.txt.bz2").write_bytes(bz2.compress(b"abcdefghij" * 10))
    (tmp_path / "mine.txt.zst").write_bytes(b"(\xb5/\xfd\x04\x00packed" * 10)

    assert bytes(load_text(str(tmp_path / "mine.txt.bz2")).tokens[:4].tolist()) == b"abcd"
    with pytest.raises(DataError, match=r"an archive or a document.*\.bz2, \.gz, \.xz"):
        load_text(str(tmp_path / "mine.txt.zst"))


def test_texts_are_those_of_where_the_data_are_now(tmp_path, monkeypatch):
    for letter in "ab":
        folder = tmp_path / letter / "tinyshakespeare"
        folder.mkdir(parents=True)
        (folder / "input.txt").write_text(letter * 100)
        monkeypatch.setenv("GHN_DATA", str(tmp_path / letter))

        assert set(load_text("tinyshakespeare").tokens.tolist()) == {ord(letter)}


def test_rows_of_tables_are_lines_and_splits_that_lack_are_named(tmp_path, monkeypatch):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setenv("GHN_DATA", str(tmp_path))
    folder = tmp_path / "o--mine"
    folder.mkdir()
    for split in ("train", "test"):
        pq.write_table(pa.table({"text": ["one", "two\n", "", None]}), folder / f"{split}.parquet")

    assert bytes(load_text("hf:o/mine").tokens.tolist()) == b"one\ntwo\n\n"
    with pytest.raises(DataError, match=r"parquet files of 'train', .*'test'; split=\"train\""):
        load_text("hf:o/mine", "val")


def test_entropies_are_those_of_a_full_table_of_pairs(tmp_path):
    generator = torch.Generator().manual_seed(0)
    train, text = (
        TextData("x", torch.randint(40, (n,), generator=generator).int(), 50, n, "")
        for n in (900, 300)
    )
    table = torch.full((50, 50), 0.01, dtype=torch.float64)
    for first, second in zip(train.tokens[:-1].tolist(), train.tokens[1:].tolist(), strict=True):
        table[first, second] += 1
    pairs = table / table.sum(1, keepdim=True)
    coded = text.tokens.long()

    _, found = token_entropies(train, text)

    expected = -pairs.log2()[coded[:-1], coded[1:]].sum() / 300
    assert found == pytest.approx(float(expected))


def test_excerpts_are_followed_by_their_own_next_tokens(tmp_path):
    (tmp_path / "mine.txt").write_bytes(bytes(range(200)))
    data = load_text(str(tmp_path / "mine.txt"))

    inputs, labels = data.excerpts(torch.tensor([0, 7]), 4)

    assert inputs.tolist() == [[0, 1, 2, 3], [7, 8, 9, 10]]
    assert labels.tolist() == [[1, 2, 3, 4], [8, 9, 10, 11]]
    with pytest.raises(DataError, match="too few for 500"):
        data.excerpts(torch.tensor([0]), 500)


def test_merged_tokens_are_fewer_and_say_the_same(tmp_path):
    text = "the cat sat on the mat. " * 200
    (tmp_path / "mine.txt").write_text(text)
    name = str(tmp_path / "mine.txt")

    merged = load_text(name, "val", vocabulary=270)

    assert len(merged) < 0.8 * len(load_text(name, "val"))
    assert merged.bytes == load_text(name, "val").bytes
    assert int(merged.tokens.max()) < 270
    _load.cache_clear()
    assert torch.equal(load_text(name, "val", vocabulary=270).tokens, merged.tokens)


def test_a_damaged_tokenizer_of_the_cache_is_learned_again(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "own.txt"
    path.write_text("a rose is a rose is a rose\n" * 200)
    first = load_tokenizer(str(path), 270).to_str()
    [kept] = (tmp_path / "cache").rglob("*.json")
    kept.write_text("")

    assert load_tokenizer(str(path), 270).to_str() == first
    assert kept.read_text()


def test_what_cannot_be_read_is_refused_in_words(tmp_path):
    with pytest.raises(ConfigError, match="unknown text 'bokks'"):
        load_text("bokks")
    with pytest.raises(ConfigError, match="split must be"):
        load_text("books", "dev")
    with pytest.raises(ConfigError, match="at least 256"):
        load_text("books", vocabulary=100)
    with pytest.raises(DataError, match="GHN_DATA"):
        load_text("books")
    (tmp_path / "data" / "wikitext2").mkdir(parents=True)
    for split in ("valid", "test"):
        (tmp_path / "data" / "wikitext2" / f"{split}.txt").write_text("words")
    with pytest.raises(DataError, match="has no text for 'train'"):
        load_text("wikitext2")
    (tmp_path / "broken.txt.xz").write_bytes(b"not compressed")
    with pytest.raises(DataError, match="cannot read"):
        load_text(str(tmp_path / "broken.txt.xz"))


def test_entropies_are_those_of_counts_in_another_text(tmp_path):
    (tmp_path / "train.txt").write_bytes(b"ab" * 5000)
    (tmp_path / "test.txt").write_bytes(b"ab" * 500)
    train, test = load_text(str(tmp_path)), load_text(str(tmp_path), "test")

    single, paired = token_entropies(train, test)

    # A byte is a or b with equal chances; after one of them the other is certain.
    assert single == pytest.approx(1.0, abs=0.05)
    assert 0 < paired < 0.01
