"""Graph hypernetworks for PyTorch: networks that write the weights of other networks.

`predict_params(model)` gives any model its initial weights; see README.md.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ghn.errors import GHNError

if TYPE_CHECKING:
    from ghn.engine import (
        GHN,
        GHNConfig,
        Report,
        diagnose_magnitude,
        predict_params,
        predict_state_dict,
    )
    from ghn.graphs import ParamGraph, trace

__version__ = "0.1.0"

__all__ = [
    "GHN",
    "GHNConfig",
    "GHNError",
    "ParamGraph",
    "Report",
    "__version__",
    "diagnose_magnitude",
    "predict_params",
    "predict_state_dict",
    "trace",
]

# Names are imported when they are first used, so that `import ghn` costs little more than torch.
_HOMES = {
    "GHN": "ghn.engine",
    "GHNConfig": "ghn.engine",
    "ParamGraph": "ghn.graphs",
    "Report": "ghn.engine",
    "diagnose_magnitude": "ghn.engine",
    "predict_params": "ghn.engine",
    "predict_state_dict": "ghn.engine",
    "trace": "ghn.graphs",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ghn' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
