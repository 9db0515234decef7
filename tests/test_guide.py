"""Guided plans: always valid JSON, drawn from the model's own distribution over what is allowed."""
import json
import math

import pytest
import torch

import model as models
import rema
import rollout
from data import UserError
from data.problems.generate import generate as problems
from data.extensions.guide import ACTIONS, Guide, action_shares
from test_rollout import exact, read_tokenizer        # noqa: F401


def untrained(dtype=torch.float32):
    """The embedded tokenizer under random weights that are large enough for opinions."""
    model, tokenizer = models.load("tiny")
    model = models.Transformer(model.config).init_weights(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for weight in model.parameters():
            weight *= 2 if weight.dim() == 2 else 1
    return model.to(dtype), tokenizer, Guide(tokenizer, model.config.vocab_size)


def check(tokenizer, ids):
    found = json.loads(tokenizer.decode(ids))
    assert list(found) == ["action", "output"] and isinstance(found["output"], str)
    assert json.dumps(found, ensure_ascii=False) == tokenizer.decode(ids)      # its spacing, nothing escaped
    return ACTIONS.index(found["action"])


def gap(model, samples, guide, temperature=1.0):
    with torch.no_grad():
        new, entropy = rollout.batch_logprobs(model, samples, temperature, guide)
    old = torch.tensor([x for sample in samples for x in sample.logprobs], dtype=new.dtype)
    assert len(old) > 500 and entropy.isfinite().all() and entropy.min() > -1e-5
    return float((new - old).abs().max())


def test_every_guided_plan_is_valid_json():
    """500 plans of an untrained model at temperature 1.5, and the trainer's log-probs are the sampler's."""
    model, tokenizer, guide = untrained()
    prompt = tokenizer.chat(rema.HIGH_JSON.prompt("8+7*2"))
    actions, samples, cut = [0, 0, 0], [], 0
    for limit in (guide.least, 40):
        [plans] = rollout.generate(model, [prompt], 250, max_new_tokens=limit, temperature=1.5,
                                   stop_ids=tokenizer.stop_ids, guide=guide, generator=rollout.stream(limit))
        for plan in plans:
            actions[check(tokenizer, plan.tokens)] += 1
            assert plan.stopped and len(plan.tokens) <= limit
            assert all(logprob == 0 for logprob, state in zip(plan.logprobs, plan.states) if state < 0)
            assert sum(state >= 0 for state in plan.states) < len(plan.tokens) - 6
            cut += len(plan.tokens) == limit == 40
            samples.append(rema.sample([rema.Turn("high", prompt, plan.tokens, plan.logprobs, True, "",
                                                  plan.states)], 1.0))
    assert min(actions) > 50 and 0 < cut < 250
    assert gap(model, samples, guide, 1.5) < 1e-5


def test_guided_trainer_and_sampler_agree_also_in_mixed_batches(exact):     # noqa: F811
    """With shared weights plans, which are guided, and answers, which are not, are trained side by side."""
    model, tokenizer = models.load("tiny", dtype=torch.float64)
    guide = Guide(tokenizer, model.config.vocab_size)
    episodes = rollout.rollout({"high": model, "low": model}, tokenizer, problems(20), rema.roles(
        "rema", plan_format="json"), plans=4, answers=1, max_new_tokens=40, guide=guide)
    assert len({check(tokenizer, e.turns[0].tokens) for e in episodes}) == 3
    assert all(e.turns[0].states and not e.turns[1].states for e in episodes)
    plans, answers = ([rema.sample(e.said(role), 1.0) for e in episodes] for role in ("high", "low"))
    assert gap(model, plans, guide) < 1e-10 and gap(model, plans + answers, guide) < 1e-10
    assert gap(model, plans, None) > 0.01


def by_hand(tokenizer, said, left):
    """Ids that may follow those that were said, straight from the texts."""
    end, = tokenizer.stop_ids
    opened = [tokenizer.encode(f'{{"action": "{action}", "output": "') for action in ACTIONS]
    empty = [tokenizer.encode(f'{{"action": "{action}", "output": ""}}') + [end] for action in ACTIONS]
    for path in opened:
        if said[:len(path)] == path:
            string = tokenizer.decode(said[len(path):])
            if string.endswith('"'):
                return set(tokenizer.encode("}"))
            if string.endswith('"}'):
                return {end}
            if left <= 2:
                return set(tokenizer.encode('"}'))
            return {id for id in range(528) if fits(tokenizer.token_bytes(id))}
    return {path[len(said)] for path in opened + empty if path[:len(said)] == said}


def fits(raw):
    """Whether a token may stand in a string, or end it, by the judgement of the json module."""
    for tail in (b"", b'"', b'"}'):
        try:
            text = raw.removesuffix(tail).decode()
            if raw and raw.endswith(tail) and json.loads(f'"{text}"') == text:
                return True
        except ValueError:
            pass
    return False


@pytest.mark.parametrize("temperature, least", [(0.7, 30), (1.0, 30), (0, 12)])
def test_logprobs_are_those_of_the_logits_masked_by_hand(exact, temperature, least):     # noqa: F811
    model, tokenizer, guide = untrained(torch.float64)
    prompt, chosen = tokenizer.chat(rema.HIGH_JSON.prompt("8+7*2")), 0
    [plans] = rollout.generate(model, [prompt], 6, max_new_tokens=24, temperature=temperature, guide=guide,
                               stop_ids=tokenizer.stop_ids, generator=rollout.stream(3))
    for plan in plans:
        with torch.no_grad():
            logits = model(torch.tensor([prompt + plan.tokens]))[0, len(prompt) - 1:-1]
        for t, (row, token) in enumerate(zip(logits, plan.tokens)):
            ids = sorted(by_hand(tokenizer, plan.tokens[:t], 24 - t))
            row = (row[ids] / (temperature or 1)).log_softmax(-1)
            assert math.isclose(row[ids.index(token)], plan.logprobs[t], abs_tol=1e-10)
            assert temperature or row[ids.index(token)] == row.max()
            assert (plan.states[t] < 0) == (len(ids) == 1)
            chosen += len(ids) > 1
    assert chosen >= least


def test_guide_under_top_p():
    model, tokenizer, guide = untrained()
    [plans] = rollout.generate(model, [tokenizer.chat(rema.HIGH_JSON.prompt("1+1"))], 40, max_new_tokens=30,
                               top_p=0.6, stop_ids=tokenizer.stop_ids, guide=guide)
    assert all(plan.stopped and check(tokenizer, plan.tokens) >= 0 for plan in plans)


class Bytes:
    """A vocabulary that knows no words: 256 bytes and an end token."""
    vocab_size, stop_ids = 257, {256}

    def encode(self, text):
        return list(text.encode())

    def token_bytes(self, id):
        return bytes([id]) if id < 256 else b""

    def decode(self, ids):
        return bytes(ids).decode()

    def after(self, sampled):
        return [256]


@pytest.mark.parametrize("name", ["bytes", "smollm2", "llama3", "qwen2"])
def test_guides_of_other_tokenizers(request, name):
    """Random walks, most of them short of tokens; ids that only pad the model's head are never drawn."""
    tokenizer = Bytes() if name == "bytes" else read_tokenizer(request.getfixturevalue(name))
    guide = Guide(tokenizer, tokenizer.vocab_size + 100)
    generator, actions = torch.Generator().manual_seed(0), set()
    for limit in (guide.least, guide.least + 6):
        state, ids = torch.zeros(12, dtype=torch.int64), []
        for t in range(limit):
            state = guide.hurry(state, torch.full_like(state, limit - t))
            draws = torch.rand(guide.allowed[state].shape, generator=generator)
            ids.append((draws * guide.allowed[state]).argmax(-1))
            state = guide.next[state, ids[-1]].long()
        for row in torch.stack(ids, 1).tolist():
            ends = [i for i, id in enumerate(row) if id in tokenizer.stop_ids]
            actions.add(check(tokenizer, row[:ends[0]]))
            assert max(row[:ends[0]]) < tokenizer.vocab_size
    assert len(actions) == 3
    natural = '{"action": "DECOMPOSE", "output": "Add 2 and 3, then stop."}'   # '."}' may be one token
    state = torch.tensor([guide.START])
    for id in tokenizer.encode(natural) + [min(tokenizer.after([])[:1])]:
        assert guide.allowed[state, id]
        state = guide.next[state, id].long()
    assert state == guide.FREE


def test_a_plan_without_room_is_an_error_or_an_empty_turn():
    model, tokenizer, guide = untrained()
    prompt = rema.HIGH_JSON.prompt("1+1")
    with pytest.raises(UserError, match=f"at least {guide.least} for a guided plan"):
        rollout.generate(model, [tokenizer.chat(prompt)], max_new_tokens=guide.least - 1, guide=guide)
    for room in (guide.least, guide.least - 1):
        long = prompt[:-1] + [{"role": "user", "content": "1"}]
        while len(tokenizer.chat(long)) < model.config.context - room:
            long[-1]["content"] += "1"
        [[turn]] = rollout.speak(model, tokenizer, rema.HIGH_JSON, [long], 1, [(0,)], 64, guide=guide)
        assert turn.stopped == (room == guide.least) == bool(turn.text)


def test_action_shares_by_hand():
    """A plan counts once, whatever its answers; one without room never, nor a level that is no number."""
    episodes = []
    for action, level, answers in (("DECOMPOSE", 5, 1), ("DECOMPOSE", 2, 3), ("EMPTY", 1, 2),
                                   ("DECOMPOSE", "?", 1), (None, 4, 1)):
        text = json.dumps({"action": action, "output": ""}) if action else ""
        plan = rema.Turn("high", [], [], [], True, text)
        episodes += [rema.Episode({"level": level}, 0, 0, 0, [plan]) for _ in range(answers)]
    assert action_shares(episodes) == dict(
        share_DECOMPOSE=3 / 4, share_REWRITE=0, share_EMPTY=1 / 4,
        level_DECOMPOSE=3.5, level_REWRITE=None, level_EMPTY=1)
