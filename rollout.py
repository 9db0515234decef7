"""Sampling: generate() writes completions with a KV cache, rollout() lets the agents speak one after
the other, batch_logprobs() runs what they said through the model again, with gradients, to train.

    python rollout.py "8*(7-4)+5" --answer 29             one episode of the embedded model
    python rollout.py --model out/tiny-rema-s0 "9-2*3"    one of the agents of a run

Token ids are made once: what is sampled here, with the log-probabilities recorded while decoding,
is what train.py trains on. Text is only for rewards, logs and people.

Shapes: B rows, P prompts, T tokens, V vocabulary, D width.
"""
from data.views import greeting  # noqa: F401  first of all, since torch takes seconds
import hashlib
from argparse import Namespace
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Generator, Tensor

import rema
from data import UserError
from data.formats.runs import complete_from_run, find_agents
from data.formats.tokenizer import Tokenizer
from data.views.bars import NO_BAR, wait_for
from data.views.program import Parser, add_machine_flags, amount, count, pick_machine, share
from model import Buffers, Cache, Transformer, compute_logprobs, load
from rema import Episode, Role, Turn


# ------------------------------------------------------------------------------------------------------------
# Flags that rollout.py and eval.py share. VARIATIONS: functions (roles, args, rows) -> roles, appended by extensions.

VARIATIONS = []


def add_speaking_flags(parser: Parser) -> None:
    parser.set_defaults(turns=1, plan_format="text", example=False, graphs=False)  # unless an extension's flag says so
    flag = parser.add_argument
    flag("--model", default="tiny", help="a name (tiny, llama-1b ...), a hub name, a directory or a run (tiny)")
    flag("--process", choices=sorted(rema.PROCESSES), help="who speaks (as trained, else rema)")
    flag("--max-new-tokens", type=count, help="for each turn (as trained, else 64 for tiny, 512 for others)")
    flag("--temperature", type=amount, help="0 takes the likeliest token each time (0)")
    flag("--top-p", type=share, default=1.0, help="draw from the likeliest tokens of this mass (1.0: from all)")
    add_machine_flags(parser)


def complete_speaking(args: Namespace) -> dict:
    """Fill in what no flag said, as trained if --model is a run -> the settings of that run, or {}."""
    usual = dict(process="rema", turns=1, plan_format="text", example=False, max_new_tokens=None)
    trained = complete_from_run(args, usual)
    pick_machine(args, args.base)
    return trained


# ------------------------------------------------------------------------------------------------------------
# Random numbers: a generator for everything that is drawn, which follows from what it is drawn for. So nothing
# depends on the order of work, on what else is in the batch, or on the process that does it.

def make_generator(*key) -> Generator:
    """A generator for a key such as (seed, step, question)."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    seed = int.from_bytes(digest[:8], "little") >> 1
    return Generator().manual_seed(seed)


# ------------------------------------------------------------------------------------------------------------
# One token

def draw(logits: Tensor, uniform: Tensor, temperature: float, top_p: float) -> tuple[Tensor, Tensor]:
    """logits (B, V), uniform (B,) in [0, 1) -> tokens (B,), log-probs (B,) under the distribution drawn from.

    Inverse CDF: the token in whose interval of the cumulative sum, lower end included, the uniform number falls; a
    token without probability is never drawn, however sums are rounded. Temperature 0 is greedy and reports log-probs
    at temperature 1, whatever top_p is. top_p below 1 (see keep_nucleus) is for evaluation only: in training the new
    policy's nucleus would differ from the old one's, and ratios would be 0 or infinite. All of it is computed in the
    logits' type, but at least in float32.
    (Whoever adds top-k follows top_p: add_speaking_flags, generate, decode, draw, program here and in eval.py; of the
    extensions converse_batch and GuidedAgent.)
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if temperature > 0:
        logits = logits / temperature
    probs = logits.softmax(1)                                                  # (B, V)
    if temperature == 0:
        tokens = logits.argmax(1, keepdim=True)                                # (B, 1)
    else:
        if top_p < 1:                                # extension
            probs = keep_nucleus(probs, top_p)
        cdf = probs.cumsum(1)
        # A point in [0, end): it is kept below the last sum, so that there always is a sum above it.
        end = cdf[:, -1:]                            # 1, but for rounding
        below = torch.nextafter(end, torch.zeros_like(end))                    # the next smaller number
        point = torch.minimum(uniform.to(cdf)[:, None] * end, below)
        # right=True: the first token whose sum is ABOVE the point. A token without probability adds nothing to the sum,
        # so it is never the first.
        tokens = torch.searchsorted(cdf, point, right=True)
        if cdf.is_cuda:                              # extension
            tokens = avoid_impossible(tokens, probs)
    return tokens.squeeze(1), probs.gather(1, tokens).squeeze(1).log()


# ------------------------------------------------------------------------------------------------------------
# Completions

