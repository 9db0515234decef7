"""Sampling: generate() writes completions with a KV cache, rollout() lets the agents speak to each other,
converse() lets them do so in several turns, batch_logprobs() runs what they said through the model again, for
the trainer, with gradients.

    python rollout.py "8*(7-4)+5" --answer 29             one episode of the embedded model, turn by turn
    python rollout.py --model out/tiny-rema-s0 "9-2*3"    one of the two agents of a run

question -> plans (k1 by the high-level agent) -> answers (k2 by the low-level agent for each plan) ->
episodes. Token ids are made once: what is sampled here, with the log-probabilities recorded while decoding,
is what train.py trains on. Text is only for rewards, logs and people.

Shapes: B rows, P prompts, G samples a prompt, T tokens, V vocabulary.
"""
import copy
import hashlib
import itertools
import math
import os
import pathlib
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
import torch.nn.functional as F

import rema
from data import UserError, guarded
from data.views import plots
from data.flags import parse_question, pick_dtype
from data.extensions.guide import Guide
from model import Cache, load, logprobs, slow


@dataclass
class Completion:
    tokens: list[int]        # the end token included when the row stopped by itself
    logprobs: list[float]    # of each token, under the distribution that it was drawn from
    stopped: bool            # False: cut off at max_new_tokens or at the end of the context
    states: list[int] = field(default_factory=list)          # guided: the Guide's at each token, or -1


