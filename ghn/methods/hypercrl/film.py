"""Film strips: a few pictures of an episode side by side, as PNG.

Where nothing can be drawn there is no film, and the reason in its place.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from ghn.io import atomic_path
from ghn.methods.hypercrl.loop import DynamicsLearner
from ghn.methods.hypercrl.scenarios import Scenario

__all__ = ["Film", "film_of", "film_strip"]

Film = bytes | str
"""A PNG file, or why there is none."""

SIZE, PICTURES = 150, 6


def film_of(
    learner: DynamicsLearner, scenario: Scenario, names: list[str], folder: Path
) -> dict[str, Film]:
    """Film one episode of each task.

    Args:
        learner: Who acts, after all tasks.
        scenario: Where the tasks come from.
        names: Of the tasks.
        folder: Films that are there already are not made again.
    """
    films: dict[str, Film] = {}
    for name in names:
        path = folder / f"{name.replace(' ', '-')}.png"
        if not path.is_file():
            try:
                film = _film(learner, scenario, name)
            except Exception as error:  # drivers fail in ways of their own
                films[name] = f"no film: {error}"
                continue
            with atomic_path(path) as temporary:
                temporary.write_bytes(film)
        films[name] = path.read_bytes()
    return films


def _film(learner: DynamicsLearner, scenario: Scenario, name: str) -> bytes:
    settings: dict[str, Any] = {"render_mode": "rgb_array", "width": SIZE, "height": SIZE}
    env = scenario.make(scenario.tasks[name], **settings)
    env.reset(seed=0)
    env.render()  # what cannot be drawn fails before the episode is played
    longest = env.spec.max_episode_steps
    wanted = np.linspace(0, longest - 1, PICTURES).round().astype(int).tolist()
    frames: list[UInt8[np.ndarray, "h w 3"]] = []
    steps = 0

    def watch(state: Any) -> None:
        nonlocal steps
        if steps in wanted:
            frames.append(env.render())
        steps += 1

    try:
        learner.play(name, env, scenario.cost, seed=1, watch=watch)
    finally:
        env.close()
    return film_strip(frames)


def film_strip(frames: list[UInt8[np.ndarray, "h w 3"]]) -> bytes:
    """Return pictures side by side as one PNG of 64 colours, which keeps reports small."""
    from PIL import Image

    gap = np.full((frames[0].shape[0], 4, 3), 255, np.uint8)
    parts = [part for frame in frames for part in (frame, gap)][:-1]
    file = io.BytesIO()
    Image.fromarray(np.concatenate(parts, 1)).quantize(64).save(file, "PNG", optimize=True)
    return file.getvalue()
