"""data/tiny/make_tiny.py: the corpus and the vocabulary stay as they are, what it trains learns."""
import hashlib
import itertools
import json
import random

import pytest
import torch

import model as models
import rema
import rollout
from data.formats.hub import TINY
from data.formats.tokenizer import Tokenizer
from data.tiny import make_tiny

needs_muon = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="making data/tiny anew needs torch 2.9")
needs_tiny = pytest.mark.skipif(not (TINY / "model.safetensors").exists(), reason="data/tiny is not built")


def digest(conversations, n):
    text = json.dumps(list(itertools.islice(conversations, n)))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@pytest.mark.parametrize("seed, whole, school", [
    (0, "9aa964137681e055", "8c14d797ce63d7b0"), (1, "22a8f45ccf1738cf", "68998bd07480487e"),
    (2, "159a21efc124f78b", "b2a1273b95b5f233")])
def test_the_corpus_stays_as_it_is(seed, whole, school):
    """data/tiny was trained on it: not one byte may change, and so no draw and no prompt of rema.py either."""
    assert digest(make_tiny.corpus(random.Random(seed)), 1000) == whole
    assert digest(make_tiny.school(random.Random(seed)), 600) == school


def test_merge_joins_from_the_left_and_never_twice():
    for parts, joined in ((list("aaaa"), ["aa", "aa"]), (list("aaa"), ["aa", "a"]), (list("baab"), ["b", "aa", "b"]),
                          (["a"], ["a"]), ([], [])):
        make_tiny.merge(parts, ("a", "a"))
        assert parts == joined


@needs_muon
@needs_tiny
def test_the_program_makes_the_vocabulary_of_tiny(tmp_path, monkeypatch):
    """End to end but for the time that learning takes; the vocabulary is made from 3,000 conversations as ever."""
    measured = []
    monkeypatch.setattr(make_tiny, "BATCH", 4)
    monkeypatch.setattr(make_tiny, "measure", lambda *args: measured.append(args))
    make_tiny.program(["--size", "nano", "--steps", "2", "--out", str(tmp_path)])
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (tmp_path / name).read_bytes() == (TINY / name).read_bytes(), name
    model, tokenizer = models.load(tmp_path)
    [(trained, _)] = measured
    assert model.config.width == 64 and model.config.vocab_size == tokenizer.vocab_size
    assert all((a == b).all() for a, b in zip(model.parameters(), trained.parameters()))


@needs_muon
def test_each_weight_has_one_optimizer():
    model = make_tiny.make_model("nano", 300)
    (muon, _), (adamw, _) = make_tiny.make_optimizers(model)
    by_muon, by_adamw = muon.param_groups[0]["params"], adamw.param_groups[0]["params"]
    found = [id(weight) for weight in by_muon + by_adamw]
    assert sorted(found) == sorted(id(weight) for weight in model.parameters())
    assert all(weight.dim() == 2 and weight is not model.embed_tokens.weight for weight in by_muon)


@needs_muon
@needs_tiny
def test_training_learns_what_it_is_shown(monkeypatch):
    monkeypatch.setattr(make_tiny, "BATCH", 4)
    tokenizer = Tokenizer.load(TINY)
    shown = list(itertools.islice(make_tiny.school(random.Random(0)), 4))
    lessons = [rema.make_lesson(tokenizer, messages) for messages in shown]
    model = make_tiny.make_model("nano", tokenizer.vocab_size)
    before = -rollout.batch_logprobs(model, lessons)[0].mean().item()
    make_tiny.train(model, tokenizer, itertools.cycle(shown), 40)
    after = -rollout.batch_logprobs(model, lessons)[0].mean().item()
    assert before > 5 and after < before - 2
