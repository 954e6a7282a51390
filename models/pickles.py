"""PyTorch checkpoints that pickle foreign objects, read without running any of them.

Lightning stores callbacks, hyper-parameters and library classes beside the weights, so
``torch.load(weights_only=True)`` refuses such files. Here every class and function that a file
names is replaced by an inert stand-in; nothing named in it is imported or called.
"""

import mmap
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor

_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class Foreign:
    """Stands in for an object whose class or function was not imported; ``origin`` names it.

    It takes everything that a pickle can do to an object, and does nothing.
    """

    origin = "?"

    def __new__(cls, *args, **kwargs):
        return super().__new__(cls)

    def __init__(self, *args, **kwargs):
        pass

    def __call__(self, *args, **kwargs):
        return self

    def __setstate__(self, state):
        pass

    def __setitem__(self, key, value):
        pass

    def append(self, value):
        pass

    extend = add = append


def read_pickle(path: str | Path) -> object:
    """The content of a PyTorch zip file; tensors are mapped copy-on-write, the rest is inert.

    Raises:
        pickle.UnpicklingError: if the file is not such a zip, or is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
            records = {info.filename: info for info in archive.infolist()}
            (main,) = (name for name in records if name.rpartition("/")[2] == "data.pkl")
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            folder = main.removesuffix("data.pkl") + "data/"

            def storage(key: str, dtype: torch.dtype, count: int) -> Tensor:
                record = records[folder + key]
                size = count * dtype.itemsize
                if record.compress_type != zipfile.ZIP_STORED or record.file_size < size:
                    raise ValueError(f"record {key} is compressed or too short")
                if count == 0:
                    return torch.empty(0, dtype=dtype)
                header = mapped[record.header_offset : record.header_offset + 30]
                names = sum(int.from_bytes(header[i : i + 2], "little") for i in (26, 28))
                offset = record.header_offset + 30 + names
                return torch.frombuffer(mapped, dtype=dtype, count=count, offset=offset)

            with archive.open(main) as stream:
                return _Unpickler(stream, storage).load()
    except (OSError, MemoryError):
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise pickle.UnpicklingError(f"{type(error).__name__}: {error}") from error


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream, storage):
        super().__init__(stream, encoding="utf-8")
        self._storage = storage

    def find_class(self, module: str, name: str):
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        # New functions on every call: a file may set attributes of what it is given.
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda data, offset, size, stride, *_: data.as_strided(size, stride, offset)
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda data, *_: data
        return type(name, (Foreign,), {"origin": f"{module}.{name}"})

    def persistent_load(self, pid: tuple) -> Tensor:
        kind, dtype, key, _device, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise ValueError(f"unknown reference {pid!r}")
        return self._storage(key, dtype, count)