def pad_left(sequences: list[list[int]], device) -> tuple[Tensor, Tensor]:
    """Lists of ids -> tokens (B, T) filled up on the left, real (B, T) bool: which of them are no padding."""
    longest = max(len(sequence) for sequence in sequences)
    padded = [[-1] * (longest - len(sequence)) + sequence for sequence in sequences]
    tokens = torch.tensor(padded, device=device)
    return tokens.clamp(min=0), tokens >= 0


def count_common(prompts: list[list[int]]) -> int:
    """How many ids all prompts begin with, such as those of a system message."""
    common = 0
    for ids in zip(*prompts):
        if len(set(ids)) > 1:
            break
        common += 1
    return common


def prefill(model: Transformer, prompts: list[list[int]]) -> tuple[Cache, Tensor]:
    """Run P prompts -> their Cache and the last hidden state of each (P, D). Sampling and training share this.

    The ids that all of them begin with are run once, in one row, and then each prompt goes on from there. (That takes a
    fifth off the time of the default run.)
    """
    cache = Cache()
    common = count_common([prompt[:-1] for prompt in prompts])                 # of each at least the last id is left
    if common and len(prompts) > 1:
        beginning = torch.tensor([prompts[0][:common]], device=model.device)
        model.hidden(beginning, cache)
        cache = cache.select(beginning.new_zeros(len(prompts)))                # all prompts go on from row 0
        prompts = [prompt[common:] for prompt in prompts]
    tokens, real = pad_left(prompts, model.device)
    hidden = model.hidden(tokens, cache, real)
    return cache, hidden[:, -1]