def stream(*key):
    """A generator for a key such as (seed, step, question): the same draws in any order, on any rank."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def draws(rows, key):
    """What the draws of each row depend on. copy: of a row that stands there more than once."""
    return [(*key, row["id"], row.get("copy", 0)) for row in rows]


def pad(sequences, device, filler=0, multiple=1):
    """Lists of ids -> (B, T) filled up on the right, lengths (B,). Nothing ever looks at the padding."""
    lengths = list(map(len, sequences))
    longest = math.ceil(max(lengths) / multiple) * multiple
    rows = [sequence + [filler] * (longest - n) for sequence, n in zip(sequences, lengths)]
    return torch.tensor(rows, device=device), torch.tensor(lengths, device=device)


def prefill(model, prompts):
    """Run P prompts (lists of ids), what they all begin with only once -> their Cache, last hidden (P, D).

    With gradients, if they are switched on: sampling and training share this.
    """
    device, base = model.embed_tokens.weight.device, None
    common = min(len(os.path.commonprefix(prompts)), min(map(len, prompts)) - 1)   # each runs its last token
    if 5 * common >= max(map(len, prompts)) and len(prompts) > 1 and not model.compiled:     # or not worth it
        base = Cache()
        model.hidden(torch.tensor([prompts[0][:common]], device=device), base)
        prompts = [prompt[common:] for prompt in prompts]
    padded, lengths = pad(prompts, device, multiple=64 if model.compiled else 1)     # (P, Tp), (P,)
    cache = Cache(base=base)
    hidden = model.hidden(padded, cache, lengths)
    return cache, hidden[torch.arange(len(prompts), device=device), lengths - 1]


def draw(logits, uniform, temperature, top_p):
    """logits (B, V), uniform (B,) in [0, 1) -> tokens (B,), logprobs (B,) under the sampling distribution.

    Inverse CDF: the token in whose interval of the cumulative sum the uniform number falls; on a CPU this is
    many times faster than torch.multinomial over a large vocabulary. Temperature 0 is greedy and reports
    log-probs at temperature 1.
    """
    B, V = logits.shape
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if temperature not in (0, 1):
        logits = logits / temperature
    best, place = logits.max(-1, keepdim=True)                                 # (B, 1)
    probs = (logits - best).exp_()           # times their sum: one pass over the vocabulary, not two
    blocks = (F.pad(probs, (0, -V % 256)) if V % 256 else probs).reshape(B, -1, 256)  # (B, V / 256, 256)
    total = blocks.sum(-1)                                                     # (B, V / 256)
    if temperature == 0:
        return place[:, 0], -total.sum(-1).log()
    if top_p < 1:            # keep the likeliest until their mass reaches top_p: those with less before them
        ordered = probs.sort(-1, descending=True).values
        mass = top_p * ordered.sum(-1, keepdim=True)
        last = (ordered.cumsum(-1) - ordered < mass).sum(-1, keepdim=True) - 1
        blocks = blocks.masked_fill(blocks < ordered.gather(-1, last)[..., None], 0)
        total = blocks.sum(-1)
    # Two levels, so that the cumulative sum over V is never formed: which block of tokens, which token in it.
    block, point = pick(total, uniform.to(probs)[:, None])
    place, _ = pick(blocks[torch.arange(B, device=block.device), block[:, 0]], point)
    tokens = 256 * block + place                                               # (B, 1)
    return tokens[:, 0], (logits.gather(-1, tokens) - best)[:, 0] - total.sum(-1).log()


def pick(weights, point):
    """weights (B, N), point (B, 1) in [0, 1) -> where point * sum falls among them, and how far into it.

    Never one of weight 0.
    """
    cdf = weights.cumsum(-1)
    point = point * cdf[:, -1:]
    point = torch.minimum(point, torch.nextafter(cdf[:, -1:], torch.zeros_like(point)))
    index = torch.searchsorted(cdf, point, right=True)                         # (B, 1)
    weight = weights.gather(-1, index)
    return index, ((point - cdf.gather(-1, index) + weight) / weight).clamp(0, 1 - 2 ** -24)


def nimble(model):
    """The model to sample with: itself, or its copy in float32 (4 bytes a weight) where bfloat16 is slow."""
    return copy.deepcopy(model).float() if slow(model.embed_tokens.weight) and not model.compiled else model


@torch.inference_mode()
def generate(model, prompts, samples=1, *, max_new_tokens, temperature=1.0, top_p=1.0, stop_ids=(),
             generator=None, rows=256, bar=None, guide=None):
    """Sample completions: prompts list[list[int]] -> for each prompt a list of `samples` Completions.

    Each prompt is run once, whatever the number of its samples; each sample draws from the first token on.
    Rows leave the batch when they draw an id of stop_ids, after max_new_tokens, or at the end of the context.
    generator: a torch.Generator, or one a prompt, so that its samples do not depend on the prompts beside it.
    rows: so many at a time (memory), but never fewer than one prompt's samples. guide: a data.extensions.guide.Guide,
    which says which tokens may be drawn. Raises UserError for a prompt that is empty or fills the context.
    """
    device = model.embed_tokens.weight.device
    least = guide.least if guide else 1                      # tokens that a row needs room for
    if samples < 1 or max_new_tokens < least:
        raise UserError(f"samples {samples} must be at least 1, max_new_tokens {max_new_tokens} at least "
                        f"{least}" + " for a guided plan" * bool(guide))
    if temperature < 0 or not 0 < top_p <= 1:
        raise UserError(f"temperature {temperature} must be 0 or more, top-p {top_p} in (0, 1]")
    for prompt in prompts:
        if not 0 < len(prompt) <= model.config.context - least:
            raise UserError(f"a prompt of {len(prompt)} tokens has no room in the model's context of "
                            f"{model.config.context}")
    if not isinstance(generator, list):
        generator = [generator or torch.Generator().manual_seed(0)] * len(prompts)
    model = nimble(model)
    # All uniform numbers are drawn ahead, per prompt, so that they depend on nothing that happens on the way.
    uniform = [torch.rand(samples, max_new_tokens, generator=g) for g in generator]

    results = [None] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))         # like lengths: less padding
    at_once, capacity = max(1, rows // samples), max_new_tokens if model.compiled else min(max_new_tokens, 64)
    for start in range(0, len(order), at_once):
        chosen = order[start:start + at_once]
        u = torch.cat([uniform[i] for i in chosen]).to(device)                                 # (B, T)
        prompt_cache, hidden = prefill(model, [prompts[i] for i in chosen])
        group = torch.arange(len(chosen), device=device).repeat_interleave(samples)            # (B,)
        room = (model.config.context - prompt_cache.length).clamp(max=max_new_tokens)[group]   # (B,)
        cache = Cache(prompt_cache, group, capacity, static=model.compiled)
        logits = model.lm_head(hidden)[group]    # shared by a prompt's rows, the first token's draw is not
        completions = decode(model, cache, logits, room, temperature, top_p, stop_ids, u, guide)
        for j, i in enumerate(chosen):
            results[i] = completions[j * samples:(j + 1) * samples]
        if bar is not None:
            bar.update(len(chosen) * samples)
    return results


def decode(model, cache, logits, room, temperature, top_p, stop_ids, uniform, guide=None, leave=True):
    """A token a row and step until all are done: logits (B, V) for the first one -> B Completions.

    cache: what the rows hold; the tokens drawn are added, all but a row's last. room (B,): how many a row may
    draw. uniform (B, the most of room): as for draw(). leave: rows that are done leave the cache; without it
    they go on drawing, and the caller has Cache.cut() forget what they drew beyond their end. A guided
    token's state is -1 where no other one was allowed: there is nothing to learn from it.
    """
    if not logits.isfinite().all():
        raise UserError("logits are not finite: the model's weights are broken, perhaps by too high an --lr")
    B, device, T = len(room), logits.device, int(room.max())
    stop = torch.tensor(sorted(stop_ids), device=device)
    tokens = torch.zeros(B, T, dtype=torch.int64, device=device)
    states = torch.zeros_like(tokens)
    state = torch.full_like(room, guide.START if guide else 0)                 # of the rows in the batch
    logprobs = torch.zeros(B, T, device=device, dtype=torch.promote_types(logits.dtype, torch.float32))
    count = room.clone()                                                       # tokens a row, end included
    stopped = torch.zeros(B, dtype=torch.bool, device=device)
    live = torch.arange(B, device=device)                                      # rows still in the batch
    look_every = 16 if device.type == "cuda" else 1          # asking a GPU if rows are done makes it wait
    for t in range(T):
        if guide:
            state = guide.hurry(state, room[live] - t)
            logits = logits.masked_fill(~guide.allowed[state], -math.inf)
        token, logprob = draw(logits, uniform[live, t], temperature, top_p)
        tokens[live, t], logprobs[live, t], states[live, t] = token, logprob, state
        if guide:
            state = guide.next[state, token].long()
        ended = torch.isin(token, stop) & (t < count[live])
        count[live] = torch.where(ended, t + 1, count[live])
        stopped[live] |= ended
        if t % look_every == look_every - 1:
            running = count[live] > t + 1
            n = int(running.sum())
            if n == 0:
                break
            if cache.static:         # few shapes to compile: powers of two, filled up with rows that are done
                n = 1 << (n - 1).bit_length()
                running[(~running).nonzero()[:n - int(running.sum())]] = True
            if leave and n <= 0.9 * len(live):               # leaving copies the cache: not for a single row
                cache.keep(running)
                live, token, state = live[running], token[running], state[running]
        if t + 1 < T:
            logits = model.step(token, cache)                                                  # (B, V)
    if guide:
        states = states.masked_fill(guide.forced[states], -1)
    rows = zip(*(x.tolist() for x in (tokens, logprobs, stopped, states, count)))
    return [Completion(tokens[:n], logprobs[:n], stopped, states[:n] if guide else [])
            for tokens, logprobs, stopped, states, n in rows]


def speak(model, tokenizer, role, prompts, samples, keys, max_new_tokens, temperature=1.0, top_p=1.0,
          batch=256, bar=None, guide=None):
    """`samples` turns of one role for each prompt (message lists) -> list of lists of rema.Turn.

    keys: what the draws of each prompt depend on. A prompt that is too long for the context gets empty turns.
    """
    ids = [tokenizer.chat(messages) for messages in prompts]
    room = model.config.context - (guide.least if guide else 1)
    fits = [i for i in range(len(ids)) if len(ids[i]) <= room]
    turns = [[rema.Turn(role.name, prompt, [], [], False, "") for _ in range(samples)] for prompt in ids]
    completions = generate(model, [ids[i] for i in fits], samples, max_new_tokens=max_new_tokens, rows=batch,
                           temperature=temperature, top_p=top_p, stop_ids=tokenizer.stop_ids, bar=bar,
                           generator=[stream(*keys[i], role.name) for i in fits], guide=guide)
    for i, group in zip(fits, completions):
        turns[i] = [rema.Turn(role.name, ids[i], c.tokens, c.logprobs, c.stopped, tokenizer.decode(c.tokens),
                              c.states) for c in group]
    return turns


def rollout(agents, tokenizer, rows, roles, *, plans=1, answers=1, max_new_tokens, temperature=1.0, top_p=1.0,
            key=(0,), batch=256, bar=None, guide=None):
    """Let the agents answer each row's problem -> list of rema.Episode, in the order of rows, plans, answers.

    agents: role name -> Transformer (two names may share one). rows: dicts with problem, answer and id.
    roles: from rema.roles. batch: rows decoded at a time.
    key: (seed, step, ...): draws depend on it, the role and the row's id.
    temperature: a number, or one by role name. guide: which tokens the high-level agent may say, see
    data/extensions/guide.py.
    A low-level prompt that its plan has made too long for the context is not answered.
    """
    def ask(role, prompts, samples, keys):
        heat = temperature[role.name] if isinstance(temperature, dict) else temperature
        return speak(agents[role.name], tokenizer, role, prompts, samples, keys, max_new_tokens, heat, top_p,
                     batch, bar, guide if role.name == "high" else None)

    first, last, keys = roles[0], roles[-1], draws(rows, key)
    thoughts = ask(first, [first.prompt(row["problem"]) for row in rows],
                   plans if first is not last else plans * answers, keys)
    if first is last:
        return [rema.Episode(rows[i], i, 0, j, [turn])
                for i, turns in enumerate(thoughts) for j, turn in enumerate(turns)]
    pairs = [(i, j) for i in range(len(rows)) for j in range(plans)]
    replies = ask(last, [last.prompt(rows[i]["problem"], thoughts[i][j].text) for i, j in pairs], answers,
                  [(*keys[i], j) for i, j in pairs])
    return [rema.Episode(rows[i], i, j, k, [thoughts[i][j], turn])
            for (i, j), turns in zip(pairs, replies) for k, turn in enumerate(turns)]


# ------------------------------------------------------------------------------------------------------------
# Agents

def sources(name, roles):
    """{role name: what models.load takes}: one model for all roles, or a run's high/ and low/ (or solo/)."""
    directory = pathlib.Path(name)
    parts = [one for one in ("high", "low", "solo") if (directory / one).is_dir()]
    if not parts and (directory / "metrics.jsonl").exists():
        raise UserError(f"{directory} has no agents: published ones have none, killed ones {directory}/best")
    if parts and not {role.name for role in roles} <= set(parts):
        raise UserError(f"{directory} holds {', '.join(parts)}: choose the --process it was trained with")
    return {role.name: str(directory / role.name) if parts else name for role in roles}


