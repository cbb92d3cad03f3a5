import hashlib
import re
from pathlib import Path

import pytest

from ghn.graphs import OPERATORS, ROLES, VOCABULARY_VERSION

DOCS = Path(__file__).parents[2] / "docs" / "graphs.md"


def test_the_first_version_of_the_vocabulary_is_frozen():
    # Rows of trained embedding tables: append to these lists, never change what is there.
    frozen = ",".join([*list(OPERATORS)[:62], *list(ROLES)[:15]])

    assert VOCABULARY_VERSION >= 1
    assert hashlib.sha256(frozen.encode()).hexdigest()[:16] == "7af29e817425caf6"


@pytest.mark.parametrize("names", [OPERATORS, ROLES])
def test_the_docs_describe_every_entry_in_its_order(names):
    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)

    assert [row for row in rows if row in list(names.items())] == list(names.items())
