"""ReMA's method without a model: who speaks with which prompt, episodes, advantages, losses, who learns when.

"ReMA: Learning to Meta-think for LLMs with Multi-Agent Reinforcement Learning", arXiv 2503.09501 (v3).
Everything here is mathematics and text: it can be read, tested and taught without a transformer.

Shapes: B rows, T tokens, V vocabulary, G group.
"""
import json
import pathlib
from dataclasses import dataclass, field, replace

import torch

import rewards


# ------------------------------------------------------------------------------------------------------------
# Roles: who speaks, and what it is told. The prompts are short on purpose: they are run once for every
# question, and the embedded tiny model was warm-started on these very texts (change one, and
# data/tiny/make_tiny.py has to run again).

@dataclass(frozen=True)
class Role:
    """One voice: `name` is the agent ("solo", "high" or "low"), `user` has {question} and perhaps {plan}."""
    name: str
    system: str
    user: str = "{question}"
    example: tuple[dict, ...] = ()       # worked examples as earlier messages, see `roles`

    def prompt(self, question, plan=""):
        """The message list that this role answers, ready for Tokenizer.chat."""
        return [{"role": "system", "content": self.system}, *self.example,
                {"role": "user", "content": self.user.format(question=question, plan=plan)}]


BOX = "Put the final answer in \\boxed{}."
VRP = Role("solo", f"Solve the problem step by step. {BOX}")
MRP = Role("solo", f"First write a short plan for the problem. Then follow the plan step by step. {BOX}")
HIGH = Role("high", "You guide a weaker solver. Write a short plan: the steps that solve the problem, in the "
                    "right order. Never state the answer: that is punished.")
LOW = Role("low", f"Follow the plan and show every step. {BOX}", "Problem:\n{question}\n\nPlan:\n{plan}")
HIGH_JSON = Role("high", 'You guide a weaker solver. Write one JSON object {"action": ..., "output": ...}. '
                         "The action is DECOMPOSE (list the steps), REWRITE (say the problem more simply) or "
                         "EMPTY (let the solver work alone). Never state the answer: that is punished.")
HIGH_TURNS = Role("high", "You guide a solver turn by turn. Say what to do next: explore, break down, "
                          "reflect, backtrack or verify. Write [FINISH] when the answer is confirmed.")
LOW_TURNS = Role("low", f"Reason step by step as you are told. When you are asked to finish: {BOX}", LOW.user)
FINISH = "[FINISH]"

PROCESSES = {"vrp": (VRP,), "mrp": (MRP,), "rema": (HIGH, LOW)}
COMPARE = "The problem is to compare two responses to a question; their order and length do not matter. "
VERDICT = "End with the verdict [A] or [B]: the better response."

# A model of 135M parameters does not find \\boxed{} by being told, but does once it has seen it: --example.
# Its plans are useful once it has seen plans that name the operation. Each: question, plan, working.
EXAMPLES = json.loads((pathlib.Path(__file__).parent / "data/problems/worked.json").read_text(encoding="utf-8"))


def roles(process, example=False, turns=1, plan_format="text", judge=False):
    """The roles of a process ("vrp", "mrp" or "rema") in speaking order.

    example: with worked examples. turns > 1: for a conversation. plan_format "json": plans are JSON objects.
    judge: the data is judge tasks, which have no worked examples.
    """
    chosen = PROCESSES[process]
    if process == "rema" and turns > 1:
        chosen = (HIGH_TURNS, LOW_TURNS)
    elif process == "rema" and plan_format == "json":
        chosen = (HIGH_JSON, LOW)
    if judge:
        return tuple(replace(role, system=COMPARE + role.system.replace(BOX, VERDICT)) for role in chosen)

    def shown(role):
        say = {"solo": "{plan}\n{working}" if role is MRP else "{working}", "low": "{working}",
               "high": "{plan}"}[role.name]
        messages = []
        for question, plan, working in map(dict.values, EXAMPLES):
            if chosen[0] is HIGH_JSON:
                plan = json.dumps({"action": "DECOMPOSE", "output": plan})
            if turns > 1:                    # a conversation of one turn each
                plan += " " + FINISH
            messages += [{"role": "user", "content": role.user.format(question=question, plan=plan)},
                         {"role": "assistant", "content": say.format(plan=plan, working=working)}]
        return replace(role, example=tuple(messages))

    return tuple(map(shown, chosen)) if example else chosen


