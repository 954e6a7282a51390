"""What one evaluation of a denoiser costs."""

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


@torch.no_grad()
def macs(denoiser: nn.Module) -> int:
    """Multiply-accumulates of one forward at batch 1, without guidance (which doubles it).

    Matrix products, convolutions and both attention products count; elementwise operations,
    norms, softmax and look-ups do not. The "Gflops" of the DiT paper are these.
    """
    parameter = next(denoiser.parameters())
    shape, device = denoiser.spec.latent_shape, parameter.device
    x = torch.zeros(1, *shape, device=device, dtype=parameter.dtype)
    t = torch.zeros(1, device=device)
    y = torch.zeros(1, dtype=torch.int64, device=device)
    # The counter sees the products of explicit attention only.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        denoiser(x, t, y)
    return counter.get_total_flops() // 2
