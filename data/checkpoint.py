"""Weights: which directory a model's name means, and how tensors get from a file into torch and back.

A safetensors file is three things in a row (github.com/huggingface/safetensors, "Format"):

    8 bytes    N, the length of the header: unsigned, little-endian
    N bytes    JSON {"name": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [begin, end]}, ...}
    the rest   the tensors' bytes, little-endian, row by row, without gaps; offsets count from here

It holds no code, unlike a pickle (.bin, .pt), which may do anything to whoever loads it: those are refused.
The file is mapped into memory: an 8B model "loads" at once, and a page is read when it is touched. But a
header is a stranger's text: every number in it is checked before it is used.

Downloads go where transformers puts and finds them, in the Hugging Face cache (HF_HUB_CACHE, HF_HOME/hub):

    models--OWNER--NAME/refs/main             a revision, REV; written last, when all of this is complete:
    models--OWNER--NAME/snapshots/REV/        config.json, model.safetensors, ...
"""
import contextlib
import difflib
import errno
import hashlib
import http.client
import json
import math
import mmap
import os
import pathlib
import re
import urllib.error
import urllib.parse
import urllib.request

import torch
from tqdm import tqdm

from data import UserError

TINY = pathlib.Path(__file__).parent / "tiny"
MODELS = json.loads((pathlib.Path(__file__).parent / "models.json").read_text())   # those that have a name
NAMES = {"tiny": str(TINY), **{name: model["hub"] for name, model in MODELS.items()}}

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
LIMIT = 100_000_000     # bytes of a header; the safetensors library draws the line there too
# narrow to wide, in the library's order: write_tensors sorts by it
DTYPES = {"U8": torch.uint8, "F16": torch.float16, "BF16": torch.bfloat16, "I32": torch.int32,
          "F32": torch.float32, "F64": torch.float64, "I64": torch.int64}


# ------------------------------------------------------------------------------------------------------------
# Files: written whole or not at all, read with an error that names them

@contextlib.contextmanager
def naming(path, verb="read", malformed=(ValueError, RecursionError)):
    """Around what is done with a file: errors of the disk become a UserError that names the file.

    verb: what it then cannot be (read, written); malformed: errors that mean that its content makes no sense
    (no JSON, no UTF-8, nested without end, what read_file raises).
    """
    try:
        yield
    except OSError as error:
        why = f"cannot be {verb} ({error.strerror or error})"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            why = "the disk is full; free some space and run the same command again"
        raise UserError(f"{path}: {why}") from error
    except malformed as error:
        advice = "if it was downloaded or copied: delete it and fetch it again"
        raise UserError(f"{path}: malformed ({error}); {advice}") from error


def atomic_write(path, content):
    """Write `content` (bytes, str or a function that is handed the open file) to `path`: all or nothing.

    Written beside, forced to the disk and renamed, and a rename is one step: whoever is interrupted (Ctrl-C,
    SIGKILL, a full disk) keeps the old file. Makes missing directories. UserError when it cannot be written.
    """
    path = pathlib.Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with naming(path, "written", malformed=()):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(beside, "wb") as file:
                if callable(content):
                    content(file)
                else:
                    file.write(content.encode(errors="replace") if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)              # there if it was not renamed


def read_json(path):
    """The JSON object in the file `path`, as a dict. UserError when it is missing, malformed or no object."""
    with naming(path):
        return json_object(pathlib.Path(path).read_text(encoding="utf-8"))


def json_object(text, hook=dict):
    """The JSON object in `text`; ValueError if there is none. hook makes a dict of its (key, value) pairs."""
    found = json.loads(text, object_pairs_hook=hook)
    if not isinstance(found, dict):
        raise ValueError(f"a JSON {type(found).__name__}, not an object")
    return found


# ------------------------------------------------------------------------------------------------------------
# Tensors

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


# ------------------------------------------------------------------------------------------------------------
# Names: a directory, the Hugging Face cache, the hub

