import torch

from ghn.io import tensor_digest


def test_a_digest_tells_names_types_shapes_and_every_bit_of_tensors_but_not_their_order():
    one, two = torch.arange(6.0).reshape(2, 3), torch.tensor(1, dtype=torch.bfloat16)
    digest = tensor_digest({"a": one, "b": two})
    flipped = one.clone()
    flipped.view(torch.int32)[1, 2] ^= 1

    others = [
        {"a": flipped, "b": two},
        {"a": one.reshape(3, 2), "b": two},
        {"a": one.view(torch.int32), "b": two},
        {"a": one, "c": two},
        {"a": one},
    ]
    assert tensor_digest({"b": two, "a": one.T.contiguous().T}) == digest
    assert len({digest, *map(tensor_digest, others)}) == 6
    assert len(tensor_digest({"none": torch.empty(0, 3)})) == 64
