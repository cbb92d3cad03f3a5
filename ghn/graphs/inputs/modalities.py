"""Which tensors an argument of a transformers model can be, by the argument's name.

Every rule takes the facts of a model and yields tensors (or other values), best first. A rule knows
a modality, never a model: its sizes come from the config, and where layouts differ between models
(channels first, tiles, flat patches) each layout is one alternative.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ghn.graphs.inputs.facts import Facts

__all__ = ["ESSENTIAL", "alternatives", "fallback"]

TOKENS = 16
FRAMES = 16
WAVE_SAMPLES = 16_000
COMMON_BINS = (80, 128)
IMAGE_SIZES = (384, 1024, 1536)

Rule = Callable[[Facts], Iterator[Any]]


def _floats(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


def _ids(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta", dtype=torch.long)


def _ones(*shape: int) -> Tensor:
    return torch.ones(shape, dtype=torch.long)


# Text


def _tokens(facts: Facts) -> Iterator[Tensor]:
    """Ids; with several codebooks a position has several."""
    yield _ids(1, TOKENS)
    books = facts.number("text", "num_codebooks", "num_channels", "num_quantizers", default=9)
    yield _ids(1, TOKENS, books)
    yield _ids(1, books, TOKENS)
    yield _ids(1, 2048)


def _mask(facts: Facts) -> Iterator[Tensor]:
    yield _ones(1, TOKENS)
    yield torch.ones(1, TOKENS, dtype=torch.bool)


def _ids_of_steps(facts: Facts) -> Iterator[Tensor]:
    yield _ids(1, TOKENS)


def _zeros(facts: Facts) -> Iterator[Tensor]:
    yield torch.zeros(1, TOKENS, dtype=torch.long)


def _positions(facts: Facts) -> Iterator[Tensor]:
    yield torch.arange(TOKENS)[None]
    yield torch.arange(TOKENS).expand(3, 1, TOKENS)
    yield torch.zeros(1, TOKENS, 30, dtype=torch.long)


def _hidden(facts: Facts) -> Iterator[Tensor]:
    """States as wide as the model."""
    for width in dict.fromkeys(
        n
        for v in facts.values("text", "hidden_size", "d_model", "embed_dim", "latent_dim")
        if (n := v) and isinstance(n, int)
    ):
        yield _floats(1, TOKENS, width)
        yield _floats(1, width, TOKENS)


# Images and videos


def _image_size(facts: Facts) -> tuple[int, int]:
    return facts.size("vision", "image_size", "img_size", "input_size", default=224)


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


GRIDS = ("image_grid_thw", "grid_thw", "image_grids", "image_grid_hw")
PATCH_ROWS = ("spatial_shapes", "image_position_ids", "pixel_position_ids", "target_sizes")


def _pixels(facts: Facts) -> Iterator[Tensor]:
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
            yield _floats(*leading, channels, height, width)
    (high, wide), (height, width) = _patch(facts), _image_size(facts)
    full = (height // high) * (width // wide)
    yield _floats(1, full, _patch_elements(facts))
    yield _floats(1, 1, full, _patch_elements(facts))
    yield from (p for p in patches if not gridded)
    yield from (p[None] for p in patches if not rows or gridded)


def _image_sizes(facts: Facts) -> list[tuple[int, int]]:
    """The config's size, then some that patches of its size fill evenly, then common ones."""
    high, wide = _patch(facts)
    even = [(high * n, wide * n) for n in (4, 32, 16)]
    return list(dict.fromkeys([_image_size(facts), *even, *((s, s) for s in IMAGE_SIZES)]))


def _patches(facts: Facts) -> Iterator[Tensor]:
    """The patches of a square grid: flat, as wide as the first layer could take them, or not."""
    number = _grid_side(facts) ** 2
    for width in dict.fromkeys([_patch_elements(facts), *facts.first_widths("vision")]):
        yield _floats(number, width)
    yield _floats(number, _channels(facts), *_patch(facts))


def _video(facts: Facts) -> Iterator[Tensor]:
    channels, (height, width) = _channels(facts), _image_size(facts)
    side = _grid_side(facts)
    frames = facts.number("vision", "num_frames", "frames_per_clip", default=FRAMES)
    if "video_grid_thw" in facts.accepted:
        yield _floats(side * side, _patch_elements(facts))
    yield _floats(1, frames, channels, height, width)
    yield _floats(1, channels, frames, height, width)
    yield _floats(1, frames, side * side, _patch_elements(facts))


def _grid(facts: Facts) -> Iterator[Tensor]:
    side = _grid_side(facts)
    yield torch.tensor([[1, side, side]])


