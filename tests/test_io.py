import hashlib
import struct

import pytest
import torch

from ghn.io import tensor_digest

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
