"""Specs made by hand, one for each way in which decoders treat a parameter."""

from __future__ import annotations

import dataclasses
import math

import torch

from ghn.graphs import ParamSpec

DIM = 16


def spec(shape, axes, role="weight", node=0, **facts):
    fan_in = math.prod(s for s, a in zip(shape, axes, strict=True) if a in "ik")
    facts = {"fan_in": fan_in if role in ("weight", "recurrent_weight") else 0, **facts}
    return ParamSpec(f"{role}{axes}{node}", shape, "float32", node, role, axes, **facts)


SPECS = {
    "conv": spec((12, 10, 3, 3), "oikk"),
    "wide": spec((70, 66), "oi", node=1),
    "tall": spec((40, 6, 5), "oik", node=1),
    "conv3d": spec((4, 5, 2, 3, 3), "oikkk", node=2),
    "large_kernel": spec((4, 5, 11, 9), "oikk", node=2),
    "depthwise": spec((12, 1, 7, 7), "oikk", node=3, groups=12),
    "conv1d_transposed_storage": spec((6, 18), "io", node=3),
    "transposed_conv": spec((6, 8, 4, 4), "iokk", node=4),
    "qkv": spec((24, 8), "oi", node=5, sections=3),
    "qkv_bias": spec((24,), "o", "bias", node=5, sections=3),
    "experts": spec((3, 20, 8), "eoi", node=6, sections=2),
    "expert_bias": spec((3, 20), "eo", "bias", node=6),
    "gates": spec((32, 8), "oi", "recurrent_weight", node=6, sections=4),
    "stem": spec((8, 3, 4, 4), "oikk", node=7, stem=True),
    "linear_stem": spec((8, 48), "oi", node=7, stem=True),
    "head": spec((11, 16), "oi", node=8, head=True),
    "head_bias": spec((11,), "o", "bias", node=8, head=True),
    "bilinear": spec((4, 3, 5), "oii", node=8),
    "gain": spec((12,), "o", "gain", node=9),
    "broadcast_bias": spec((1, 12, 1, 1), "1o11", "bias", node=9),
    "scalar": spec((), "", "scale", node=9),
    "single": spec((1, 1), "11", "scale", node=9),
    "vector": spec((7,), "i", "weight", node=9),
    "vocabulary": spec((90, 8), "vo", "table", node=10, stem=True),
    "text_positions": spec((33, 8), "to", "table", node=10),
    "image_positions": spec((1, 17, 8), "1to", "position", node=11),
    "position_grid": spec((1, 8, 5, 6), "1ott", "position", node=11),
    "token": spec((1, 1, 8), "11o", "token", node=11),
    "queries": spec((1, 5, 8), "1to", "token", node=11),
    "other": spec((3, 4), "oi", "other", node=11),
    "empty": spec((0, 4), "oi", node=11),
}
NODES = 12


def embeddings(batch=1, nodes=NODES, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, nodes, DIM, generator=generator)


def shifted(specs, by):
    """The same specs with their nodes counted from `by` on."""
    return {k: dataclasses.replace(s, node=s.node + by) for k, s in specs.items()}


def small_decoders():
    """Decoders of any parameters at a tiny size, by a name for the test report."""
    from ghn.decoders import ImplicitDecoderConfig, LowRankDecoderConfig, TiledDecoderConfig

    sizes = {"dim": DIM, "hidden": 24}
    return {
        "factor": LowRankDecoderConfig(**sizes, rank=6, kernel_basis=5, rows=32),
        "reshaped": LowRankDecoderConfig(**sizes, rank=6, rows=32, head="reshaped"),
        "implicit": ImplicitDecoderConfig(**sizes, rank=8),
        "implicit_joint": ImplicitDecoderConfig(**sizes, field="joint"),
        "tiled": TiledDecoderConfig(**sizes, block=8, map=5),
    }


def network_decoders(specs):
    """Decoders that emit all parameters of one network at a tiny size; some fit only these."""
    from ghn.decoders import ChunkedDecoderConfig, DenseDecoderConfig, RecurrentDecoderConfig

    total = sum(spec.numel for spec in specs.values())
    learned = {"dim": DIM, "chunk": 64, "codes": -(-total // 64), "code_dim": 12}
    return {
        "dense": DenseDecoderConfig(dim=DIM, hidden=(24,), outputs=total),
        "chunked": ChunkedDecoderConfig(dim=DIM, hidden=(24,), chunk=40),
        "chunked_learned": ChunkedDecoderConfig(hidden=(24, 24), **learned),
        "chunked_linear": ChunkedDecoderConfig(hidden=(), **learned),
        "recurrent": RecurrentDecoderConfig(dim=DIM, state=24, chunk=40),
        "recurrent_learned": RecurrentDecoderConfig(state=24, **learned),
        "recurrent_node": RecurrentDecoderConfig(dim=DIM, state=24, chunk=10, readout="node"),
        "recurrent_reset": RecurrentDecoderConfig(dim=DIM, state=24, chunk=40, reset=True),
    }


def build(config, seed=0):
    """A decoder of these settings, with seeded weights."""
    from ghn.decoders import DECODERS

    torch.manual_seed(seed)
    return next(d for d in DECODERS.values() if d.Config is type(config))(config)


def emit(decoder, x, specs):
    """Return one recipe for each spec, with conditions as the only batch axis."""
    return {
        key: dataclasses.replace(
            recipe,
            **{
                field.name: getattr(recipe, field.name)[:, place]
                for field in dataclasses.fields(recipe)
                if field.name != "layout"
            },
        )
        for keys, recipe in decoder(x, specs).items()
        for place, key in enumerate(keys)
    }
