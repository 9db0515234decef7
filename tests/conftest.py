"""Where the tests look for what is not in the repository; each test that needs it skips with a reason when it is absent.

REMA_SHARED  benchmark files (default: ../shared beside the repository)
REMA_MODELS  directories smollm2-135m, llama3, qwen2 and tekken (Mistral's) with real weights or tokenizers
             (default: ../models)
"""
import functools
import os
import pathlib

import pytest
import torch

import train
from data.formats.tokenizer import Tokenizer
from data.problems import choosing
from data.views import curves

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHARED = pathlib.Path(os.environ.get("REMA_SHARED", ROOT.parent / "shared"))
MODELS = pathlib.Path(os.environ.get("REMA_MODELS", ROOT.parent / "models"))

for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):      # servers of the tests are on this machine
    os.environ.pop(name, None)
torch.set_flush_denormal(True)
torch.set_num_threads(1)          # small tensors: a second thread mostly waits, above all on a busy machine

# Many runs draw the same problems and encode the same texts, a second each time: both are kept. (No test changes a
# tokenizer that has encoded something.)
generate, encode = functools.cache(choosing.generate), functools.lru_cache(100_000)(Tokenizer._encode_plain)
choosing.generate = lambda *given, **named: [dict(row) for row in generate(*given, **named)]
Tokenizer._encode_plain = lambda tokenizer, text: list(encode(tokenizer, text))


@pytest.fixture(autouse=True)
def no_closing(request, monkeypatch):
    """Runs end with curves and a closing look at plans, which take a second, only in tests marked with `closing`."""
    if not request.node.get_closest_marker("closing"):
        monkeypatch.setattr(curves, "draw_run", lambda directory, args: None)
        monkeypatch.setattr(train, "AFTER", [])


def need(path):
    """The path itself, or a skip that names it."""
    if not path.exists():
        pytest.skip(f"{path.name} is absent (see tests/conftest.py)")
    return path


@pytest.fixture
def shared_data():
    return need(SHARED / "data")


@pytest.fixture
def smollm2():
    return need(MODELS / "smollm2-135m")


@pytest.fixture
def llama3():
    return need(MODELS / "llama3")


@pytest.fixture
def qwen2():
    return need(MODELS / "qwen2")
