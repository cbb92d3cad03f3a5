"""Models with weights and statistics that tell every channel from every other."""

import torch

from ghn.graphs.ties import named_tensors


@torch.no_grad()
def with_random_values(model, seed=0):
    """Give weights about unit gain; gains, biases and running statistics that all differ."""
    g = torch.Generator().manual_seed(seed)
    for name, tensor in named_tensors(model).items():
        if not tensor.is_floating_point():
            continue
        if tensor.ndim > 1:
            tensor.normal_(0.0, (1.5 / tensor[0].numel()) ** 0.5, generator=g)
        elif not name.endswith("running_mean"):
            tensor.uniform_(0.5, 1.5, generator=g)
        else:
            tensor.normal_(0.0, 0.5, generator=g)
    return model.eval()


@torch.no_grad()
def output_of(model, inputs):
    output = model(*inputs) if isinstance(inputs, tuple) else model(inputs)
    return output if isinstance(output, torch.Tensor) else output.logits


def relative_change(before, after):
    return ((before - after).abs().max() / before.abs().max()).item()


def image(size=64):
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def gpt2(**config):
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(**config))


def tokens(vocabulary=50):
    return torch.randint(vocabulary, (1, 12), generator=torch.Generator().manual_seed(1))