def cast(args, judge=False):
    """-> (roles, {role name: Transformer}, tokenizer, Guide of plans or None) of eval.py's settings."""
    roles = rema.roles(args.process, args.example, args.turns, args.plan_format, judge)
    agents, tokenizer = load_agents(args.model, roles, args.device, getattr(torch, pick_dtype(args.device)))
    size, json = next(iter(agents.values())).config.vocab_size, args.plan_format == "json"
    return roles, agents, tokenizer, Guide(tokenizer, size, args.device) if json else None


def load_agents(name, roles, device="cpu", dtype=torch.float32):
    """-> ({role name: Transformer}, tokenizer), one Transformer for all roles if they have one source."""
    found, bases = sources(name, roles), {}
    loaded = {source: load(source, device, dtype, bases) for source in dict.fromkeys(found.values())}
    return {one: loaded[source][0] for one, source in found.items()}, next(iter(loaded.values()))[1]


# ------------------------------------------------------------------------------------------------------------
# Conversations. Here B counts those that go on.

def heard(tokenizer, role, episode):
    """What is put before a role's next turn -> ids: its whole chat at first, then what is new to it.

    That is what the template puts behind its own last turn, whose sampled ids stay as they are, and the
    other's text as the user's message. (Where a template takes something out of earlier turns, as Qwen 3's
    does with the empty thought, it stays: what was seen is what is trained on.)
    """
    said = episode.said(role.name)
    text = episode.turns[-1].text if episode.turns else ""
    if not said:
        return tokenizer.chat(role.prompt(episode.row["problem"], text))
    return tokenizer.after(said[-1].tokens) + tokenizer.turn("user", text) + tokenizer.assistant


