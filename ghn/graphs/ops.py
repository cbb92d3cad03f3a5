"""The operator vocabulary: what a node of a parameter graph can be.

The list is versioned and append-only: an operator's index is a row of every trained hypernetwork's
embedding table, so entries are never moved or removed. A tracer that meets anything else says
`other`, and a newer tracer's operator is read as `other` by an older checkpoint.
"""

from __future__ import annotations

__all__ = ["OPERATORS", "ROLES", "VOCABULARY_VERSION", "operator_index"]

VOCABULARY_VERSION = 1

OPERATORS: dict[str, str] = {
    "other": "an operator outside this vocabulary",
    "input": "a tensor that the caller passes in",
    "output": "what the forward pass returns",
    "conv": "convolution in 1, 2 or 3 dimensions, dense or grouped",
    "depthwise_conv": "convolution with one input channel a group",
    "conv_transpose": "transposed convolution",
    "linear": "product with a weight matrix, with or without bias",
    "matmul": "product of two activations",
    "bilinear": "bilinear form of two activations",
    "embedding": "rows of a table, looked up by index",
    "attention": "fused scaled dot-product attention",
    "recurrent": "RNN, LSTM or GRU over a sequence",
    "batch_norm": "batch normalisation",
    "layer_norm": "layer normalisation",
    "rms_norm": "root-mean-square normalisation",
    "group_norm": "group normalisation",
    "instance_norm": "instance normalisation",
    "l2_norm": "vector norm or normalisation to unit length",
    "relu": "rectified linear unit",
    "relu6": "ReLU clipped from above, and hard tanh",
    "leaky_relu": "leaky and randomised ReLU",
    "prelu": "ReLU with a learned slope",
    "elu": "ELU, CELU and SELU",
    "gelu": "Gaussian error linear unit, exact or approximate",
    "silu": "x times sigmoid(x), also called swish",
    "mish": "x times tanh(softplus(x))",
    "glu": "gated linear unit",
    "sigmoid": "logistic function, also its logarithm",
    "tanh": "hyperbolic tangent",
    "hard_sigmoid": "piecewise linear sigmoid",
    "hard_swish": "x times hard sigmoid(x)",
    "softplus": "log(1 + exp(x))",
    "softmax": "softmax or log-softmax along an axis",
    "max_pool": "maximum over windows",
    "avg_pool": "mean over windows, adaptive ones included",
    "mean": "mean over whole axes, such as global pooling",
    "sum": "sum or product over axes",
    "max": "maximum or minimum over axes, argmax included",
    "variance": "variance or standard deviation over axes",
    "interpolate": "resampling to another resolution",
    "grid_sample": "resampling at given places, deformable convolution included",
    "pad": "padding with a constant, reflection or repetition",
    "add": "sum or difference",
    "mul": "product",
    "div": "quotient or remainder",
    "concat": "concatenation or stacking",
    "index": "rows or elements picked by index or mask",
    "scatter": "values written at indices",
    "where": "choice between two tensors by a mask",
    "compare": "comparison or logic",
    "clamp": "clipping, rounding, sign",
    "pow": "power, square root or reciprocal",
    "exp": "exponential",
    "log": "logarithm",
    "trigonometric": "sine, cosine and their kin, erf included",
    "cumulative": "running sum, product or maximum",
    "sort": "sorting, top-k, unique",
    "fft": "Fourier transform and its inverse",
    "fold": "sliding windows cut out or put back",
    "roll": "cyclic shift or reversal along an axis",
    "random": "numbers drawn in the forward pass",
    "linalg": "matrix decomposition, inverse, solve",
}

ROLES: dict[str, str] = {
    "weight": "a matrix or kernel that maps input channels to output channels",
    "bias": "a vector added to output channels",
    "gain": "a vector that a normalisation multiplies with",
    "recurrent_weight": "a recurrent layer's map from its state",
    "recurrent_bias": "the bias of that map",
    "table": "rows looked up by index",
    "position": "a table added, or used as attention bias, by position",
    "token": "a learned element of the sequence, such as a class token or a query",
    "scale": "a factor on activations, such as layer scale or a learned temperature",
    "slope": "the learned slope of an activation",
    "magnitude": "weight normalisation's g",
    "direction": "weight normalisation's v",
    "lora_a": "the down-projection of a low-rank adapter",
    "lora_b": "the up-projection of a low-rank adapter",
    "other": "any other use",
}

_INDEX = {name: index for index, name in enumerate(OPERATORS)}


def operator_index(op: str) -> int:
    """Return the row of `op` in an embedding table; 0, the row of `other`, if it is unknown."""
    return _INDEX.get(op, 0)
