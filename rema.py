"""ReMA's method without a model: who speaks with which prompt, episodes, advantages, losses, who learns when.

"ReMA: Learning to Meta-think for LLMs with Multi-Agent Reinforcement Learning", arXiv 2503.09501 (v3).
Everything here is mathematics and text: it can be read, tested and taught without a transformer.

Shapes: B rows, T tokens, V vocabulary, G group.
"""
from dataclasses import dataclass, field, replace

import torch

import rewards


# ------------------------------------------------------------------------------------------------------------
# Roles: who speaks, and what it is told. The prompts are short on purpose: they are run once for every
# question, and the embedded tiny model was warm-started on these very texts (change one, and
# data/make_tiny.py has to run again).

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
LOW_TURNS = Role("low", f"Reason step by step as you are told. When you are asked to finish: {BOX}")

PROCESSES = {"vrp": (VRP,), "mrp": (MRP,), "rema": (HIGH, LOW)}

# A model of 135M parameters does not find \\boxed{} by being told, but does once it has seen it: --example.
# Its plans are useful once it has seen plans that name the operation. (question, plan, working)
EXAMPLES = (
    ("Tom has 2 pens and buys 3 more. How many pens does he have now?", "Add 2 and 3.",
     "He has 2 + 3 = 5 pens. The answer is \\boxed{5}."),
    ("Mia sells 4 cakes for 5 dollars each. How many dollars does she get?", "Multiply 4 by 5.",
     "She gets 4 * 5 = 20 dollars. The answer is \\boxed{20}."),
    ("Omar has 3 trays with 4 cups each. He breaks 2 cups. How many cups are left?",
     "Multiply 3 by 4. Then subtract 2.",
     "There are 3 * 4 = 12 cups. He breaks 2, so 12 - 2 = 10 cups are left. The answer is \\boxed{10}."))


def roles(process, example=False):
    """The roles of a process ("vrp", "mrp" or "rema") in speaking order; with worked examples if asked."""
    if not example:
        return PROCESSES[process]

    def shown(role, say):
        return replace(role, example=tuple(
            message for question, plan, working in EXAMPLES for message in (
                {"role": "user", "content": role.user.format(question=question, plan=plan)},
                {"role": "assistant", "content": say.format(plan=plan, working=working)})))
    said = {"vrp": ("{working}",), "mrp": ("{plan}\n{working}",), "rema": ("{plan}", "{working}")}[process]
    return tuple(map(shown, PROCESSES[process], said))


# ------------------------------------------------------------------------------------------------------------
# Episodes: what the sampler hands to the rewards, and they to the loss

@dataclass
class Turn:
    """What one agent said: the ids it was shown, the ids it sampled, and their log-probs when sampled."""
    role: str
    prompt: list[int]
    tokens: list[int]
    logprobs: list[float]
    stopped: bool            # by itself, with an end token; False: cut off
    text: str


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
        """The text that is judged: the last turn's."""
        return self.turns[-1].text

    def group(self, role):
        """Rewards compare within a group: the plans of a question, the answers to a question AND its plan."""
        return (self.question, self.plan) if role == "low" else self.question


def score(episodes):
    """Fill in `correct` and `rewards` of each episode: METHOD of ReMA's appendix C.2, base setting.

    solo, low: +1 correct, -0.5 wrong but boxed, -1 wrong and without a box. high: the mean correctness of the
    answers that were sampled under the plan, minus 1 if the plan itself holds a boxed answer.
    """
    under_plan = {}
    for episode in episodes:
        reward = rewards.compute_reward(episode.response, episode.row["answer"])
        episode.correct = rewards.is_correct(episode.response, episode.row["answer"])
        episode.rewards[episode.turns[-1].role] = reward
        under_plan.setdefault((episode.question, episode.plan), []).append(episode)
    for siblings in under_plan.values():
        if siblings[0].turns[0].role == "high":
            reward = rewards.plan_reward(siblings[0].turns[0].text, [episode.correct for episode in siblings])
            for episode in siblings:
                episode.rewards["high"] = reward


# ------------------------------------------------------------------------------------------------------------
# Advantages

ADVANTAGES = ("grpo", "dr_grpo", "rloo", "reinforce++")


