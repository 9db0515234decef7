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


def read_tensors(path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint, in the types they are stored in.

    path: a directory (model.safetensors, or the shards that model.safetensors.index.json names) or one file.
    The tensors are mapped privately: writing into one changes this process's copy of a page, never the file.
    UserError, naming the file and the tensor, for whatever is wrong with them.
    """
    path = pathlib.Path(path)
    if not path.is_dir():
        return read_file(path)
    if (path / SINGLE).exists():
        return read_file(path / SINGLE)
    if (path / INDEX).exists():
        return read_shards(path)
    for other in sorted(path.iterdir()):
        if other.suffix in (".bin", ".pt", ".pth"):
            raise UserError(f"{path}: {other.name} is a pickle, which may run code when loaded: convert it "
                            f"to {SINGLE}")
    raise UserError(f"{path}: neither {SINGLE} nor {INDEX}")


def read_shards(directory):
    """{name: tensor} of a checkpoint in several files; each must hold what the index says, no more, no less."""
    weight_map = read_index(directory / INDEX)
    found = {}
    for shard in sorted(set(weight_map.values())):
        for name, tensor in read_file(directory / shard).items():
            if weight_map.get(name) != shard:
                raise UserError(f"{directory / shard}: holds tensor {name!r}, {INDEX} says otherwise")
            found[name] = tensor
    for name, shard in weight_map.items():
        if name not in found:
            raise UserError(f"{directory / shard}: lacks tensor {name!r}, {INDEX} says otherwise")
    return found


def read_index(path) -> dict[str, str]:
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
        header = json_object(file.read(start - 8), refuse_duplicates)
        header.pop("__metadata__", None)
        content = torch.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY), dtype=torch.uint8)

        tensors = {}
        last = 0                        # where the tensor before ends: there are neither overlaps nor gaps
        entries = [check_entry(name, entry) for name, entry in header.items()]
        for begin, end, name, dtype, shape in sorted(entries):
            length = math.prod(shape) * dtype.itemsize
            if (begin, end) != (last, last + length):
                raise ValueError(f"tensor {name!r} begins at {begin} and has {end - begin} bytes for shape "
                                 f"{shape} in {dtype}; it should begin at {last} and have {length}")
            if start + end > size:
                raise ValueError(f"tensor {name!r} ends at byte {start + end}, the file at {size}: truncated")
            raw = content[start + begin:start + end]
            if (start + begin) % dtype.itemsize:        # no padding: torch cannot view odd addresses
                raw = raw.clone()
            tensors[name] = raw.view(dtype).reshape(shape)
            last = end
        if start + last != size:
            raise ValueError(f"{size - start - last} bytes behind the last tensor")
        return tensors


def check_entry(name, entry):
    """(begin, end, name, dtype, shape) of a tensor's entry in the header; ValueError if it cannot be one."""
    try:
        dtype = DTYPES[entry["dtype"]]
        shape = list(entry["shape"])
        begin, end = entry["data_offsets"]
        if len(shape) > 16:
            raise ValueError
        for number in [begin, end, *shape]:
            if type(number) is not int or number < 0:
                raise ValueError
        elements = math.prod(number or 1 for number in shape)   # [0, 2**62, 2**62] is empty, yet overflows
        if elements >= 2 ** 48:
            raise ValueError
        return begin, end, name, dtype, shape
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"tensor {name!r}: {str(entry)[:99]} lacks a dtype among {', '.join(DTYPES)}, "
                         "a shape or two data_offsets, or has impossible ones") from None


def refuse_duplicates(pairs):
    """json keeps the last of two equal keys; a tensor that stands there twice is a mistake or a trick."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def compare(directory, tensors: dict, wanted: dict):
    """UserError if a file's tensors are not those that are wanted (name -> something with a shape)."""
    refuse_names(directory, "is missing", wanted.keys() - tensors.keys())
    refuse_names(directory, "is unexpected", tensors.keys() - wanted.keys())
    for name, weight in wanted.items():
        if tensors[name].shape != weight.shape:
            raise UserError(f"{directory}: tensor {name} has shape {tuple(tensors[name].shape)}, "
                            f"config.json asks for {tuple(weight.shape)}")


def refuse_names(directory, what, names):
    """UserError that says what is wrong with the tensors of these names, if there are any."""
    if len(names) > 1:
        what += f" (and {len(names) - 1} more)"
    if names:
        raise UserError(f"{directory}: tensor {min(names)!r} {what}")


def write_tensors(tensors: dict[str, torch.Tensor], path):
    """Write one safetensors file, byte for byte what the safetensors library writes.

    Tied tensors are written twice: leave one out.
    Written beside and renamed: `path` may be the file that `tensors` are mapped from. UserError: a full disk.
    """
    # Wide types first: then each tensor begins at a multiple of its own width.
    names, types = list(DTYPES), list(DTYPES.values())
    ranked = [(-types.index(tensor.dtype), name) for name, tensor in tensors.items()]
    header = {"__metadata__": {"format": "pt"}}             # transformers insists on the format
    end = 0
    for rank, name in sorted(ranked):
        tensor = tensors[name]
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": names[-rank], "shape": tensor.shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)

    def write(file):
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for _, name in sorted(ranked):                      # as bytes: numpy has no bfloat16
            file.write(tensors[name].detach().cpu().reshape(-1).view(torch.uint8).numpy())
    atomic_write(path, write)


def read_weights(directory: pathlib.Path, wanted: dict, tied: bool) -> dict[str, torch.Tensor]:
    """A checkpoint's tensors, which must be those of `wanted` (name -> something with a shape).

    UserError names what is missing, unexpected or misshapen. tied: the head is the embedding; some files carry
    it twice, and then it must be the same.
    """
    tensors = {}
    for name, tensor in read_tensors(directory).items():
        if not name.endswith("rotary_emb.inv_freq"):         # a constant of old files
            tensors[name] = tensor
    if tied and "lm_head.weight" in tensors:
        head = tensors.pop("lm_head.weight")
        if not torch.equal(head, tensors.get("model.embed_tokens.weight", head)):
            raise UserError(f"{directory}: tie_word_embeddings is true but lm_head.weight differs "
                            "from the embedding")
    compare(directory, tensors, wanted)
    return tensors
