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

from data import UserError
from data.formats.files import atomic_write, locked, naming
from data.formats.safetensors import INDEX, SINGLE, read_index
from data.views.bars import open_bar

LIMIT = 100_000_000     # bytes of the hub's list of files
TINY = pathlib.Path(__file__).parent.parent / "tiny"
MODELS = json.loads((pathlib.Path(__file__).parent / "models.json").read_text())
NAMES = {"tiny": str(TINY)}                 # the short names that --model takes, and what each stands for
for short, model in MODELS.items():
    NAMES[short] = model["hub"]


def resolve(name: str, download=True) -> pathlib.Path:
    """The directory with config.json, tokenizer and weights of `name`.

    name: a directory, one of NAMES, or a hub name (owner/name). Looked for in this order: a directory, the
    Hugging Face cache, and if `download` the hub. UserError, saying what to do, when none has it.
    """
    name = str(name)
    path = pathlib.Path(os.path.expanduser(name))
    if (path / "config.json").is_file():
        return path
    if path.is_dir() and name not in NAMES:
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
    cache = pathlib.Path(os.path.expanduser(read_variable("HF_HUB_CACHE", hf_home() / "hub")))
    folder = cache / ("models--" + hub_name.replace("/", "--"))
    snapshot = find_snapshot(folder)
    if snapshot is None and download and is_offline():
        raise UserError(f"{name} is not in the cache ({cache}), and HF_HUB_OFFLINE is set: unset it, or name a directory")
    if snapshot is None and download:
        with locked(folder / ".lock"):              # of several processes one downloads, the others then find it
            snapshot = find_snapshot(folder)
            if snapshot is None:
                snapshot = fetch_named(name, hub_name, folder)
    if snapshot is None:
        raise UserError(f"{name} is no directory, not downloaded and not one of {', '.join(NAMES)}")
    return snapshot


def read_variable(name, default):
    """A variable of the environment; one that is empty does not count."""
    return os.environ.get(name) or default


def is_offline() -> bool:
    """Whether the user has forbidden to ask the network, as huggingface_hub reads it."""
    asked = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return asked.upper() in ("1", "ON", "YES", "TRUE")


def hf_home():
    cache = read_variable("XDG_CACHE_HOME", "~/.cache")
    return pathlib.Path(os.path.expanduser(read_variable("HF_HOME", f"{cache}/huggingface")))


def find_snapshot(folder):
    """The directory of a model that lies in `folder` of the cache as a whole, else None.

    transformers may have left parts of one: a config.json without the rest.
    """
    reference = folder / "refs/main"
    if not reference.is_file():
        return None
    snapshot = folder / "snapshots" / reference.read_text().strip()
    needed = ["config.json", "tokenizer.json"]
    if (snapshot / INDEX).is_file():
        needed += read_index(snapshot / INDEX).values()
    else:
        needed.append(SINGLE)
    for file in needed:
        if not (snapshot / file).is_file():
            return None
    return snapshot


def fetch_named(name, hub_name, folder):
    """fetch_model; what goes wrong of a name that looks like a path here is perhaps only misspelt."""
    try:
        return fetch_model(hub_name, folder)
    except UserError as error:
        if name == hub_name and pathlib.Path(name).parent.is_dir():
            raise UserError(f"there is no directory {name} here; and on the hub: {error}") from None
        raise


