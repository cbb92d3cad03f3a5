import copy

import pytest
import torch
from torch import nn

from ghn.engine.outputs import drawn_inputs, floats_of, layer_stds, measure
from ghn.errors import InputError
from ghn.graphs.inputs import ExampleInputs


def net():
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(8, 5)),
    )


def test_deviations_are_those_of_the_layers_outputs_and_leave_no_mark():
    torch.manual_seed(0)
    model = net().eval()
    before = copy.deepcopy(model.state_dict())
    images, state = torch.randn(4, 3, 8, 8), torch.get_rng_state()

    found = layer_stds(model, ExampleInputs((images,)))

    assert list(found) == ["0", "1", "6"]
    assert found["0"] == [pytest.approx(model[0](images).std().item(), rel=1e-5)]
    assert found["1"] == [pytest.approx(1.0, abs=0.01)]  # normalised by the batch itself
    assert not model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks for m in model.modules())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_layer_that_runs_twice_has_two_deviations():
    layer = nn.Linear(4, 4)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    numbers = torch.randn(6, 4)

    (found,) = layer_stds(model, ExampleInputs((numbers,))).values()

    wanted = [layer(numbers).std().item(), model(numbers).std().item()]
    assert found == pytest.approx(wanted, rel=1e-5)


def test_inputs_are_drawn_by_seed_and_given_integers_stay():
    given = ExampleInputs(
        (torch.zeros(2, 3, 8, 8), torch.empty(1, 5, dtype=torch.long, device="meta")),
        {"mask": torch.ones(1, 5, dtype=torch.long)},
    )

    first, again, other = (drawn_inputs(given, seed, batch=4, ids=7) for seed in (0, 0, 1))

    images, ids = first.args
    assert images.shape == (4, 3, 8, 8)
    assert images.std().item() == pytest.approx(1.0, abs=0.1)
    assert set(ids.flatten().tolist()) <= set(range(1, 7))
    assert torch.equal(images, again.args[0])
    assert not torch.equal(images, other.args[0])
    assert first.kwargs["mask"].eq(1).all()


def test_numbers_are_found_in_outputs_of_any_structure():
    output = {"a": torch.ones(2), "b": [torch.zeros(1, dtype=torch.long), (torch.ones(1, 3), None)]}

    assert floats_of(output).tolist() == [1.0] * 5
    assert floats_of(None).numel() == 0


@pytest.mark.parametrize(("norm", "pairs", "images"), [(True, 1, 4), (True, 2, 2), (False, 1, 2)])
def test_batch_norms_see_four_images_where_the_model_takes_any_number(norm, pairs, images):
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(3) if norm else nn.GroupNorm(1, 3)

        def forward(self, images, numbers):
            return self.norm(images).flatten(1) + numbers

    given = torch.empty(2, 3, 2, 2), torch.empty(pairs, 12)

    assert measure(Network(), ExampleInputs(given)).inputs.args[0].shape[0] == images


def test_batch_norms_of_texts_and_of_lists_of_images_see_several_examples():
    class Text(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.norm = nn.Embedding(9, 4), nn.BatchNorm1d(4)

        def forward(self, ids):
            return self.norm(self.table(ids).mean(1))

    class Detector(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def forward(self, images):
            return self.norm(torch.stack([image.mean((1, 2)) for image in images]))

    ids = ExampleInputs((torch.ones(1, 5, dtype=torch.long),))
    images = ExampleInputs(([torch.empty(3, 8, 8)],))

    assert measure(Text(), ids).inputs.args[0].shape == (4, 5)
    assert measure(Detector(), images).inputs.args[0][3].shape == (3, 8, 8)


def test_a_forward_pass_that_fails_is_an_error_with_the_form_of_the_input():
    with pytest.raises(InputError, match=r"fails on drawn inputs of the form \(float32\[1, 7\]\)"):
        measure(nn.Linear(4, 2), ExampleInputs((torch.empty(1, 7),)))


def test_sparse_inputs_are_what_they_were():
    adjacency = torch.eye(3).to_sparse()

    drawn = drawn_inputs(ExampleInputs((torch.zeros(3, 2), adjacency), {}), seed=0)

    assert drawn.args[0].std() > 0
    assert drawn.args[1] is adjacency
