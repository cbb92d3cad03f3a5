from __future__ import annotations

import pytest
import torch
from neumeta_helpers import GENERATE, batches, inputs, settings, tail
from torch.nn import functional as F

from ghn.errors import ConfigError
from ghn.methods.neumeta import Family, Slimmable, tune

HALF, FULL = {torch.bfloat16}, {torch.float32}


class Watched:
    """A tail that notes in which precision its convolutions answer, and a loss what it is given."""

    def __init__(self):
        self.inner, self.outer = (inner := set()), set()
        self.model = tail()
        # A function, which copies of the module share; a method would be copied with its object.
        self.model.blocks[0].conv1.register_forward_hook(lambda m, args, out: inner.add(out.dtype))

    def loss(self, outputs, labels):
        self.outer.add(outputs.dtype)
        return F.cross_entropy(outputs, labels)


@pytest.mark.parametrize(("precision", "expected"), [("no", FULL), ("bf16", HALF)])
@pytest.mark.parametrize("kind", [Family, Slimmable])
def test_networks_run_in_the_precision_and_losses_are_in_float32(kind, precision, expected):
    watched = Watched()
    config = settings(mixed_precision=precision)
    made = kind(watched.model, config, generate=GENERATE, example_inputs=inputs(1))
    sizes = made.structures.at(made.sizes(0.5))
    emitted = made.emit(sizes)

    watched.inner.clear()  # making it has run the network too
    outputs = made.run(sizes, inputs(), emitted)

    assert (watched.inner, outputs.dtype) == (expected, torch.float32)
    made.fit(batches(), loss=watched.loss)
    assert watched.outer == FULL
    assert {t.dtype for t in made.sample(0.5).parameters()} == FULL


def test_tuning_runs_in_the_precision_of_families():
    watched = Watched()
    names = [n for n, _ in watched.model.named_parameters() if n.startswith("blocks.")]

    tune(
        *(watched.model, names, batches(), settings(mixed_precision="bf16")),
        teacher=tail(),
        loss=watched.loss,
    )

    assert (watched.inner, watched.outer) == (HALF, FULL)


def test_mixed_precision_gives_nearly_what_full_precision_gives():
    plain = settings(steps=20, rate=1e-2, base_rate=1e-2)
    made = [
        Family(tail(), config, generate=GENERATE, example_inputs=inputs(1))
        for config in (plain, plain.replace(mixed_precision="bf16"))
    ]

    full, half = (torch.tensor(family.fit(batches()).losses) for family in made)

    assert not torch.equal(full, half)
    torch.testing.assert_close(half, full, rtol=0.05, atol=0.05)


def test_a_precision_that_would_need_scaled_losses_is_refused():
    with pytest.raises(ConfigError, match="'no' or 'bf16', got 'fp16'"):
        settings(mixed_precision="fp16")