def resolve(name, download=True):
    """The directory (pathlib.Path) with config.json, tokenizer and weights of `name`.

    name: a directory, one of NAMES, or a hub name (owner/name). Looked for in this order: a directory, the
    Hugging Face cache, and if `download` the hub. UserError, saying what to do, when none has it.
    """
    name, path = str(name), pathlib.Path(os.path.expanduser(name))
    if (path / "config.json").is_file() or (path.is_dir() and name not in NAMES):
        return path
    if name == "tiny":
        if (TINY / "config.json").is_file():
            return TINY
        raise UserError(f"{TINY} is not there: `python -m data.make_tiny` builds it")
    hub_name = NAMES.get(name, name)
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", hub_name, re.ASCII):
        nearest = difflib.get_close_matches(name.lower(), NAMES, 1, cutoff=0)[0]
        raise UserError(f"no directory and no known model {name!r}; the nearest is {nearest!r} (known: "
                        f"{', '.join(NAMES)}; OWNER/NAME is looked for on the Hugging Face hub)")
    cache = pathlib.Path(os.path.expanduser(os.environ.get("HF_HUB_CACHE") or hf_home() / "hub"))
    folder = cache / ("models--" + hub_name.replace("/", "--"))
    if (folder / "refs/main").is_file():
        snapshot = folder / "snapshots" / (folder / "refs/main").read_text().strip()
        weights = read_index(snapshot / INDEX).values() if (snapshot / INDEX).is_file() else [SINGLE]
        if all((snapshot / file).is_file() for file in {"config.json", "tokenizer.json", *weights}):
            return snapshot             # transformers may have left parts: a config.json without the rest
    if not download:
        raise UserError(f"{name} is no directory, not downloaded and not one of {', '.join(NAMES)}")
    return fetch_model(hub_name, folder)


def hf_home():
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return pathlib.Path(os.path.expanduser(os.environ.get("HF_HOME") or f"{cache}/huggingface"))


def fetch_model(name, folder):
    """Download what is needed of the hub's model `name` into `folder`, its place in the cache."""
    endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    page, login = f"{endpoint}/{name}", hf_home() / "token"                 # `hf auth login` leaves it there
    token = os.environ.get("HF_TOKEN") or (login.read_text() if login.is_file() else "")
    token = "".join(token.split())
    try:            # {file: (size, hash)}: a large file has a sha256, a text the id that git gives it
        with open_url(f"{endpoint}/api/models/{name}?blobs=true", page, token) as reply:
            listing = json.loads(read_some(reply, LIMIT))
        files = {entry["rfilename"]: (int(entry["size"]), str((entry.get("lfs") or {}).get("sha256")
                 or entry["blobId"])) for entry in listing["siblings"]}
        snapshot = folder / "snapshots" / re.fullmatch("[0-9a-f]{40}", listing["sha"])[0]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise UserError(f"{page}: the server's list of files makes no sense; is HF_ENDPOINT a hub?") from None
    optional = {"generation_config.json", "tokenizer_config.json", "chat_template.jinja"} & files.keys()
    weights = INDEX if INDEX in files and SINGLE not in files else SINGLE
    # Names from this program or from read_index, never a path from the server; the shards come in on the way.
    wanted = ["config.json", "tokenizer.json", *sorted(optional), weights]
    for file in wanted:
        if file not in files:
            raise UserError(f"{page}: lacks {file} (pickled weights, .bin, are refused: they may run code)")
        download(f"{page}/resolve/{snapshot.name}/{file}", snapshot / file, *files[file], page, token)
        if file == INDEX:
            wanted += sorted(set(read_index(snapshot / INDEX).values()))
    atomic_write(folder / "refs/main", snapshot.name)
    return snapshot


def download(url, path, size, digest, page, token=""):
    """Get `url` into the file `path`, with a bar; what was cut (PATH.incomplete) goes on where it stopped.

    size: bytes; digest: its sha256 (64 hex digits) or its id as a git blob (40). UserError if either differs.
    """
    if path.is_file() and path.stat().st_size == size:
        return
    part = path.with_name(path.name + ".incomplete")
    # Errors of the disk are named here; open_url and read_some deal with the network's.
    with naming(path, "written", malformed=()):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "a+b") as file, tqdm(total=size, initial=file.tell(), unit="B", unit_scale=True,
                                             desc=path.name, disable=size < 2 ** 20) as bar:
            while (start := file.tell()) < size:
                with open_url(url, page, token, start) as reply:
                    if start and reply.status != 206:           # this server cannot resume
                        file.seek(0)
                        file.truncate()
                        bar.reset()
                    while block := read_some(reply, min(2 ** 20, size - file.tell())):
                        bar.update(file.write(block))
                if file.tell() <= start:                        # not one byte further
                    raise UserError(f"{page}: the connection broke at {file.tell():,} of {size:,} bytes of "
                                    f"{path.name}; run the same command again: it goes on from there")
            file.seek(0)
            check = hashlib.sha256() if len(digest) == 64 else hashlib.sha1(b"blob %d\0" % size)
            while block := file.read(2 ** 20):
                check.update(block)
            os.fsync(file.fileno())
        if check.hexdigest() != digest:
            part.unlink()
            raise UserError(f"{page}: {path.name} arrived damaged (wrong hash), is deleted; run this again")
        os.replace(part, path)


