"""The live teacher: a frozen encoder in eval mode that computes the Signal of a batch."""

from dataclasses import replace

import torch
from torch import nn

from layermix.core.signals import Batch, Encoder, Needs, Signal
from layermix.hardware.cpu_kernels import fast_pass
from layermix.hardware.precision import at_least_float32


class LiveTeacher:
    """Runs the teacher on every batch.

    Args:
        encoder: An `Encoder` that is an `nn.Module`; it is frozen and set to eval mode, so that its
            targets carry no dropout noise.
        provides: What its Signals hold; they always include padding.
        precision: Of the matrix products.
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
        """Returns the Signal of a padded batch, without gradient; logits at least float32."""
        device = batch["attention_mask"].device
        self.module.to(device)
        with torch.no_grad(), fast_pass(device, self.precision):
            signal = self.encoder(batch, self.provides)
        return replace(signal, logits=at_least_float32(signal.logits))
