import itertools

import pytest
import torch
from torch import nn

from ghn.graphs import trace

ROLES = {
    "weight_ih": "weight",
    "weight_hh": "recurrent_weight",
    "bias_ih": "bias",
    "bias_hh": "recurrent_bias",
    "weight_hr": "weight",
}
GATES = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}


@pytest.mark.parametrize("kind", GATES)
def test_recurrent_weights_are_what_their_names_say_for_all_layers_directions_and_projections(kind):
    settings = itertools.product(
        (1, 2, 3, 4), (False, True), (False, True), (0, 3) if kind is nn.LSTM else (0,)
    )
    for layers, bidirectional, bias, projection in settings:
        options = {"proj_size": projection} if projection else {}
        model = kind(7, 5, layers, bias=bias, bidirectional=bidirectional, **options)

        specs = trace(model, torch.zeros(2, 1, 7)).specs

        assert set(specs) == dict(model.named_parameters()).keys()
        for name, spec in specs.items():
            part = name.split("_l")[0]
            gates = 1 if part == "weight_hr" else GATES[kind]
            columns = spec.shape[1] if "weight" in part else 0
            assert (spec.role, spec.sections, spec.fan_in) == (ROLES[part], gates, columns), name
