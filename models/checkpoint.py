"""Checkpoint loading, without unsafe unpickling and all or nothing."""

import argparse
import re
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from models.averages import Source, choose, rename
from models.errors import InputError
from models.files import check_zip, is_web_page, is_zip
from models.pickles import read_pickle
from models.weights import CheckpointError, provenance, recorded_sha256, weights_files

PICKLES = (".pt", ".pth", ".ckpt", ".bin")
# Floating-point types as safetensors names them.
_FLOATING = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


# What compilers and wrappers insert into the names of weights.
_WRAPPERS = re.compile(
    r"(?<=\.)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_fpw_module"
    r"|_forward_module|_module|module)\."
)


def load_checkpoint(
    module: nn.Module, path: str | Path, ema: bool = True, device: torch.device | str | None = None
) -> Source:
    """Load weights into ``module``, in place; they are cast to its dtypes.

    A module built on the meta device gets its storage here, entry by entry: no second copy is made.

    Args:
        path: ``.safetensors``, or ``.pt`` / ``.pth`` / ``.ckpt`` / ``.bin`` holding a state dict,
            or an index of several such files, or a folder of diffusers. If a provenance record
            ``<stem>.json`` lies beside a file, its SHA-256 is checked against it. Names may follow
            any layout that the module's ``native_state`` knows, contain what wrappers insert, and
            share a prefix such as ``module.``.
        ema: take the averaged weights where the file has both.
        device: where a module on the meta device goes; default: CPU.

    Returns:
        The file's key of the weights, and whether they are averages.

    Raises:
        CheckpointError: if the file is missing or damaged, fails its checksum, or holds another
            architecture or values that are not finite in the module's dtype. The module is then
            unchanged.
    """
    path = Path(path)
    expected = module.state_dict()
    on_meta = any(value.is_meta for value in expected.values())
    dtype = next((v.dtype for v in expected.values() if v.is_floating_point()), None)
    state, source = _read(path, ema, dtype, (device or "cpu") if on_meta else "cpu")
    state = _without_prefix(_without_wrappers(state, path), expected)
    if hasattr(module, "native_state"):
        try:
            state = module.native_state(state)
        except InputError as error:
            raise CheckpointError(f"checkpoint {path} cannot be converted: {error}") from error
    _check_architecture(expected, state, path)
    module.load_state_dict(state, assign=on_meta)
    return source


def read_tensors(
    path: str | Path,
    ema: bool = True,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """The tensors of a checkpoint file, checked against its provenance record if there is one.

    Args:
        path: see ``load_checkpoint``; ``models.averages`` chooses the state dict of a file. Pickles
            are read with ``weights_only`` or, if they name foreign classes, by ``models.pickles``.
        ema: take the averaged weights where the file has both.
        dtype: cast floating-point tensors to it, one by one; they must be finite then.
        device: where the tensors go.

    Raises:
        CheckpointError: if the file is missing, damaged, or not a state dict.
    """
    return _read(path, ema, dtype, device)[0]


def _read(path: str | Path, ema: bool, dtype, device) -> tuple[dict[str, Tensor], Source]:
    files = weights_files(path)
    state, source = {}, Source(None, None)
    for file, names in files.items():
        part, source = _read_file(file, ema, dtype, device)
        missing = [name for name in names or () if name not in part]
        if missing:
            raise CheckpointError(
                f"checkpoint {file} lacks {missing[0]} and {len(missing) - 1} more that its index "
                "lists; get another copy"
            )
        state |= part if names is None else {name: part[name] for name in names}
    return state, source


def _read_file(path: Path, ema: bool, dtype, device) -> tuple[dict[str, Tensor], Source]:
    if is_web_page(path):
        raise CheckpointError(
            f"checkpoint {path} is a web page, not weights: the host sent a page instead of the "
            "file (as Google Drive does when a file's quota is used up); delete it and download "
            "again later, or by hand"
        )
    if path.suffix not in (".safetensors", *PICKLES):
        raise CheckpointError(
            f"checkpoint {path} has an unknown format; known: .safetensors, {', '.join(PICKLES)}"
        )
    recorded_sha256(path)
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path, ema, dtype, device)
        if is_zip(path) and provenance(path) is None:
            check_zip(path)  # torch does not verify checksums
        content = _read_pickle(path)
    except CheckpointError:
        raise
    except InputError as error:
        raise CheckpointError(f"checkpoint {error}") from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {error}") from error
    except Exception as error:  # pickle.UnpicklingError; a damaged pickle can raise anything
        raise CheckpointError(
            f"checkpoint {path} was refused, it is damaged or holds more than tensors: {error}"
        ) from error
    try:
        state, source = choose(content, ema)
        names, prefix = rename(state, ema)
    except InputError as error:
        raise CheckpointError(f"checkpoint {path} {error}") from error
    state = {name: state[old] for name, old in names.items()}
    shapes = {
        name: tuple(value.shape)
        if dtype is not None and value.is_floating_point() and value.dtype != dtype
        else None
        for name, value in state.items()
    }
    state = _cast_all(shapes, state.__getitem__, dtype, device, path)
    return state, _with_prefix(source, prefix)


