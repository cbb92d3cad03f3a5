import pytest
import torch
from torch import nn

from ghn.engine import GHN, GHNConfig, Support, predict_params
from ghn.errors import ConfigError
from ghn.graphs import trace
from ghn.zoo import GPT, GPTConfig


def net(classes=10, channels=3, activation=nn.ReLU, width=8):
    return nn.Sequential(
        *(nn.Conv2d(channels, width, 3), activation(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Linear(width, classes),
    )


def graph_of(model, channels=3):
    return trace(model, torch.empty(1, channels, 8, 8))


def reasons(support, graph):
    return {name: support.reason(graph, spec) for name, spec in graph.specs.items()}


def test_what_was_trained_is_supported_at_any_width():
    support = Support.from_graphs([graph_of(net())])

    assert set(reasons(support, graph_of(net(width=300))).values()) == {None}


def test_another_number_of_classes_leaves_the_head_alone():
    support = Support.from_graphs([graph_of(net())])

    found = reasons(support, graph_of(net(classes=1000)))

    assert found == {
        "0.weight": None,
        "0.bias": None,
        "4.weight": "unsupported",
        "4.bias": "unsupported",
    }


@pytest.mark.parametrize("tied", [False, True])
def test_another_number_of_tokens_leaves_their_table_and_the_head_alone(tied):
    def graph(tokens):
        config = GPTConfig(width=16, layers=1, heads=2, tied=tied, vocabulary=tokens)
        return trace(GPT(config), torch.zeros(1, 8, dtype=torch.int64))

    support = Support.from_graphs([graph(256)])

    assert set(reasons(support, graph(256)).values()) == {None}
    found = {name for name, reason in reasons(support, graph(300)).items() if reason}
    head = set() if tied else {"gpt2.lm_head.weight"}
    assert found == {"gpt2.transformer.wte.weight"} | head


def test_other_image_channels_leave_the_first_layer_alone():
    support = Support.from_graphs([graph_of(net())])

    found = reasons(support, graph_of(net(channels=1), channels=1))

    assert found["0.weight"] == "unsupported"
    assert found["4.weight"] is None


def test_an_operator_that_training_lacked_is_unsupported():
    support = Support.from_graphs([graph_of(net())])

    found = reasons(support, graph_of(net(activation=nn.PReLU)))

    assert found["1.weight"] == "unsupported"


class Block(nn.Module):
    def __init__(self, skip):
        super().__init__()
        self.skip, self.linear = skip, nn.Linear(8, 8)

    def forward(self, x):
        return x + self.linear(x) if self.skip else self.linear(x)


def test_a_layer_on_the_trunk_is_another_one_than_in_a_branch():
    def net(skip):
        return nn.Sequential(nn.Linear(4, 8), Block(skip), nn.Linear(8, 10))

    def graph(skip):
        return trace(net(skip), torch.empty(1, 4))

    branch, both = Support.from_graphs([graph(True)]), [graph(True), graph(False)]

    assert reasons(branch, graph(False)) == {
        **dict.fromkeys(("0.weight", "0.bias", "2.weight", "2.bias"), None),
        **dict.fromkeys(("1.linear.weight", "1.linear.bias"), "unsupported"),
    }
    assert set(reasons(Support.from_graphs(both), graph(False)).values()) == {None}


def test_support_from_before_places_were_told_apart_is_an_error():
    with pytest.raises(ConfigError, match="export"):
        Support(uses=("linear/weight/0",))


def test_a_huge_vocabulary_is_oversized_and_an_untrained_hypernetwork_supports_the_rest():
    graph = trace(nn.Sequential(nn.Embedding(100_000, 4), nn.Linear(4, 2)), torch.tensor([[1]]))

    found = reasons(Support(), graph)

    assert found == {"0.weight": "oversized", "1.weight": None, "1.bias": None}


def test_support_survives_json():
    support = Support.from_graphs([graph_of(net()), graph_of(net(classes=7))])

    assert Support.from_dict(support.to_dict()) == support
    assert support.classes == (7, 10)


def test_images_of_other_sizes_than_those_of_training_are_told():
    support = Support(image_sides=(32,))

    assert support.notes([torch.zeros(1, 3, 32, 32)]) == ()
    assert support.notes([torch.zeros(1, 16, dtype=torch.int64), torch.zeros(1, 5, 7)]) == ()
    [note] = support.notes([torch.zeros(1, 3, 224, 192)])
    assert "learned from images of 32 x 32 pixels" in note
    assert "224 x 192" in note
    assert Support().notes([torch.zeros(1, 3, 224, 224)]) == ()


def test_the_report_tells_that_a_model_reads_larger_images():
    def notes(side: int) -> tuple[str, ...]:
        return predict_params(net(), torch.zeros(1, 3, side, side)).notes

    assert notes(32) == ()
    assert any("224 x 224" in note for note in notes(224))
    inputs = torch.zeros(1, 3, 224, 224)
    report = predict_params(net(), inputs, graph=trace(net(), inputs))
    assert any("224 x 224" in note for note in report.notes)


class Detour(nn.Module):
    """A convolution, a layer that training lacked, another convolution and a head."""

    def __init__(self, is_around):
        super().__init__()
        self.first, self.odd = nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 8, 1)
        self.second, self.head = nn.Conv2d(8, 8, 1), nn.Linear(8, 10)
        self.is_around = is_around

    def forward(self, x):
        x = self.first(x).relu()
        x = self.odd(x) + x if self.is_around else self.odd(x)
        return self.head(self.second(x.relu()).mean((2, 3)))


class Trained(nn.Module):
    """The same without that layer."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        return self.head(self.second(self.first(x).relu()).mean((2, 3)))


def kept(model, **options):
    ghn = GHN(GHNConfig(support=Support.from_graphs([graph_of(Trained())])))
    report = predict_params(model, torch.empty(1, 3, 8, 8), checkpoint=ghn, seed=0, **options)
    return set(report.kept), report.notes


def test_what_lies_behind_an_unsupported_layer_that_all_signals_pass_stays_too():
    names, notes = kept(Detour(is_around=False))

    assert names == {
        f"{path}.{end}" for path in ("odd", "second", "head") for end in ("weight", "bias")
    }
    assert any("odd.weight" in note and "behind" in note for note in notes)


def test_what_lies_behind_an_unsupported_layer_with_a_way_round_it_is_predicted():
    names, notes = kept(Detour(is_around=True))

    assert names == {"odd.weight", "odd.bias"}
    assert not any("odd.weight" in note for note in notes)


def test_nothing_is_said_of_what_lies_behind_where_nothing_does():
    names, notes = kept(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 10, 2)))

    assert names == {"2.weight", "2.bias"}
    assert notes == ()


def test_all_is_predicted_where_that_is_asked_for():
    assert kept(Detour(is_around=False), unsupported="predict") == (set(), ())
