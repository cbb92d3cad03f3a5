"""Small GPT-2 language models over bytes, and their samplers.

Source: the GPTs-1K of Zhou et al. 2024 (LoGAH, arXiv 2405.16287), section on data: transformers'
GPT-2, 3 to 9 layers, widths 72 to 256, which the family `gpts-1k` draws (with a vocabulary of the
data's size). `gpts` start smaller and have a cap on multiply-adds, for training on a processor;
some tie the head to the embedding, as GPT-2 does.

Shape letters used in this file:
    b: texts. t: tokens. v: vocabulary.
"""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ghn.config import Config
from ghn.errors import ConfigError
from ghn.zoo.registry import SAMPLERS, Sampler, Split, between, choose

__all__ = ["GPT", "GPTConfig", "sample_gpt", "sample_gpt_1k"]

MAX_COST = 400_000  # of one token
EXAMPLE_TOKENS = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class GPTConfig(Config):
    """Settings of `GPT`.

    Attributes:
        width: Channels of a token.
        layers: Number of transformer layers.
        heads: Attention heads; divides `width`.
        ratio: Hidden width of the MLP in units of `width`.
        context: Most tokens of a text: rows of the position table.
        tied: Whether the head is the embedding.
        vocabulary: Number of tokens v; 256 for bytes.
    """

    width: int = 96
    layers: int = 4
    heads: int = 4
    ratio: int = 4
    context: int = 256
    tied: bool = False
    vocabulary: int = 256

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ConfigError(f"heads must divide width, got {self}")

    @property
    def cost(self) -> int:
        """Multiply-adds of one token in a text of 256, about."""
        layer = (4 + 2 * self.ratio) * self.width**2 + 256 * self.width
        return self.layers * layer + self.vocabulary * self.width


class GPT(nn.Module):
    """transformers' GPT-2 without dropout, from tokens to logits.

    Args:
        config: Sizes.
    """

    def __init__(self, config: GPTConfig) -> None:
        from transformers import GPT2Config, GPT2LMHeadModel

        super().__init__()
        self.config = config
        self.gpt2 = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=config.vocabulary,
                n_positions=config.context,
                n_embd=config.width,
                n_layer=config.layers,
                n_head=config.heads,
                n_inner=config.ratio * config.width,
                tie_word_embeddings=config.tied,
                resid_pdrop=0.0,
                embd_pdrop=0.0,
                attn_pdrop=0.0,
                bos_token_id=0,
                eos_token_id=0,
                use_cache=False,
            )
        )

    def forward(self, tokens: Int64[Tensor, "b t"]) -> Float[Tensor, "b t v"]:
        """Return the logits of each next token."""
        return self.gpt2(tokens).logits


def sample_gpt(generator: torch.Generator, split: Split) -> GPTConfig:
    """Draw an architecture of a split's range."""
    while True:
        width, layers = _size(generator, split)
        config = GPTConfig(
            width=width,
            layers=layers,
            heads=choose(generator, [h for h in (2, 3, 4, 6, 8) if width % h == 0]),
            ratio=choose(generator, [2, 3, 4], [0.15, 0.15, 0.7]),
            context=choose(generator, [256, 512, 1024], [0.5, 0.25, 0.25]),
            tied=choose(generator, [False, True], [0.65, 0.35]),
        )
        cap = MAX_COST if split in ("train", "val", "test") else 10 * MAX_COST
        if config.cost <= cap:
            return config


def _size(generator: torch.Generator, split: Split) -> tuple[int, int]:
    if split == "wide":
        return between(generator, 192, 320, 8), between(generator, 3, 5)
    if split == "deep":
        return between(generator, 48, 96, 8), between(generator, 9, 12)
    return between(generator, 48, 160, 8), between(generator, 2, 7)


def sample_gpt_1k(generator: torch.Generator, split: Split) -> GPTConfig:
    """Draw an architecture with the ranges of GPTs-1K; wide and deep ones lie beyond them."""
    if split == "wide":
        layers, (low, high) = between(generator, 3, 5), (264, 384)
    elif split == "deep":
        layers, (low, high) = between(generator, 10, 12), (72, 176)
    else:
        layers = between(generator, 3, 9)
        low, high = (176, 256) if layers == 3 else (128, 176) if layers <= 5 else (72, 176)
    width = between(generator, low, high, 8)
    return GPTConfig(width=width, layers=layers, heads=8, context=1024)


def example(config: GPTConfig) -> Int64[Tensor, "b t"]:
    """Return an input of the right form."""
    return torch.zeros(1, min(EXAMPLE_TOKENS, config.context), dtype=torch.int64)


SAMPLERS.register("gpts")(
    Sampler(sample_gpt, GPT, example, "text", "small GPT-2 networks of bytes")
)
SAMPLERS.register("gpts-1k")(
    Sampler(sample_gpt_1k, GPT, example, "text", "GPT-2 networks of LoGAH's GPTs-1K")
)
