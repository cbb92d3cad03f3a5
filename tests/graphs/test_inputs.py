"""Inputs inferred by modality, on tiny configs; the oracle is autograd in a real forward pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from ghn.errors import InputError
from ghn.graphs import trace

TEXT = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}


def ids(*shape: int) -> Tensor:
    return torch.randint(3, 60, shape, generator=torch.Generator().manual_seed(0))


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def causal() -> tuple[Any, dict[str, Any]]:
    return transformers.LlamaConfig(**TEXT), {"input_ids": ids(1, 8)}


def encoder_decoder() -> tuple[Any, dict[str, Any]]:
    config = transformers.BartConfig(
        vocab_size=64, d_model=32, encoder_layers=2, decoder_layers=2, encoder_ffn_dim=48,
        decoder_ffn_dim=48, encoder_attention_heads=2, decoder_attention_heads=2,
        max_position_embeddings=64,
    )  # fmt: skip
    return config, {"input_ids": ids(1, 8), "decoder_input_ids": ids(1, 8)}


def boxes() -> tuple[Any, dict[str, Any]]:
    config = transformers.LayoutLMConfig(**TEXT, max_2d_position_embeddings=64)
    return config, {"input_ids": ids(1, 8), "bbox": torch.ones(1, 8, 4, dtype=torch.long)}


def image() -> tuple[Any, dict[str, Any]]:
    return transformers.ViTConfig(**VISION), {"pixel_values": noise(1, 3, 32, 32)}


def video() -> tuple[Any, dict[str, Any]]:
    config = transformers.TimesformerConfig(**VISION, num_frames=4)
    return config, {"pixel_values": noise(1, 4, 3, 32, 32)}


def image_and_text() -> tuple[Any, dict[str, Any]]:
    config = transformers.CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=16)
    return config, {"input_ids": ids(1, 8), "pixel_values": noise(1, 3, 32, 32)}


def flat_patches() -> tuple[Any, dict[str, Any]]:
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4}
    config = transformers.Qwen2VLConfig(
        text_config={**TEXT, "rope_parameters": rope},
        vision_config={
            "depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "patch_size": 4,
            "mlp_ratio": 2,
        },
        image_token_id=61, video_token_id=62, vision_start_token_id=63,
    )  # fmt: skip
    types = torch.tensor([[0, 1, 1, 1, 1, 0]])
    tokens = torch.tensor([[63, 61, 61, 61, 61, 5]])
    return config, {
        "input_ids": tokens,
        "pixel_values": noise(16, 3 * 2 * 4 * 4),
        "image_grid_thw": torch.tensor([[1, 4, 4]]),
        "mm_token_type_ids": types,
    }


def spectrogram() -> tuple[Any, dict[str, Any]]:
    config = transformers.WhisperConfig(
        vocab_size=64, d_model=32, encoder_layers=2, decoder_layers=2, encoder_ffn_dim=48,
        decoder_ffn_dim=48, encoder_attention_heads=2, decoder_attention_heads=2, num_mel_bins=12,
        max_source_positions=20, max_target_positions=40, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    return config, {"input_features": noise(1, 12, 40), "decoder_input_ids": ids(1, 8)}


def features_time_first() -> tuple[Any, dict[str, Any]]:
    config = transformers.ASTConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_mel_bins=32, max_length=64,
    )  # fmt: skip
    return config, {"input_values": noise(1, 64, 32)}


def waveform() -> tuple[Any, dict[str, Any]]:
    config = transformers.Wav2Vec2Config(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        conv_dim=(8, 8), conv_kernel=(10, 8), conv_stride=(5, 4), num_feat_extract_layers=2,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    return config, {"input_values": noise(1, 1600)}


def codec() -> tuple[Any, dict[str, Any]]:
    config = transformers.EncodecConfig(
        hidden_size=16, num_filters=4, codebook_size=16, codebook_dim=16, num_lstm_layers=1,
        upsampling_ratios=[4, 4], target_bandwidths=[48.0],
    )  # fmt: skip
    return config, {"input_values": noise(1, 1, 1600)}


def time_series() -> tuple[Any, dict[str, Any]]:
    config = transformers.PatchTSTConfig(
        num_input_channels=2, context_length=32, patch_length=8, patch_stride=8, d_model=32,
        num_hidden_layers=2, num_attention_heads=2, ffn_dim=48,
    )  # fmt: skip
    return config, {"past_values": noise(1, 32, 2)}


def states_and_actions() -> tuple[Any, dict[str, Any]]:
    config = transformers.DecisionTransformerConfig(
        state_dim=5, act_dim=3, hidden_size=32, n_layer=2, n_head=2, max_ep_len=32
    )
    return config, {
        "states": noise(1, 6, 5),
        "actions": noise(1, 6, 3),
        "rewards": noise(1, 6, 1),
        "returns_to_go": noise(1, 6, 1),
        "timesteps": torch.arange(6)[None],
        "attention_mask": torch.ones(1, 6, dtype=torch.long),
    }


def experts() -> tuple[Any, dict[str, Any]]:
    config = transformers.MixtralConfig(**TEXT, num_local_experts=2, num_experts_per_tok=2)
    return config, {"input_ids": ids(1, 8)}


MODALITIES = [
    causal, encoder_decoder, boxes, image, video, image_and_text, flat_patches, spectrogram,
    features_time_first, waveform, time_series, states_and_actions, experts,
]  # fmt: skip


def floats(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() and value.requires_grad else []
    if isinstance(value, dict):
        return [t for v in value.values() for t in floats(v)]
    return [t for v in value for t in floats(v)] if isinstance(value, (tuple, list)) else []


def touched_by_autograd(model: nn.Module, inputs: dict[str, Any]) -> set[str]:
    """Names of the parameters that a real forward pass reads, as autograd sees it."""
    parameters = dict(model.requires_grad_(True).named_parameters())
    with torch.enable_grad():
        outputs = floats(model.eval()(**inputs))
        grads = torch.autograd.grad(
            sum(t.sum() for t in outputs), list(parameters.values()), allow_unused=True
        )
    return {name for name, grad in zip(parameters, grads, strict=True) if grad is not None}


@pytest.mark.parametrize("modality", MODALITIES, ids=lambda f: f.__name__)
def test_inferred_inputs_reach_what_a_real_forward_pass_reaches(modality):
    config, inputs = modality()
    model = transformers.AutoModel.from_config(config)
    with torch.device("meta"):
        meta = transformers.AutoModel.from_config(config)

    graph = trace(meta)

    expected = touched_by_autograd(model, inputs)
    assert expected <= set(graph.specs)
    # Autograd does not see what is read beside the output or behind a rounding.
    assert len(set(graph.specs) - expected) <= 0.1 * len(expected)
    assert {n: s.shape for n, s in graph.specs.items()} == {
        n: tuple(p.shape) for n, p in model.named_parameters() if n in graph.specs
    }


def test_a_model_on_meta_and_one_with_values_give_one_graph():
    for modality in (causal, image_and_text, codec, experts):
        config, _ = modality()
        real = transformers.AutoModel.from_config(config)
        with torch.device("meta"):
            meta = transformers.AutoModel.from_config(config)

        assert trace(real) == trace(meta)


def test_each_untouched_parameter_has_a_reason():
    text = {k: v for k, v in TEXT.items() if k != "num_key_value_heads"}
    model = transformers.LongformerModel(transformers.LongformerConfig(**text, attention_window=4))

    graph = trace(model, {"input_ids": ids(1, 8)})

    name = "encoder.layer.0.attention.self.query_global"
    assert set(graph.reasons) == set(graph.untouched)
    assert graph.reasons[f"{name}.weight"] == f"module {name!r} did not run"


def test_an_argument_that_steers_is_found_when_parameters_are_untouched():
    text = {k: v for k, v in TEXT.items() if k != "num_key_value_heads"}
    model = transformers.LongformerModel(transformers.LongformerConfig(**text, attention_window=4))

    assert trace(model).untouched == []


class Picky(nn.Module):
    """Looks like a transformers model, and refuses whatever it is given."""

    main_input_name = "input_ids"

    def __init__(self) -> None:
        super().__init__()
        self.config = transformers.BertConfig()
        self.layer = nn.Linear(2, 2)
        self.calls = 0

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        raise ValueError("input_ids and attention_mask are not to my taste")


def test_a_search_without_success_ends_with_the_inputs_that_got_furthest():
    with pytest.raises(InputError, match=r"Picky failed .* not to my taste"):
        trace(Picky())