def seen(episode, role):
    """All ids that a role was shown and that it sampled, in order."""
    return [id for turn in episode.said(role.name) for id in turn.prompt + turn.tokens]


def listen(model, live, role, cache):
    """Run what is new to a role in B conversations -> (its Cache, logits (B, V) of the next token).

    At first that is a prompt, for a role that speaks first the same in all conversations about a question.
    Later it goes behind what the cache holds, which is all but the last token of the role's last turn: that
    one was drawn, but not run.
    """
    device, ids = model.embed_tokens.weight.device, [seen(e, role) for e in live]
    if cache is None:
        owner = [e.question if len(e.turns) == 1 else b for b, e in enumerate(live)]
        prompts = dict(zip(owner, ids))
        group = torch.tensor([list(prompts).index(name) for name in owner], device=device)     # (B,)
        prompt_cache, hidden = prefill(model, list(prompts.values()))                          # hidden (P, D)
        return Cache(prompt_cache, group, capacity=64), model.lm_head(hidden)[group]
    new = [one[-1 - len(e.turns[-1].prompt):] for one, e in zip(ids, live)]
    tokens, lengths = pad(new, device)                                                         # (B, T)
    hidden = model.hidden(tokens, cache, lengths)                                              # (B, T, D)
    return cache, model.lm_head(hidden[torch.arange(len(live), device=device), lengths - 1])


