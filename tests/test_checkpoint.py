"""Weights: safetensors round trips, damaged and hostile files, and the hub, played by two local servers."""
import errno
import hashlib
import http.client
import http.server
import io
import json
import math
import os
import multiprocessing
import re
import threading
import time

import pytest
import torch

from data import UserError
from data.formats import hub as places, safetensors
from data.formats.files import append_json, atomic_write, locked, read_json, write_json
from data.formats.hub import resolve
from data.formats.safetensors import INDEX, SINGLE, read_tensors, write_tensors

TENSORS = {"b.f32": torch.randn(3, 5), "a.bf16": torch.randn(4, 2).bfloat16(), "f16": torch.randn(7).half(),
           "f64": torch.randn(2, 1, 3).double(), "i64": torch.arange(-2, 3), "i32": torch.arange(3).int(),
           "u8": torch.arange(3).byte(), "scalar": torch.tensor(2.5), "empty": torch.empty(0, 3),
           "ünï": torch.ones(1), "transposed": torch.arange(6.).reshape(2, 3).T}


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


def same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in theirs:
        assert ours[name].dtype == theirs[name].dtype and ours[name].shape == theirs[name].shape, name
        assert torch.equal(ours[name], theirs[name]), name


# ------------------------------------------------------------------------------------------------------------
# Files

