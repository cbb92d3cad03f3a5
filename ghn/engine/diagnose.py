"""How much of what is emitted follows the size of the condition, and not what it says.

A hypernetwork of rectifiers whose biases start at zero emits changes in proportion to its
condition: in logarithms, a line of slope 1. Gradients follow suit. With a magnitude-invariant
encoding the slope is near 0. It is to be measured on the change, since a stored base hides it, and
before training, since learned biases do so too.

Source: Gonzalez Ortiz, Guttag, Dalca 2023 (arXiv 2304.07645), proportionality of inputs and
outputs. Measuring the change instead of the sum is ours.

Shape letters used in this file:
    B: conditions.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ghn.conditioning import Noise, Unit, Values, VectorEncoder
from ghn.engine.magnitude import magnitude_rules
from ghn.engine.run import in_mode
from ghn.errors import ConfigError
from ghn.graphs import ParamGraph
from ghn.io import write_text
from ghn.pages import Line, line_plot

if TYPE_CHECKING:
    from ghn.engine.hypernet import GHN

__all__ = ["MagnitudeDiagnosis", "diagnose_magnitude", "emitted_changes"]

POINTS = 13
SMALLEST = 0.01


@dataclasses.dataclass(frozen=True)
class MagnitudeDiagnosis:
    """Sizes of changes by sizes of conditions.

    Attributes:
        magnitudes: Norm of each condition.
        changes: Norm of the change that is emitted for it, all parameters together.
        slope: Slope of log(change) over log(magnitude), by least squares.
        slopes: The same for each parameter; NaN where nothing is emitted.
    """

    magnitudes: tuple[float, ...]
    changes: tuple[float, ...]
    slope: float
    slopes: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON types."""
        return dataclasses.asdict(self)

    def plot(self, path: str | Path | None = None) -> str:
        """Return the changes over the magnitudes as SVG; both axes are logarithmic.

        Args:
            path: Where to write it too.
        """
        order = sorted(range(len(self.magnitudes)), key=self.magnitudes.__getitem__)
        magnitudes, changes = (
            [values[i] for i in order] for values in (self.magnitudes, self.changes)
        )
        middle = len(order) // 2
        diagonal = [changes[middle] * m / magnitudes[middle] for m in magnitudes]
        lines = [
            Line("slope 1", magnitudes, [diagonal]),
            Line(f"emitted: slope {self.slope:.3f}", magnitudes, [changes]),
        ]
        svg = line_plot(
            lines,
            "norm of the condition",
            "norm of the change",
            log_x=True,
            log_y=True,
            legend=True,
        )
        if path is not None:
            write_text(path, svg)
        return svg


@torch.no_grad()
def diagnose_magnitude(ghn: GHN, graph: ParamGraph, conditions: Any = None) -> MagnitudeDiagnosis:
    """Measure how the size of what is emitted follows the size of the condition.

    Args:
        ghn: A hypernetwork with a condition, untrained; see the module's docstring.
        graph: The network that it emits parameters for.
        conditions: A batch of values whose sizes differ. By default, where a value is a vector,
            vectors along the diagonal with norms from a hundredth of the largest to the largest.

    Raises:
        ConfigError: If conditions are needed and not given, have one size, or change nothing.

    Example:
        >>> ghn = GHN(GHNConfig(encoder=None, condition=ValuesConfig(), ...))  # doctest: +SKIP
        >>> diagnose_magnitude(ghn, trace(model)).slope                        # doctest: +SKIP
    """
    if ghn.condition is None:
        raise ConfigError("a hypernetwork without a condition has no slope; give GHNConfig one")
    inner = ghn.condition.of if isinstance(ghn.condition, Unit) else ghn.condition
    if conditions is None:
        conditions = _growing(inner)
    magnitudes = _norms(inner, conditions).log()
    if len(magnitudes) < 2 or float(magnitudes.std()) < 1e-6 or not magnitudes.isfinite().all():
        raise ConfigError(
            "a slope needs at least two conditions of different size, none of them 0, got norms "
            f"{magnitudes.exp().tolist()[:5]}"
        )
    with in_mode(ghn, training=False):
        changes = emitted_changes(ghn, graph, conditions)
    squares = {name: change.flatten(1).square().sum(1) for name, change in changes.items()}
    total = torch.stack(list(squares.values())).sum(0).sqrt()
    if not bool((total > 0).all()):
        raise ConfigError("nothing is emitted for some condition, so that there is no slope")
    return MagnitudeDiagnosis(
        magnitudes=tuple(magnitudes.exp().tolist()),
        changes=tuple(total.tolist()),
        slope=_slope(magnitudes, total.log()),
        slopes={name: _slope(magnitudes, 0.5 * square.log()) for name, square in squares.items()},
    )


def emitted_changes(ghn: GHN, graph: ParamGraph, conditions: Any) -> dict[str, Tensor]:
    """Return what is emitted beyond what is there in any case, with a leading axis B.

    Args:
        ghn: A hypernetwork with a condition.
        graph: The network.
        conditions: A batch of B values.

    Returns:
        By parameter name: the difference to the stored base; without one, to the constants that
        gains and the like rest at.
    """
    rules = magnitude_rules(graph)
    changes = {}
    for name, emitted in ghn(graph, condition=conditions).items():
        rule = rules[name]
        if ghn.base is not None:
            rest: Any = ghn.base.of(graph.specs[name]).to(emitted)
        else:
            rest = rule.size if rule.kind == "factor" else 0.0
        changes[name] = emitted - rest
    return changes


def _growing(condition: nn.Module | None) -> Float[Tensor, "B v"]:
    """Return vectors of growing length along the diagonal, for conditions that are vectors."""
    low, high = 0.0, 1.0
    if isinstance(condition, Values) and condition.config.encoding == "circle":
        low, high = condition.config.low, condition.config.high
    if isinstance(condition, Values | VectorEncoder):
        size = condition.config.inputs
    elif isinstance(condition, Noise):
        size = condition.config.dim
    else:
        kind = "takes none" if condition is None else f"is encoded by {type(condition).__name__}"
        raise ConfigError(
            f"the hypernetwork's condition {kind}: pass conditions=, a batch of values of "
            "different size"
        )
    steps = torch.logspace(math.log10(SMALLEST), 0.0, POINTS)
    return (low + (high - low) * steps)[:, None].expand(-1, size)


def _norms(condition: Any, values: Any) -> Float[Tensor, " B"]:
    """Return the norms of values, or, of names, the norms of what they stand for."""
    if not isinstance(values, Tensor):
        values = condition.encode(values)[0]
    return values.detach().flatten(1).norm(dim=1)


def _slope(x: Float[Tensor, " B"], y: Float[Tensor, " B"]) -> float:
    x, y = (x - x.mean()).double(), (y - y.mean()).double()
    return float((x * y).sum() / x.square().sum())