def stay(live, caches, choice):
    """The conversations that go on (one bool each); the others leave the caches of both roles as well."""
    for cache in caches.values() if not all(choice) else ():
        cache.keep(torch.tensor(choice, device=cache.length.device))
    return list(itertools.compress(live, choice))


@torch.inference_mode()
def converse(agents, tokenizer, rows, roles, *, turns, samples, max_new_tokens, temperature=1.0, top_p=1.0,
             key=(0,), batch=256, bar=None):
    """Up to `turns` turns of both agents on each row's problem, eq. 6 -> list of rema.Episode, row by row.

    Each agent has a message list of its own, in which its turns are the assistant's and the other's are the
    user's, and so a KV cache of its own, which is continued from turn to turn. A conversation ends when the
    low-level agent has answered a high-level turn with [FINISH], when a turn was cut off at max_new_tokens or
    at the end of the context (it has no tokens if it found no room there at all), and after the last turn.

    agents, rows, key: as for rollout(). roles: high-level, low-level; Role.prompt writes their first message.
    samples: conversations a row. batch: conversations at a time. bar: advanced by each conversation.
    """
    episodes = [rema.Episode(row, i, 0, j, []) for i, row in enumerate(rows) for j in range(samples)]
    keys, agents = draws(rows, key), {name: nimble(one) for name, one in agents.items()}
    for start in range(0, len(episodes), batch):
        live, caches = episodes[start:start + batch], {}                       # caches: role name -> Cache
        for t, role in itertools.product(range(turns), roles):
            model = agents[role.name]
            device = model.embed_tokens.weight.device
            for e in live:
                e.turns.append(rema.Turn(role.name, heard(tokenizer, role, e), [], [], False, ""))
            live = stay(live, caches, [len(seen(e, role)) < model.config.context for e in live])
            if not live:
                break
            cache, logits = listen(model, live, role, caches.get(role.name))
            caches[role.name] = cache
            room = torch.tensor([model.config.context - len(seen(e, role)) for e in live], device=device)
            streams = [stream(*keys[e.question], e.sample, role.name, t) for e in live]
            uniform = torch.stack([torch.rand(max_new_tokens, generator=g) for g in streams]).to(device)
            for e, c in zip(live, decode(model, cache, logits, room.clamp(max=max_new_tokens), temperature,
                                         top_p, tokenizer.stop_ids, uniform, leave=False)):
                turn, text = e.turns[-1], tokenizer.decode(c.tokens)
                turn.tokens, turn.logprobs, turn.stopped, turn.text = c.tokens, c.logprobs, c.stopped, text
            cache.cut(torch.tensor([len(seen(e, role)) - 1 for e in live], device=device))
            live = stay(live, caches, [e.turns[-1].stopped and not (
                role is roles[-1] and rema.FINISH in e.turns[-2].text) for e in live])
        if bar is not None:
            bar.update(min(batch, len(episodes) - start))
    return episodes


def play(agents, tokenizer, rows, roles, *, turns=1, plans=1, answers=1, guide=None, **how):
    """Episodes of rows: conversations when turns > 1, otherwise one turn of each role; all arguments above.

    Of several processes (torchrun) each one takes every world-th row and then has the episodes of all: draws
    depend on the row, so that these are the episodes of one process, in the same order.
    """
    rank, world = ranks()
    own = rows[rank::world]
    if turns > 1:
        episodes = converse(agents, tokenizer, own, roles, turns=turns, samples=answers, **how)
    else:
        episodes = rollout(agents, tokenizer, own, roles, plans=plans, answers=answers, guide=guide, **how)
    if world == 1:
        return episodes
    parts = [None] * world
    dist.all_gather_object(parts, episodes)
    for i, part in enumerate(parts):
        for episode in part:
            episode.question = episode.question * world + i
    return sorted(itertools.chain(*parts), key=lambda e: (e.question, e.plan, e.sample))


