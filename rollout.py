"""Sampling: generate() writes completions with a KV cache, rollout() lets the agents speak to each other,
batch_logprobs() runs what they said through the model again, for the trainer, with gradients.

question -> plans (k1 by the high-level agent) -> answers (k2 by the low-level agent for each plan) ->
episodes. Token ids are made once: what is sampled here, with the log-probabilities recorded while decoding,
is what train.py trains on. Text is only for rewards, logs and people.

Shapes: B rows, P prompts, G samples a prompt, T tokens, V vocabulary.
"""
import hashlib
import os
from dataclasses import dataclass

import torch

import rema
from data import UserError
from model import Cache, logprobs


@dataclass
class Completion:
    tokens: list[int]        # the end token included when the row stopped by itself
    logprobs: list[float]    # of each token, under the distribution that it was drawn from
    stopped: bool            # False: cut off at max_new_tokens or at the end of the context


def stream(*key):
    """A generator for a key such as (seed, step, question): the same draws in any order, on any rank."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def pad(sequences, device):
    """Lists of ids -> (B, T) padded on the right with 0, lengths (B,). Nothing ever looks at the padding."""
    lengths = torch.tensor([len(sequence) for sequence in sequences], device=device)
    longest = max(map(len, sequences))
    return torch.tensor([sequence + [0] * (longest - len(sequence)) for sequence in sequences],
                        device=device), lengths


def prefill(model, prompts):
    """Run P prompts (lists of ids), what they all begin with only once -> their Cache, last hidden (P, D).

    With gradients, if they are switched on: sampling and training share this.
    """
    device = model.embed_tokens.weight.device
    common = len(os.path.commonprefix(prompts)) if len(prompts) > 1 else 0
    common = min(common, min(map(len, prompts)) - 1)         # each has a last token of its own to run
    base = None
    if common:
        base = Cache()
        model.hidden(torch.tensor([prompts[0][:common]], device=device), base)
    padded, lengths = pad([prompt[common:] for prompt in prompts], device)     # (P, Tp), (P,)
    cache = Cache(base=base)
    hidden = model.hidden(padded, cache, lengths)
    return cache, hidden[torch.arange(len(prompts), device=device), lengths - 1]


def draw(logits, uniform, temperature, top_p):
    """logits (B, V), uniform (B,) in [0, 1) -> tokens (B,), logprobs (B,) under the sampling distribution.

    Inverse CDF: the token in whose interval of the cumulative sum the uniform number falls; on a CPU this is
    many times faster than torch.multinomial over a large vocabulary. Temperature 0 is greedy and reports
    log-probs at temperature 1.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if temperature not in (0, 1):
        logits = logits / temperature
    logz = logits.logsumexp(-1, keepdim=True)                                  # (B, 1)
    if temperature == 0:
        best = logits.max(-1, keepdim=True)
        return best.indices[:, 0], (best.values - logz)[:, 0]
    probs = (logits - logz).exp_()
    if top_p < 1:            # keep the likeliest until their mass reaches top_p: those with less before them
        ordered = probs.sort(-1, descending=True).values
        last = (ordered.cumsum(-1) - ordered < top_p).sum(-1, keepdim=True) - 1
        probs = probs.masked_fill(probs < ordered.gather(-1, last), 0)
        logz = logz + probs.sum(-1, keepdim=True).log()
    cdf = probs.cumsum(-1)
    total = cdf[:, -1:]
    point = torch.minimum(uniform[:, None].to(total) * total, torch.nextafter(total, torch.zeros_like(total)))
    tokens = torch.searchsorted(cdf, point, right=True)                        # never one of probability 0
    return tokens[:, 0], (logits.gather(-1, tokens) - logz)[:, 0]


