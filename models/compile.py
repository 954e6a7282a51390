"""torch.compile for networks that are called with few, fixed shapes."""

import time

import torch
from torch import Tensor, nn

# Inductor's settings by device type. On a CPU, frozen weights allow packed matrix products with
# fused epilogues; on a GPU, a call is one CUDA graph. The graphs of all networks share one memory
# pool: every call of a compiled network ends what torch calls a step, so each graph may take the
# memory of the one before.
_SETTINGS = {"cpu": {"freezing": True}, "cuda": {"triton.cudagraphs": True}}


class CompileError(RuntimeError):
    """A network could not be compiled; it is unchanged."""


@torch.no_grad()
def compile_forward(module: nn.Module, *arguments: Tensor) -> float:
    """Compile ``module.forward`` for the shapes of ``arguments``, in place.

    Weights must not change afterwards. A call with other shapes compiles those as well.

    Args:
        module: in evaluation mode; afterwards it must be called without gradients.
        arguments: of the first call, which is made here.

    Returns:
        Seconds of that call: few if an earlier process filled the cache (the folder
        TORCHINDUCTOR_CACHE_DIR), 0 if this process has already compiled these shapes.

    Raises:
        CompileError: if there is no compiler (a CPU needs a C++ compiler) or it fails.
    """
    # Not at the top: it takes as long to import as torch, and few commands compile.
    from torch._dynamo import config as tracer
    from torch._dynamo.exc import TorchDynamoException
    from torch._inductor import config

    started = time.perf_counter()
    device = next(module.parameters()).device.type
    shapes = tuple(argument.shape for argument in arguments)
    known = vars(module).setdefault("compiled_shapes", set())
    if shapes in known:
        return 0.0
    if "forward" not in vars(module):
        run = torch.compile(module.forward, dynamic=False)
        # The next call of any CUDA graph may overwrite this result, which samplers may still need.
        module.forward = (lambda *inputs: run(*inputs).clone()) if device == "cuda" else run
    try:
        # The tracer would silently leave the ninth network or shape of a class uncompiled. Inductor
        # is not given options of torch.compile: the tracer reads freezing from its configuration.
        limit = tracer.accumulated_recompile_limit
        with tracer.patch(recompile_limit=limit), config.patch(_SETTINGS.get(device, {})):
            module(*arguments)
    except TorchDynamoException as error:
        del module.forward, module.compiled_shapes
        raise CompileError(_reason(error)) from error
    known.add(shapes)
    if device == "cuda":
        module(*arguments)  # the first call only warmed up, this one records the graph
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _reason(error: Exception) -> str:
    """The line of a compiler's message that says what went wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if "rror" in line), lines[0] if lines else repr(error))
