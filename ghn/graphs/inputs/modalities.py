"""Which tensors an argument of a transformers model can be, by the argument's name.

Every rule takes the facts of a model and yields tensors, best first. A rule knows a modality, never
a model: its sizes come from the config, and where layouts differ between models (channels first,
tiles, flat patches) each layout is one alternative.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from torch import Tensor

from ghn.graphs.inputs import audio, series, text, vision
from ghn.graphs.inputs.facts import Facts
from ghn.graphs.inputs.tensors import TOKENS, ones

__all__ = ["ESSENTIAL", "alternatives", "fallback"]

Rule = Callable[[Facts], Iterator[Tensor]]

# The first pattern that matches an argument's whole name decides.
RULES: tuple[tuple[str, Rule], ...] = (
    (r"pixel_values_videos", vision.video),
    (r"pixel_values|.*pixel_values.*|image|images|prompt_pixel_values", vision.pixels),
    (r"flattened_patches", vision.placed_patches),
    (r"(lang|speaker|aspect_ratio)_ids?", text.single_id),
    (r"image_attention_mask", vision.image_mask),
    (r"aspect_ratio_mask", vision.tile_mask),
    (r"task_inputs", text.fixed_length_ids),
    (r"(image_|video_|)grid_thw", vision.grid),
    (r"(image_|video_|)merge_sizes", vision.merges),
    (r"prompt_masks", vision.pixels),
    (r"(image|video)_token_pooling", vision.pooled),
    (r"image_grids|image_grid_hw|spatial_shapes|target_sizes", vision.plane),
    (r".*image_sizes", vision.pixel_sizes),
    (r"(image|pixel|video)_position_ids", vision.patch_positions),
    (r"pixel_mask|pixel_attention_mask", vision.pixel_mask),
    (r"hidden_states", vision.patch_states),
    (r".*input_features|audio_mel|spectrogram", audio.features),
    (r"(input_features|audio_mel|feature_attention)_mask", audio.feature_mask),
    (r".*input_values", audio.waveform),
    (r"bbox", vision.boxes),
    (r"input_boxes", vision.prompt_boxes),
    (r"input_points", vision.prompt_points),
    (r"input_labels", vision.prompt_labels),
    (r"past_values|future_values", series.series),
    (r"past_observed_mask|past_values_padding|observed_mask", series.series_mask),
    (r"visual_feats|visual_embeds", vision.regions),
    (r"visual_pos", vision.region_boxes),
    (r"states?", series.states),
    (r"actions?|action_embeds", series.actions),
    (r"rewards|returns_to_go", series.rewards),
    (r"timesteps", text.step_ids),
    (r"mm_token_type_ids", text.mask),
    (r"token_type_ids|.*_type_ids", text.zeros),
    (r"(decoder_|entity_|)position_ids", text.positions),
    (r".*input_ids|.*_codes", text.tokens),
    (r"inputs", text.tokens_or_states),
    (r".*mask.*", text.mask),
    (r".*_ids", text.tokens),
    (r".*(hidden_states|embeds|latents|embeddings)", text.hidden_states),
)

# Arguments given from the start where they are accepted: what a model is for, not what steers it.
ESSENTIAL = re.compile(
    r"input_ids|decoder_input_ids|pixel_values|input_features|input_values|bbox|inputs|past_values"
    r"|.*grid_thw|.*merge_sizes|target_sizes|image_grids|spatial_shapes|image_sizes"
    r"|.*input_features|image_pixel_values|flattened_patches"
)


def fallback(facts: Facts) -> list[Tensor]:
    """Return what a required argument without a rule can be."""
    return [ones(1), ones(1, TOKENS), *text.hidden_states(facts)]


def alternatives(facts: Facts, name: str) -> list[Tensor]:
    """Return what an argument can be, best first; empty if no rule knows its name."""
    if not (ESSENTIAL.fullmatch(name) or facts.takes_tensor(name)):
        return []
    for pattern, rule in RULES:
        if re.fullmatch(pattern, name):
            return list(rule(facts))
    return []
