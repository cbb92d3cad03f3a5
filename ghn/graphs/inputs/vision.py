"""Images, videos, grids of patches, and what points into them: boxes, regions, prompts."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ghn.graphs.inputs.facts import Facts
from ghn.graphs.inputs.tensors import TOKENS, floats, ones
from ghn.graphs.inputs.text import hidden_states

__all__ = [
    "boxes",
    "grid",
    "image_mask",
    "merges",
    "patch_positions",
    "patch_states",
    "pixel_mask",
    "pixel_sizes",
    "pixels",
    "placed_patches",
    "plane",
    "pooled",
    "prompt_boxes",
    "prompt_labels",
    "prompt_points",
    "region_boxes",
    "regions",
    "tile_mask",
    "video",
]

FRAMES = 16
IMAGE_SIZES = (384, 1024, 1536)
GRIDS = ("image_grid_thw", "grid_thw", "image_grids", "image_grid_hw")
PATCH_ROWS = ("spatial_shapes", "image_position_ids", "pixel_position_ids", "target_sizes")


def _image_size(facts: Facts) -> tuple[int, int]:
    return facts.size("vision", "image_size", "img_size", "input_size", "max_img_size", default=224)


def _channels(facts: Facts) -> int:
    return facts.number(
        "vision", "num_channels", "in_channels", "in_chans", "num_image_channels", default=3
    )


def _patch(facts: Facts) -> tuple[int, int]:
    return facts.size("vision", "patch_size", "spatial_patch_size", default=16)


def _patch_elements(facts: Facts) -> int:
    """Elements of one flat patch: channels x frames x height x width."""
    height, width = _patch(facts)
    frames = facts.number("vision", "temporal_patch_size", default=1)
    return _channels(facts) * frames * height * width


def _grid_side(facts: Facts) -> int:
    """Side of a patch grid such that an image fills as many positions as the text is long."""
    return 4 * facts.number(
        "vision", "spatial_merge_size", "merge_size", "pooling_kernel_size", default=2
    )


def pixels(facts: Facts) -> Iterator[Tensor]:
    """An image: flat patches where there is a grid, else channels first, alone or in tiles."""
    patches = list(_patches(facts))
    rows = any(name in facts.accepted for name in PATCH_ROWS)
    gridded = any(name in facts.accepted for name in GRIDS)
    if gridded or rows:
        yield from (p[None] if rows and not gridded else p for p in patches)
    frames = facts.number("vision", "num_frames", "frames_per_clip", default=FRAMES)
    tiles = facts.number("vision", "max_num_tiles", default=1)
    channels = _channels(facts)
    for height, width in _image_sizes(facts):
        for leading in ((1,), (1, 1), (1, 2), (1, frames), (1, 1, tiles)):
            yield floats(*leading, channels, height, width)
    (high, wide), (height, width) = _patch(facts), _image_size(facts)
    full = (height // high) * (width // wide)
    yield floats(1, full, _patch_elements(facts))
    yield floats(1, 1, full, _patch_elements(facts))
    yield floats(1, _channels(facts), high, _grid_side(facts) ** 2 * wide)  # patches in a row
    yield from (p for p in patches if not gridded)
    yield from (p[None] for p in patches if not rows or gridded)


def _image_sizes(facts: Facts) -> list[tuple[int, int]]:
    """The config's size, then some that patches of its size fill evenly, then common ones."""
    high, wide = _patch(facts)
    even = [(high * n, wide * n) for n in (4, 32, 16)]
    own = [_image_size(facts), *facts.built_sizes()]
    return list(dict.fromkeys([*own, *even, *((s, s) for s in IMAGE_SIZES)]))


def _patches(facts: Facts) -> Iterator[Tensor]:
    """The patches of a square grid: flat, as wide as the first layer could take them, or not."""
    number = _grid_side(facts) ** 2
    for width in dict.fromkeys([_patch_elements(facts), *facts.first_widths("vision")]):
        yield floats(number, width)
    yield floats(number, _channels(facts), *_patch(facts))


def placed_patches(facts: Facts) -> Iterator[Tensor]:
    """Flat patches that start with their row and column."""
    yield floats(1, _grid_side(facts) ** 2, 2 + _patch_elements(facts))