def read_some(reply, limit):
    """Up to `limit` bytes. A broken connection looks like the end; who knows the size can tell them apart."""
    try:
        return reply.read(limit)
    except (OSError, http.client.HTTPException):
        return b""


class Redirect(urllib.request.HTTPRedirectHandler):
    """The hub sends us to stores on other hosts, and a token is none of their business."""
    def redirect_request(self, request, *rest):
        new = super().redirect_request(request, *rest)
        if new and urllib.parse.urlsplit(new.full_url)[:2] != urllib.parse.urlsplit(request.full_url)[:2]:
            new.remove_header("Authorization")
        return new


def open_url(url, page, token="", start=0):
    """The open answer to GET `url` from byte `start` on. UserError: names `page` and says what to do."""
    try:
        headers = {"User-Agent": "rema", "Range": start and f"bytes={start}-",
                   "Authorization": token and f"Bearer {token}"}
        request = urllib.request.Request(url, headers={name: text for name, text in headers.items() if text})
        return urllib.request.build_opener(Redirect).open(request, timeout=30)
    except urllib.error.HTTPError as error:
        error.close()
        absent = "no such thing there; check the spelling (if it is private, set HF_TOKEN)"
        gated = "it is gated or private: accept its terms on that page and set HF_TOKEN" + (
            " to a token of the account that did: the present one has no access" if token else "")
        code = 404 if error.headers.get("X-Error-Code") == "RepoNotFound" else error.code
        advice = {401: gated, 403: gated, 404: absent}.get(code, "try again later")
        raise UserError(f"{page}: the server answers {error.code}; {advice}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise UserError(f"{page}: cannot be reached ({getattr(error, 'reason', error)}); check the network "
                        "or fetch it by other means and give the directory") from None


# ------------------------------------------------------------------------------------------------------------
# The state of a run, for --resume

def save_state(path, learners, step, best, failures):
    """All that --resume needs: weights and moments of every learner, bit for bit, and where the run was.

    Draws come from (seed, step, question), so generators have no state.
    """
    tensors = {}
    for role, learner in learners.items():
        tensors.update({f"{role}.weight.{i}": master.detach() for i, master in enumerate(learner.masters)})
        for i, moments in learner.optimizer.state_dict()["state"].items():
            tensors.update({f"{role}.{name}.{i}": value for name, value in moments.items()})
    note = json.dumps({"step": step, "best": best, "failures": failures,
                       "updates": {role: one.updates for role, one in learners.items()}})
    tensors["note"] = torch.frombuffer(bytearray(note.encode()), dtype=torch.uint8)
    write_tensors(tensors, path)


def load_state(path, learners):
    """-> (step, best held-out accuracy, bad gradients in a row); weights and moments go into the learners."""
    tensors = read_tensors(path)
    note = json.loads(bytes(tensors["note"].tolist()))
    for role, learner in learners.items():
        learner.updates = note["updates"][role]
        state = {i: {key: tensors[f"{role}.{key}.{i}"].clone() for key in ("step", "exp_avg", "exp_avg_sq")}
                 for i in range(len(learner.masters)) if f"{role}.step.{i}" in tensors}
        learner.optimizer.load_state_dict({**learner.optimizer.state_dict(), "state": state})
        with torch.no_grad():
            for i, (weight, master) in enumerate(zip(learner.weights, learner.masters)):
                master.copy_(tensors[f"{role}.weight.{i}"])
                weight.copy_(master)
    return note["step"], note["best"], note["failures"]


def forget_after(path, step):
    """Drop the lines of a log that were written after the checkpoint: those steps will run again."""
    if path.exists():
        lines = path.read_bytes().split(b"\n")[:-1]      # bytes: sampled text may hold other line ends
        atomic_write(path, b"".join(line + b"\n" for line in lines if json.loads(line)["step"] <= step))


def append(path, lines):
    """Add text to a log and close it: what was reported is on disk before the next step starts."""
    with open(path, "a", encoding="utf-8", errors="replace") as file:
        file.write(lines + "\n")