def fetch_model(name, folder):
    """Download what is needed of the hub's model `name` into `folder`, its place in the cache."""
    endpoint = read_variable("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    page = f"{endpoint}/{name}"
    token = read_token()
    revision, files = list_files(f"{endpoint}/api/models/{name}?blobs=true", page, token)
    snapshot = folder / "snapshots" / revision

    # Names from this program or from read_index, never a path from the server.
    wanted = ["config.json", "tokenizer.json"]
    for file in ("chat_template.jinja", "generation_config.json", "tokenizer_config.json"):
        if file in files:
            wanted.append(file)
    weights = SINGLE
    if SINGLE not in files and INDEX in files:
        weights = INDEX
    wanted.append(weights)
    for file in wanted:
        if file not in files:
            raise UserError(f"{page}: lacks {file} (pickled weights, .bin, are refused: they may run code)")
        size, digest = files[file]
        download(f"{page}/resolve/{revision}/{file}", snapshot / file, size, digest, page, token)
        if file == INDEX:                           # now we know the shards
            wanted += sorted(set(read_index(snapshot / INDEX).values()))
    atomic_write(folder / "refs/main", revision)
    return snapshot


def read_token():
    """The user's token for the hub, "" without one; `hf auth login` leaves it in a file."""
    token = os.environ.get("HF_TOKEN", "")
    login = hf_home() / "token"
    if not token and login.is_file():
        token = login.read_text()
    return "".join(token.split())


def list_files(url, page, token):
    """-> (revision, {file: (size, hash)}): a large file has a sha256, a text the id that git gives it."""
    try:
        with open_url(url, page, token) as reply:
            listing = json.loads(read_some(reply, LIMIT))
        files = {}
        for entry in listing["siblings"]:
            if entry.get("lfs"):
                digest = entry["lfs"]["sha256"]
            else:
                digest = entry["blobId"]
            files[entry["rfilename"]] = int(entry["size"]), str(digest)
        return re.fullmatch("[0-9a-f]{40}", listing["sha"])[0], files
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise UserError(f"{page}: the server's list of files makes no sense; is HF_ENDPOINT a hub?") from None


def download(url: str, path: pathlib.Path, size: int, digest: str, page: str, token=""):
    """Get `url` into the file `path`, with a bar; what was cut (PATH.incomplete) goes on where it stopped.

    size: bytes; digest: its sha256 (64 hex digits) or its id as a git blob (40). UserError if either differs.
    """
    if path.is_file() and path.stat().st_size == size:
        return
    part = path.with_name(path.name + ".incomplete")
    # Errors of the disk are named here; open_url and read_some deal with the network's.
    with naming(path, "written", malformed=()):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "a+b") as file, open_bar(path.name, size, "B", file.tell(), scale=True) as bar:
            while (start := file.tell()) < size:
                with open_url(url, page, token, start) as reply:
                    receive(reply, file, size, bar)
                if file.tell() <= start:                        # not one byte further
                    raise UserError(f"{page}: the connection broke at {file.tell():,} of {size:,} bytes of "
                                    f"{path.name}; run the same command again: it goes on from there")
            os.fsync(file.fileno())
            file.seek(0)
            if len(digest) == 40:                                       # what git calls a blob
                check = hashlib.sha1(b"blob %d\0" % size)
            else:
                check = hashlib.sha256()
            while block := file.read(2 ** 20):
                check.update(block)
        if check.hexdigest() != digest:
            part.unlink()
            raise UserError(f"{page}: {path.name} arrived damaged (wrong hash), is deleted; run this again")
        os.replace(part, path)


def receive(reply, file, size, bar):
    """Append to `file` what one connection brings, at most up to `size` bytes."""
    if file.tell() and reply.status != 206:         # this server cannot resume
        file.seek(0)
        file.truncate()
        bar.restart()
    while block := read_some(reply, min(2 ** 20, size - file.tell())):
        bar.update(file.write(block))


def read_some(reply, limit: int) -> bytes:
    """Up to `limit` bytes. A broken connection looks like the end; who knows the size can tell them apart."""
    try:
        return reply.read(limit)
    except (OSError, http.client.HTTPException):
        return b""


class Redirect(urllib.request.HTTPRedirectHandler):
    """The hub sends us to stores on other hosts, and a token is none of their business."""
    def redirect_request(self, request, *rest):
        new = super().redirect_request(request, *rest)
        before, after = urllib.parse.urlsplit(request.full_url), urllib.parse.urlsplit(new.full_url)
        if before[:2] != after[:2]:                             # scheme and host
            new.remove_header("Authorization")
        return new


def open_url(url: str, page: str, token="", start=0):
    """The open answer to GET `url` from byte `start` on. UserError: names `page` and says what to do."""
    if is_offline():
        raise UserError(f"{page}: not fetched, since HF_HUB_OFFLINE is set: unset it, or give what is here already")
    headers = {"User-Agent": "rema"}
    if start:
        headers["Range"] = f"bytes={start}-"
    if token:
        headers["Authorization"] = f"Bearer {token}"
    try:
        request = urllib.request.Request(url, headers=headers)
        return urllib.request.build_opener(Redirect).open(request, timeout=30)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 404 or error.headers.get("X-Error-Code") == "RepoNotFound":
            advice = "no such thing there; check the spelling (if it is private, set HF_TOKEN)"
        elif error.code not in (401, 403):
            advice = "try again later"
        elif token:
            advice = "it is gated or private: accept its terms on that page and set HF_TOKEN to a token of " \
                     "the account that did: the present one has no access"
        else:
            advice = "it is gated or private: accept its terms on that page and set HF_TOKEN"
        raise UserError(f"{page}: the server answers {error.code}; {advice}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise UserError(f"{page}: cannot be reached ({getattr(error, 'reason', error)}); check the network "
                        "or fetch it by other means and give the directory") from None