def _read_safetensors(path: Path, ema: bool, dtype, device) -> tuple[dict[str, Tensor], Source]:
    with safe_open(path, framework="pt", backend="pread") as file:
        try:
            names, prefix = rename(file.keys(), ema)
        except InputError as error:
            raise CheckpointError(f"checkpoint {path} {error}") from error
        slices = {name: file.get_slice(old) for name, old in names.items()}
        shapes = {
            name: tuple(entry.get_shape())
            if dtype is not None and _FLOATING.get(entry.get_dtype(), dtype) != dtype
            else None
            for name, entry in slices.items()
        }
        # Read, not mapped, so that a cast leaves none of the original in memory.
        state = _cast_all(shapes, lambda name: file.get_tensor(names[name]), dtype, device, path)
    return state, _with_prefix(Source(None, None), prefix)


def _with_prefix(source: Source, prefix: str | None) -> Source:
    """``source`` extended by the prefix of the averages, if any."""
    if prefix is None:
        return source
    return Source(f"{source.key}.{prefix}" if source.key else prefix, True)


def _cast_all(
    shapes: dict[str, tuple[int, ...] | None],
    read: Callable[[str], Tensor],
    dtype: torch.dtype | None,
    device: torch.device | str,
    path: Path,
) -> dict[str, Tensor]:
    """Read and place every entry; ``shapes`` has the shape of each entry to be cast, else None.

    Casts are allocated first: reading and freeing entry by entry then leaves no holes between them,
    and peak memory hardly exceeds the result.
    """
    places = {
        name: torch.empty(shape, dtype=dtype, device=device)
        for name, shape in shapes.items()
        if shape is not None
    }
    state = {}
    for name in shapes:
        value = _place(name, read(name), dtype, device, path)
        state[name] = places[name].copy_(value) if name in places else value
    return state


def _read_pickle(path: Path) -> object:
    try:
        # DiT's training script stores its parsed arguments beside the weights.
        with torch.serialization.safe_globals([argparse.Namespace]):
            mapped = zipfile.is_zipfile(path)  # files from before 2020 cannot be
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception:  # most often pickle.UnpicklingError, because of a foreign class
        if not zipfile.is_zipfile(path):
            raise
        return read_pickle(path)


def _place(name: str, value: Tensor, dtype: torch.dtype | None, device, path: Path) -> Tensor:
    if dtype is None or not value.is_floating_point():
        return value.to(device)
    placed = value.to(device, dtype)
    if not placed.isfinite().all():
        if value.isfinite().all():
            problem = (
                f"{name} reaches {value.abs().max().item():.3g}, too large for {dtype}; "
                "use another precision (bf16 or fp32)"
            )
        else:
            bad = int((~value.isfinite()).sum())
            problem = f"{name} has {bad} values that are NaN or infinite; get another copy"
        raise CheckpointError(f"checkpoint {path} cannot be used: {problem}")
    return placed


def _without_wrappers(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Names without what ``torch.compile``, FSDP and checkpointing add to parts of a network."""
    found = {_WRAPPERS.sub("", name): value for name, value in state.items()}
    if len(found) < len(state):
        raise CheckpointError(
            f"checkpoint {path} has weights twice, wrapped and plain; store only one of both"
        )
    return found


def _without_prefix(state: dict[str, Tensor], expected: Iterable[str]) -> dict[str, Tensor]:
    """Names without their common prefix such as ``module.``.

    It is found by one expected name or, in another layout, by what all names share.
    """
    anchor = max(expected, key=len)  # a short one ends other names too: pos_embed.pos_embed
    if anchor in state:
        return state
    found = [name for name in state if name.endswith(f".{anchor}")]
    starts = {name.partition(".")[0] for name in state}
    if len(found) == 1:
        prefix = found[0].removesuffix(anchor)
    elif len(starts) == 1 and not starts & {name.partition(".")[0] for name in expected}:
        prefix = f"{starts.pop()}."
    else:
        return state
    return {
        name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)
    }


def _check_architecture(expected: dict, found: dict, path: Path) -> None:
    problems = [f"{key} is missing" for key in expected if key not in found]
    problems += [f"{key} is not in the network" for key in found if key not in expected]
    problems += [
        f"{key} is {tuple(found[key].shape)}, the network has {tuple(expected[key].shape)}"
        for key in expected
        if key in found and found[key].shape != expected[key].shape
    ]
    problems += [
        f"{key} is {found[key].dtype}, the network has {expected[key].dtype}"
        for key in expected
        if key in found and found[key].is_floating_point() != expected[key].is_floating_point()
    ]
    if problems:
        raise CheckpointError(
            f"checkpoint {path} is of another architecture, {len(problems)} entries differ: "
            + "; ".join(problems[:5])
            + ("; ..." if len(problems) > 5 else "")
        )
