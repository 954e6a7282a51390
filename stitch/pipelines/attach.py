"""Putting a hook on a module, below the wrapper by which accelerate offloads it."""

import contextlib
from collections.abc import Iterator

from diffusers.hooks import HookRegistry, ModelHook
from torch import nn


def attach(module: nn.Module, hook: ModelHook, name: str) -> None:
    """Register a hook of diffusers on a module."""
    with _below_offloading(module):
        HookRegistry.check_if_exists_or_initialize(module).register_hook(hook, name)


def detach(module: nn.Module, hook: ModelHook, name: str) -> None:
    """Undo ``attach``, without a trace; if that was done already, do nothing."""
    registry = vars(module).get("_diffusers_hook")
    if registry is None or registry.get_hook(name) is not hook:
        return
    with _below_offloading(module):
        registry.remove_hook(name, recurse=False)
    if not registry.hooks:
        del module._diffusers_hook
    if not wrapped(module):
        vars(module).pop("forward", None)


def attached(module: nn.Module, name: str) -> bool:
    """Whether a hook of this name is on a module."""
    registry = vars(module).get("_diffusers_hook")
    return registry is not None and registry.get_hook(name) is not None


def wrapped(module: nn.Module) -> bool:
    """Whether something else answers for a module's own ``forward``."""
    own = type(module).forward.__get__(module)
    return vars(module).get("forward", own) != own


@contextlib.contextmanager
def _below_offloading(module: nn.Module) -> Iterator[None]:
    """Show the forward that accelerate wraps.

    Pipelines renew that wrapper after every call (``maybe_free_model_hooks``) and lose what stands
    around it.
    """
    if not hasattr(module, "_old_forward"):
        yield
        return
    wrapper, module.forward = module.forward, module._old_forward
    yield
    module._old_forward, module.forward = module.forward, wrapper
