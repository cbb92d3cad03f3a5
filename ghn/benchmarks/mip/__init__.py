"""What magnitude-invariant parametrization is worth: slopes before training, losses after it."""

from ghn.benchmarks.mip.bench import MIPConfig, data_of, run_mip
from ghn.benchmarks.mip.outcome import MIPResult

__all__ = ["MIPConfig", "MIPResult", "data_of", "run_mip"]