def ranks():
    """(rank, number) of this process among those of torchrun; (0, 1) when it is alone."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def together(tensor):
    """The sum of a tensor over all processes, in place; the tensor itself when there is one process."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


# ------------------------------------------------------------------------------------------------------------
# For the trainer

def micro_batches(samples, budget):
    """Cut rema.Samples into lists of at most `budget` tokens with padding; those of one prompt stay together.

    Groups of like length go together, so that little is padded. A group that alone is over the budget is cut
    up (its prompt then runs once for each part); a single sample over the budget goes alone.
    """
    by_prompt = {}
    for sample in samples:
        by_prompt.setdefault(tuple(sample.prompt), []).append(sample)
    parts = []
    for prompt, group in by_prompt.items():
        group.sort(key=lambda sample: len(sample.tokens))
        size = max(1, (budget - len(prompt)) // len(group[-1].tokens))
        parts += [group[i:i + size] for i in range(0, len(group), size)]
    parts.sort(key=lambda part: len(part[-1].tokens) + len(part[0].prompt))

    batches, cost = [], lambda ps: (len(ps) * max(len(p[0].prompt) for p in ps)
                                    + sum(map(len, ps)) * max(len(p[-1].tokens) for p in ps))
    for part in parts:
        if batches and cost(batches[-1] + [part]) <= budget:
            batches[-1].append(part)
        else:
            batches.append([part])
    order = {prompt: i for i, prompt in enumerate(by_prompt)}             # parts of one prompt meet again
    return [sorted((sample for part in batch for sample in part), key=lambda one: order[tuple(one.prompt)])
            for batch in batches]


def batch_logprobs(model, samples, temperature=1.0, guide=None):
    """Log-prob and entropy of sampled tokens (flat, sample by sample), each prompt run once for its samples.

    samples: rema.Samples, those of one prompt side by side; a whole conversation is one of them and one
    forward pass. The hidden state at a prompt's last token predicts each sample's first token; their own
    tokens then see the prompt through its keys and values, with gradients. Tokens with turn -1 are read, not
    returned. guide: the one that samples with `states` were drawn under.
    """
    device = model.embed_tokens.weight.device
    prompts = list(dict.fromkeys(tuple(sample.prompt) for sample in samples))
    index = {prompt: i for i, prompt in enumerate(prompts)}
    group = torch.tensor([index[tuple(sample.prompt)] for sample in samples], device=device)   # (B,)
    cache, hidden = prefill(model, [list(prompt) for prompt in prompts])
    hidden = hidden[group][:, None]                                                            # (B, 1, D)
    tokens, _ = pad([sample.tokens for sample in samples], device)                             # (B, T)
    if tokens.shape[1] > 1:
        hidden = torch.cat((hidden, model.hidden(tokens[:, :-1], Cache(cache, group))), 1)     # (B, T, D)
    learned = pad([sample.turn for sample in samples], device, -1)[0] >= 0                     # (B, T)
    allowed = states = None
    if guide:
        states = pad([s.states or [guide.FREE] * len(s.tokens) for s in samples], device)[0][learned]
        allowed = guide.allowed
    return logprobs(model, hidden[learned], tokens[learned], temperature, allowed=allowed, states=states)


def program(argv):
    args = parse_question(argv, __doc__)
    roles, agents, tokenizer, guide = cast(args)
    row = {"id": "question", "problem": args.question, "answer": args.answer or ""}
    [episode] = play(agents, tokenizer, [row], roles, turns=args.turns, max_new_tokens=args.max_new_tokens,
                     temperature=args.temperature, top_p=args.top_p, key=(args.seed,), guide=guide)
    if not episode.turns[0].tokens:
        raise UserError("the question leaves no room for an answer in this model's context")
    print("\n".join(plots.turn_text(turn, tokenizer, args.logprobs) for turn in episode.turns))
    if args.answer:
        rema.score([episode])
        verdict, said = "right" if episode.correct else "wrong", plots.harmless(str(episode.answer))
        print(f"{verdict}: {said}, the answer is {args.answer}")


def main(argv=None):
    guarded(program, argv, "rollout.py")


if __name__ == "__main__":
    main()
