"""GPT-2's GELU in one kernel, where transformers spells its formula out in eight."""

from torch import nn
from transformers.activations import FastGELUActivation, NewGELUActivation


def fuse_gelu(model: nn.Module) -> None:
    """Put torch's tanh GELU in the place of each `gelu_new` and `gelu_fast`: the same function, rounded otherwise.

    What the model saves does not tell.
    """
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation | FastGELUActivation):
                setattr(module, name, nn.GELU(approximate="tanh"))
