"""The live teacher: a frozen encoder, in eval mode, that answers a batch with a Signal."""

from dataclasses import replace

import torch
from torch import nn

from layermix.core.signals import Batch, Encoder, Needs, Signal
from layermix.hardware.cpu_kernels import fast_pass
from layermix.hardware.precision import at_least_float32


class LiveTeacher:
    """Runs the teacher on every batch.

    Args:
        encoder: An `Encoder` that is an `nn.Module`; it is frozen and put into eval mode, so that
            its targets carry no dropout noise.
        provides: What it is to give; padding always comes along.
        precision: Of its matrix products.
    """

    in_loader = False

    def __init__(
        self, encoder: Encoder, provides: Needs, precision: torch.dtype = torch.float32
    ) -> None:
        assert isinstance(encoder, nn.Module)
        self.module = encoder.eval().requires_grad_(False)
        self.encoder = encoder
        self.num_layers, self.hidden_size = encoder.num_layers, encoder.hidden_size
        self.provides = replace(provides, padding=True)
        self.precision = precision

    def __call__(self, batch: Batch) -> Signal:
        """The signal for a padded batch, without gradient."""
        device = batch["attention_mask"].device
        self.module.to(device)
        with torch.no_grad(), fast_pass(device, self.precision):
            found = self.encoder(batch, self.provides)
        return replace(found, logits=at_least_float32(found.logits))