@torch.no_grad()
def generate(model, prompts, samples=1, *, max_new_tokens, temperature=1.0, top_p=1.0, stop_ids=(),
             generator=None, rows=256, bar=None):
    """Sample completions: prompts list[list[int]] -> for each prompt a list of `samples` Completions.

    Each prompt is run once, whatever the number of its samples; each sample draws from the first token on.
    Rows leave the batch when they draw an id of stop_ids, after max_new_tokens, or at the end of the context.
    generator: a torch.Generator, or one a prompt, so that its samples do not depend on the prompts beside it.
    rows: so many at a time (memory), but never fewer than one prompt's samples. Raises UserError for a prompt
    that is empty or fills the context.
    """
    device = model.embed_tokens.weight.device
    if samples < 1 or max_new_tokens < 1:
        raise UserError("generate: samples and max_new_tokens must be at least 1")
    if temperature < 0 or not 0 < top_p <= 1:
        raise UserError(f"generate: temperature {temperature} must be 0 or more, top-p {top_p} in (0, 1]")
    for prompt in prompts:
        if not 0 < len(prompt) < model.config.context:
            raise UserError(f"a prompt of {len(prompt)} tokens has no room in the model's context of "
                            f"{model.config.context}")
    if generator is None:
        generator = torch.Generator().manual_seed(0)
    if isinstance(generator, torch.Generator):
        generator = [generator] * len(prompts)
    # All uniform numbers are drawn ahead, per prompt, so that they depend on nothing that happens on the way.
    uniform = ([torch.rand(samples, max_new_tokens, generator=g) for g in generator]
               if temperature > 0 else None)

    results = [None] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))         # like lengths: less padding
    at_once = max(1, rows // samples)
    for start in range(0, len(order), at_once):
        chosen = order[start:start + at_once]
        u = torch.cat([uniform[i] for i in chosen]).to(device) if temperature > 0 else None   # (B, T)
        completions = _decode(model, [prompts[i] for i in chosen], samples, max_new_tokens, temperature,
                              top_p, torch.tensor(sorted(stop_ids), device=device), u)
        for j, i in enumerate(chosen):
            results[i] = completions[j * samples:(j + 1) * samples]
        if bar is not None:
            bar.update(len(chosen) * samples)
    return results


def _decode(model, prompts, samples, max_new_tokens, temperature, top_p, stop, uniform):
    """One batch of generate(): prefill, then a token a row and step until all are done -> B Completions."""
    device = model.embed_tokens.weight.device
    prompt_cache, hidden = prefill(model, prompts)
    logits = model.lm_head(hidden)                                                             # (P, V)
    group = torch.arange(len(prompts), device=device).repeat_interleave(samples)               # (B,)
    logits = logits[group]                   # the prompt's logits are shared, the first token's draw is not
    cache = Cache(prompt_cache, group, capacity=min(max_new_tokens, 64))

    B = len(group)
    room = (model.config.context - prompt_cache.length).clamp(max=max_new_tokens)[group]                   # (B,)
    tokens = torch.zeros(B, max_new_tokens, dtype=torch.int64, device=device)
    logprobs = torch.zeros(B, max_new_tokens, device=device,
                           dtype=torch.promote_types(logits.dtype, torch.float32))
    count = room.clone()                                                       # tokens a row, end included
    stopped = torch.zeros(B, dtype=torch.bool, device=device)
    live = torch.arange(B, device=device)                                      # rows still in the batch
    look_every = 16 if device.type == "cuda" else 1          # asking a GPU if rows are done makes it wait
    for t in range(int(room.max())):
        token, logprob = draw(logits, uniform[live, t] if uniform is not None else None, temperature, top_p)
        tokens[live, t], logprobs[live, t] = token, logprob
        ended = torch.isin(token, stop) & (t < count[live])
        count[live] = torch.where(ended, t + 1, count[live])
        stopped[live] |= ended
        if t % look_every == look_every - 1:
            running = count[live] > t + 1
            if not running.any():
                break
            if running.sum() <= 0.9 * len(live):             # leaving copies the cache: not for a single row
                cache.keep(running)
                live, token = live[running], token[running]
        if t + 1 < max_new_tokens:
            logits = model.lm_head(model.hidden(token[:, None], cache)[:, 0])                  # (B, V)
    tokens, logprobs, count, stopped = tokens.tolist(), logprobs.tolist(), count.tolist(), stopped.tolist()
    return [Completion(tokens[b][:count[b]], logprobs[b][:count[b]], stopped[b]) for b in range(B)]


def speak(model, tokenizer, role, prompts, samples, keys, max_new_tokens, temperature=1.0, top_p=1.0,
          batch=256, bar=None):
    """`samples` turns of one role for each prompt (message lists) -> list of lists of rema.Turn.

    keys: what the draws of each prompt depend on. A prompt that is too long for the context gets empty turns.
    """
    ids = [tokenizer.chat(messages) for messages in prompts]
    fits = [i for i in range(len(ids)) if len(ids[i]) < model.config.context]
    turns = [[rema.Turn(role.name, prompt, [], [], False, "") for _ in range(samples)] for prompt in ids]
    completions = generate(model, [ids[i] for i in fits], samples, max_new_tokens=max_new_tokens,
                           temperature=temperature, top_p=top_p, stop_ids=tokenizer.stop_ids,
                           generator=[stream(*keys[i], role.name) for i in fits], rows=batch, bar=bar)
    for i, group in zip(fits, completions):
        turns[i] = [rema.Turn(role.name, ids[i], c.tokens, c.logprobs, c.stopped, tokenizer.decode(c.tokens))
                    for c in group]
    return turns


def rollout(agents, tokenizer, rows, roles, *, plans=1, answers=1, max_new_tokens, temperature=1.0, top_p=1.0,
            key=(0,), batch=256, bar=None):
    """Let the agents answer each row's problem -> list of rema.Episode, in the order of rows, plans, answers.

    agents: role name -> Transformer (two names may share one). rows: dicts with problem, answer and id.
    roles: from rema.roles. batch: rows decoded at a time.
    key: (seed, step, ...): draws depend on it, the role and the row's id.
    A low-level prompt that its plan has made too long for the context is not answered.
    """
    def ask(role, prompts, samples, keys):
        return speak(agents[role.name], tokenizer, role, prompts, samples, keys, max_new_tokens, temperature,
                     top_p, batch, bar)

    first, *second = roles
    names = [row["id"] for row in rows]              # a problem that comes twice draws different samples
    keys = [(*key, name, names[:i].count(name)) for i, name in enumerate(names)]
    prompts = [first.prompt(row["problem"]) for row in rows]
    if not second:
        return [rema.Episode(rows[i], i, 0, j, [turn])
                for i, turns in enumerate(ask(first, prompts, plans * answers, keys))
                for j, turn in enumerate(turns)]
    thoughts = ask(first, prompts, plans, keys)
    pairs = [(i, j) for i in range(len(rows)) for j in range(plans)]
    replies = ask(second[0], [second[0].prompt(rows[i]["problem"], thoughts[i][j].text) for i, j in pairs],
                  answers, [(*keys[i], j) for i, j in pairs])
    return [rema.Episode(rows[i], i, j, k, [thoughts[i][j], turn])
            for (i, j), turns in zip(pairs, replies) for k, turn in enumerate(turns)]


def batch_logprobs(model, samples, temperature=1.0):
    """Log-prob and entropy of sampled tokens (flat, sample by sample), each prompt run once for its samples.

    samples: rema.Samples, those of one prompt side by side. The hidden state at a prompt's last token
    predicts each sample's first token; their own tokens then see the prompt through its keys and values, with
    gradients.
    """
    device = model.embed_tokens.weight.device
    prompts = list(dict.fromkeys(tuple(sample.prompt) for sample in samples))
    index = {prompt: i for i, prompt in enumerate(prompts)}
    group = torch.tensor([index[tuple(sample.prompt)] for sample in samples], device=device)   # (B,)
    cache, hidden = prefill(model, [list(prompt) for prompt in prompts])
    hidden = hidden[group][:, None]                                                            # (B, 1, D)
    tokens, lengths = pad([sample.tokens for sample in samples], device)                       # (B, T)
    if tokens.shape[1] > 1:
        hidden = torch.cat((hidden, model.hidden(tokens[:, :-1], Cache(cache, group))), 1)     # (B, T, D)
    real = torch.arange(tokens.shape[1], device=device) < lengths[:, None]                     # (B, T)
    return logprobs(model, hidden[real], tokens[real], temperature)