def video(facts: Facts) -> Iterator[Tensor]:
    """Frames, or flat patches of them."""
    channels, (height, width) = _channels(facts), _image_size(facts)
    side = _grid_side(facts)
    frames = facts.number("vision", "num_frames", "frames_per_clip", default=FRAMES)
    if "video_grid_thw" in facts.accepted:
        yield floats(side * side, _patch_elements(facts))
    sizes = list(dict.fromkeys([(height, width), *facts.built_sizes()]))
    yield from (floats(1, frames, channels, *size) for size in sizes)
    yield from (floats(1, channels, frames, *size) for size in sizes)
    yield floats(1, frames, side * side, _patch_elements(facts))


def grid(facts: Facts) -> Iterator[Tensor]:
    """Frames, rows and columns of a grid of patches."""
    side = _grid_side(facts)
    yield torch.tensor([[1, side, side]])


def merges(facts: Facts) -> Iterator[Tensor]:
    """How many patches along each side become one token."""
    yield torch.tensor([_grid_side(facts) // 4])


def pooled(facts: Facts) -> Iterator[Tensor]:
    """Which patches make each pooled token: four neighbours."""
    yield torch.arange(4 * TOKENS).reshape(TOKENS, 4)


def plane(facts: Facts) -> Iterator[Tensor]:
    """Height and width of a grid of patches; or of a small and of a large grid of tokens."""
    side = _grid_side(facts)
    yield torch.tensor([[side, side]])
    yield torch.tensor([[4, 4, 0, 0]])


def patch_positions(facts: Facts) -> Iterator[Tensor]:
    """Column and row of every patch."""
    side = _grid_side(facts)
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    yield torch.stack([columns, rows], -1).reshape(1, side * side, 2)


def pixel_sizes(facts: Facts) -> Iterator[Tensor]:
    """Height and width of an image."""
    yield torch.tensor([list(_image_size(facts))])


def pixel_mask(facts: Facts) -> Iterator[Tensor]:
    """Ones for every patch or pixel."""
    height, width = _image_size(facts)
    side = _grid_side(facts)
    if any(name in facts.accepted for name in PATCH_ROWS):
        yield ones(1, side * side)
    yield ones(1, height, width)
    yield ones(1, 1, height, width)
    yield ones(1, 1)


def image_mask(facts: Facts) -> Iterator[Tensor]:
    """Ones: every token attends to the one image."""
    yield ones(1, TOKENS, 1)
    yield ones(1, TOKENS)


def tile_mask(facts: Facts) -> Iterator[Tensor]:
    """Ones for every tile."""
    yield ones(1, 1, facts.number("vision", "max_num_tiles", default=1))


def patch_states(facts: Facts) -> Iterator[Tensor]:
    """What a vision tower with a grid takes: flat patches, or states as wide as the tower."""
    if any(name in facts.accepted for name in GRIDS):
        side = _grid_side(facts)
        yield floats(side * side, _patch_elements(facts))
        yield floats(side * side, facts.number("vision", "hidden_size", default=768))
    yield from hidden_states(facts)
    yield floats(1, 1, 16_000)


def boxes(facts: Facts) -> Iterator[Tensor]:
    """Boxes of tokens, as corners."""
    box = torch.tensor([0, 0, 1, 1])
    yield box.expand(1, TOKENS, 4).clone()
    yield box.float().expand(1, TOKENS, 4).clone()
    yield torch.zeros(1, TOKENS, 8)


def regions(facts: Facts) -> Iterator[Tensor]:
    """Features of regions, as wide as the config says."""
    yield floats(
        1, TOKENS, facts.number("vision", "visual_feat_dim", "visual_embedding_dim", default=2048)
    )


def region_boxes(facts: Facts) -> Iterator[Tensor]:
    """Places of regions."""
    yield floats(1, TOKENS, facts.number("vision", "visual_pos_dim", default=4))


def prompt_boxes(facts: Facts) -> Iterator[Tensor]:
    """One box of an image."""
    yield torch.tensor([[[0.0, 0.0, 8.0, 8.0]]])


def prompt_points(facts: Facts) -> Iterator[Tensor]:
    """One point of an image."""
    yield torch.tensor([[[[4.0, 4.0]]]])


def prompt_labels(facts: Facts) -> Iterator[Tensor]:
    """The label of one point."""
    yield ones(1, 1, 1)
