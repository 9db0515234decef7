"""The safetensors format: how tensors get from a file into torch and back.

A file is three things in a row (github.com/huggingface/safetensors, "Format"):

    8 bytes    N, the length of the header: unsigned, little-endian
    N bytes    JSON {"name": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [begin, end]}, ...}
    the rest   the tensors' bytes, little-endian, row by row, without gaps; offsets count from here

It holds no code, unlike a pickle (.bin, .pt), which may do anything to whoever loads it: those are refused.
The file is mapped into memory: an 8B model "loads" at once, and a page is read when it is touched. But a
header is a stranger's text: every number in it is checked before it is used.
"""
import json
import math
import mmap
import os
import pathlib
import re

import torch

from data import UserError
from data.formats.files import atomic_write, json_object, naming, read_json

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
LIMIT = 100_000_000     # bytes of a header; the safetensors library draws the line there too
# narrow to wide, in the library's order: write_tensors sorts by it
DTYPES = {"U8": torch.uint8, "F16": torch.float16, "BF16": torch.bfloat16, "I32": torch.int32,
          "F32": torch.float32, "F64": torch.float64, "I64": torch.int64}


def read_tensors(path):
    """All tensors of a checkpoint, {name: tensor}, in the types they are stored in.

    path: a directory (model.safetensors, or the shards that model.safetensors.index.json names) or one file.
    The tensors are mapped privately: writing into one changes this process's copy of a page, never the file.
    UserError, naming the file and the tensor, for whatever is wrong with them.
    """
    path = pathlib.Path(path)
    if not path.is_dir() or (path / SINGLE).exists():
        return read_file(path / SINGLE if path.is_dir() else path)
    if not (path / INDEX).exists():
        pickles = sorted(other.name for other in path.iterdir() if other.suffix in (".bin", ".pt", ".pth"))
        raise UserError(f"{path}: neither {SINGLE} nor {INDEX}" + (
            f"; {pickles[0]} is a pickle, which may run code when loaded: convert it" if pickles else ""))
    weight_map = read_index(path / INDEX)
    found = {shard: read_file(path / shard) for shard in sorted(set(weight_map.values()))}
    held = {(name, shard) for shard, tensors in found.items() for name in tensors}
    for name, shard in sorted(held ^ weight_map.items()):
        what = "holds" if (name, shard) in held else "lacks"
        raise UserError(f"{path / shard}: {what} tensor {name!r}, {INDEX} says otherwise")
    return {name: found[shard][name] for name, shard in weight_map.items()}


def read_index(path):
    """{tensor: file name of its shard} from an index. A shard lies beside its index, nowhere else."""
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{path}: has no weight_map")
    for name, shard in weight_map.items():
        if not re.fullmatch(r"\w[\w.-]*\.safetensors", str(shard), re.ASCII):
            raise UserError(f"{path}: tensor {name!r}: {shard!r} is not the name of a shard")
    return weight_map


def read_file(path):
    """{name: tensor} from one safetensors file, mapped."""
    with naming(path), open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = 8 + int.from_bytes(file.read(8), "little")                  # where the data begins
        if start > min(size, LIMIT):
            raise ValueError(f"truncated or no safetensors: {start - 8} bytes of header in a file of {size}")
        header = json_object(file.read(start - 8), no_duplicates)
        header.pop("__metadata__", None)
        content = torch.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY), dtype=torch.uint8)
        last = 0                        # where the tensor before ends: there are neither overlaps nor gaps
        for begin, end, name, dtype, shape in sorted(place(name, entry) for name, entry in header.items()):
            length = math.prod(shape) * dtype.itemsize
            if (begin, end) != (last, last + length):
                raise ValueError(f"tensor {name!r} begins at {begin} and has {end - begin} bytes for shape "
                                 f"{shape} in {dtype}; it should begin at {last} and have {length}")
            if start + end > size:
                raise ValueError(f"tensor {name!r} ends at byte {start + end}, the file at {size}: truncated")
            raw, last = content[start + begin:start + end], end
            if (start + begin) % dtype.itemsize:        # no padding: torch cannot view odd addresses
                raw = raw.clone()
            header[name] = raw.view(dtype).reshape(shape)
        if start + last != size:
            raise ValueError(f"{size - start - last} bytes behind the last tensor")
        return header


def place(name, entry):
    """(begin, end, name, dtype, shape) of a tensor's entry in the header; ValueError if it cannot be one."""
    try:
        dtype, shape, (begin, end) = DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
        if all(type(n) is int and n >= 0 for n in [*shape, begin, end]) and len(shape) <= 16 \
                and math.prod(n or 1 for n in shape) < 2 ** 48:     # [0, 2**62, 2**62] is empty yet overflows
            return begin, end, name, dtype, shape
    except (KeyError, TypeError, ValueError):
        pass
    raise ValueError(f"tensor {name!r}: {str(entry)[:99]} lacks a dtype among {', '.join(DTYPES)}, "
                     "a shape or two data_offsets, or has impossible ones")


def no_duplicates(pairs):
    """json keeps the last of two equal keys; a tensor that stands there twice is a mistake or a trick."""
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def compare(directory, tensors, wanted):
    """UserError if a file's tensors are not those that are wanted (name -> something with a shape)."""
    for what, names in (("is missing", wanted.keys() - tensors.keys()),
                        ("is unexpected", tensors.keys() - wanted.keys())):
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise UserError(f"{directory}: tensor {min(names)!r} {what}{more}")
    for name, weight in wanted.items():
        if tensors[name].shape != weight.shape:
            raise UserError(f"{directory}: tensor {name} has shape {tuple(tensors[name].shape)}, "
                            f"config.json asks for {tuple(weight.shape)}")


def write_tensors(tensors, path):
    """Write {name: tensor} as one safetensors file, byte for byte what the safetensors library writes.

    Tied tensors are written twice: leave one out.
    Written beside and renamed: `path` may be the file that `tensors` are mapped from. UserError: a full disk.
    """
    types = {dtype: name for name, dtype in DTYPES.items()}
    # wide types first: then each tensor begins at a multiple of its own width
    tensors = dict(sorted(tensors.items(), key=lambda item: (-list(types).index(item[1].dtype), item[0])))
    header, end = {"__metadata__": {"format": "pt"}}, 0     # transformers insists on the format
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": types[tensor.dtype], "shape": tensor.shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)

    def write(file):
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():                     # as bytes: numpy has no bfloat16
            file.write(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    atomic_write(path, write)