def _merges(facts: Facts) -> Iterator[Tensor]:
    """How many patches along each side become one token."""
    yield torch.tensor([_grid_side(facts) // 4])


def _pooled(facts: Facts) -> Iterator[Tensor]:
    """Which patches make each pooled token: four neighbours."""
    yield torch.arange(4 * TOKENS).reshape(TOKENS, 4)


def _plane(facts: Facts) -> Iterator[Tensor]:
    """Height and width of a grid of patches."""
    side = _grid_side(facts)
    yield torch.tensor([[side, side]])


def _patch_positions(facts: Facts) -> Iterator[Tensor]:
    side = _grid_side(facts)
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    yield torch.stack([columns, rows], -1).reshape(1, side * side, 2)


def _pixel_sizes(facts: Facts) -> Iterator[Tensor]:
    yield torch.tensor([list(_image_size(facts))])


def _pixel_mask(facts: Facts) -> Iterator[Tensor]:
    height, width = _image_size(facts)
    side = _grid_side(facts)
    if any(name in facts.accepted for name in PATCH_ROWS):
        yield _ones(1, side * side)
    yield _ones(1, height, width)
    yield _ones(1, 1, height, width)


def _patch_states(facts: Facts) -> Iterator[Tensor]:
    """What a vision tower with a grid takes: flat patches, or states as wide as the tower."""
    if any(name in facts.accepted for name in GRIDS):
        side = _grid_side(facts)
        yield _floats(side * side, _patch_elements(facts))
        yield _floats(side * side, facts.number("vision", "hidden_size", default=768))
    yield from _hidden(facts)


# Audio


def _bins(facts: Facts) -> int:
    return facts.number(
        "audio", "num_mel_bins", "n_mels", "input_feat_size", "feature_size", "input_dim",
        "input_feat_per_channel", "num_mel_channels", "mel_bins", default=80,
    )  # fmt: skip


def _frames(facts: Facts) -> int:
    positions = facts.number("audio", "max_source_positions", default=0)
    return 2 * positions if positions else 3000


def _features(facts: Facts) -> Iterator[Tensor]:
    """A spectrogram: bins first, or time first, of one clip; then stacked ones."""
    frames = _frames(facts)
    widths = list(dict.fromkeys([_bins(facts), *facts.first_widths("audio"), *COMMON_BINS]))
    for bins in widths:
        yield _floats(1, bins, frames)
        yield _floats(1, 512, bins)
        yield _floats(1, bins, 512)
    length = facts.number("audio", "max_length", "spec_size", default=1024)
    yield _floats(1, length, widths[0])
    yield _floats(1, 1, length, widths[0])
    yield _floats(1, 4, length, widths[0])
    yield from (_floats(1, WAVE_SAMPLES // 320, bins) for bins in widths)
    yield _floats(1, WAVE_SAMPLES)


def _feature_mask(facts: Facts) -> Iterator[Tensor]:
    yield _ones(1, _frames(facts))
    yield _ones(1, 512)
    yield torch.ones(1, 512, dtype=torch.bool)


def _wave(facts: Facts) -> Iterator[Tensor]:
    """A waveform, with or without a channel axis; or a spectrogram under the same name."""
    yield _floats(1, WAVE_SAMPLES)
    yield _floats(1, 1, WAVE_SAMPLES)
    yield _floats(1, 15 * 1920)  # 1.2 s at 24 kHz, whole at every common hop
    yield from _features(facts)
    yield from _hidden(facts)


# Boxes, prompts and time series


def _boxes(facts: Facts) -> Iterator[Tensor]:
    box = torch.tensor([0, 0, 1, 1])
    yield box.expand(1, TOKENS, 4).clone()
    yield box.float().expand(1, TOKENS, 4).clone()
    yield torch.zeros(1, TOKENS, 8)


def _regions(facts: Facts) -> Iterator[Tensor]:
    """Features of regions, as wide as the config says."""
    yield _floats(
        1, TOKENS, facts.number("vision", "visual_feat_dim", "visual_embedding_dim", default=2048)
    )


def _region_boxes(facts: Facts) -> Iterator[Tensor]:
    yield _floats(1, TOKENS, facts.number("vision", "visual_pos_dim", default=4))


def _prompt_boxes(facts: Facts) -> Iterator[Tensor]:
    yield torch.tensor([[[0.0, 0.0, 8.0, 8.0]]])


def _points(facts: Facts) -> Iterator[Tensor]:
    yield torch.tensor([[[[4.0, 4.0]]]])


def _steps(facts: Facts) -> Iterator[Tensor]:
    yield _floats(1, TOKENS, 1)


def _observed(facts: Facts) -> Iterator[Tensor]:
    yield _floats(1, TOKENS, facts.number("text", "state_dim", "obs_dim", default=1))


def _acts(facts: Facts) -> Iterator[Tensor]:
    yield _floats(1, TOKENS, facts.number("text", "act_dim", "action_dim", default=1))


def _labels(facts: Facts) -> Iterator[Tensor]:
    yield _ones(1, 1, 1)


def _series_length(facts: Facts) -> int:
    context = facts.number("text", "context_length", "prediction_length", default=32)
    lags = list(facts.values("text", "lags_sequence"))
    return context + max((max(v) for v in lags if v), default=0)


def _series(facts: Facts) -> Iterator[Tensor]:
    length = _series_length(facts)
    channels = facts.number("text", "num_input_channels", "input_size", default=1)
    yield _floats(1, length, channels)
    yield _floats(1, length)


def _series_mask(facts: Facts) -> Iterator[Tensor]:
    yield from (torch.ones(t.shape) for t in _series(facts))


def _one_id(facts: Facts) -> Iterator[Tensor]:
    yield _ids(1)
    yield _ids(1, 1)


def _tile_mask(facts: Facts) -> Iterator[Tensor]:
    yield _ones(1, 1, facts.number("vision", "max_num_tiles", default=1))


def _task(facts: Facts) -> Iterator[Tensor]:
    """Token ids padded to a fixed length."""
    yield _ids(1, facts.number("text", "task_seq_len", "max_seq_len", default=TOKENS))


RULES: tuple[tuple[str, Rule], ...] = (
    (r"pixel_values_videos", _video),
    (r"pixel_values|.*pixel_values.*|image|images|prompt_pixel_values", _pixels),
    (r"(lang|speaker|aspect_ratio)_ids?", _one_id),
    (r"aspect_ratio_mask", _tile_mask),
    (r"task_inputs", _task),
    (r"(image_|video_|)grid_thw", _grid),
    (r"(image_|video_|)merge_sizes", _merges),
    (r"prompt_masks", _pixels),
    (r"(image|video)_token_pooling", _pooled),
    (r"image_grids|image_grid_hw|spatial_shapes|target_sizes", _plane),
    (r".*image_sizes", _pixel_sizes),
    (r"(image|pixel|video)_position_ids", _patch_positions),
    (r"pixel_mask|pixel_attention_mask", _pixel_mask),
    (r"hidden_states", _patch_states),
    (r".*input_features|audio_mel|spectrogram", _features),
    (r"(input_features|audio_mel|feature_attention)_mask", _feature_mask),
    (r".*input_values", _wave),
    (r"bbox", _boxes),
    (r"input_boxes", _prompt_boxes),
    (r"input_points", _points),
    (r"input_labels", _labels),
    (r"past_values|future_values", _series),
    (r"past_observed_mask|past_values_padding|observed_mask", _series_mask),
    (r"visual_feats|visual_embeds", _regions),
    (r"visual_pos", _region_boxes),
    (r"states?", _observed),
    (r"actions?|action_embeds", _acts),
    (r"rewards|returns_to_go", _steps),
    (r"timesteps", _ids_of_steps),
    (r"mm_token_type_ids", _mask),
    (r"token_type_ids|.*_type_ids", _zeros),
    (r"(decoder_|entity_|)position_ids", _positions),
    (r".*input_ids|.*_codes|inputs", _tokens),
    (r".*mask.*", _mask),
    (r".*_ids", _tokens),
    (r".*(hidden_states|embeds|latents|embeddings)", _hidden),
)

# Arguments given from the start where they are accepted: what a model is for, not what steers it.
ESSENTIAL = re.compile(
    r"input_ids|decoder_input_ids|pixel_values|input_features|input_values|bbox|inputs|past_values"
    r"|.*grid_thw|.*merge_sizes|target_sizes|image_grids|spatial_shapes|image_sizes"
    r"|.*input_features|image_pixel_values"
)


def fallback(facts: Facts) -> list[Any]:
    """Return what a required argument without a rule can be."""
    return [_ones(1), _ones(1, TOKENS), *_hidden(facts)]


def alternatives(facts: Facts, name: str) -> list[Any]:
    """Return what an argument can be, best first; empty if no rule knows its name."""
    if not (ESSENTIAL.fullmatch(name) or facts.takes_tensor(name)):
        return []
    for pattern, rule in RULES:
        if re.fullmatch(pattern, name):
            return list(rule(facts))
    return []
