from __future__ import annotations

import signal
import threading

import pytest
import torch

from ghn.engine.compose import check_recipes, check_targets, hold_interrupts, new_tensor, write
from ghn.errors import PredictionError, UnsupportedModelError
from ghn.kernels import Dense, Layout, LowRank, Tiled


def low_rank(shape, axes, scale=1.0):
    layout = Layout(shape, axes)
    g = torch.Generator().manual_seed(0)
    left = torch.randn(layout.rows, 2, generator=g) * scale
    right = torch.randn(2, layout.cols * layout.kernel, generator=g)
    return LowRank(left, right, layout)


@pytest.fixture
def interruptible():
    """Ctrl-C raises KeyboardInterrupt, also in a worker process that ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("place", ["contiguous", "transposed", "strided"])
def test_writing_gives_the_product_in_any_type_and_any_strides(dtype, place):
    recipe = low_rank((6, 4), "oi")
    target = {
        "contiguous": lambda: torch.zeros(6, 4, dtype=dtype),
        "transposed": lambda: torch.zeros(4, 6, dtype=dtype).T,
        "strided": lambda: torch.zeros(12, 8, dtype=dtype)[::2, ::2],
    }[place]()

    write({"w": recipe}, {"w": target})

    wanted = (recipe.left.double() @ recipe.right.double()).to(dtype)
    torch.testing.assert_close(target, wanted)


def test_writing_a_convolution_in_channels_last_equals_writing_it_in_the_default_format():
    recipe = low_rank((8, 4, 3, 3), "oikk")
    plain = torch.zeros(8, 4, 3, 3)
    last = torch.zeros(8, 4, 3, 3).to(memory_format=torch.channels_last)
    strides = last.stride()

    write({"w": recipe}, {"w": plain})
    write({"w": recipe}, {"w": last})

    assert torch.equal(plain, last)
    assert last.stride() == strides
    assert plain.abs().min() > 0


def test_writing_only_touches_the_view_that_a_parameter_is():
    flat = torch.full((10,), 7.0)

    write({"w": Dense(torch.ones(4), Layout((4,), "o"))}, {"w": flat[3:7]})

    assert flat.tolist() == [7.0] * 3 + [1.0] * 4 + [7.0] * 3


def test_a_new_tensor_has_the_strides_of_its_model_and_the_type_that_was_asked_for():
    like = torch.empty(8, 4, 3, 3, device="meta").to(memory_format=torch.channels_last)
    recipe = low_rank((8, 4, 3, 3), "oikk")

    made = new_tensor(recipe, like, torch.device("cpu"), torch.bfloat16)

    assert made.stride() == like.stride()
    assert made.dtype is torch.bfloat16
    assert not made.requires_grad


@pytest.mark.parametrize(
    "recipe",
    [
        low_rank((3, 3), "oi", scale=float("nan")),
        low_rank((3, 3), "oi", scale=float("inf")),
        Dense(torch.tensor([[1.0, float("nan")], [0.0, 0.0]]), Layout((2, 2), "oi")),
        Tiled(torch.full((1, 1, 1), float("-inf")), Layout((2, 2), "oi")),
        low_rank((3, 3), "oi", scale=1e30),
    ],
    ids=["nan factor", "infinite factor", "one nan", "infinite block", "too large for half"],
)
def test_what_is_not_finite_in_the_target_type_is_refused_by_name(recipe):
    target = torch.zeros(recipe.layout.shape, dtype=torch.float16)

    with pytest.raises(PredictionError, match=r"'layer\.weight'.*not finite in torch\.float16"):
        check_recipes({"layer.weight": recipe}, {"layer.weight": target})


def test_a_large_value_is_fine_where_the_type_can_hold_it():
    recipe = low_rank((3, 3), "oi", scale=1e6)
    target = torch.zeros(3, 3)

    check_recipes({"w": recipe}, {"w": target})
    with pytest.raises(PredictionError):
        check_recipes({"w": recipe}, {"w": target}, dtype=torch.float16)


def test_a_recipe_of_another_shape_is_refused():
    with pytest.raises(PredictionError, match=r"'w' has shape \(3, 4\).*\(4, 3\)"):
        check_recipes({"w": low_rank((4, 3), "oi")}, {"w": torch.zeros(3, 4)})


def test_targets_that_cannot_be_written_are_found_before_the_first_write():
    recipe = Dense(torch.ones(3), Layout((3,), "o"))
    good, bad = torch.zeros(3), torch.zeros(1).expand(3)

    with pytest.raises(UnsupportedModelError, match="'bad'"):
        check_targets({"good": recipe, "bad": recipe}, {"good": good, "bad": bad})


def test_too_little_memory_is_found_before_the_first_write(monkeypatch):
    def full(*sizes, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "empty", full)

    with pytest.raises(MemoryError, match="model was left as it was"):
        check_targets({"w": low_rank((3, 3), "oi")}, {"w": torch.zeros(3, 3)})


def test_ctrl_c_waits_until_the_block_is_done(interruptible):
    done = []

    def work():
        with hold_interrupts():
            signal.raise_signal(signal.SIGINT)
            done.append("first")
            signal.raise_signal(signal.SIGINT)
            done.append("second")

    with pytest.raises(KeyboardInterrupt):
        work()

    assert done == ["first", "second"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_goes_to_the_handler_that_the_program_installed(interruptible):
    calls = []
    signal.signal(signal.SIGINT, lambda number, frame: calls.append(number))

    with hold_interrupts():
        signal.raise_signal(signal.SIGINT)
        assert calls == []

    assert calls == [signal.SIGINT]


def test_an_error_inside_passes_and_the_handler_comes_back(interruptible):
    with pytest.raises(ValueError, match="inside"), hold_interrupts():
        raise ValueError("inside")

    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_holding_interrupts_works_in_another_thread(interruptible):
    done = []

    def work():
        with hold_interrupts():
            done.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    assert done == [signal.default_int_handler]
