"""Which directory a model's name means: a directory, the Hugging Face cache, or the hub, which fills the cache.

Downloads go where transformers puts and finds them, in the Hugging Face cache (HF_HUB_CACHE, HF_HOME/hub):

    models--OWNER--NAME/refs/main             a revision, REV; written last, when all of this is complete:
    models--OWNER--NAME/snapshots/REV/        config.json, model.safetensors, ...
"""
import difflib
import hashlib
import http.client
import json
import os
import pathlib
import re
import urllib.error
import urllib.parse
import urllib.request

from tqdm import tqdm

from data import UserError
from data.formats.files import atomic_write, naming
from data.formats.safetensors import INDEX, SINGLE, read_index

LIMIT = 100_000_000     # bytes of the hub's list of files
TINY = pathlib.Path(__file__).parent.parent / "tiny"
MODELS = json.loads((pathlib.Path(__file__).parent / "models.json").read_text())   # those that have a name
NAMES = {"tiny": str(TINY), **{name: model["hub"] for name, model in MODELS.items()}}


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
        raise UserError(f"{TINY} is not there: `python -m data.tiny.make_tiny` builds it")
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
