import torch
from torch import nn

from ghn.engine import Support
from ghn.graphs import trace


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


def test_other_image_channels_leave_the_first_layer_alone():
    support = Support.from_graphs([graph_of(net())])

    found = reasons(support, graph_of(net(channels=1), channels=1))

    assert found["0.weight"] == "unsupported"
    assert found["4.weight"] is None


def test_an_operator_that_training_lacked_is_unsupported():
    support = Support.from_graphs([graph_of(net())])

    found = reasons(support, graph_of(net(activation=nn.PReLU)))

    assert found["1.weight"] == "unsupported"


def test_a_huge_vocabulary_is_oversized_and_an_untrained_hypernetwork_supports_the_rest():
    graph = trace(nn.Sequential(nn.Embedding(100_000, 4), nn.Linear(4, 2)), torch.tensor([[1]]))

    found = reasons(Support(), graph)

    assert found == {"0.weight": "oversized", "1.weight": None, "1.bias": None}


def test_support_survives_json():
    support = Support.from_graphs([graph_of(net()), graph_of(net(classes=7))])

    assert Support.from_dict(support.to_dict()) == support
    assert support.classes == (7, 10)