# ------------------------------------------------------------------------------------------------------------
# Episodes: what the sampler hands to the rewards, and they to the loss

@dataclass
class Turn:
    """What one agent said: the ids it was shown, the ids it sampled, and their log-probs when sampled.

    In a conversation `prompt` holds what was put between this role's last turn and this one, so that prompt +
    tokens of all its turns, joined, are the ids that the agent has seen: none is ever encoded again.
    """
    role: str
    prompt: list[int]
    tokens: list[int]
    logprobs: list[float]
    stopped: bool            # by itself, with an end token; False: cut off
    text: str
    states: list[int] = field(default_factory=list)      # guided plans: the Guide's state at each token


def graded(row, response):
    """The text that the grader reads: a judge's verdict [A] counts as a boxed A, and no verdict as no box."""
    if not row.get("judge"):
        return response
    verdict = rewards.verdict(response)
    return f"\\boxed{{{verdict}}}" if verdict else ""


VERIFYING = ("let me check", "let's check", "let us check", "check again", "double-check", "double check",
             "verify", "to make sure", "go through it again")


def verifies(text):
    """Whether an answer checks itself, as a low-level agent does once plans are solutions (appendix E.1)."""
    return any(phrase in text.lower() for phrase in VERIFYING)


@dataclass
class Episode:
    """One path from a question to an answer. Episodes of one question and plan share the plan's Turn."""
    row: dict                # of the data: problem, answer, id ...
    question: int            # place of the row in its batch
    plan: int                # which of the question's k1 plans
    sample: int              # which of the plan's k2 answers
    turns: list[Turn]
    correct: bool = False
    rewards: dict[str, float] = field(default_factory=dict)        # role -> reward
    advantages: dict[str, float] = field(default_factory=dict)     # role -> advantage

    @property
    def response(self):
        """The text that is judged: the last turn's, if it is not a plan."""
        return self.turns[-1].text if self.turns[-1].role != "high" else ""

    @property
    def answer(self):
        """The final answer that was given, or None."""
        return rewards.extract(graded(self.row, self.response))

    def said(self, role):
        return [turn for turn in self.turns if turn.role == role]

    def group(self, role):
        """Rewards compare within a group: the plans of a question, the answers to a question AND its plan."""
        return (self.question, self.plan) if role == "low" else self.question


def all_turns(episodes):
    """Every turn once: the answers to a plan share its Turn."""
    return list({id(turn): turn for episode in episodes for turn in episode.turns}.values())


def score(episodes, reward="base", conversation=False, box=0.5, leak=1.0):
    """Fill in `correct` and `rewards` of each episode, appendix C.2.

    solo, low: +1 if the answer is right, box - 1 if it is wrong but boxed, -1 without a box.
    high       reward "base": the mean correctness of the answers that were sampled under the plan;
               "consistency": the share of their most frequent answer, right or wrong;
               minus `leak` if the plan itself holds a boxed answer (of a judge: a verdict).
    In a conversation all turns of both earn 1 if the last answer is right, the last plan said [FINISH] and
    nothing was cut off, otherwise 0; reward, box and leak play no part.
    """
    under_plan = {}
    for e in episodes:
        text = graded(e.row, e.response)
        e.correct = rewards.is_correct(text, e.row["answer"])
        more = (box - 0.5) * (e.answer is not None and not e.correct)          # than compute_reward gives
        e.rewards[e.turns[-1].role] = rewards.compute_reward(text, e.row["answer"]) + more
        under_plan.setdefault((e.question, e.plan), []).append(e)
        if conversation:
            finished = all(turn.stopped for turn in e.turns) and FINISH in e.said("high")[-1].text
            e.rewards = dict.fromkeys(("high", "low"), float(e.correct and finished))
    for siblings in under_plan.values():
        if siblings[0].turns[0].role == "high" and not conversation:
            plan = graded(siblings[0].row, siblings[0].turns[0].text)
            value = (rewards.plan_reward(plan, [e.correct for e in siblings], leak) if reward == "base" else
                     rewards.consistency_reward(plan, [graded(e.row, e.response) for e in siblings], leak))
            for e in siblings:
                e.rewards["high"] = value


# ------------------------------------------------------------------------------------------------------------
# Advantages

