"""An independent oracle for attribution: who consumes a parameter in autograd's own graph."""

import re
from collections import defaultdict

import torch

FAMILIES = {
    "Convolution": "conv",
    "MkldnnConvolution": "conv",
    "Addmm": "linear",
    "Mm": "linear",
    "Bmm": "linear",
    "Mv": "linear",
    "Linear": "linear",
    "NativeBatchNorm": "batch_norm",
    "NativeLayerNorm": "layer_norm",
    "NativeGroupNorm": "group_norm",
    "FusedRmsNorm": "rms_norm",
    "Embedding": "embedding",
    "ScaledDotProductFlashAttentionForCpu": "attention",
    "MkldnnRnnLayer": "recurrent",
    "Add": "add",
    "Addcmul": "add",
    "Sub": "add",
    "Mul": "mul",
    "Div": "div",
    "Cat": "concat",
    "Stack": "concat",
    "Where": "where",
    "PreluKernel": "prelu",
}
OURS = {"depthwise_conv": "conv", "conv_transpose": "conv", "matmul": "linear"}
# Autograd may see a linear layer as a product and a sum, and attention with a mask as a sum before
# a softmax; the tracer sees one operator.
SPLIT_UP = {("add", "linear"), ("add", "attention")}


def consumers(model, inputs):
    """Return {parameter name: sorted families of the first functions that also see the input}."""
    inputs = inputs.clone().requires_grad_()
    output = model.eval()(inputs)
    readers, leaves = _readers(
        [t for t in torch.utils._pytree.tree_leaves(output) if torch.is_tensor(t)]
    )
    data = _upwards([leaves[id(inputs)]], readers, stop=lambda f: False)[0]
    return {
        name: sorted(
            map(_family, _upwards(readers[leaves[id(p)]], readers, stop=data.__contains__)[1])
        )
        if id(p) in leaves
        else []
        for name, p in model.named_parameters()
    }


def attributed(graph):
    """Return the same from a parameter graph; nothing for untouched parameters."""
    found = {
        name: sorted(OURS.get(graph.nodes[u.node].op, graph.nodes[u.node].op) for u in uses)
        for name, uses in graph.parameters.items()
    }
    return found | {name: [] for name in graph.untouched}


def agree(expected, got):
    """Whether two sorted lists of families are equal up to operators that autograd splits up."""
    return len(expected) == len(got) and all(
        e == g or (e, g) in SPLIT_UP for e, g in zip(expected, got, strict=True)
    )


def _family(function):
    name = re.sub(r"Backward\d*$", "", type(function).__name__)
    return FAMILIES.get(name, name)


def _readers(outputs):
    """Reverse autograd's edges: function -> functions that read it; and leaves by tensor id."""
    readers, leaves, seen = defaultdict(list), {}, set()
    stack = [t.grad_fn for t in outputs if t.grad_fn is not None]
    while stack:
        function = stack.pop()
        if function in seen:
            continue
        seen.add(function)
        if hasattr(function, "variable"):
            leaves[id(function.variable)] = function
        for source, _ in function.next_functions:
            if source is not None:
                readers[source].append(function)
                stack.append(source)
    return readers, leaves


def _upwards(start, readers, stop):
    """Walk towards the output; return what was visited and the functions where `stop` held."""
    visited, stopped, stack = set(), [], list(start)
    while stack:
        function = stack.pop()
        if function in visited:
            continue
        visited.add(function)
        if stop(function):
            stopped.append(function)
        else:
            stack.extend(readers[function])
    return visited, stopped
