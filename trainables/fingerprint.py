"""What tells one frozen base model from another."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

SAMPLED = 4096  # words of each tensor that are hashed as they stand, about


def fingerprint(model: nn.Module) -> str:
    """Return the fingerprint of a model's frozen parameters, as 16 hexadecimal digits.

    It is a SHA-256 over each one's name, shape, type, the sum of its bytes read as whole numbers
    of 64 bits (modulo 2⁶⁴, so it is the same on every device and moves with any one element), and
    a sample of those numbers at equal distances.
    """
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            words = _words(parameter.detach())
            total = int(words.sum(dtype=torch.int64))
            shape = tuple(parameter.shape)
            digest.update(f"{name} {shape} {parameter.dtype} {total}\n".encode())
            sample = words[:: max(1, len(words) // SAMPLED)]
            digest.update(sample.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _words(tensor: Tensor) -> Tensor:
    """Return a tensor's bytes as whole numbers: of 64 bits where they are that many, else of 8."""
    content = tensor.contiguous().reshape(-1).view(torch.uint8)
    fits = len(content) % 8 == 0 and content.storage_offset() % 8 == 0
    return content.view(torch.int64) if fits else content