def advantages(values, groups, kind="grpo"):
    """Rewards -> advantages. values: N floats, groups: N hashable keys -> list of N floats.

    grpo         (R - group mean) / (group std + 1e-6), unbiased std       eq. 2
    dr_grpo      R - group mean                                            arXiv 2503.20783
    rloo         R - mean of the others in the group                       arXiv 2402.14740
    reinforce++  (R - batch mean) / (batch std + 1e-6), unbiased std       arXiv 2501.03262
    Raises KeyError for a kind that is not known, ValueError for a group of one under grpo and rloo.

    >>> advantages([1, 0, 0, 0], ["q"] * 4, "rloo")
    [1.0, -0.3333333333333333, -0.3333333333333333, -0.3333333333333333]
    """
    if kind == "reinforce++":
        groups = [None] * len(values)
    members = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    result = [0.0] * len(values)
    for indices in members.values():
        G = len(indices)
        if G < 2 and kind in ("grpo", "rloo"):
            raise ValueError(f"{kind} compares the rewards of a group: it needs at least 2 samples, not {G}")
        mean = sum(values[i] for i in indices) / G
        std = (sum((values[i] - mean) ** 2 for i in indices) / max(G - 1, 1)) ** 0.5
        scale = {"grpo": std + 1e-6, "dr_grpo": 1, "reinforce++": std + 1e-6,
                 "rloo": (G - 1) / G}[kind]                  # R_i - (sum - R_i) / (G - 1)
        for i in indices:
            result[i] = (values[i] - mean) / scale
    return result


@dataclass
class Sample:
    """The trainer's row: prompt ids, sampled ids with their log-probs, and the advantage they all share.

    A conversation is one row: what was put between two turns stands among the tokens, with turn -1, and is
    read but not learned. `logprobs` has an entry for each token of a turn, none for those.
    """
    prompt: list[int]
    tokens: list[int]
    logprobs: list[float]
    advantage: float
    turn: list[int]          # the turn of each token, from 0
    states: list[int] = field(default_factory=list)      # guided plans: see Turn


def sample(turns, advantage):
    """All turns of one role in an episode -> the trainer's Sample."""
    row = Sample(turns[0].prompt, [], [], advantage, [])
    for i, turn in enumerate(turn for turn in turns if turn.tokens):     # one without room fills the context
        between = turn.prompt if i else []
        # A guided token without an alternative (state -1) was forced: log-prob 0 and no gradient.
        free = [state >= 0 for state in turn.states or [0] * len(turn.tokens)]
        row.tokens += between + turn.tokens
        row.turn += [-1] * len(between) + [i if f else -1 for f in free]
        row.logprobs += [logprob for logprob, f in zip(turn.logprobs, free) if f]
        row.states += turn.states
    return row


def samples(episodes, role, kind="grpo", keep_dead=False):
    """What a role said, each text once, with advantages -> (list of Sample, share of groups of equal reward).

    A group with equal rewards teaches nothing under grpo, dr_grpo and rloo: it leaves the forward pass and
    the denominator. It stays under reinforce++ (whose mean is the batch's) and with keep_dead (KL has a
    gradient).
    """
    # A plan is one sample, not k2: its answers share its Turn.
    chosen = list({id(e.said(role)[0]) if e.said(role) else id(e): e for e in episodes}.values())
    groups = [e.group(role) for e in chosen]
    for episode, advantage in zip(chosen, advantages([e.rewards[role] for e in chosen], groups, kind)):
        episode.advantages[role] = advantage
    seen = {}
    for episode, group in zip(chosen, groups):
        seen.setdefault(group, set()).add(episode.rewards[role])
    dead = {group for group, values in seen.items() if len(values) == 1}
    rows = [sample(e.said(role), e.advantages[role]) for e, group in zip(chosen, groups)
            if e.said(role) and (keep_dead or kind == "reinforce++" or group not in dead)]
    return [row for row in rows if row.logprobs], len(dead) / len(seen)


def lesson(tokenizer, messages):
    """A conversation -> Sample that learns what the assistant says, its end tokens included."""
    end, ids, turn = tokenizer.after([])[0], [], []
    for i, message in enumerate(messages):
        if message["role"] == "assistant":
            shown, said = tokenizer.chat(messages[:i]), tokenizer.encode(message["content"]) + [end]
            if ids:          # as when a conversation is sampled: what was said stays, a template may trim it
                new = [id for m in messages[turn[-1] + 1:i] for id in tokenizer.turn(m["role"], m["content"])]
                shown = ids + tokenizer.after([end]) + new + tokenizer.assistant
            turn += [-1] * (len(shown) - len(ids)) + [i] * len(said)
            ids = shown + said
    first = turn.index(next(t for t in turn if t >= 0))
    return Sample(ids[:first], ids[first:], [], 1.0, turn[first:])


