"""How aten operators map to the vocabulary.

Four kinds are told apart: operators that only change shape, type or place (not nodes), operators
that make constants, layers (operators with a slot for a weight), and everything else, by name.
"""

from __future__ import annotations

__all__ = ["CONSTANTS", "LAYERS", "NODES", "READS_SHAPE", "SHAPE_ONLY"]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


SHAPE_ONLY = _names(
    "view _unsafe_view reshape _reshape_alias permute transpose t expand squeeze unsqueeze slice "
    "select split split_with_sizes unsafe_split unsafe_chunk unbind narrow alias detach clone "
    "contiguous _to_copy to lift_fresh lift lift_fresh_copy as_strided unflatten view_as_real "
    "view_as_complex diagonal repeat tile copy real imag resolve_conj resolve_neg _conj "
    "_conj_physical pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle "
    "native_dropout movedim positive _pin_memory set_data requires_grad "
    "slice_copy view_copy permute_copy expand_copy select_copy t_copy transpose_copy "
    "unsqueeze_copy squeeze_copy as_strided_copy detach_copy alias_copy split_copy unbind_copy "
    "complex polar_identity _fused_moving_avg_obs_fq_helper_identity"
)

CONSTANTS = _names(
    "arange empty empty_strided zeros ones full eye linspace logspace scalar_tensor tril_indices "
    "triu_indices hann_window hamming_window blackman_window bartlett_window kaiser_window "
    "_local_scalar_dense rand randn randint randperm fill zero"
)

# They read a tensor's shape, not its values.
READS_SHAPE = _names(
    "zeros_like ones_like full_like empty_like rand_like randn_like randint_like new_zeros "
    "new_ones new_full new_empty new_empty_strided sym_size sym_numel is_same_size"
)

LAYERS: dict[str, str] = {
    "linear": "linear",
    "addmm": "linear",
    "mm": "linear",
    "bmm": "linear",
    "baddbmm": "linear",
    "addbmm": "linear",
    "mv": "linear",
    "addmv": "linear",
    "dot": "linear",
    "vdot": "linear",
    "matmul": "linear",
    "_grouped_mm": "linear",
    "_sparse_mm": "linear",
    "_sparse_addmm": "linear",
    "_trilinear": "bilinear",
    "bilinear": "bilinear",
    "convolution": "conv",
    "_convolution": "conv",
    "embedding": "embedding",
    "_embedding_bag": "embedding",
    "_embedding_bag_forward_only": "embedding",
    "native_batch_norm": "batch_norm",
    "cudnn_batch_norm": "batch_norm",
    "_native_batch_norm_legit": "batch_norm",
    "_native_batch_norm_legit_no_training": "batch_norm",
    "_batch_norm_with_update": "batch_norm",
    "_batch_norm_no_update": "batch_norm",
    "native_layer_norm": "layer_norm",
    "native_group_norm": "group_norm",
    "rms_norm": "rms_norm",
    "_fused_rms_norm": "rms_norm",
    "_prelu_kernel": "prelu",
    "prelu": "prelu",
    "scaled_dot_product_attention": "attention",
    "_scaled_dot_product_flash_attention_for_cpu": "attention",
    "_scaled_dot_product_flash_attention": "attention",
    "_scaled_dot_product_efficient_attention": "attention",
    "_scaled_dot_product_cudnn_attention": "attention",
    "lstm": "recurrent",
    "gru": "recurrent",
    "rnn_tanh": "recurrent",
    "rnn_relu": "recurrent",
    "lstm_cell": "recurrent",
    "gru_cell": "recurrent",
    "rnn_tanh_cell": "recurrent",
    "rnn_relu_cell": "recurrent",
}

_OTHERS = {
    "l2_norm": "norm linalg_vector_norm linalg_matrix_norm _cdist_forward _euclidean_dist "
    "_pdist_forward cosine_similarity",
    "relu": "relu threshold",
    "relu6": "hardtanh relu6",
    "leaky_relu": "leaky_relu rrelu rrelu_with_noise",
    "elu": "elu celu selu",
    "gelu": "gelu",
    "silu": "silu",
    "mish": "mish",
    "glu": "glu",
    "sigmoid": "sigmoid log_sigmoid_forward log_sigmoid",
    "tanh": "tanh",
    "hard_sigmoid": "hardsigmoid",
    "hard_swish": "hardswish",
    "softplus": "softplus",
    "softmax": "_softmax _safe_softmax softmax _log_softmax log_softmax logsumexp",
    "max_pool": "max_pool2d_with_indices max_pool3d_with_indices max_pool1d max_pool2d "
    "adaptive_max_pool2d adaptive_max_pool3d max_unpool2d max_unpool3d fractional_max_pool2d",
    "avg_pool": "avg_pool1d avg_pool2d avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d "
    "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d",
    "mean": "mean nanmean",
    "sum": "sum nansum prod",
    "max": "max min amax amin argmax argmin aminmax maximum minimum fmax fmin median any all mode",
    "variance": "var std var_mean std_mean",
    "interpolate": "upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d "
    "upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d _upsample_bilinear2d_aa "
    "_upsample_bicubic2d_aa _upsample_nearest_exact1d _upsample_nearest_exact2d "
    "_upsample_nearest_exact3d",
    "grid_sample": "grid_sampler_2d grid_sampler_3d affine_grid_generator deform_conv2d roi_align "
    "roi_pool ps_roi_align",
    "pad": "constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d "
    "replication_pad1d replication_pad2d replication_pad3d _pad_circular",
    "add": "add sub rsub lerp addcmul addcdiv _foreach_add neg",
    "mul": "mul cross kron",
    "div": "div remainder fmod floor_divide",
    "concat": "cat stack hstack vstack",
    "index": "index index_select gather masked_select take repeat_interleave take_along_dim "
    "nonzero searchsorted bucketize one_hot",
    "scatter": "index_put _index_put_impl scatter scatter_add scatter_reduce index_add index_copy "
    "index_fill masked_scatter slice_scatter select_scatter _unsafe_index_put index_reduce "
    "segment_reduce",
    "where": "where masked_fill",
    "compare": "eq ne lt le gt ge equal isnan isinf isfinite isclose logical_and logical_or "
    "logical_not logical_xor bitwise_and bitwise_or bitwise_not bitwise_xor bitwise_left_shift "
    "bitwise_right_shift __lshift__ __rshift__ isin",
    "clamp": "clamp clamp_min clamp_max clip round floor ceil trunc sign abs sgn frac nan_to_num "
    "tril triu heaviside",
    "pow": "pow sqrt rsqrt square reciprocal hypot",
    "exp": "exp expm1 exp2 sinh cosh",
    "log": "log log1p log2 log10 logit",
    "trigonometric": "sin cos tan asin acos atan atan2 erf erfc erfinv polar angle sinc",
    "cumulative": "cumsum cumprod cummax cummin logcumsumexp",
    "sort": "sort topk argsort _unique2 unique_dim unique_consecutive kthvalue bincount histc",
    "fft": "_fft_r2c _fft_c2r _fft_c2c stft istft",
    "fold": "im2col col2im unfold",
    "roll": "roll flip rot90",
    "random": "bernoulli multinomial normal uniform exponential random dropout",
    "linalg": "linalg_inv_ex linalg_solve_ex _linalg_svd _linalg_eigh linalg_qr "
    "linalg_cholesky_ex _linalg_det _linalg_slogdet linalg_lu_factor_ex triangular_solve "
    "linalg_pinv cholesky_solve linalg_cross",
}

NODES: dict[str, str] = {name: op for op, text in _OTHERS.items() for name in text.split()}
