"""Loading and saving of weights: never unpickled unsafely, never half written."""

import argparse
import hashlib
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from models.averages import Source, choose, rename
from models.errors import InputError
from models.files import (
    check_zip,
    is_web_page,
    read_json,
    replacing,
    sha256_of,
    write_atomically,
)
from models.pickles import read_pickle

PICKLES = (".pt", ".pth", ".ckpt", ".bin")
# Floating-point types as safetensors names them.
_FLOATING = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


# What compilers and wrappers put into the names of what they wrap.
_WRAPPERS = re.compile(
    r"(?<=\.)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_fpw_module"
    r"|_forward_module|_module|module)\."
)


class CheckpointError(InputError):
    """A checkpoint is damaged, or belongs to another network."""


def save_checkpoint(module: nn.Module, path: str | Path, provenance: dict) -> None:
    """Store a module as float16 safetensors with a provenance record ``<stem>.json`` beside it.

    Args:
        module: floating-point entries are stored as float16, others as they are.
        path: ends in ``.safetensors``.
        provenance: facts about the making; the weights' SHA-256 is added.
    """
    state = {
        name: value.to(torch.float16) if value.is_floating_point() else value
        for name, value in module.state_dict().items()
    }
    save_tensors(state, path, provenance)


def save_tensors(tensors: dict[str, Tensor], path: str | Path, provenance: dict) -> None:
    """Store named tensors as safetensors, with a provenance record beside them."""
    path = Path(path)
    contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with replacing(path) as temporary:
        save_file(contiguous, temporary)
    record = {"file": path.name, "sha256": sha256_of(path), **provenance}
    write_atomically(record_path(path), (json.dumps(record, indent=2) + "\n").encode())


def record_path(path: str | Path) -> Path:
    """Where the provenance record of a file is."""
    return Path(path).with_suffix(".json")


def provenance(path: str | Path) -> dict | None:
    """The provenance record of a file, which has its ``sha256``.

    None if there is none. JSON that others keep beside weights, such as a network's sizes, is none,
    and neither is the record of a file of the same stem and another suffix.

    Raises:
        CheckpointError: if it is damaged.
    """
    record = record_path(path)
    if not record.is_file():
        return None
    try:
        content = read_json(record)
    except InputError as error:
        raise CheckpointError(str(error)) from error
    if not isinstance(content, dict) or "sha256" not in content:
        return None
    file = str(content.get("file", Path(path).name))
    if not re.fullmatch("[0-9a-f]{64}", str(content["sha256"])):
        raise CheckpointError(
            f"{record} is damaged: its sha256 is none; restore it, or move it away to use "
            f"{Path(path).name} unchecked"
        )
    return content if Path(file).suffix == Path(path).suffix else None


def load_checkpoint(
    module: nn.Module, path: str | Path, ema: bool = True, device: torch.device | str | None = None
) -> Source:
    """Load weights into ``module``, in place; they are cast to its dtypes.

    A module built on the meta device gets its storage here, entry by entry: no second copy is made.

    Args:
        path: ``.safetensors``, or ``.pt`` / ``.pth`` / ``.ckpt`` / ``.bin`` holding a state dict,
            or an index of several such files, or a folder of diffusers. If a provenance record
            ``<stem>.json`` lies beside a file, its SHA-256 is checked against it. The names may be
            those of any layout that the module's ``native_state`` knows, with what wrappers add
            anywhere, and a prefix such as ``module.`` before all.
        ema: take the averaged weights where the file has both.
        device: where a module on the meta device goes; default: CPU.

    Returns:
        Under which key of the file the weights were, and whether it is one of averages.

    Raises:
        CheckpointError: if the file is missing, damaged, fails its checksum, holds another
            architecture, or values that are not finite in the module's dtype. The module is then
            unchanged.
    """
    path = Path(path)
    expected = module.state_dict()
    on_meta = any(value.is_meta for value in expected.values())
    dtype = next((v.dtype for v in expected.values() if v.is_floating_point()), None)
    state, source = _read(path, ema, dtype, (device or "cpu") if on_meta else "cpu")
    state = _without_prefix(_without_wrappers(state, path), next(iter(expected)))
    if hasattr(module, "native_state"):
        try:
            state = module.native_state(state)
        except InputError as error:
            raise CheckpointError(f"checkpoint {path} cannot be converted: {error}") from error
    _check_architecture(expected, state, path)
    module.load_state_dict(state, assign=on_meta)
    return source


