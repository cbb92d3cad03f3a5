from __future__ import annotations

import json
import re

from graph_helpers import chain

from ghn.engine import Report, prediction_page
from ghn.graphs.page import Histogram

NARROW = Histogram(-1.0, 1.0, 0.0, 0.5, (1, 2, 1))
WIDE = Histogram(-2.0, 2.0, 0.0, 1.0, (3, 1))


def test_the_page_says_of_every_parameter_where_its_values_come_from():
    graph = chain(("blocks.0", 8), ("blocks.1", 8))
    graph.untouched.append("mask")
    report = Report(
        predicted={"blocks.0.fc.weight": "lowrank"},
        kept={"blocks.1.fc.weight": "oversized", "mask": "untouched"},
        checkpoint="vision",
        seconds=1.5,
        notes=("a note",),
    )

    page = prediction_page(
        graph,
        report,
        "a model",
        default={"blocks.0.fc.weight": NARROW, "blocks.1.fc.weight": NARROW},
        now={"blocks.0.fc.weight": WIDE, "blocks.1.fc.weight": NARROW},
    )

    data = json.loads(re.search(r'id="data">(.*?)<', page)[1])
    found = data["provenance"]
    assert found["blocks.0.fc.weight"] == {
        "decoder": "lowrank",
        "default": NARROW.to_json(),
        "now": WIDE.to_json(),
    }
    assert found["blocks.1.fc.weight"] == {
        "reason": "oversized (larger than the decoder can emit)",
        "default": NARROW.to_json(),
    }
    assert found["mask"]["reason"].startswith("untouched")
    assert data["notes"] == ["1 of 3 parameters predicted from vision in 1.50 s.", "a note"]
