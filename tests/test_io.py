import hashlib
import struct
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ghn.errors import CheckpointError, ConfigError
from ghn.io import read_tensors, sole_writer, tensor_digest, write_tensors

TENSORS = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.tensor(3)}


def test_a_digest_is_the_sha256_of_sorted_names_types_shapes_and_bytes():
    plain = b'["a", "torch.int64", []]' + struct.pack("<q", 3)
    plain += b'["b", "torch.float32", [2, 3]]' + struct.pack("<6f", *range(6))

    assert tensor_digest(TENSORS) == hashlib.sha256(plain).hexdigest()


def test_strides_order_and_gradients_are_of_no_account():
    strided = TENSORS["b"].T.contiguous().T.requires_grad_()

    assert tensor_digest({"a": TENSORS["a"], "b": strided}) == tensor_digest(TENSORS)


@pytest.mark.parametrize(
    "change",
    [
        {"b": TENSORS["b"].reshape(3, 2)},
        {"b": TENSORS["b"].view(torch.int32)},
        {"b": TENSORS["b"].nextafter(torch.tensor(9.0))},
        {"c": torch.empty(0)},
    ],
)
def test_any_change_gives_another_digest(change):
    assert tensor_digest(TENSORS | change) != tensor_digest(TENSORS)


def test_half_precision_and_empty_tensors_have_digests():
    assert (
        len(tensor_digest({"x": torch.zeros(2, dtype=torch.bfloat16), "y": torch.empty(0)})) == 64
    )


def test_what_was_written_is_read(tmp_path):
    write_tensors(tmp_path / "file", TENSORS, "thing", {"number": 1})

    tensors, header = read_tensors(tmp_path / "file", "thing")

    assert tensor_digest(tensors) == tensor_digest(TENSORS)
    assert header == {"number": 1}
    with pytest.raises(CheckpointError, match="cannot read a learner"):
        read_tensors(tmp_path / "file", "learner")


@pytest.mark.parametrize(
    ("tensors", "metadata"),
    [
        ({"a": torch.tensor(4)}, {}),
        ({}, {"ghn-thing": '{"number": 2}'}),
        ({}, {"ghn-digest": "none"}),
    ],
)
def test_a_file_that_is_not_what_was_written_is_refused(tmp_path, tensors, metadata):
    path = tmp_path / "file"
    write_tensors(path, TENSORS, "thing", {"number": 1})
    with safe_open(path, framework="pt") as file:
        found = file.metadata()
    save_file(TENSORS | tensors, path, metadata=found | metadata)

    with pytest.raises(CheckpointError, match="is damaged"):
        read_tensors(path, "thing")


def test_a_folder_has_one_writer_until_its_process_ends(tmp_path):
    code = (
        "import sys; from ghn.io import sole_writer\n"
        "with sole_writer(sys.argv[1]): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match=r"another process writes to .*run"):
            sole_writer(tmp_path / "run").__enter__()
        with sole_writer(tmp_path / "another"):
            other.kill()
        other.wait()
        with sole_writer(tmp_path / "run"):
            assert (tmp_path / "run").is_dir()