def weights_files(path: str | Path) -> dict[Path, list[str] | None]:
    """The files of weights that ``path`` is, names in an index, or holds as a folder of diffusers.

    Returns:
        file -> the weights that an index says it has, or None without an index.

    Raises:
        CheckpointError: if there are none, or an index is damaged or names files that are missing.
    """
    path = Path(path)
    if path.is_dir():
        names = [f"diffusion_pytorch_model.{suffix}" for suffix in ("safetensors", "bin")]
        indices = sorted(path.glob("*.index.json"))
        usual = [path / name for name in (*names, *(f"{name}.index.json" for name in names))]
        there = [file for file in usual if file.is_file()] or indices
        if not there or (len(there) > 1 and there == indices):
            found = ", ".join(sorted(file.name for file in path.iterdir())[:10]) or "nothing"
            raise CheckpointError(
                f"folder {path} holds no weights: neither {' nor '.join(names)}, nor one index of "
                f"several files (*.index.json); it has {found}"
            )
        path = there[0]
    if not path.is_file():
        broken = f", it is a link to {path.readlink()}, which is gone" if path.is_symlink() else ""
        raise CheckpointError(f"checkpoint {path} does not exist{broken}")
    if path.name.endswith(".index.json"):
        return _indexed(path)
    return {path: None}


def _indexed(index: Path) -> dict[Path, list[str] | None]:
    try:
        content = read_json(index)
    except InputError as error:
        raise CheckpointError(str(error)) from error
    placed = content.get("weight_map") if isinstance(content, dict) else None
    # A plain name: an index from outside has no business in other folders.
    if (
        not isinstance(placed, dict)
        or not placed
        or any(type(name) is not str or Path(name).name != name for name in placed.values())
    ):
        raise CheckpointError(f"{index} is no index: its weight_map must give each weight a file")
    files: dict[Path, list[str] | None] = {}
    for weight, name in sorted(placed.items(), key=lambda pair: pair[1]):
        files.setdefault(index.parent / name, []).append(weight)
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise CheckpointError(f"checkpoint {index} lacks {', '.join(missing)}; get them as well")
    return files


def recorded_sha256(path: str | Path) -> str:
    """SHA-256 of a checkpoint, checked against the provenance record beside it if there is one.

    Of several files it is the hash of theirs.

    Raises:
        CheckpointError: if a file is missing or differs from its record.
    """
    hashes = {file.name: _recorded(file) for file in weights_files(path)}
    if len(hashes) == 1:
        return hashes.popitem()[1]
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def _recorded(path: Path) -> str:
    actual = sha256_of(path)
    expected = (provenance(path) or {}).get("sha256", actual)
    if actual != expected:
        raise CheckpointError(
            f"checkpoint {path} is damaged or was changed: its SHA-256 is {actual[:16]}..., "
            f"{record_path(path).name} says {expected[:16]}...; restore the file (git checkout, or "
            "download)"
        )
    return actual


def read_tensors(
    path: str | Path,
    ema: bool = True,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """The tensors of a checkpoint file, checked against its provenance record if there is one.

    Args:
        path: see ``load_checkpoint``; which state dict of a file, ``models.averages`` says. Pickles
            are read with ``weights_only`` or, if they name foreign classes, by ``models.pickles``.
        ema: take the averaged weights where the file has both.
        dtype: cast floating-point tensors to it, one by one; they must be finite then.
        device: where the tensors go.

    Raises:
        CheckpointError: if it is missing, damaged, or no state dict.
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
                "says it has; get another copy"
            )
        state |= part if names is None else {name: part[name] for name in names}
    return state, source


def _read_file(path: Path, ema: bool, dtype, device) -> tuple[dict[str, Tensor], Source]:
    if is_web_page(path):
        raise CheckpointError(
            f"checkpoint {path} is a web page, not weights: the host answered with a page of its "
            "own (Google Drive does when a file's quota is used up); delete it and download again "
            "later, or by hand"
        )
    if path.suffix not in (".safetensors", *PICKLES):
        raise CheckpointError(
            f"checkpoint {path} is of an unknown format; known: .safetensors, {', '.join(PICKLES)}"
        )
    _recorded(path)
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path, ema, dtype, device)
        with open(path, "rb") as file:
            zipped = zipfile.is_zipfile(file) or (file.seek(0) == 0 and file.read(2) == b"PK")
        if zipped and provenance(path) is None:
            check_zip(path)  # torch does not look at the checksums
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
        # Read, not mapped: a cast leaves nothing of the original in memory.
        state = _cast_all(shapes, lambda name: file.get_tensor(names[name]), dtype, device, path)
    return state, _with_prefix(Source(None, None), prefix)


def _with_prefix(source: Source, prefix: str | None) -> Source:
    """Where weights were whose names had a prefix of averages."""
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
    """Every entry that ``read`` gives, placed; ``shapes`` has those of the ones to be cast.

    Casts get their places first. What is read and freed entry by entry then leaves no holes
    between them, and the peak of memory is hardly more than the result.
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
            f"checkpoint {path} has weights twice, wrapped and as they are; store one of both"
        )
    return found


def _without_prefix(state: dict[str, Tensor], anchor: str) -> dict[str, Tensor]:
    """Names without a prefix that all share, such as ``module.``, known by one expected name."""
    found = [name for name in state if name.endswith(f".{anchor}")]
    if anchor in state or len(found) != 1:
        return state
    prefix = found[0].removesuffix(anchor)
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
    if problems:
        raise CheckpointError(
            f"checkpoint {path} is of another architecture, {len(problems)} entries differ: "
            + "; ".join(problems[:5])
            + ("; ..." if len(problems) > 5 else "")
        )
