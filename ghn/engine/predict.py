"""`predict_params`: a model's parameters from a hypernetwork, all of them or none.

First comes everything that can fail: the graph, the selection, the recipes, their shapes and
finiteness. Then the recipes are written; see `ghn.engine.compose` and `ghn.engine.materialize`.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ghn.engine.compose import check_recipes, hold_interrupts, new_tensor, write
from ghn.engine.guards import check_model, is_predictable
from ghn.engine.materialize import materialize
from ghn.engine.recalibrate import batch_norms, recalibrate as recalibrate_statistics
from ghn.engine.report import Report
from ghn.errors import ConfigError
from ghn.graphs.graph import ParamGraph, ParamSpec
from ghn.graphs.trace import parameter_names, trace
from ghn.kernels import Recipe
from ghn.rng import preserve_global_state

__all__ = ["Hypernetwork", "predict_params", "predict_state_dict"]

Selection = str | Iterable[str] | Callable[[str], bool]
Unsupported = Literal["keep", "predict"]