def advantages(values, groups, kind="grpo"):
    """Rewards -> advantages. values: N floats, groups: N hashable keys -> list of N floats.

    grpo         (R - group mean) / (group std + 1e-6), unbiased std       eq. 2
    dr_grpo      R - group mean                                            arXiv 2503.20783
    rloo         R - mean of the others in the group                       arXiv 2402.14740
    reinforce++  (R - batch mean) / (batch std + 1e-6), unbiased std       arXiv 2501.03262
    Raises ValueError for a kind that is not known, and for a group of one under grpo and rloo.

    >>> advantages([1, 0, 0, 0], ["q"] * 4, "rloo")
    [1.0, -0.3333333333333333, -0.3333333333333333, -0.3333333333333333]
    """
    if kind not in ADVANTAGES:
        raise ValueError(f"unknown advantage {kind!r}")
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
        for i in indices:
            result[i] = values[i] - mean
            if kind in ("grpo", "reinforce++"):
                result[i] /= std + 1e-6
            elif kind == "rloo":
                result[i] *= G / (G - 1)          # R_i - (sum - R_i) / (G - 1)
    return result


@dataclass
class Sample:
    """The trainer's row: prompt ids, sampled ids with their log-probs, and the advantage they all share."""
    prompt: list[int]
    tokens: list[int]
    logprobs: list[float]
    advantage: float


def samples(episodes, role, kind="grpo", keep_dead=False):
    """A role's turns, each once, with advantages -> (list of Sample, share of groups with equal rewards).

    A group with equal rewards teaches nothing under grpo, dr_grpo and rloo: it leaves the forward pass and
    the denominator. It stays under reinforce++ (whose mean is the batch's) and with keep_dead (KL has a
    gradient).
    """
    chosen = [e for e in episodes if role != "high" or e.sample == 0]          # a plan is one sample, not k2
    groups = [e.group(role) for e in chosen]
    for episode, advantage in zip(chosen, advantages([e.rewards[role] for e in chosen], groups, kind)):
        episode.advantages[role] = advantage
    seen = {}
    for episode, group in zip(chosen, groups):
        seen.setdefault(group, set()).add(episode.rewards[role])
    dead = {group for group, values in seen.items() if len(values) == 1}
    keep_dead = keep_dead or kind == "reinforce++"
    turns = [(next(turn for turn in e.turns if turn.role == role), e.advantages[role])
             for e, group in zip(chosen, groups) if keep_dead or group not in dead]
    return ([Sample(turn.prompt, turn.tokens, turn.logprobs, advantage)
             for turn, advantage in turns if turn.tokens], len(dead) / len(seen))


# ------------------------------------------------------------------------------------------------------------
# The loss

def token_weights(lengths, normalise, max_new_tokens):
    """What a token of each sequence weighs in the loss, given ALL sequences of the batch (lengths: N counts).

    batch     1 / (tokens of the whole batch): every token alike (DAPO's choice)
    sequence  1 / (N length): every sequence alike, eq. 2
    constant  1 / (N max_new_tokens): Dr. GRPO, no length bias
    The weights are fixed before the batch is cut into micro-batches, so that how it is cut changes nothing.
    """
    N = len(lengths)
    return {"batch": lambda: [1 / sum(lengths)] * N,
            "sequence": lambda: [1 / (N * length) for length in lengths],
            "constant": lambda: [1 / (N * max_new_tokens)] * N}[normalise]()


def policy_loss(new, old, advantage, weight, clip=0.2, kl=0.0, ref=None):
    """The clipped objective, sign turned, eq. 2 -> (loss, statistics); all arguments (N,), one entry a token.

        loss = sum of weight * ( -min(r A, clip(r, 1 - e, 1 + e) A) + kl * k3 ),   r = exp(new - old)
        k3 = exp(ref - new) - (ref - new) - 1, an estimate of KL(new || ref) that is never negative

    min holds for both signs of A: with A > 0 it stops at r > 1 + e, with A < 0 at r < 1 - e; a step for the
    worse is never cut off. weight: see token_weights. ref: log-probs of the reference model when kl > 0.
    """
    ratio = torch.exp(new - old)
    free, clipped = ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage
    loss = (weight * -torch.minimum(free, clipped)).sum()
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


def sampling_shape(roles, plans, answers, answers_high=1):
    """(k1 plans a question, k2 answers a plan) that give each learning role its group."""
    if roles == ("high",):
        return plans, answers_high
    if roles == ("low",):
        return 1, answers
    return (1, answers) if roles == ("solo",) else (plans, answers)
