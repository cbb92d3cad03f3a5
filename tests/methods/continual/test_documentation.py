import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[3] / "docs" / "methods" / "continual.md"


@pytest.mark.slow
def test_the_example_of_the_page_runs_as_printed_and_learns(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, _ = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)

    exec(compile(code, "example", "exec"), {})

    scores = [float(line.split(": ")[1]) for line in capsys.readouterr().out.splitlines()]
    assert len(scores) == 2
    assert min(scores) > 0.95
