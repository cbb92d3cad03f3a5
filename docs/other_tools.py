"""How large three models are in other tools: the numbers of "Beside other tools" in graphs.md.

    python docs/other_tools.py ghn         # or torchinfo, torchview, onnx (what Netron opens)

One of the tools is needed at a time; none is a dependency of this package.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
import torch
import transformers


def models() -> Iterator[tuple[str, torch.nn.Module, torch.Tensor]]:
    """Yield each model with its name and an input."""
    image = torch.randn(1, 3, 224, 224)
    yield "ViT-B/16", timm.create_model("vit_base_patch16_224").eval(), image
    yield "ResNet-50", timm.create_model("resnet50").eval(), image
    gpt2 = transformers.GPT2LMHeadModel(transformers.GPT2Config()).eval()
    yield "GPT-2", gpt2, torch.zeros(1, 8, dtype=torch.long)


def with_ghn(name: str, model: torch.nn.Module, x: torch.Tensor) -> str:
    """Count operators, and those that a picture or page draws at first."""
    from ghn import trace
    from ghn.graphs.blocks import fold

    graph = trace(model)
    drawn = len(fold(graph).kept)
    elements = graph.num_parameters
    return f"{len(graph.nodes)} operators, {drawn} drawn, {elements:,} elements"


def with_torchinfo(name: str, model: torch.nn.Module, x: torch.Tensor) -> str:
    """Count lines of the table, and elements."""
    from torchinfo import summary

    found = summary(model, input_data=x, depth=100, verbose=0)
    return f"{len(str(found).splitlines())} lines, {found.total_params:,} elements"


def with_torchview(name: str, model: torch.nn.Module, x: torch.Tensor) -> str:
    """Count nodes of the drawing, and its pixels."""
    from PIL import Image
    from torchview import draw_graph

    graph = draw_graph(model, input_data=x, expand_nested=True, depth=100)
    with tempfile.TemporaryDirectory() as folder:
        graph.visual_graph.format = "png"
        with Image.open(graph.visual_graph.render(Path(folder) / "graph")) as image:
            return f"{len(graph.node_set)} nodes, {image.width:,} x {image.height:,} pixels"


def with_onnx(name: str, model: torch.nn.Module, x: torch.Tensor) -> str:
    """Count nodes and stored tensors of an export, which is what Netron draws."""
    import onnx

    options: dict[str, Any] = {"use_cache": False, "return_dict": False} if name == "GPT-2" else {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        torch.onnx.export(model, (x,), path, kwargs=options, dynamo=True, verbose=False)
        graph = onnx.load(path, load_external_data=False).graph
    reshapes = sum(node.op_type == "Reshape" for node in graph.node)
    nodes, tensors = len(graph.node), len(graph.initializer)
    return f"{nodes} nodes, {reshapes} of them reshapes, {tensors} stored tensors"


TOOLS = {
    "ghn": with_ghn,
    "torchinfo": with_torchinfo,
    "torchview": with_torchview,
    "onnx": with_onnx,
}

if __name__ == "__main__":
    for name, model, x in models():
        begin = time.perf_counter()
        text = TOOLS[sys.argv[1]](name, model, x)
        print(f"{name}: {text}; {time.perf_counter() - begin:.0f} s")
