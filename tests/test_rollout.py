"""The sampler and the plain forward pass: with a cache as without, in a batch as alone, drawn as recorded."""
import math

import pytest
import torch

import model as models
import rollout
from data import UserError

FAMILIES = {
    "llama": dict(family="llama", qkv_bias=False, qk_norm=False, tied=False,
                  rope_scaling={"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                "original_max_position_embeddings": 32}),
    "smollm2": dict(family="llama", qkv_bias=False, qk_norm=False, tied=True, rope_scaling=None),
    "qwen2": dict(family="qwen2", qkv_bias=True, qk_norm=False, tied=True, rope_scaling=None),
    "qwen3": dict(family="qwen3", qkv_bias=False, qk_norm=True, tied=False, rope_scaling=None),
}


def small(family="llama", context=128, dtype=torch.float64, seed=0):
    """A random model, 4 heads over 2 key-value heads; its weights are large enough for decided opinions."""
    config = models.Config(vocab_size=50, width=32, layers=2, heads=4, kv_heads=2, head_width=8, hidden=48,
                           context=context, eps=1e-5, rope_theta=10000.0, **FAMILIES[family])
    model = models.Transformer(config).init_weights(torch.Generator().manual_seed(seed)).to(dtype)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight *= 8
            else:                                            # biases and norms that are not neutral
                weight += 0.3 * torch.randn(weight.shape,
                                            generator=torch.Generator().manual_seed(len(weight)))
    return model


def prompts(lengths, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(1, 50, (n,), generator=generator).tolist() for n in lengths]


@torch.no_grad()
def greedy_without_cache(model, prompt, n, stop):
    ids = list(prompt)
    for _ in range(n):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
        if ids[-1] in stop:
            break
    return ids[len(prompt):]


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_with_cache_is_greedy_without(family):
    model, asked, stop = small(family), prompts([3, 17, 1, 9, 30]), {7, 11, 23}
    found = rollout.generate(model, asked, 2, max_new_tokens=70, temperature=0, stop_ids=stop)
    for prompt, pair in zip(asked, found):
        expected = greedy_without_cache(model, prompt, 70, stop)
        for completion in pair:
            assert completion.tokens == expected
            assert completion.stopped == (expected[-1] in stop)
    alone = [rollout.generate(model, [prompt], max_new_tokens=70, temperature=0, stop_ids=stop)[0][0]
             for prompt in asked]
    assert [completion.tokens for completion in alone] == [pair[0].tokens for pair in found]


@pytest.mark.parametrize("temperature, top_p", [(1.0, 1.0), (0.7, 1.0), (1.3, 0.8), (0, 1.0)])
def test_recorded_logprobs_are_those_of_the_distribution_that_was_sampled(temperature, top_p):
    model, asked = small(), prompts([5, 12, 2])
    for prompt, group in zip(asked, rollout.generate(
            model, asked, 6, max_new_tokens=40, temperature=temperature, top_p=top_p, stop_ids={3},
            generator=rollout.stream(0))):
        for completion in group:
            with torch.no_grad():
                logits = model(torch.tensor([prompt + completion.tokens]))[0, len(prompt) - 1:-1]
            probs = (logits / (temperature or 1)).softmax(-1)
            for row, token, recorded in zip(probs, completion.tokens, completion.logprobs):
                ordered = row.sort(descending=True)
                nucleus = ordered.indices[:int((ordered.values.cumsum(0) < top_p - 1e-12).sum()) + 1].tolist()
                if top_p == 1:
                    nucleus = list(range(50))
                assert token in nucleus
                assert math.isclose(recorded, float((row[token] / row[nucleus].sum()).log()), abs_tol=1e-9)


def test_draws_follow_the_distribution():
    logits = torch.tensor([[0.0, 1.0, -1e9, 2.0, 0.5]]).repeat(40_000, 1)
    uniform = torch.rand(40_000, generator=torch.Generator().manual_seed(0))
    tokens, _ = rollout.draw(logits, uniform, 1.0, 1.0)
    share = torch.bincount(tokens, minlength=5) / 40_000
    assert share[2] == 0 and (share - logits[0].softmax(-1)).abs().max() < 0.01  # 3 standard errors: 0.0075
    tokens, logprobs = rollout.draw(logits, uniform, 1.0, 0.6)  # token 3 has a mass of 0.57: two reach 0.6
    assert set(tokens.tolist()) == {1, 3} and math.isclose(float(logprobs.max()), -math.log(1 + math.exp(-1)),
                                                           abs_tol=1e-5)


def test_the_edges_of_the_uniform_interval():
    logits = torch.tensor([[-math.inf, 0.0, 0.0, -math.inf]]).repeat(2, 1)
    tokens, _ = rollout.draw(logits, torch.tensor([0.0, 1 - 2 ** -24]), 1.0, 1.0)
    assert tokens.tolist() == [1, 2]            # never the impossible tokens at either end


def test_each_row_of_a_group_draws_its_own_first_token():
    first = [c.tokens[0] for c in rollout.generate(
        small(dtype=torch.float32), prompts([4]), 32, max_new_tokens=1, temperature=3.0,
        generator=rollout.stream(1))[0]]
    assert len(set(first)) > 4


def test_a_prompts_draws_do_not_depend_on_the_prompts_beside_it():
    model, asked = small(), prompts([4, 9, 6])
    streams = lambda: [rollout.stream(0, 5, f"q{i}") for i in range(3)]        # noqa: E731
    together = rollout.generate(model, asked, 4, max_new_tokens=30, stop_ids={3}, generator=streams())
    for order in ([2, 0, 1], [1]):
        other = rollout.generate(model, [asked[i] for i in order], 4, max_new_tokens=30, stop_ids={3},
                                 generator=[streams()[i] for i in order], rows=5)
        assert [[c.tokens for c in group] for group in other] == [
            [c.tokens for c in together[i]] for i in order]


def test_every_end_id_ends_a_row_and_belongs_to_it():
    model, asked = small(), prompts([4, 9])
    free = rollout.generate(model, asked, 16, max_new_tokens=50, generator=rollout.stream(2))
    held = rollout.generate(model, asked, 16, max_new_tokens=50, stop_ids={3, 8}, generator=rollout.stream(2))
    for long, short in zip(sum(free, []), sum(held, [])):
        assert len(long.tokens) == 50 and not long.stopped
        ends = [i for i, token in enumerate(long.tokens) if token in (3, 8)]
        if ends:
            assert short.tokens == long.tokens[:ends[0] + 1] and short.stopped
            assert len(short.logprobs) == len(short.tokens)
        else:
            assert short.tokens == long.tokens and not short.stopped


def test_an_end_token_in_the_prompt_ends_nothing():
    found = rollout.generate(small(), [[3, 5, 3]], max_new_tokens=5, temperature=0, stop_ids={3})[0][0]
    assert found.tokens == greedy_without_cache(small(), [3, 5, 3], 5, {3})


def test_the_context_is_never_passed():
    model = small(context=20)
    for prompt, [completion] in zip(prompts([19, 5]),
                                    rollout.generate(model, prompts([19, 5]), max_new_tokens=50)):
        assert len(prompt) + len(completion.tokens) == 20 and not completion.stopped
    for bad in ([], [1] * 20):
        with pytest.raises(UserError, match="no room"):
            rollout.generate(model, [bad], max_new_tokens=4)
    with pytest.raises(UserError, match="temperature"):
        rollout.generate(model, [[1]], max_new_tokens=4, temperature=-1)


def test_a_prompt_is_run_once_for_all_its_samples(monkeypatch):
    model, seen = small(), []
    plain = models.Transformer.hidden
    monkeypatch.setattr(models.Transformer, "hidden", lambda self, tokens, *rest:
                        seen.append(tuple(tokens.shape)) or plain(self, tokens, *rest))
    rollout.generate(model, prompts([6, 6]), 8, max_new_tokens=5)
    assert seen[0] == (2, 6) and set(seen[1:]) == {(16, 1)} and len(seen) == 5


def test_a_cache_grows_by_any_number_of_tokens(monkeypatch):
    """Multi-turn conversations append different numbers of tokens to each row, then go on one by one.

    Places behind a short row are masked, but 0 * NaN is NaN: the cache may not start as whatever memory held.
    """
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda self, *size: self.new_full(size, math.nan))
    model, generator = small(), torch.Generator().manual_seed(3)
    start = prompts([5, 3])
    padded, lengths = rollout.pad(start, "cpu")
    base = models.Cache()
    with torch.no_grad():
        model.hidden(padded, base, lengths)
        group = torch.tensor([0, 0, 1])
        cache, rows = models.Cache(base, group, capacity=2), [list(start[i]) for i in group]
        for step in range(4):
            new = [torch.randint(1, 50, (n,), generator=generator).tolist()
                   for n in ((1, 1, 1) if step == 2 else (3, 1, 2))]
            padded, lengths = rollout.pad(new, "cpu")
            hidden = model.hidden(padded, cache, lengths)
            for b in range(3):
                rows[b] += new[b]
                expected = model.hidden(torch.tensor([rows[b]]))[0, -len(new[b]):]
                assert torch.allclose(hidden[b, :len(new[b])], expected, atol=1e-6)


def test_smollm2_cache_and_logprobs(smollm2):
    """fp32 on real weights: a first difference only at a near tie; log-probs within 5e-4, 2e-5 on average."""
    model, tokenizer = models.load(str(smollm2))
    asked = [tokenizer.chat([{"role": "user", "content": text}])
             for text in ("What is 2 + 3?", "Name a colour, and why.")]
    for temperature in (0, 1.0):
        gaps = []
        for prompt, [completion] in zip(asked, rollout.generate(
                model, asked, max_new_tokens=24, temperature=temperature, stop_ids=tokenizer.stop_ids)):
            with torch.no_grad():
                logits = model(torch.tensor([prompt + completion.tokens]))[0, len(prompt) - 1:-1]
            for row, token, recorded in zip(logits, completion.tokens, completion.logprobs):
                if temperature == 0:
                    assert row.max() - row[token] < 1e-3
                gaps.append(abs(float(row.log_softmax(-1)[token]) - recorded))
        assert max(gaps) < 5e-4 and sum(gaps) / len(gaps) < 2e-5
