"""Cost of one network call of a denoiser."""

import math
import weakref
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


@torch.no_grad()
def macs(denoiser: nn.Module) -> int:
    """Multiply-accumulates of one forward at batch 1, without guidance (which doubles it).

    Matrix products, convolutions and both attention products count; elementwise operations,
    norms, softmax and look-ups do not. The "Gflops" of the DiT paper are these.
    """
    return _counted(denoiser, *_example(denoiser))


@torch.no_grad()
def reuse_macs(denoiser: nn.Module) -> int:
    """Multiply-accumulates of one ``reuse`` at batch 1; see ``DenoiserSpec.cacheable``."""
    arguments = _example(denoiser)
    _, kept = denoiser.evaluate(*arguments)
    return _counted(denoiser.reuse, kept, *arguments)


def _example(denoiser: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
    """Arguments of a call for one image."""
    parameter = next(denoiser.parameters())
    shape, device = denoiser.spec.latent_shape, parameter.device
    x = torch.zeros(1, *shape, device=device, dtype=parameter.dtype)
    return x, torch.zeros(1, device=device), torch.zeros(1, dtype=torch.int64, device=device)


def _counted(call: Callable[..., Tensor], *arguments: Tensor) -> int:
    # The counter sees the products of explicit attention only.
    fused = {torch.ops.mkldnn._linear_pointwise: _linear_flops}
    counter = FlopCounterMode(display=False, custom_mapping=fused)
    with sdpa_kernel(SDPBackend.MATH), counter:
        call(*arguments)
    return counter.get_total_flops() // 2


def _linear_flops(x_shape, weight_shape, *_, **__) -> int:
    """FLOPs of the product fused by ``models.transformer.linear_gelu``, unknown to the counter."""
    return 2 * math.prod(x_shape) * weight_shape[0]


@torch.no_grad()
def activation_bytes(skeleton: nn.Module, kept: int = 0) -> int:
    """Peak bytes alive during one forward at batch 1, without the weights.

    Attention scores are counted, although fused attention does not store them.

    Args:
        skeleton: a denoiser on the meta device, in the precision it is run in.
        kept: what ``evaluate`` keeps is alive beside it as often as this.
    """
    x = torch.empty(1, *skeleton.spec.latent_shape, device="meta")
    t = torch.empty(1, device="meta")
    y = torch.empty(1, dtype=torch.int64, device="meta")
    weights = [tensor.untyped_storage() for tensor in skeleton.state_dict().values()]
    with sdpa_kernel(SDPBackend.MATH), _LiveBytes(weights) as live:
        skeleton(x, t, y)
    return live.peak + (kept * skeleton.evaluate(x, t, y)[1].nbytes if kept else 0)


class _LiveBytes(TorchDispatchMode):
    """Counts the live bytes of the tensors created inside it, those of ``others`` left out."""

    def __init__(self, others: Iterable[torch.UntypedStorage] = ()):
        super().__init__()
        self.now = self.peak = 0
        self._known = weakref.WeakSet(others)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and function.namespace == "aten":
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage not in self._known:
            self._known.add(storage)
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._free, storage.nbytes())

    def _free(self, size: int) -> None:
        self.now -= size