@torch.inference_mode()
def generate(model: Transformer, prompts: list[list[int]], samples: int = 1, *, max_new_tokens: int,
             temperature: float = 1.0, top_p: float = 1.0, stop_ids=(), generator=None, batch: int = 256,
             bar=NO_BAR) -> list[list[Turn]]:
    """Sample completions: for each prompt a list of `samples` Turns.

    Each prompt is run once, whatever the number of its samples; each sample draws from the first token on. A row
    ends when it draws an id of stop_ids, after max_new_tokens, or at the end of the model's context.
    generator: a Generator, or a list of one a prompt. batch: so many rows at a time (memory), but
    never fewer than one prompt's samples. bar: advanced by each row that is done. A prompt that leaves no room in the
    context gets turns without tokens.
    """
    if samples < 1 or max_new_tokens < 1 or not all(prompts):
        raise UserError("samples and max_new_tokens must be at least 1, and no prompt empty")
    if temperature < 0 or not 0 < top_p <= 1:
        raise UserError(f"temperature {temperature} must be 0 or more, top-p {top_p} in (0, 1]")
    context = model.config.context
    max_new_tokens = min(max_new_tokens, context)    # buffers are made for no more
    if not isinstance(generator, list):
        generator = [generator or Generator().manual_seed(0)] * len(prompts)
    # All random numbers are drawn ahead, per prompt, so that they depend on nothing that happens on the way.
    uniforms = [torch.rand(samples, max_new_tokens, generator=one) for one in generator]

    turns = [[Turn(prompt, [], [], False) for _ in range(samples)] for prompt in prompts]
    order = [i for i in range(len(prompts)) if len(prompts[i]) < context]
    order.sort(key=lambda i: len(prompts[i]))        # like lengths: less padding
    at_once = max(1, batch // samples)
    for start in range(0, len(order), at_once):
        chosen = order[start:start + at_once]
        chosen_prompts = [prompts[i] for i in chosen]
        cache, hidden = prefill(model, chosen_prompts)
        # A prompt's rows share the logits of the first token; what each draws from them they do not share.
        logits = model.lm_head(hidden).repeat_interleave(samples, 0)           # (B, V)
        room = [min(max_new_tokens, context - len(prompt)) for prompt in chosen_prompts for _ in range(samples)]
        uniform = torch.cat([uniforms[i] for i in chosen])                     # (B, max_new_tokens)
        # No name is given to the buffers, so they are freed before those of the next prompts are made.
        drawn = decode(model, cache.repeat(samples, max_new_tokens), logits, room, uniform, temperature, top_p,
                       stop_ids, bar=bar)
        for j, i in enumerate(chosen):
            turns[i] = drawn[j * samples:(j + 1) * samples]
            for turn in turns[i]:
                turn.prompt = prompts[i]
    return turns


def decode(model: Transformer, cache: Buffers, logits: Tensor, room: list[int], uniform: Tensor,
           temperature: float, top_p: float, stop_ids, drop_done: bool = True, bar=NO_BAR) -> list[Turn]:
    """In each step a token for each row, until all rows are done -> B Turns, without their prompts.

    logits (B, V): of the first token. cache: keys and values of what the rows hold so far; each step runs the tokens
    that were just drawn, and adds theirs (but the tokens of the last step are not run). room: how many tokens each row
    may draw at most. uniform (B, at least max(room)): the random numbers.

    A row that is done is taken out of the batch and, by cache.keep, out of the cache. Until then it goes on drawing,
    and what it draws is cut off at the end. drop_done False: rows stay until all are done. bar: advanced by each row
    that is done.
    """
    if not logits.isfinite().all():
        raise UserError("logits are not finite: the model's weights are broken, perhaps by too high an --lr")
    B, device, most = len(room), logits.device, max(room)
    uniform = uniform.to(device)
    stops = torch.tensor(sorted(stop_ids), device=device)
    tokens = torch.zeros(B, most, dtype=torch.int64, device=device)
    logprobs = torch.zeros(B, most, device=device, dtype=torch.promote_types(logits.dtype, torch.float32))
    length = torch.tensor(room, device=device)       # how many tokens each row has in the end: its room, or less if
                                                     # it draws an end token
    live = torch.arange(B, device=device)            # the rows still in the batch
    look_every = 1
    if device.type == "cuda":
        look_every = 16                              # asking a card whether rows are done makes it wait
    # Three rows with room for 3, 2 and 3 tokens, looked at after every step; row 0 draws an end token at once:
    #     step     in the batch    length after the draw
    #     t = 0    rows 0 1 2      1 2 3          row 0 has its one token, and leaves
    #     t = 1    rows 1 2        1 2 3          row 1 has its two, and leaves
    #     t = 2    row 2           1 2 3          the last step
    for t in range(most):
        token, logprob = draw(logits, uniform[live, t], temperature, top_p)
        tokens[live, t] = token
        logprobs[live, t] = logprob
        ends_here = torch.isin(token, stops) & (t < length[live])              # a row that is done has no second end
        length[live] = torch.where(ends_here, t + 1, length[live])
        if t + 1 == most:
            break
        if (t + 1) % look_every == 0:
            going = (length[live] > t + 1).nonzero()[:, 0]
            if len(going) == 0:
                break
            # Taking rows out copies the cache, so it waits until a tenth of the rows are done.
            if drop_done and len(going) <= 0.9 * len(live):
                cache.keep(going)
                bar.update(len(live) - len(going))
                live, token = live[going], token[going]
        logits = model.step(token, cache)                                      # (B, V)

    bar.update(len(live))
    turns = []
    for row_tokens, row_logprobs, n in zip(tokens.tolist(), logprobs.tolist(), length.tolist()):
        stopped = row_tokens[n - 1] in stop_ids
        turns.append(Turn([], row_tokens[:n], row_logprobs[:n], stopped))
    return turns


# ------------------------------------------------------------------------------------------------------------
# The same tokens again, with gradients

def run_turns(model: Transformer, turns: list[Turn]) -> tuple[Tensor, Tensor]:
    """Hidden states (N, D) that predict the learned tokens of all turns, and those tokens (N,), turn by turn.

    Each prompt is run once for all of its samples: the hidden state at its last token predicts their first
    token; their other tokens see the prompt through its keys and values, with gradients.
    """
    device = model.device
    index, owner = {}, []                            # prompt -> its row; of each turn, the row of its prompt
    for turn in turns:
        owner.append(index.setdefault(tuple(turn.prompt), len(index)))
    cache, last = prefill(model, [list(prompt) for prompt in index])
    owner = torch.tensor(owner, device=device)                                 # (B,)

    longest = max(len(turn.tokens) for turn in turns)
    tokens, learned = [], []
    for turn in turns:                               # padded on the right, where nothing looks at it
        padding = longest - len(turn.tokens)
        tokens.append(turn.tokens + [0] * padding)
        learned.append((turn.learned or [True] * len(turn.tokens)) + [False] * padding)
    tokens = torch.tensor(tokens, device=device)                               # (B, T)
    places = torch.tensor(learned).flatten().nonzero()[:, 0].to(device)        # (N,), found before they go to a card,
                                                                               # where nonzero() makes the program wait

    # What predicts a token is the hidden state one before it. A prompt of 3 ids, and a turn of the tokens a, b, c:
    #     what is run      id  id  id   a   b        (c would predict what comes after the turn)
    #     it predicts              a    b   c
    hidden = last[owner][:, None]                                              # (B, 1, D)
    if longest > 1:
        rest = model.hidden(tokens[:, :-1], cache.select(owner))               # each turn behind its prompt
        hidden = torch.cat((hidden, rest), 1)                                  # (B, T, D)
    return hidden.flatten(0, 1)[places], tokens.flatten()[places]


def batch_logprobs(model: Transformer, turns: list[Turn],
                   temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Log-prob of each learned token and entropy of its distribution, flat, turn by turn -> (N,), (N,)."""
    hidden, targets = run_turns(model, turns)
    return compute_logprobs(model, hidden, targets, temperature)


# ------------------------------------------------------------------------------------------------------------
# Agents

@dataclass
class Agent:
    """One voice with a model behind it. Two agents may share a model, as long as they share the optimizer too."""
    role: Role
    model: Transformer
    tokenizer: Tokenizer
    optimizer: Any = None                # of one that learns, see train.py
    reference: Transformer | None = None # its first weights, for the KL term

    @property
    def name(self) -> str:
        return self.role.name

    def generate(self, prompts: list[list[int]], samples: int, **how) -> list[list[Turn]]:
        return generate(self.model, prompts, samples, stop_ids=self.tokenizer.stop_ids, **how)

    def compute_logprobs(self, turns: list[Turn], temperature: float) -> tuple[Tensor, Tensor]:
        return batch_logprobs(self.model, turns, temperature)


def sample_turns(agent: Agent, conversations: list[list[dict]], samples: int, generators: list[Generator],
                 **how) -> list[list[Turn]]:
    """`samples` turns of an agent for each message list."""
    prompts = [agent.tokenizer.chat(messages) for messages in conversations]
    groups = agent.generate(prompts, samples, generator=generators, **how)
    for turns in groups:
        for turn in turns:
            turn.agent = agent.name
            turn.thought, turn.text = agent.tokenizer.read(turn.tokens)
    return groups


def rollout(agents: list[Agent], rows: list[dict], samples: list[int], *, temperatures: list[float],
            key: tuple = (0,), **how) -> list[Episode]:
    """Let the agents speak one after the other about each row's problem.

    question -> plans -> answers to each plan: agent i draws samples[i] turns, at temperatures[i], for each thing that
    it is shown, which is what its role's prompt makes of the row and of what was said before. There is one call of
    sample_turns for each agent, with all that it is shown in one list.

    There is an episode for each turn of the last agent, in the order of rows, then of places. Episodes that begin with
    the same turn hold the same object. A turn without tokens is answered as any other.

    Turn number j (from 0) about rows[i] has the place (i, j); what answers it has (i, j, 0), (i, j, 1) ... An
    episode's place is that of its last turn.

    rows: dicts with problem, answer and id; copy (without it 0) tells apart rows that have the same id.
    key: (seed, step ...). Each prompt has a generator of its own. That of an answer to plan number 2 is
    make_generator(*key, id, copy, 2, agent's name), that of a plan make_generator(*key, id, copy, agent's name): it
    follows from the numbers of the samples before it (the place without its first number), not from the place in rows.
    how: what generate takes besides (max_new_tokens, top_p, batch, bar).
    """
    episodes = [Episode(row, (i,), []) for i, row in enumerate(rows)]          # what was said so far
    for agent, n, temperature in zip(agents, samples, temperatures):
        conversations, generators = [], []
        for episode in episodes:
            conversations.append(agent.role.prompt(episode.row, episode.said()))
            # Draws depend on the problem, not on its place in the batch. copy: 1, 2 ... where an id occurs again
            row_key = episode.row["id"], episode.row.get("copy", 0), *episode.place[1:]
            generators.append(make_generator(*key, *row_key, agent.name))
        groups = sample_turns(agent, conversations, n, generators, temperature=temperature, **how)
        longer = []
        for episode, turns in zip(episodes, groups):
            for j, turn in enumerate(turns):
                turn.place = episode.place + (j,)
                longer.append(Episode(episode.row, turn.place, episode.turns + [turn]))
        episodes = longer
    return episodes


def sample_episodes(agents: list[Agent], rows: list[dict], samples: list[int], turns: int = 1, **how) -> list[Episode]:
    """rollout, or what an extension puts in its place."""
    if dist.is_initialized():                        # extension: several processes
        return sample_in_processes(agents, rows, samples, turns, **how)
    if turns > 1:                                    # extension: conversations
        return converse(agents, rows, max(samples), turns, **how)
    return rollout(agents, rows, samples, **how)


def load_agents(name: str, roles: list[Role], args: Namespace, share: bool = True) -> list[Agent]:
    """Agents in speaking order. share: they may look at the same weights if these come from one place."""
    loaded, bases, agents = {}, {}, []
    for role, source in zip(roles, find_agents(name, [role.name for role in roles])):
        if source not in loaded or not share:
            with wait_for(f"loading {source}"):
                loaded[source] = load(source, args.device, getattr(torch, args.dtype), bases)
        agents.append(Agent(role, *loaded[source]))
    if args.plan_format == "json" or args.graphs:    # extension
        equip(agents, args)
    return agents


def choose_roles(args: Namespace, rows: list[dict]) -> list[Role]:
    """The roles of --process, as the extensions vary them."""
    roles = rema.PROCESSES[args.process]
    for vary in VARIATIONS:
        roles = vary(roles, args, rows)
    return roles


# --- extensions ---------------------------------------------------------------------------------------------

import math  # noqa: E402
from pathlib import Path  # noqa: E402

import torch.nn.functional as F  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

from data.views import terminal  # noqa: E402
from data.views.program import refuse_without_effect, run_program  # noqa: E402
from data.extensions.graphs import GraphedStep  # noqa: E402
from data.extensions.guide import Guide  # noqa: E402
from data.formats.files import read_json  # noqa: E402
from model import hide, reserve  # noqa: E402


# ------------------------------------------------------------------------------------------------------------
# Flags and roles of the variants

def add_variant_flags(parser: Parser) -> None:
    flag = parser.add_argument_group("other ways to speak").add_argument
    flag("--turns", type=count, default=1, help="more: a conversation of up to so many turns an agent (1)")
    flag("--plan-format", choices=("text", "json"), default="text", help="json: DECOMPOSE, REWRITE or EMPTY")
    flag("--example", action="store_true", help="worked examples first: small models need to see the format")
    flag("--graphs", action="store_true", help="on a card: decoding steps as CUDA graphs; experimental, never tried")


def vary_roles(roles: list[Role], args: Namespace, rows: list[dict]) -> list[Role]:
    """UserError where a variant has no such roles."""
    if args.plan_format == "json":
        if args.process != "rema" or args.turns > 1:
            raise UserError("--plan-format json is for the plans of --process rema in one turn")
        roles = [rema.HIGH_JSON, rema.LOW]
    if args.turns > 1 and args.process == "rema":
        roles = [rema.HIGH_TURNS, rema.LOW_TURNS]
    elif args.turns > 1:
        raise UserError("--turns is for agents that speak to each other: --process rema")
    judge = rows[0].get("judge")
    if args.example and not judge:                   # judge tasks have no worked examples
        worked = read_json(Path(__file__).parent / "data/problems/worked.json")["examples"]
        roles = rema.add_examples(roles, worked)
    if judge:
        roles = rema.make_judges(roles)
    return roles


def recall_roles(roles: list[Role], args: Namespace, rows: list[dict]) -> list[Role]:
    """The roles of the run that --model or --resume names, if it says which: its prompts may be other ones by now.

    Where a run of plain problems meets judge tasks, or the other way round, `roles` are returned as they are. But roles
    that the run's own program brought are taken in any case.
    """
    saved = getattr(args, "roles", None)
    if not saved:
        return roles
    try:
        recalled = [recall_role(entry) for entry in saved]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"the run's config.json: its roles make no sense ({error!r})") from None
    made_for_judges = recalled[0].system.startswith(rema.COMPARE)
    if not args.own_roles and made_for_judges != bool(rows[0].get("judge")):
        return roles
    return recalled


def recall_role(entry: dict) -> Role:
    """A role from config.json. UserError if its prompt was made by a program's own code."""
    if "prompt" in entry:
        raise UserError(f"what {entry['name']} is shown is made by {entry['prompt']}: only the program that made this "
                        "run can let it speak")
    module, name = entry["reward"].split(".", 1)
    reward = unknown_reward
    if module == "rema":
        reward = getattr(rema, name, unknown_reward)
    return Role(entry["name"], entry["system"], entry["user"], reward, tuple(entry["examples"]))


def unknown_reward(turn: Turn, episodes: list[Episode]) -> float:
    """Stands in for a reward that only the run's own program has. Nothing learns from it; accuracy does not use it."""
    return 0.0


VARIATIONS += [vary_roles, recall_roles]


def equip(agents: list[Agent], args: Namespace) -> None:
    """What hangs on agents, and is not handed through the program."""
    if args.plan_format == "json":
        guide_plans(agents)
    if args.graphs:
        use_graphs(agents)


def use_graphs(agents: list[Agent]) -> None:
    """From now on their models decode by CUDA graphs. UserError where there is no card."""
    for agent in agents:
        if agent.model.device.type != "cuda":
            raise UserError("--graphs is for a CUDA card: leave it away")
        if not isinstance(agent.model.step, GraphedStep):    # agents may share a model
            agent.model.step = GraphedStep(agent.model)


# ------------------------------------------------------------------------------------------------------------
# On a card a cumulative sum is computed in parallel. By rounding it may then fall a little from one token to the next,
# or rise at a token whose probability is 0, and draw() may find that token: its log-prob is -inf. (The token that it
# finds is always in range, since the last sum is above every point.)

def avoid_impossible(tokens: Tensor, probs: Tensor) -> Tensor:
    """tokens (B, 1) drawn from probs (B, V) -> those of probability 0 replaced by the likeliest of their row."""
    likeliest = probs.argmax(-1, keepdim=True)
    return torch.where(probs.gather(-1, tokens) > 0, tokens, likeliest)


# ------------------------------------------------------------------------------------------------------------
# top-p: for generation and evaluation. In training the new policy's nucleus would differ from the old one's.

def keep_nucleus(probs: Tensor, top_p: float) -> Tensor:
    """The likeliest tokens, as few as have at least the mass top_p together, renormalised: (B, V) -> (B, V).

    If several are as likely as the last of them, all of these stay.
    """
    ordered = probs.sort(-1, descending=True).values
    mass_before = ordered.cumsum(-1) - ordered
    kept = (mass_before < top_p).sum(-1, keepdim=True)
    least = ordered.gather(-1, kept - 1)                                       # probability of the last one kept
    probs = probs.masked_fill(probs < least, 0)
    return probs / probs.sum(-1, keepdim=True)


# ------------------------------------------------------------------------------------------------------------
# Guided plans: an agent that can only write what an automaton allows, see data/extensions/guide.py

@dataclass
class GuidedTurn(Turn):
    states: list[int] | None = None      # of the automaton, before each token


@dataclass
class GuidedAgent(Agent):
    guide: Guide | None = None

    @torch.inference_mode()
    def generate(self, prompts, samples, *, max_new_tokens, temperature=1.0, top_p=1.0, generator, batch=256,
                 bar=None):
        """As generate(): draws from the model's distribution renormalised over the tokens that are allowed.

        A prompt that leaves no room for a plan in the model's context gets empty turns.
        """
        least, context = self.guide.least, self.model.config.context
        if max_new_tokens < least:
            raise UserError(f"--max-new-tokens {max_new_tokens}: a guided plan needs at least {least}")
        max_new_tokens = min(max_new_tokens, context)
        groups, fitting = [], []
        for i, prompt in enumerate(prompts):
            groups.append([GuidedTurn(prompt, [], [], False, learned=[], states=[]) for _ in range(samples)])
            if len(prompt) + least <= context:
                fitting.append(i)
        at_once = max(1, batch // samples)
        for start in range(0, len(fitting), at_once):
            chosen = fitting[start:start + at_once]
            cache, hidden = prefill(self.model, [prompts[i] for i in chosen])
            cache = cache.repeat(samples, max_new_tokens)
            logits = self.model.lm_head(hidden).repeat_interleave(samples, 0)
            room, uniform = [], []
            for i in chosen:
                room += [min(max_new_tokens, context - len(prompts[i]))] * samples
                uniform.append(torch.rand(samples, max_new_tokens, generator=generator[i]))
            turns = self.write(cache, logits, room, torch.cat(uniform), temperature, top_p)
            for j, i in enumerate(chosen):
                groups[i] = turns[j * samples:(j + 1) * samples]
                for turn in groups[i]:
                    turn.prompt = prompts[i]
            if bar is not None:
                bar.update(len(turns))
        return groups

    def write(self, cache, logits, room, uniform, temperature, top_p):
        """As decode(), but no row leaves early: those that are done go on drawing, and that is cut off.

        Each row is in a state of the guide's automaton, a number:
            guide.allowed[state]        (V,) bool: the tokens that may come next
            guide.next[state, token]    the state after one of them
            guide.forced[state]         whether there is only one
            guide.hurry(state, left)    the same state, or CLOSING where so few tokens are left that a string must end
        It begins in START. In END only the end token is allowed, and after it, in FREE, everything.
        """
        if not logits.isfinite().all():
            raise UserError("logits are not finite: the model's weights are broken, perhaps by too high an --lr")
        guide, device = self.guide, logits.device
        uniform = uniform.to(device)
        left = torch.tensor(room, device=device)     # tokens that each row may still draw
        look_every = 1
        if device.type == "cuda":
            look_every = 16                          # as decode()
        state = torch.full_like(left, guide.START)
        tokens, logprobs, states = [], [], []
        for t in range(max(room)):
            state = guide.hurry(state, left - t)
            allowed = logits.masked_fill(~guide.allowed[state], -math.inf)
            token, logprob = draw(allowed, uniform[:, t], temperature, top_p)
            tokens.append(token)
            logprobs.append(logprob)
            states.append(state)
            state = guide.next[state, token].long()
            if (t + 1) % look_every == 0 and (state == guide.FREE).all():
                break
            logits = self.model.step(token, cache)
        turns, forced = [], guide.forced.tolist()
        columns = [torch.stack(column, 1).tolist() for column in (tokens, logprobs, states)]   # (B, T) each
        for row_tokens, row_logprobs, row_states in zip(*columns):
            n = row_states.index(guide.END) + 1      # in this state it drew its end token
            # Where one token is allowed there is nothing to learn: its log-prob is 0, whatever the weights are.
            learned = [not forced[number] for number in row_states[:n]]
            turns.append(GuidedTurn([], row_tokens[:n], row_logprobs[:n], True, learned=learned,
                                    states=row_states[:n]))
        return turns

    def compute_logprobs(self, turns, temperature):
        """As batch_logprobs, but of the tokens that were allowed. In turns that are no plans all of them were."""
        hidden, targets = run_turns(self.model, turns)
        states = []
        for turn in turns:
            if not isinstance(turn, GuidedTurn):             # a lesson, or of an agent that shares the weights
                states += [self.guide.FREE] * turn.count_learned()
                continue
            for state, learned in zip(turn.states, turn.learned):
                if learned:
                    states.append(state)
        states = torch.tensor(states, device=hidden.device)                    # (N,)
        logprobs, entropies = [], []
        for start in range(0, len(targets), 1024):   # in chunks, as model.compute_logprobs
            end = start + 1024
            part = checkpoint(compute_guided_logprobs, hidden[start:end], self.model.lm_head.weight,
                              targets[start:end], temperature, self.guide.allowed, states[start:end],
                              use_reentrant=False)
            logprobs.append(part[0])
            entropies.append(part[1])
        return torch.cat(logprobs), torch.cat(entropies)


def compute_guided_logprobs(hidden, weight, targets, temperature, allowed, states):
    logits = F.linear(hidden, weight)                                          # (N, V)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
    logits = logits.masked_fill(~allowed[states], -1e30)     # not -inf: 0 * -inf is no number
    logprobs = logits.log_softmax(-1)
    entropy = -(logprobs.exp() * logprobs).sum(-1).detach()
    return logprobs.gather(1, targets[:, None])[:, 0], entropy


def guide_plans(agents: list[Agent]) -> None:
    """The first agent becomes one that writes guided plans."""
    first = agents[0]
    if first.tokenizer.format.opens_thought:
        raise UserError("--plan-format json is not for a model that thinks first: its chat template begins the thought")
    guide = Guide(first.tokenizer, first.model.config.vocab_size, first.model.device)
    agents[0] = GuidedAgent(first.role, first.model, first.tokenizer, first.optimizer, first.reference, guide)


# ------------------------------------------------------------------------------------------------------------
# Conversations (eq. 6): each agent has a message list of its own, in which its turns are the assistant's and the
# others' are the user's, and so a KV cache of its own, which is continued from turn to turn.

def converse(agents: list[Agent], rows: list[dict], samples: int, turns: int, *, temperatures: list[float],
             key: tuple = (0,), batch: int = 256, bar=None, **how) -> list[rema.Conversation]:
    """Up to `turns` turns of each agent on each row's problem, `samples` conversations a row.

    A conversation ends when the last agent has answered a plan with [FINISH], when a turn was cut off at
    max_new_tokens or at the end of the context (it has no tokens if there was no room at all), and after the
    last turn. key, how: as for rollout(), but each turn draws with a generator of its own, which follows from the
    conversation's number and the turn's, too.
    """
    names = tuple(agent.name for agent in agents)
    episodes = []
    for i, row in enumerate(rows):
        for j in range(samples):
            episodes.append(rema.Conversation(row, (i, j), [], names=names))
    for start in range(0, len(episodes), batch):
        live = episodes[start:start + batch]
        converse_batch(agents, live, turns, temperatures, key, **how)
        if bar is not None:
            bar.update(len(live))
    return episodes


@torch.inference_mode()
def converse_batch(agents, live, turns, temperatures, key, *, max_new_tokens, top_p=1.0):
    """All turns of some conversations, which are added to them.

    live: the conversations that go on. Row i of every agent's cache is live[i], so who ends leaves all caches.
    """
    caches = {}                                      # agent's name -> Buffers
    for t in range(turns):
        for agent, temperature in zip(agents, temperatures):
            context = agent.model.config.context
            most = min(max_new_tokens, context)      # buffers are made for no more
            # 1. A turn that has only a prompt yet: what is new to this agent. A conversation that leaves no room for an
            # answer ends with this empty turn.
            for episode in live:
                episode.turns.append(Turn(list_new_ids(agent, episode), [], [], False, agent.name))
            live = drop_ended(live, caches, [count_seen(agent, episode) < context for episode in live])
            if not live:
                return
            # 2. Run it, and draw.
            logits = run_new_ids(agent, live, caches, most)
            cache = caches[agent.name]
            first = cache.filled                     # the slot of the first token that is drawn
            room, uniform = [], []
            for episode in live:
                room.append(min(most, context - count_seen(agent, episode)))
                row_key = episode.row["id"], episode.row.get("copy", 0), episode.place[1]
                generator = make_generator(*key, *row_key, agent.name, t)
                uniform.append(torch.rand(most, generator=generator))
            drawn = decode(agent.model, cache, logits, room, torch.stack(uniform), temperature, top_p,
                           agent.tokenizer.stop_ids, drop_done=False)
            # 3. Fill in the turn.
            going, kept = [], []
            for episode, said in zip(live, drawn):
                turn = episode.turns[-1]
                turn.tokens, turn.logprobs, turn.stopped = said.tokens, said.logprobs, said.stopped
                turn.thought, turn.text = agent.tokenizer.read(said.tokens)
                answered = agent is agents[-1] and rema.FINISH in episode.turns[-len(agents)].text
                going.append(turn.stopped and not answered)
                kept.append(len(turn.tokens) - 1)
            # 4. Of each turn the cache shall show all tokens but the last, which run_new_ids runs later, before what
            # others say next. Row 0 said a b c, row 1 said d and drew x y behind its end; the last tokens were not run:
            #     the cache holds     a b     d x
            #     shown               a b     -           c and d come with the next prompt
            hide(cache, first, torch.tensor(kept, device=logits.device))
            live = drop_ended(live, caches, going)
            if not live:
                return


def list_new_ids(agent: Agent, episode: rema.Conversation) -> list[int]:
    """What is put before an agent's next turn -> ids: its whole chat at first, then what is new to it.

    That is what the template puts behind its own last turn, whose sampled ids stay as they are, and the others'
    texts as the user's messages. (Where a template takes something out of earlier turns, as Qwen 3's does with
    the empty thought, it stays: what was seen is what is trained on.)
    """
    tokenizer = agent.tokenizer
    own = [i for i, turn in enumerate(episode.turns) if turn.agent == agent.name]
    if not own:
        return tokenizer.chat(agent.role.prompt(episode.row, episode.said()))
    ids = tokenizer.after(episode.turns[own[-1]].tokens)
    for turn in episode.turns[own[-1] + 1:]:
        ids = ids + tokenizer.turn("user", turn.text)
    return ids + tokenizer.assistant


def count_seen(agent: Agent, episode: rema.Conversation) -> int:
    """How many ids an agent was shown and has sampled."""
    seen = 0
    for turn in episode.turns:
        if turn.agent == agent.name:
            seen += len(turn.prompt) + len(turn.tokens)
    return seen


def run_new_ids(agent: Agent, live: list, caches: dict, max_new_tokens: int) -> Tensor:
    """Run what is new to an agent -> logits (B, V) of the next token. Its cache is made, or goes on."""
    model = agent.model
    if agent.name not in caches:
        cache, hidden = prefill(model, [episode.turns[-1].prompt for episode in live])
        caches[agent.name] = cache.repeat(1, max_new_tokens)
        return model.lm_head(hidden)
    new = []
    for episode in live:
        own = [turn for turn in episode.turns if turn.agent == agent.name]
        new.append(own[-2].tokens[-1:] + own[-1].prompt)
    tokens, real = pad_left(new, model.device)
    cache = caches[agent.name]
    reserve(cache, tokens.shape[1] + max_new_tokens)
    return model.lm_head(model.hidden(tokens, cache, real)[:, -1])


def drop_ended(live: list, caches: dict, going: list[bool]) -> list:
    """The conversations that go on; the others leave all caches as well."""
    chosen = [i for i, goes in enumerate(going) if goes]
    if len(chosen) < len(live):
        for cache in caches.values():
            cache.keep(torch.tensor(chosen, dtype=torch.int64, device=cache.real.device))
    return [live[i] for i in chosen]


# ------------------------------------------------------------------------------------------------------------
# Several processes (torchrun)

def sample_in_processes(agents: list[Agent], rows: list[dict], samples: list[int], turns: int, **how):
    """Each process plays every world-th row and then has the episodes of all.

    Draws depend on the row, so these are the episodes that one process would have, in the same order.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    own = rows[rank::world]
    if turns > 1:
        episodes = converse(agents, own, max(samples), turns, **how)
    else:
        episodes = rollout(agents, own, samples, **how)
    parts = [None] * world
    dist.all_gather_object(parts, episodes)
    together = []
    for owner, part in enumerate(parts):             # row j of process r is row j * world + r of all
        moved = set()                                # turns that several episodes share are moved once
        for episode in part:
            for thing in (episode, *episode.turns):
                if thing.place and id(thing) not in moved:
                    thing.place = (thing.place[0] * world + owner, *thing.place[1:])
                    moved.add(id(thing))
            together.append(episode)
    together.sort(key=lambda episode: episode.place)
    return together


# ------------------------------------------------------------------------------------------------------------
# The program: one episode, to look at

def add_flags(parser: Parser) -> None:
    flag = parser.add_argument
    flag("question", help="what is asked")
    flag("--answer", help="the gold answer: then a verdict is given")
    flag("--logprobs", choices=("number", "shade"), help="of each token: a number under it, or a shade behind it")
    add_speaking_flags(parser)
    add_variant_flags(parser)


def parse(argv: list[str] | None) -> Namespace:
    parser = Parser(__doc__)
    add_flags(parser)
    args = parser.parse_args(argv)
    if not args.question.strip():
        raise UserError("the question is empty")
    complete_speaking(args)
    if args.temperature is None:
        args.temperature = 0.0
    if args.temperature == 0:
        refuse_without_effect(args, ["top_p"], "greedy decoding takes the likeliest token; add a --temperature")
    return args


def program(argv: list[str] | None) -> None:
    args = parse(argv)
    row = {"id": "question", "problem": args.question, "answer": args.answer or ""}
    roles = choose_roles(args, [row])
    agents = load_agents(args.model, roles, args)
    once = [1] * len(agents)
    temperatures = [args.temperature] * len(agents)
    with wait_for("the agents speak"):
        [episode] = sample_episodes(agents, [row], once, args.turns, temperatures=temperatures, top_p=args.top_p,
                                    max_new_tokens=args.max_new_tokens, key=(args.seed,))
    if not episode.turns[0].tokens:
        shown, context = len(episode.turns[0].prompt), agents[0].model.config.context
        raise UserError(f"the prompt has {shown} tokens, which leaves no room in this model's context of {context}")
    for turn in episode.turns:
        print(terminal.describe_turn(turn, agents[0].tokenizer, args.logprobs))
    if args.answer:
        rema.score([episode], roles)
        verdict = "right" if episode.correct else "wrong"
        print(f"{verdict}: {terminal.make_harmless(str(episode.answer))}, the answer is {args.answer}")


def main(argv: list[str] | None = None) -> None:
    run_program(program, argv, "rollout.py")


if __name__ == "__main__":
    main()