# ------------------------------------------------------------------------------------------------------------
# The loss

def token_weights(lengths, normalise, max_new_tokens):
    """What each token weighs in the loss -> a list of weights for each of ALL sequences of the batch.

    lengths: for each of the N sequences, the numbers of learned tokens of its turns (one turn: [n]).
    batch     1 / (tokens of the whole batch): every token alike (DAPO's choice)
    sequence  1 / (N length): every sequence alike, eq. 2
    turn      1 / (N T_i length of the turn): turns, then trajectories alike, eq. 12. A turn of a short
              trajectory weighs more, which arXiv 2511.02303 blames for agents that learn to say little
    turns     1 / (turns of the whole batch, length of the turn): every turn alike, without 1 / T_i
    constant  1 / (N max_new_tokens): Dr. GRPO, no length bias
    The weights are fixed before the batch is cut into micro-batches, so that how it is cut changes nothing.
    """
    N, tokens, turns = len(lengths), sum(map(sum, lengths)), sum(map(len, lengths))
    share = {"batch": lambda n, own: tokens, "sequence": lambda n, own: N * sum(own),
             "turn": lambda n, own: N * len(own) * n, "turns": lambda n, own: turns * n,
             "constant": lambda n, own: N * max_new_tokens}[normalise]
    return [[1 / share(n, own) for n in own for _ in range(n)] for own in lengths]


def policy_loss(new, old, advantage, weight, clip=0.2, kl=0.0, ref=None, turn=None, dual_clip=0.0):
    """The clipped objective, sign turned, eq. 2 -> (loss, statistics); all arguments (N,), one entry a token.

        loss = sum of weight * ( -min(r A, clip(r, 1 - e, 1 + e) A) + kl * k3 ),   r = exp(new - old)
        k3 = exp(ref - new) - (ref - new) - 1, an estimate of KL(new || ref) that is never negative

    min holds for both signs of A: with A > 0 it stops at r > 1 + e, with A < 0 at r < 1 - e; a step for the
    worse is not cut off by it, but by the clamp of log r at 3 from above, which ReMA's code has, and by
    dual_clip = c > 1, which bounds the loss of A < 0 by c |A|. turn (N,): which turn a token belongs to, from
    0, for the turn-level ratio of eq. 13: exp of the mean log-ratio of the turn's tokens (the paper writes
    the mean of the ratios, its code and GSPO take this one). weight: see token_weights. ref: log-probs of
    the reference when kl > 0.
    """
    log_ratio = new - old
    if turn is not None:
        zeros = new.new_zeros(int(turn.max()) + 1)
        mean = zeros.index_add(0, turn, log_ratio) / zeros.index_add(0, turn, torch.ones_like(new))
        log_ratio = mean[turn]
    ratio = torch.exp(log_ratio.clamp(max=3))
    free, clipped = ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage
    gain = torch.minimum(free, clipped)
    if dual_clip:
        gain = torch.where(advantage < 0, torch.maximum(gain, dual_clip * advantage), gain)
    loss = -(weight * gain).sum()
    stats = {"clip_share": (clipped < free).float().mean().item()}
    if kl:
        k3 = torch.exp(ref - new) - (ref - new) - 1
        loss = loss + kl * (weight * k3).sum()
        stats["kl"] = k3.mean().item()
    return loss, stats


# ------------------------------------------------------------------------------------------------------------
# Who learns when

def learners(step, names, switch_every):
    """Names of the roles trained at a step, Algorithm 1: in turn every `switch_every` steps; 0: all at once.

    While one agent is frozen the other one faces a stationary environment: block coordinate ascent.
    """
    if len(names) == 1 or switch_every == 0:
        return tuple(names)
    return (names[step // switch_every % 2],)


def worth_learning(successes, low=0.2, high=0.8):
    """The difficulty filter's rule, appendix D.1: keep a question that is sometimes solved (list of 0/1)."""
    return low <= sum(successes) / len(successes) <= high


def sampling_shape(roles, plans, answers, answers_high=1):
    """(k1 plans a question, k2 answers a plan) that give each learning role its group."""
    if roles == ("high",):
        return plans, answers_high
    return (1 if len(roles) == 1 else plans), answers
