"""The initialization benchmark: which start lets a network learn fastest, over a whole zoo."""

from ghn.benchmarks.init.bench import run_bench
from ghn.benchmarks.init.config import InitConfig
from ghn.benchmarks.init.outcome import InitResult, NetworkResult
from ghn.benchmarks.init.save import save_result
from ghn.benchmarks.init.tables import summary_table

__all__ = [
    "InitConfig",
    "InitResult",
    "NetworkResult",
    "run_bench",
    "save_result",
    "summary_table",
]
