"""Caches that diffusers itself has put on the blocks of a denoiser."""

from collections.abc import Iterator

from diffusers.hooks import ModelHook
from torch import nn

from models.errors import InputError

# Hook -> cache, and why it does not work here.
_UNUSABLE = {
    "faster_cache_denoiser": ("FasterCache", "changes batches as only whole pipelines can"),
    "mag_cache_leader_block_hook": ("MagCache", "is calibrated on whole trajectories"),
}


def caches_of(name: str, network: nn.Module, own: ModelHook) -> list[tuple[nn.Module, ModelHook]]:
    """The hooks with state on a network and its blocks, each with its module.

    Args:
        name: the member's.
        own: the hook that stitches, which does not count.

    Raises:
        InputError: naming a cache that fails, or silently does nothing, in stitched pipelines.
    """
    found = []
    for module in hooked(network):
        outside = False
        for key, hook in module._diffusers_hook.hooks.items():
            outside = outside or hook is own
            if hook is own or not hook._is_stateful:
                continue
            if key in _UNUSABLE:
                cache, reason = _UNUSABLE[key]
                raise InputError(
                    f"{cache} on {name} {reason}; disable it, or use deep or another cache"
                )
            if outside:
                raise InputError(
                    f"{type(hook).__name__} was put on {name} after the stitch and would reach all "
                    "denoisers; enable it before stitch_pipeline"
                )
            found.append((module, hook))
    if getattr(network, "is_cache_enabled", False) and not found:
        raise InputError(
            f"{type(network._cache_config).__name__} on {name} has found no block and does "
            "nothing; name blocks in it, or disable it"
        )
    return found


def hooked(network: nn.Module) -> Iterator[nn.Module]:
    """A network and its parts, if hooks of diffusers are on them; a quick ``modules``."""
    stack = [network]
    while stack:
        module = stack.pop()
        if "_diffusers_hook" in vars(module):
            yield module
        stack += filter(None, module._modules.values())


def begin(caches: list[tuple[nn.Module, ModelHook]]) -> None:
    """Let the caches forget what they kept."""
    for module, hook in caches:
        hook.reset_state(module)