def test_atomic_write(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    path = tmp_path / "new" / "file"
    atomic_write(path, "ü")
    assert path.read_bytes() == "ü".encode()
    atomic_write(path, lambda file: file.write(b"two"))
    assert path.read_bytes() == b"two" and len(synced) == 2

    def interrupted(file):
        file.write(b"half")
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        atomic_write(path, interrupted)

    def full(file):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(UserError, match="disk is full") as error:
        atomic_write(path, full)
    assert str(path) in one_line(error)
    with pytest.raises(UserError, match="cannot be written"):
        atomic_write(path / "below a file", b"")
    assert path.read_bytes() == b"two"
    assert list(path.parent.iterdir()) == [path]                    # nothing lost, nothing left behind


def start(target, *arguments):
    """Another process that calls the function; forked, so that it need not import torch again."""
    process = multiprocessing.get_context("fork").Process(target=target, args=arguments)
    process.start()
    return process


def hold(path, mine):
    with locked(path):
        mine.set()
        time.sleep(60)


def test_a_lock_is_for_one_and_dies_with_its_process(tmp_path, capfd):
    path = tmp_path / "new" / ".lock"
    with locked(path):
        with pytest.raises(UserError, match="^this run is going on$"):          # another open file, as in another process
            with locked(path, taken="this run is going on"):
                pass
    mine = multiprocessing.get_context("fork").Event()
    owner = start(hold, path, mine)
    assert mine.wait(20)
    with pytest.raises(UserError, match="going on"), locked(path, "going on"):
        pass
    threading.Timer(0.5, owner.kill).start()
    begin = time.monotonic()
    with locked(path):
        assert 0.3 < time.monotonic() - begin < 20
    owner.join()
    assert capfd.readouterr().err.count("waiting for") == 1
    with locked(path, "free again"):
        pass
    with pytest.raises(KeyError), locked(path):             # what goes wrong inside is not the lock's
        raise KeyError
    with locked(path, "free again"):
        pass
    with pytest.raises(UserError, match="cannot be written"), locked(path / "below a file"):
        pass


def refuse_constant(name):
    raise ValueError(name)


def test_logs_are_json_whatever_happens(tmp_path):
    """NaN and the infinities, which other readers of JSON do not know, are null, wherever they stand."""
    record = {"a": math.nan, "b": [1.5, -math.inf, {"c": (math.inf, 2, None, True)}], "d": "NaN \u2028 \ud800", "e": 1e300}
    for write in (write_json, append_json):
        write(tmp_path / "log.jsonl", [record, {"step": 1}])
    lines = (tmp_path / "log.jsonl").read_bytes().split(b"\n")[:-1]
    assert len(lines) == 4
    found = json.loads(lines[2], parse_constant=refuse_constant)
    assert found["a"] is None and found["b"] == [1.5, None, {"c": [None, 2, None, True]}]
    assert found["d"].startswith("NaN") and found["e"] == 1e300


@pytest.mark.parametrize("text, what", [
    (b"", "malformed"), (b"{", "malformed"), (b"\xff{}", "malformed"), (b"[" * 100_000, "malformed"),
    (b"[1]", "list"), (None, "cannot be read")])
def test_read_json(tmp_path, text, what):
    path = tmp_path / "config.json"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(UserError, match=what) as error:
        read_json(path)
    assert str(path) in one_line(error)


# ------------------------------------------------------------------------------------------------------------
# Tensors

@pytest.mark.filterwarnings("error")
def test_round_trip(tmp_path):
    write_tensors(TENSORS, tmp_path / SINGLE)
    same(read_tensors(tmp_path), TENSORS)
    same(read_tensors(tmp_path / SINGLE), TENSORS)
    write_tensors(read_tensors(tmp_path), tmp_path / SINGLE)       # onto the file that it is mapped from
    tensors = read_tensors(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [SINGLE]
    write_tensors({}, tmp_path / SINGLE)
    assert read_tensors(tmp_path) == {}
    same(tensors, TENSORS)                              # the old file lives as long as somebody has it mapped


def test_data_begins_at_a_multiple_of_eight(tmp_path):
    for length in range(1, 9):
        write_tensors({"x" * length: torch.ones(1)}, tmp_path / "x")
        assert int.from_bytes((tmp_path / "x").read_bytes()[:8], "little") % 8 == 0


def test_bytes_equal_those_of_the_safetensors_library(tmp_path):
    library = pytest.importorskip("safetensors.torch")
    tensors = {name: tensor.contiguous() for name, tensor in TENSORS.items()}
    library.save_file(tensors, tmp_path / "theirs", metadata={"format": "pt"})
    write_tensors(tensors, tmp_path / "ours")
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    same(library.load_file(tmp_path / "ours"), read_tensors(tmp_path / "theirs"))


def test_mapping_never_alters_the_file(tmp_path):
    write_tensors(TENSORS, tmp_path / SINGLE)
    before = (tmp_path / SINGLE).read_bytes()
    for tensor in read_tensors(tmp_path).values():
        tensor.zero_()
    assert (tmp_path / SINGLE).read_bytes() == before
    same(read_tensors(tmp_path), TENSORS)


def entry(begin, end, shape=None, dtype="F32"):
    shape = [(end - begin) // 4] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def pack(header, data=bytes(16), length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def test_unpadded_header_is_read_too(tmp_path):
    values = torch.tensor([1., 2., 3., 4.])
    for spaces in range(4):
        (tmp_path / "x").write_bytes(pack(json.dumps({"w": entry(0, 16)}).encode() + b" " * spaces,
                                          values.numpy().tobytes()))
        assert read_tensors(tmp_path / "x")["w"].tolist() == [1, 2, 3, 4]


GOOD = {"__metadata__": {"format": "pt"}, "v": entry(0, 8), "w": entry(8, 16)}
DAMAGED = {
    "empty file": (b"", "truncated"),
    "seven bytes": (b"\2\0\0\0\0\0\0", "truncated"),
    "only a length": (pack(b"", b""), "malformed"),
    "header a little longer than the file": (pack({}, b"", length=10), "truncated"),
    "header longer than the file": (pack(GOOD, length=1 << 40), "truncated"),
    "length of all ones": (pack(GOOD, length=(1 << 64) - 1), "truncated"),
    "an html page": (b"<!DOCTYPE html><html><body>Not found", "truncated"),
    "no JSON": (pack(b"{'v': 1}"), "malformed"),
    "no UTF-8": (pack(b'{"\xff": 1}'), "malformed"),
    "deep": (pack(b"[" * 200_000), "malformed"),
    "a list": (pack([]), "malformed"),
    "twice": (pack(b'{"w": %s, "w": %s}' % ((json.dumps(entry(0, 16)).encode(),) * 2)), "twice"),
    "truncated": (pack(GOOD, bytes(15)), "'w'.*truncated"),
    "too long": (pack(GOOD, bytes(17)), "1 bytes behind"),
    "overlap": (pack({**GOOD, "w": entry(4, 16)}), "'w'.*begins at 4"),
    "same place": (pack({"v": entry(0, 16), "w": entry(0, 16)}), "begins at 0"),
    "gap": (pack({**GOOD, "w": entry(12, 16)}), "'w'.*begins at 12"),
    "out of range": (pack({**GOOD, "w": entry(8, 1 << 40)}), "'w'.*truncated"),
    "negative begin": (pack({"w": entry(-4, 16)}), "'w'.*impossible"),
    "backwards": (pack({"w": entry(16, 0, [0])}), "'w'.*-16 bytes"),
    "shape too small": (pack({**GOOD, "w": entry(8, 16, [1])}), "'w'.*8 bytes for shape"),
    "shape too large": (pack({**GOOD, "w": entry(8, 16, [3])}), "'w'.*8 bytes for shape"),
    "other dtype": (pack({**GOOD, "w": entry(8, 16, [2], "BF16")}), "'w'.*8 bytes for shape"),
    "negative shape": (pack({"w": entry(0, 16, [-2, -2])}), "'w'.*impossible"),
    "empty yet huge": (pack({"w": entry(0, 0, [0, 1 << 62, 1 << 62])}, b""), "'w'.*impossible"),
    "a thousand axes": (pack({"w": entry(0, 4, [1] * 1000)}, bytes(4)), "'w'.*impossible"),
    "float shape": (pack({"w": entry(0, 16, [4.0])}), "'w'.*impossible"),
    "bool shape": (pack({"w": entry(0, 4, [True])}, bytes(4)), "'w'.*impossible"),
    "text offsets": (pack({"w": {**entry(0, 16), "data_offsets": ["0", "16"]}}), "'w'.*impossible"),
    "three offsets": (pack({"w": {**entry(0, 16), "data_offsets": [0, 8, 16]}}), "'w'.*lacks"),
    "no shape": (pack({"w": {"dtype": "F32", "data_offsets": [0, 16]}}), "'w'.*lacks"),
    "null shape": (pack({"w": {**entry(0, 16), "shape": None}}), "'w'.*lacks"),
    "unknown dtype": (pack({"w": entry(0, 16, [16], "F8_E4M3")}), "'w'.*F8_E4M3"),
    "dtype a list": (pack({"w": {**entry(0, 16), "dtype": ["F32"]}}), "'w'.*lacks"),
    "entry no object": (pack({"w": 3}), "'w'.*lacks"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_file(tmp_path, name):
    content, what = DAMAGED[name]
    (tmp_path / SINGLE).write_bytes(content)
    with pytest.raises(UserError, match=what) as error:
        read_tensors(tmp_path)
    assert str(tmp_path / SINGLE) in one_line(error)


def test_header_beyond_the_limit(tmp_path, monkeypatch):
    (tmp_path / "x").write_bytes(pack(GOOD))
    monkeypatch.setattr(safetensors, "LIMIT", 20)
    with pytest.raises(UserError, match="truncated or no safetensors"):
        read_tensors(tmp_path / "x")


def test_every_truncation_is_noticed(tmp_path):
    whole = pack(GOOD)
    for length in range(len(whole)):
        (tmp_path / SINGLE).write_bytes(whole[:length])
        with pytest.raises(UserError):
            read_tensors(tmp_path)


def test_control_characters_in_a_name_do_not_reach_the_terminal(tmp_path):
    (tmp_path / SINGLE).write_bytes(pack({"\x1b[2J\n": entry(0, 16, [3])}))
    with pytest.raises(UserError) as error:
        read_tensors(tmp_path)
    assert "\x1b" not in one_line(error)


def shards(directory, weight_map, **files):
    for name, tensors in files.items():
        write_tensors({tensor: TENSORS[tensor] for tensor in tensors}, directory / f"{name}.safetensors")
    (directory / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_shards(tmp_path):
    shards(tmp_path, {"f16": "one.safetensors", "i64": "two.safetensors", "scalar": "two.safetensors"},
           one=["f16"], two=["i64", "scalar"])
    same(read_tensors(tmp_path), {name: TENSORS[name] for name in ("f16", "i64", "scalar")})


@pytest.mark.parametrize("weight_map, what", [
    ({"f16": "one.safetensors", "i64": "two.safetensors"}, "two.safetensors: cannot be read"),
    ({"f16": "one.safetensors", "scalar": "one.safetensors"}, "one.safetensors: lacks tensor 'scalar'"),
    ({"scalar": "one.safetensors"}, "one.safetensors: holds tensor 'f16'"),
    ({"f16": "../one.safetensors"}, "not the name"), ({"f16": "/etc/x.safetensors"}, "not the name"),
    ({"f16": "a\\one.safetensors"}, "not the name"), ({"f16": "one.bin"}, "not the name"),
    ({"f16": 3}, "not the name"), ({"f16": ".safetensors"}, "not the name"),
    ({}, "no weight_map"), ([], "no weight_map")])
def test_bad_index(tmp_path, weight_map, what):
    shards(tmp_path, weight_map, one=["f16"])
    with pytest.raises(UserError, match=what) as error:
        read_tensors(tmp_path)
    one_line(error)


def test_pickled_weights_are_refused(tmp_path):
    with pytest.raises(UserError, match="neither model.safetensors nor"):
        read_tensors(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match="pytorch_model.bin is a pickle"):
        read_tensors(tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        read_tensors(tmp_path / "absent.safetensors")


def test_real_checkpoint(smollm2):
    tensors = read_tensors(smollm2)
    assert len(tensors) == 272 and {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert sum(tensor.numel() for tensor in tensors.values()) == 134_515_008


# ------------------------------------------------------------------------------------------------------------
# The hub: one server for the pages, another one for the large files, as the real one has it

REVISION = "0123456789abcdef0123456789abcdef01234567"


def sha256(content):
    return hashlib.sha256(content).hexdigest()


class Hub(http.server.ThreadingHTTPServer):
    """files: {name: bytes}; cut: {name: [bytes before the connection breaks, at the next request, ...]};
    pause: seconds in the middle of a file; status: of the files; wrong: {name: false fields in the list}; text: a list that makes no sense;
    requests: all that came in, (path, headers)."""
    daemon_threads = True

    def __init__(self, store=None):
        super().__init__(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.store, self.files, self.cut, self.requests = store, {}, {}, []
        self.status, self.error_code, self.api_status, self.ranges = 200, "", 200, True
        self.wrong, self.text, self.pause = {}, None, 0
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def listing(self):
        """What GET /api/models/NAME?blobs=true sends (the fields that matter)."""
        siblings = [{"rfilename": ".gitattributes", "size": 3, "blobId": "0" * 40}]
        for name, content in self.files.items():
            sha1 = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            sibling = {"rfilename": name, "size": len(content), "blobId": sha1}
            if name.endswith(".safetensors"):
                sibling["lfs"] = {"sha256": sha256(content), "size": len(content), "pointerSize": 134}
            siblings.append({**sibling, **self.wrong.get(name, {})})
        return {"id": "Owner/Name", "sha": REVISION, "siblings": siblings}


class Answer(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def send(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        hub, name = self.server, self.path.rsplit("/", 1)[-1]
        hub.requests.append((self.path, dict(self.headers)))
        if self.path.startswith("/api/models/"):
            if hub.api_status != 200:
                return self.send(hub.api_status, X_Error_Code=hub.error_code)
            return self.send(200, json.dumps(hub.listing()).encode() if hub.text is None else hub.text)
        if hub.status != 200:
            return self.send(hub.status, X_Error_Code=hub.error_code)
        if name not in hub.files:
            return self.send(404)
        if hub.store and name.endswith(".safetensors"):
            return self.send(302, Location=f"{hub.store.url}/store/{name}")
        if hub.store and not self.path.startswith("/cached/"):      # a text: redirected on the same host
            return self.send(307, Location=f"/cached/{name}")
        content, start = hub.files[name], 0
        if hub.ranges and "Range" in self.headers:
            start = int(re.fullmatch(r"bytes=(\d+)-", self.headers["Range"])[1])
        body = content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", len(body))
        self.end_headers()
        if hub.pause:
            self.wfile.write(body[:10])
            self.wfile.flush()
            time.sleep(hub.pause)
            body = body[10:]
        self.wfile.write(body[:hub.cut[name].pop(0)] if hub.cut.get(name) else body)
        self.close_connection = True


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with one small model, Owner/Name, and an empty cache."""
    for name in ("HF_TOKEN", "HF_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    store = Hub()
    hub = Hub(store)
    write_tensors(TENSORS, tmp_path / "source")
    hub.files = store.files = {
        "config.json": b'{"model_type": "llama"}', "tokenizer.json": b"{}", "tokenizer_config.json": b"{ }",
        SINGLE: (tmp_path / "source").read_bytes(), "README.md": b"unneeded", "model.bin": b"unneeded"}
    monkeypatch.setenv("HF_ENDPOINT", hub.url + "/")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield hub
    for server in (hub, store):
        server.shutdown()
        server.server_close()


def snapshot(tmp_path):
    return tmp_path / "home/hub/models--Owner--Name/snapshots" / REVISION


def refused(what, name="Owner/Name"):
    with pytest.raises(UserError, match=what) as error:
        resolve(name)
    return one_line(error)


def test_download_then_cache_without_network(hub, tmp_path, monkeypatch, capfd):
    directory = resolve("Owner/Name")
    assert directory == snapshot(tmp_path)
    assert {file.name for file in directory.iterdir()} == {
        "config.json", "tokenizer.json", "tokenizer_config.json", SINGLE}
    same(read_tensors(directory), TENSORS)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    assert resolve("Owner/Name") == directory
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "home/hub"))
    monkeypatch.setenv("HF_HOME", "/nonexistent")
    assert resolve("Owner/Name") == directory
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "other"))
    assert "cannot be reached" in refused("check the network")
    assert capfd.readouterr().out == ""                 # bars belong to stderr


def test_our_cache_is_the_librarys_and_theirs_is_ours(hub, tmp_path):
    library = pytest.importorskip("huggingface_hub")
    resolve("Owner/Name")
    where = {"cache_dir": tmp_path / "home/hub", "local_files_only": True}
    assert library.snapshot_download("Owner/Name", **where) == str(snapshot(tmp_path))
    assert library.hf_hub_download("Owner/Name", SINGLE, **where) == str(snapshot(tmp_path) / SINGLE)


def test_cache_as_the_library_lays_it_out(hub, tmp_path, monkeypatch):
    """huggingface_hub keeps the bytes in blobs/ and links to them."""
    snapshot(tmp_path).mkdir(parents=True)
    blobs = snapshot(tmp_path).parent.parent / "blobs"
    blobs.mkdir()
    (blobs.parent / "refs").mkdir()
    (blobs.parent / "refs/main").write_text(REVISION)
    for place, (name, content) in enumerate(hub.files.items()):
        (blobs / str(place)).write_bytes(content)
        (snapshot(tmp_path) / name).symlink_to(os.path.join("../../blobs", str(place)))
    assert resolve("Owner/Name") == snapshot(tmp_path) and not hub.requests
    (snapshot(tmp_path) / SINGLE).unlink()              # somebody needed only a part of it: it is completed
    assert resolve("Owner/Name") == snapshot(tmp_path)
    fetched = [path for path, _ in hub.requests if "resolve" in path]
    assert fetched == [f"/Owner/Name/resolve/{REVISION}/{SINGLE}"]


def test_short_name(hub):
    resolve("smollm2-135m")
    assert hub.requests[0][0] == "/api/models/HuggingFaceTB/SmolLM2-135M-Instruct?blobs=true"


def test_sharded_download(hub, tmp_path):
    weights = hub.files.pop(SINGLE)
    shard = "model-00001-of-00001.safetensors"
    hub.files |= {shard: weights, INDEX: json.dumps({"weight_map": dict.fromkeys(TENSORS, shard)}).encode()}
    same(read_tensors(resolve("Owner/Name")), TENSORS)
    requests = len(hub.requests)
    assert resolve("Owner/Name") == snapshot(tmp_path) and len(hub.requests) == requests


@pytest.mark.parametrize("shard", [
    "../../../../evil.safetensors", "/evil.safetensors", "..\\evil.safetensors", "absent.safetensors"])
def test_index_that_leads_elsewhere(hub, tmp_path, shard):
    hub.files.pop(SINGLE)
    index = json.dumps({"weight_map": {"w": shard}}).encode()
    hub.files |= {INDEX: index, "evil.safetensors": b"", shard: b""}
    if shard.startswith("absent"):
        del hub.files[shard]
    refused("not the name of a shard|lacks absent.safetensors")
    assert not list(tmp_path.rglob("*evil*"))


@pytest.mark.parametrize("listing", [
    b"", b"[]", b"no JSON", b"[" * 100_000, b'{"sha": "../../x", "siblings": []}',
    b'{"sha": 3, "siblings": []}', b'{"siblings": []}', b'{"sha": "%s", "siblings": 7}' % REVISION.encode(),
    b'{"sha": "%s", "siblings": [{"rfilename": "config.json"}]}' % REVISION.encode(),
    b'{"sha": "%s", "siblings": [{"rfilename": ["a"], "size": 1, "blobId": ""}]}' % REVISION.encode()])
def test_list_that_makes_no_sense(hub, listing):
    hub.text = listing
    refused("makes no sense")


def test_pickles_only(hub):
    del hub.files[SINGLE]
    refused("refused: they may run code")


def test_token_stays_with_the_hub(hub, tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    (tmp_path / "home/token").write_text(" from-file\n")
    resolve("Owner/Name")
    assert {headers.get("Authorization") for _, headers in hub.requests} == {"Bearer from-file"}
    assert hub.store.requests and not any("Authorization" in headers for _, headers in hub.store.requests)
    monkeypatch.setenv("HF_TOKEN", "from-environment")
    hub.requests.clear()
    resolve("Owner/Other")
    assert {headers.get("Authorization") for _, headers in hub.requests} == {"Bearer from-environment"}


def test_gated(hub, monkeypatch):
    hub.status, hub.error_code = 401, "GatedRepo"
    line = refused("accept its terms")
    assert f"{hub.url}/Owner/Name" in line and "set HF_TOKEN" in line
    hub.status = 403
    monkeypatch.setenv("HF_TOKEN", "of somebody else")
    refused("the present one has no access")


def test_unknown_on_the_hub(hub):
    hub.api_status = 404
    refused("check the spelling")
    hub.api_status, hub.error_code = 401, "RepoNotFound"            # what the real one says without a token
    refused("check the spelling")
    hub.api_status, hub.error_code = 503, ""
    refused("answers 503; try again later")


def ranges(hub):
    return [headers.get("Range") for _, headers in hub.store.requests]


def test_broken_connection_goes_on_where_it_stopped(hub):
    hub.store.cut = {SINGLE: [100]}                                 # at once, as long as anything comes
    same(read_tensors(resolve("Owner/Name")), TENSORS)
    assert ranges(hub) == [None, "bytes=100-"]


def test_a_later_run_goes_on_where_this_one_stopped(hub, tmp_path):
    hub.store.cut = {SINGLE: [100, 50, 0]}
    refused(f"broke at 150 of {len(hub.files[SINGLE]):,} bytes")
    assert not (snapshot(tmp_path) / SINGLE).exists()
    hub.store.requests.clear()
    same(read_tensors(resolve("Owner/Name")), TENSORS)
    assert ranges(hub) == ["bytes=150-"]
    assert not list(tmp_path.rglob("*.incomplete"))


def test_server_that_cannot_resume(hub):
    hub.store.cut, hub.store.ranges = {SINGLE: [100]}, False
    same(read_tensors(resolve("Owner/Name")), TENSORS)


def test_server_that_can_neither_resume_nor_finish(hub):
    hub.store.cut, hub.store.ranges = {SINGLE: [100, 50]}, False
    refused("broke at 50")


@pytest.mark.parametrize("error", [ConnectionResetError(), TimeoutError(), http.client.IncompleteRead(b"")])
def test_broken_connection_reads_like_the_end(error):
    class Reply:
        def read(self, limit):
            raise error
    assert places.read_some(Reply(), 10) == b""


def test_several_processes_and_an_empty_cache(hub, tmp_path):
    """Each deleted or renamed what the others were writing; torchrun with a fresh cache ended with status 1."""
    hub.pause = hub.store.pause = 0.1
    processes = [start(resolve, "Owner/Name") for _ in range(4)]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    same(read_tensors(snapshot(tmp_path)), TENSORS)
    fetched = [path for path, _ in hub.requests + hub.store.requests]
    assert sorted(fetched) == sorted(set(fetched))                      # nothing came twice
    assert not list(tmp_path.rglob("*.incomplete"))


def test_a_download_goes_on_when_its_process_dies(hub, tmp_path):
    hub.store.pause = 30
    owner = start(resolve, "Owner/Name")
    begin = time.monotonic()
    while not list(tmp_path.rglob(f"{SINGLE}.incomplete")):
        assert owner.is_alive() and time.monotonic() - begin < 60
        time.sleep(0.05)
    hub.store.pause = 0
    threading.Timer(0.3, owner.kill).start()
    same(read_tensors(resolve("Owner/Name")), TENSORS)
    assert time.monotonic() - begin < 60
    owner.join()


def test_file_of_another_size_is_fetched_again(hub, tmp_path):
    snapshot(tmp_path).mkdir(parents=True)
    (snapshot(tmp_path) / SINGLE).write_bytes(b"half")
    same(read_tensors(resolve("Owner/Name")), TENSORS)


@pytest.mark.parametrize("file, wrong", [
    (SINGLE, {"lfs": {"sha256": "0" * 64}}), (SINGLE, {"lfs": {"sha256": 3}}), (SINGLE, {"size": -1}),
    ("config.json", {"blobId": "0" * 40}), ("config.json", {"blobId": None}), ("config.json", {"size": 5})])
def test_wrong_hash(hub, tmp_path, file, wrong):
    hub.wrong = {file: wrong}
    refused(f"{file} arrived damaged")
    assert not (snapshot(tmp_path) / file).exists() and not list(tmp_path.rglob("*.incomplete"))
    hub.wrong = {}
    resolve("Owner/Name")


def test_endless_body_stops_at_the_size(hub):
    """A server that sends more than the list says."""
    hub.wrong = {SINGLE: {"size": 64, "lfs": {"sha256": sha256(hub.files[SINGLE][:64])}}}
    assert (resolve("Owner/Name") / SINGLE).stat().st_size == 64


def test_size_beyond_what_comes(hub):
    hub.wrong = {SINGLE: {"size": 10 ** 9}}
    refused("the connection broke at .* of 1,000,000,000 bytes")


def test_no_network(hub, monkeypatch):
    for endpoint in ("http://127.0.0.1:1", "no url", "http://[", "http://no such host"):
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        assert "give the directory" in refused("cannot be reached")


def test_full_disk(hub, tmp_path, monkeypatch):
    class Full(io.FileIO):
        def write(self, block):
            if len(block) > 100:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(block)
    with monkeypatch.context() as patch:
        patch.setattr(places, "open", lambda path, mode: Full(path, mode), raising=False)
        assert SINGLE in refused("disk is full; free some space, then run the same command again, or --resume the run")
    assert not list(tmp_path.rglob("refs/main")) and not (snapshot(tmp_path) / SINGLE).exists()
    same(read_tensors(resolve("Owner/Name")), TENSORS)


def test_names(hub, tmp_path, monkeypatch):
    assert "'llama-1b'" in refused("no known model 'lama-1b'", "lama-1b")
    assert "'smollm2-135m'" in refused("nearest", "SmolLM-135M")
    refused("no directory", "../a/b/c")
    assert resolve(str(tmp_path)) == tmp_path
    assert resolve(tmp_path) == tmp_path
    assert not hub.requests
    monkeypatch.setattr(places, "TINY", tmp_path)
    refused("python -m data.tiny.make_tiny", "tiny")
    (tmp_path / "config.json").write_text("{}")
    assert resolve("tiny") == tmp_path
    assert list(places.NAMES) == (
        "tiny llama-1b llama-3b llama-8b llama3-8b qwen-0.5b qwen-1.5b qwen-3b qwen-7b qwen3-0.6b qwen3-1.7b "
        "qwen3-4b qwen3-8b smollm2-135m smollm2-360m smollm2-1.7b deepseek-1.5b deepseek-7b deepseek-8b mistral-nemo"
        ).split()
    assert places.NAMES["llama-3b"] == "meta-llama/Llama-3.2-3B-Instruct"
    assert places.NAMES["qwen-0.5b"] == "Qwen/Qwen2.5-0.5B-Instruct"
    assert places.NAMES["qwen3-1.7b"] == "Qwen/Qwen3-1.7B"
    assert places.NAMES["smollm2-360m"] == "HuggingFaceTB/SmolLM2-360M-Instruct"
