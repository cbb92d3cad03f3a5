import torch
from ties_helpers import relative_change, with_random_values
from torch import nn

from ghn.graphs import Resizer
from ghn.graphs.resample import Resampling, resample
from ghn.graphs.ties import named_tensors


def resampling_of(model, widths, inputs):
    resizer = Resizer(model, inputs)
    shapes = {n: tuple(t.shape) for n, t in named_tensors(model).items()}
    return resizer, Resampling(resizer.ties.sets, widths, shapes, resizer.positions(widths))


def test_a_network_of_equal_neighbours_is_the_same_function_at_half_its_width():
    model = with_random_values(
        nn.Sequential(
            *(nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 4, 1)),
        )
    ).eval()
    with torch.no_grad():
        for tensor in (*model[0].parameters(), *model[1].parameters(), *model[1].buffers()):
            if tensor.ndim:
                tensor[1::2] = tensor[::2]
        model[3].weight[:, 1::2] = model[3].weight[:, ::2]
    inputs = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    widths = {"0.weight[0]": 6}
    resizer, resampling = resampling_of(model, widths, inputs)
    small = resizer.resize(widths)

    maps = resampling.maps()
    with torch.no_grad():
        for name, tensor in named_tensors(small).items():
            summed = (1,) if name == "3.weight" else ()
            tensor.copy_(resample(named_tensors(model)[name], maps.get(name, {}), summed))

    assert relative_change(model(inputs), small(inputs)) < 1e-5


def test_whole_groups_are_mixed_with_the_groups_beside_them():
    model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 8, 1, groups=4), nn.GroupNorm(4, 8))
    model.append(nn.Conv2d(8, 2, 1))
    inputs = torch.empty(1, 3, 4, 4)
    _, resampling = resampling_of(model, {"0.weight[0]": 2}, inputs)

    mixed = resample(model[0].bias.detach(), resampling.maps()["0.bias"])

    # Four groups of four become two: each the mean of two groups, channel by channel.
    expected = model[0].bias.detach().reshape(2, 2, 4).mean(1).flatten()
    torch.testing.assert_close(mixed, expected)


def test_full_width_without_noise_changes_nothing():
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    _, resampling = resampling_of(model, {"0.weight[0]": 8}, torch.empty(1, 3))

    assert resampling.maps() == {}
    assert resampling.maps(1.0)


def test_a_moved_channel_moves_in_all_of_its_tensors_alike():
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    _, resampling = resampling_of(model, {"0.weight[0]": 5}, torch.empty(1, 3))
    generator = torch.Generator().manual_seed(0)

    maps = resampling.maps(1.0, generator)

    weight, bias, reader = maps["0.weight"][0], maps["0.bias"][0], maps["2.weight"][1]
    assert torch.equal(weight.mix, bias.mix)
    assert torch.equal(weight.mix, reader.mix)
    assert not torch.equal(weight.mix, resampling.maps()["0.weight"][0].mix)
    torch.testing.assert_close(weight.mix.sum(1), torch.ones(5))


def test_gradients_reach_every_channel_that_is_read():
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    _, resampling = resampling_of(model, {"0.weight[0]": 5}, torch.empty(1, 3))

    resample(model[0].weight, resampling.maps()["0.weight"]).sum().backward()

    assert (model[0].weight.grad.sum(1) > 0).sum() >= 7
