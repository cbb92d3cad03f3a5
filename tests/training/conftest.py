import pytest
from training_helpers import SMALL

from ghn.training import TrainConfig


@pytest.fixture
def config(tmp_path):
    return TrainConfig(
        out=str(tmp_path / "run"), data="digits", pool=4, steps=6, meta_batch=2, batch=8, warmup=2,
        eval_every=0, checkpoint_seconds=1e9, ghn=SMALL,
    )  # fmt: skip
