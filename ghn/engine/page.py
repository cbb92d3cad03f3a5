"""The page of a prediction: the graph, where each parameter's values come from, distributions."""

from __future__ import annotations

from collections.abc import Mapping

from ghn.engine.report import REASONS, Report
from ghn.graphs import ParamGraph
from ghn.graphs.page import Histogram, Provenance, graph_page

__all__ = ["prediction_page"]


def prediction_page(
    graph: ParamGraph,
    report: Report,
    title: str,
    *,
    default: Mapping[str, Histogram] | None = None,
    now: Mapping[str, Histogram] | None = None,
    command: str = "",
) -> str:
    """Return a self-contained HTML page about a prediction.

    Args:
        graph: The graph that the prediction was made with.
        report: What `predict_params` returned.
        title: Name of the model.
        default: Distributions before the prediction: `parameter_histograms(model)`.
        now: Distributions after it.
        command: Command line that makes the page again; shown if given.

    Example:
        >>> before = parameter_histograms(model)                         # doctest: +SKIP
        >>> report = predict_params(model, graph=graph)                  # doctest: +SKIP
        >>> page = prediction_page(                                      # doctest: +SKIP
        ...     graph, report, "my model", default=before, now=parameter_histograms(model)
        ... )
    """
    default, now = default or {}, now or {}
    provenance = {
        name: Provenance(decoder=decoder, default=default.get(name), now=now.get(name))
        for name, decoder in report.predicted.items()
    }
    # What was kept has one distribution, so that it is shown once.
    provenance |= {
        name: Provenance(reason=f"{reason} ({REASONS[reason]})", default=default.get(name))
        for name, reason in report.kept.items()
    }
    total = len(report.predicted) + len(report.kept)
    summary = (
        f"{len(report.predicted)} of {total} parameters predicted from {report.checkpoint} in "
        f"{report.seconds:.2f} s."
    )
    return graph_page(
        graph, title, command=command, notes=[summary, *report.notes], provenance=provenance
    )
