"""ReMA's method without a model: what an episode is, who speaks, what a turn earns, who learns when, the loss.

"ReMA: Learning to Meta-think for LLMs with Multi-Agent Reinforcement Learning", arXiv 2503.09501 (v3).
Everything here is mathematics and text: it can be read, tested and taught without a transformer.

Agents stand in a list, in speaking order. A high-level agent that plans and a low-level agent that solves are
the default; one agent is the control (VRP, MRP); three are your next idea. Whatever follows from a position in
that list is written for a list of any length.

Shapes: N, in the loss: tokens of all turns in a batch, one after the other.
"""
import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor

import rewards
from data import UserError


# ------------------------------------------------------------------------------------------------------------
# Turns and episodes: the one kind of object that goes from the sampler to the loss

@dataclass
class Turn:
    """What one agent said once. The sampler fills in the first part, `score` and the trainer the second.

    place numbers the samples, from 0: (7, 2) is plan 2 to question 7, and (7, 2, 5) is answer 5 to that plan. Without
    its last number, a place says what the turn follows: answer (7, 2, 5) the plan (7, 2), that plan the question (7,).
    """
    prompt: list[int]                    # the ids that the agent was shown
    tokens: list[int]                    # the ids that it sampled, its end token included
    logprobs: list[float]                # of each token, see rollout.draw
    stopped: bool                        # by itself; False: cut off at max_new_tokens or the end of the context
    agent: str = ""                      # who spoke
    text: str = ""                       # what it said, for rewards, those who speak next, and people
    place: tuple[int, ...] = ()
    learned: list[bool] | None = None    # extensions: which tokens are learned (None: all of them)
    thought: str = ""                    # extension: what it thought before, <think> ... </think>, for people

    reward: float = 0.0
    advantage: float = 0.0               # the same for all of its tokens
    weights: list[float] | None = None   # what each learned token weighs in the loss

    @property
    def group(self) -> tuple[int, ...]:
        """Rewards are compared within a group: all plans to one question, or all answers to one plan.

        (Plans are told apart by their number: the answers to two plans that happen to have the same text are two
        groups.)
        """
        return self.place[:-1]

    def count_learned(self) -> int:
        if self.learned is None:
            return len(self.tokens)
        return sum(self.learned)


@dataclass
class Episode:
    """A question and what was said about it, in speaking order. Episodes may share their first turns."""
    row: dict                            # of the data: problem, answer, id ...
    place: tuple[int, ...]               # of the last turn: (question, plan, answer)
    turns: list[Turn]
    correct: bool = False

    @property
    def response(self) -> str:
        """The text that is judged: what was said last."""
        text = self.turns[-1].text
        if self.row.get("judge"):                    # extension
            return rewards.box_verdict(text)
        return text

    @property
    def answer(self) -> str | None:
        """The final answer that was given."""
        return rewards.extract(self.response)

    def said(self) -> dict[str, str]:
        """What each agent has said so far."""
        texts = {}
        for turn in self.turns:
            texts[turn.agent] = turn.text
        return texts

    def spoken_by(self, position: int) -> Turn:
        """What the agent at a position in speaking order said."""
        return self.turns[position]


def group_by_turn(episodes: list[Episode], position: int) -> list[list[Episode]]:
    """Episodes -> for each turn of the agent at `position` the list of episodes that hold it."""
    groups = {}
    for episode in episodes:
        turn = episode.spoken_by(position)
        groups.setdefault(turn.place, []).append(episode)
    return list(groups.values())


def collect_turns(episodes: list[Episode], position: int) -> list[Turn]:
    """All turns of the agent at `position`, each once (the answers to a plan share its turn); no empty ones."""
    turns = []
    for sharing in group_by_turn(episodes, position):
        turn = sharing[0].spoken_by(position)
        if turn.tokens:
            turns.append(turn)
    return turns


# ------------------------------------------------------------------------------------------------------------
# What a turn earns (appendix C.2)

def reward_answer(turn: Turn, episodes: list[Episode]) -> float:
    """Of who speaks last: +1 for a right answer, -0.5 for a wrong one in a box, -1 without a box.

    What is graded is the last turn of the episode. So a role that does not speak last needs another reward.
    """
    episode = episodes[0]                # nobody speaks after it, so there is one
    return rewards.compute_reward(episode.response, episode.row["answer"])


def reward_plan(turn: Turn, episodes: list[Episode]) -> float:
    """Of who speaks earlier: the share of right episodes among those given, minus 1 if the plan states an answer.

    episodes: those that begin with this turn. If a plan has eight answers, there are eight of them. (The paper's other
    setting, how far the answers agree, is reward_agreement, among the extensions.)
    """
    correct = [episode.correct for episode in episodes]
    return rewards.plan_reward(turn.text, correct)


# ------------------------------------------------------------------------------------------------------------
# Roles: what an agent is told and what it earns. The prompts are short on purpose, since they are run for every
# question and every plan. The embedded tiny model was warm-started on these very texts (change one, and
# data/tiny/make_tiny.py has to run again).

@dataclass(frozen=True)
class Role:
    """One voice. `user` may name {question} and, as {high}, what an agent of that name said before."""
    name: str
    system: str
    user: str
    reward: Callable[[Turn, list[Episode]], float]
    examples: tuple[dict, ...] = ()      # earlier messages that show how it is done, see add_examples

    def prompt(self, row: dict, said: dict[str, str]) -> list[dict]:
        """The messages that this role answers, for Tokenizer.chat. said: agent's name -> what it said."""
        content = self.user.format(question=row["problem"], **said)
        system = {"role": "system", "content": self.system}
        user = {"role": "user", "content": content}
        return [system, *self.examples, user]


BOX = "Put the final answer in \\boxed{}."
VRP = Role("solo", f"Solve the problem step by step. {BOX}", "{question}", reward_answer)
MRP = Role("solo", f"First write a short plan for the problem. Then follow the plan step by step. {BOX}",
           "{question}", reward_answer)
HIGH = Role("high", "You guide a weaker solver. Write a short plan: the steps that solve the problem, in the "
                    "right order. Never state the answer: that is punished.", "{question}", reward_plan)
LOW = Role("low", f"Follow the plan and show every step. {BOX}", "Problem:\n{question}\n\nPlan:\n{high}",
           reward_answer)

# Who speaks, in order, in the three processes of the paper (its equations 3 to 5).
#
# For a third agent, give train.main a list of three Roles. What it is shown stands in its `user`, what it earns in its
# `reward`. When it learns, how many turns it draws and where it is saved follow from its position and its name. LOW
# then no longer speaks last, so it needs another reward than reward_answer (README, "Your own data, reward, role").
PROCESSES = {"vrp": [VRP], "mrp": [MRP], "rema": [HIGH, LOW]}


def score(episodes: list[Episode], roles: list[Role]) -> None:
    """Fill in whether each episode is right, and what each turn in it has earned."""
    for episode in episodes:
        episode.correct = rewards.is_correct(episode.response, episode.row["answer"])
    for position, role in enumerate(roles):
        for sharing in group_by_turn(episodes, position):
            turn = sharing[0].spoken_by(position)
            turn.reward = check_reward(role.reward(turn, sharing), turn, sharing[0])


def check_reward(reward, turn: Turn, episode: Episode) -> float:
    """A reward as a plain number. UserError for None, nan and the like, which would look like a broken gradient."""
    if isinstance(reward, (Real, Tensor)) and math.isfinite(reward):
        return float(reward)
    text = turn.text or episode.response         # of a conversation, what was said last
    raise UserError(f"a reward of {turn.agent} is {reward!r}, no finite number; problem: "
                    f"{episode.row['problem'][:300]!r}; response: {text[:300]!r}")


# ------------------------------------------------------------------------------------------------------------
# Advantages: was a turn better or worse than the others of its group?

def compute_advantages(values: list[float], groups: list, kind: str = "grpo") -> list[float]:
    """Rewards of N turns and the group that each belongs to -> N advantages.

    grpo         (R - group mean) / (group std + 1e-6)                     eq. 2
    dr_grpo      R - group mean                                            arXiv 2503.20783
    rloo         R - mean of the others in the group                       arXiv 2402.14740
    reinforce++  (R - batch mean) / (batch std + 1e-6)                     arXiv 2501.03262
    Standard deviations are the unbiased ones (n - 1). For reinforce++ the whole batch is one group.

    If all rewards of a group are equal, its advantages are exactly 0.0, which drop_dead_groups looks for. A group of
    one is such a group. (One is left where the other turns of a group are empty, see collect_turns.)

    >>> compute_advantages([1, 0, 0, 0], ["q"] * 4, "rloo")
    [1.0, -0.3333333333333333, -0.3333333333333333, -0.3333333333333333]
    """
    if kind == "reinforce++":                        # the whole batch is one group
        groups = ["batch"] * len(values)
    members = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)

    advantages = [0.0] * len(values)
    for indices in members.values():
        rewards_of_group = [values[i] for i in indices]
        G = len(indices)
        if min(rewards_of_group) == max(rewards_of_group):
            continue                                 # all are equal, or there is only one: exactly 0
        mean = sum(rewards_of_group) / G
        squares = [(value - mean) ** 2 for value in rewards_of_group]
        std = (sum(squares) / (G - 1)) ** 0.5
        for i in indices:
            if kind == "grpo" or kind == "reinforce++":
                advantages[i] = (values[i] - mean) / (std + 1e-6)
            elif kind == "dr_grpo":
                advantages[i] = values[i] - mean
            elif kind == "rloo":
                others = (sum(rewards_of_group) - values[i]) / (G - 1)
                advantages[i] = values[i] - others
            else:
                raise ValueError(f"there is no advantage {kind!r}")
    return advantages


def assign_advantages(turns: list[Turn], kind: str = "grpo") -> None:
    """Compare the rewards of one agent's turns and note on each its advantage."""
    values = [turn.reward for turn in turns]
    groups = [turn.group for turn in turns]
    for turn, advantage in zip(turns, compute_advantages(values, groups, kind)):
        turn.advantage = advantage


def drop_dead_groups(turns: list[Turn]) -> list[Turn]:
    """Leave out groups in which every advantage is 0: all earned the same, which teaches nothing.

    Otherwise their tokens would count in the loss's denominator and make every step smaller. If nothing is left, the
    step changes no weights. (reinforce++ compares with the whole batch. There a group of equal rewards can have
    advantages that are not 0, and then it stays.)
    """
    alive = set()
    for turn in turns:
        if turn.advantage != 0:
            alive.add(turn.group)
    return [turn for turn in turns if turn.group in alive]


# ------------------------------------------------------------------------------------------------------------
# The loss

def assign_weights(turns: list[Turn]) -> None:
    """Note on each turn what its tokens weigh in the loss: all tokens of the WHOLE batch alike (DAPO's choice).

    The weights are fixed before the batch is cut into micro-batches, so how it is cut changes nothing. policy_loss only
    multiplies by them. For another average, put another function here, such as assign_other_weights.
    """
    total = sum(turn.count_learned() for turn in turns)
    for turn in turns:
        turn.weights = [1 / total] * turn.count_learned()


def policy_loss(new: Tensor, old: Tensor, advantages: Tensor, weights: Tensor,
                clip: float = 0.2, kl: float = 0.0, ref: Tensor | None = None,
                turn_numbers: Tensor | None = None, dual_clip: float = 0.0) -> tuple[Tensor, dict]:
    """The clipped objective with its sign turned, eq. 2 -> (loss, statistics). All tensors (N,), an entry a token.

        r = exp(min(new - old, 3))                                          the ratio, 1 on fresh samples
        gain = min(r A, clip(r, 1 - clip, 1 + clip) A)
        k3 = exp(d) - d - 1 with d = min(ref - new, 20)                     KL(new || ref), never negative
        loss = sum of weight * (-gain + kl * k3)

    new: log-probs under the weights that learn. old: those noted when the tokens were sampled. ref: under the weights
    that the agent began with.
    turn_numbers: if given, average_over_turns replaces new - old by its mean over each turn, before min(..., 3).
    dual_clip: if not 0, bound_loss bounds the gain. (Both are among the extensions.)
    statistics: "clip_share", the share of the N tokens with clip(r, ...) A < r A, whatever bound_loss does and whatever
    their weights are; where kl is not 0 also "kl", the plain mean of k3. Tensors of no dimension, without a gradient.
    """
    log_ratio = new - old
    if turn_numbers is not None:                     # extension
        log_ratio = average_over_turns(log_ratio, turn_numbers)
    ratio = torch.exp(log_ratio.clamp(max=3))        # as in ReMA's code: no ratio above exp(3), about 20
    clipped_ratio = ratio.clamp(1 - clip, 1 + clip)
    # With A > 0 a token should become likelier. Above 1 + clip the min picks the clipped product, which is constant: no
    # gradient, it has moved far enough. With A < 0 it should become less likely, and the same happens below 1 - clip.
    # A token that moved the wrong way is not clipped, so it is pulled back (unless new - old is above 3).
    gain = torch.minimum(ratio * advantages, clipped_ratio * advantages)
    was_clipped = clipped_ratio * advantages < ratio * advantages
    if dual_clip:                                    # extension
        gain = bound_loss(gain, advantages, dual_clip)
    loss = -(weights * gain).sum()
    statistics = {"clip_share": was_clipped.float().mean()}
    if kl:
        difference = (ref - new).clamp(max=20)       # so that exp stays finite; beyond 20 there is no gradient
        k3 = torch.exp(difference) - difference - 1
        loss = loss + kl * (weights * k3).sum()
        statistics["kl"] = k3.mean().detach()
    return loss, statistics


# ------------------------------------------------------------------------------------------------------------
# Who learns when, and how many samples that takes

def choose_learners(step: int, agents: int, switch_every: int, first: int = 0) -> list[int]:
    """Positions of the agents that learn at a step (from 0), Algorithm 1: one after the other, from `first` on.

    Each learns for switch_every steps, then the next in speaking order does; after the last one the agent at
    position 0 does. While the others are frozen the learner faces a world that stands still: block coordinate ascent.
    switch_every 0: all of them learn at every step, whatever `first` is. (filter_problems in train.py and the default
    of --eval-every rely on all phases having the same length.)

    >>> [choose_learners(step, agents=2, switch_every=10) for step in (0, 9, 10, 20)]
    [[0], [0], [1], [0]]
    """
    if switch_every == 0:
        return list(range(agents))
    phase = step // switch_every
    return [(first + phase) % agents]


def choose_samples(learning: list[int], agents: int, sizes: list[int], followers: int = 1) -> list[int]:
    """How many turns each agent draws for each thing that it is shown -> one number an agent.

    learning: the positions of those who learn. An agent draws
        if it learns                        a group: sizes[i] turns at position i, or sizes[0] if there is only one size
        if it speaks before the learner     one turn, so that the learner's group shares all that was said before
        if it speaks after the learner      `followers` turns: more of them make the learner's reward less noisy
    If several learn, before means before the first of them; one that does not learn and stands behind it draws
    `followers`. While the high-level agent learns these are G plans and 1 answer to each (k1 = G, k2 = 1); while the
    low-level agent learns, 1 plan and G answers.

    >>> choose_samples([0], 2, [8]), choose_samples([1], 2, [8])
    ([8, 1], [1, 8])
    >>> choose_samples([1], 3, [8], followers=2)
    [1, 8, 2]
    """
    samples = []
    for position in range(agents):
        if position in learning:
            samples.append(sizes[position % len(sizes)])
        elif position < min(learning):
            samples.append(1)
        else:
            samples.append(followers)
    return samples


# --- extensions ---------------------------------------------------------------------------------------------
# A reader of the method may stop here.

import json  # noqa: E402
from dataclasses import field, replace  # noqa: E402


# ------------------------------------------------------------------------------------------------------------
# Worked examples (--example): a model of 135M parameters does not find \boxed{} by being told, but does once it
# has seen it; its plans are useful once it has seen plans that name the operation.

def add_examples(roles: list[Role], worked: list[dict]) -> list[Role]:
    """Roles that see how it is done. worked: dicts with question, plan and working."""
    shown = []
    for role in roles:
        messages = []
        for example in worked:
            plan = write_example_plan(role, roles, example["plan"])
            try:
                user = role.user.format(question=example["question"], high=plan)
            except KeyError as error:
                raise UserError(f"--example shows problems and plans, but {role.name} is shown what {error} said: give "
                                "such a role `examples` of its own") from None
            messages.append({"role": "user", "content": user})
            messages.append({"role": "assistant", "content": write_example(role, plan, example["working"])})
        shown.append(replace(role, examples=tuple(messages)))
    return shown


def write_example_plan(role: Role, roles: list[Role], plan: str) -> str:
    """A worked example's plan as the high-level agent of these roles would write it."""
    if roles[0] is HIGH_JSON:
        return json.dumps({"action": "DECOMPOSE", "output": plan})
    if roles[0] is HIGH_TURNS:                       # a conversation of one turn each
        return f"{plan} {FINISH}"
    return plan


def write_example(role: Role, plan: str, working: str) -> str:
    """What a role says in a worked example."""
    if role.name == "high":
        return plan
    if role is MRP:
        return f"{plan}\n{working}"
    return working


# ------------------------------------------------------------------------------------------------------------
# Judge tasks: which of two responses is better? The plan is then a plan for the comparison.

COMPARE = "The problem is to compare two responses to a question; their order and length do not matter. "
VERDICT = "End with the verdict [A] or [B]: the better response."


def reward_judge_plan(turn: Turn, episodes: list[Episode]) -> float:
    """As reward_plan; here a plan states the answer if it gives the verdict."""
    correct = [episode.correct for episode in episodes]
    return rewards.plan_reward(rewards.box_verdict(turn.text), correct)


def make_judges(roles: list[Role]) -> list[Role]:
    """The same roles, told to compare. What is compared stands in the data, see data/problems."""
    judges = []
    for role in roles:
        judge = replace(role, system=COMPARE + role.system.replace(BOX, VERDICT))
        if role.reward is reward_plan:
            judge = replace(judge, reward=reward_judge_plan)
        judges.append(judge)
    return judges


# ------------------------------------------------------------------------------------------------------------
# Plans as JSON (--plan-format json), which data/extensions/guide.py makes the model write

HIGH_JSON = Role("high", 'You guide a weaker solver. Write one JSON object {"action": ..., "output": ...}. '
                         "The action is DECOMPOSE (list the steps), REWRITE (say the problem more simply) or "
                         "EMPTY (let the solver work alone). Never state the answer: that is punished.",
                 "{question}", reward_plan)


# ------------------------------------------------------------------------------------------------------------
# The consistency reward (--reward consistency): plans are paid for answers that agree, right or wrong

def reward_agreement(turn: Turn, episodes: list[Episode]) -> float:
    responses = [episode.response for episode in episodes]
    plan = turn.text
    if episodes[0].row.get("judge"):
        plan = rewards.box_verdict(plan)
    return rewards.consistency_reward(plan, responses)


def reward_plans_for_agreement(roles: list[Role]) -> list[Role]:
    return [replace(roles[0], reward=reward_agreement), *roles[1:]]


# ------------------------------------------------------------------------------------------------------------
# Conversations (--turns): the agents speak in turn, several times. See rollout.converse.

FINISH = "[FINISH]"


def reward_conversation(turn: Turn, episodes: list[Episode]) -> float:
    """All turns of all agents earn 1 if the last answer is right, its plan said [FINISH], nothing was cut off."""
    conversation = episodes[0]
    return float(conversation.correct and conversation.finished())


HIGH_TURNS = Role("high", "You guide a solver turn by turn. Say what to do next: explore, break down, "
                          "reflect, backtrack or verify. Write [FINISH] when the answer is confirmed.",
                  "{question}", reward_conversation)
LOW_TURNS = Role("low", f"Reason step by step as you are told. When you are asked to finish: {BOX}", LOW.user,
                 reward_conversation)


@dataclass
class Conversation(Episode):
    """An episode in which the agents of `names` speak in turn, again and again. place: (question, sample).

    A turn's prompt holds what was put between the agent's last turn and this one: prompt + tokens of all its
    turns, joined, are the ids that it has seen. None is ever encoded again.
    """
    names: tuple[str, ...] = ()
    joined: dict[str, Turn] = field(default_factory=dict)    # what each agent said, as one turn

    @property
    def response(self) -> str:
        if not self.turns or self.turns[-1].agent != self.names[-1]:
            return ""                                # cut off before anybody answered
        return Episode.response.fget(self)

    def finished(self) -> bool:
        """Did it end as it should?"""
        plans = [turn for turn in self.turns if turn.agent == self.names[0]]
        return all(turn.stopped for turn in self.turns) and FINISH in plans[-1].text

    def spoken_by(self, position: int) -> Turn:
        """All that an agent said, as one row for the trainer: it reads what others put between its turns.

        Without tokens if it was cut off before its first turn: then it is no sample of its group.
        """
        name = self.names[position]
        if name in self.joined:
            return self.joined[name]
        row = Turn([], [], [], True, name, place=self.place, learned=[])
        for turn in self.turns:
            if turn.agent != name or not turn.tokens:        # no tokens: the context had no room left for it
                continue
            if not row.prompt:
                row.prompt = turn.prompt
            else:
                row.tokens = row.tokens + turn.prompt
                row.logprobs = row.logprobs + [0.0] * len(turn.prompt)
                row.learned = row.learned + [False] * len(turn.prompt)
            row.tokens = row.tokens + turn.tokens
            row.logprobs = row.logprobs + turn.logprobs
            row.learned = row.learned + [True] * len(turn.tokens)
        self.joined[name] = row
        return row


# ------------------------------------------------------------------------------------------------------------
# Other averages of the loss (--normalise), one ratio a turn (--ratio turn), the dual clip (--dual-clip)

def number_turns(row: Turn) -> list[int]:
    """Which turn each learned token of a row belongs to, from 0. Between two turns stand tokens that were only read.

    >>> number_turns(Turn([], [5, 6, 7, 8], [], True, learned=[True, True, False, True]))
    [0, 0, 1]
    """
    if row.learned is None:
        return [0] * row.count_learned()
    numbers, number = [], -1
    before = False
    for learned in row.learned:
        if learned and not before:
            number += 1
        if learned:
            numbers.append(number)
        before = learned
    return numbers


def assign_other_weights(rows: list[Turn], normalise: str, max_new_tokens: int) -> None:
    """As assign_weights, for N rows of T_i turns each:

    sequence  1 / (N * length of the row): every row alike, eq. 2
    turn      1 / (N * T_i * length of the turn): turns, then rows alike, eq. 12. A turn of a short conversation
              weighs more, which arXiv 2511.02303 blames for agents that learn to say little
    turns     1 / (turns of the whole batch * length of the turn): every turn alike, without 1 / T_i
    constant  1 / (N * max_new_tokens): Dr. GRPO, no length bias
    """
    N = len(rows)
    turns_of_batch = 0
    for row in rows:
        turns_of_batch += len(set(number_turns(row)))
    for row in rows:
        numbers = number_turns(row)
        row.weights = []
        for number in numbers:
            length = numbers.count(number)
            if normalise == "sequence":
                weight = 1 / (N * len(numbers))
            elif normalise == "turn":
                weight = 1 / (N * len(set(numbers)) * length)
            elif normalise == "turns":
                weight = 1 / (turns_of_batch * length)
            elif normalise == "constant":
                weight = 1 / (N * max_new_tokens)
            else:
                raise ValueError(f"there is no average {normalise!r}")
            row.weights.append(weight)


def average_over_turns(log_ratio: Tensor, turns: Tensor) -> Tensor:
    """One log-ratio for all tokens of a turn, their mean (eq. 13) -> (N,), with gradients.

    turns (N,): the number of each token's turn, from 0; tokens of a turn need not stand side by side.

    The ratio is then the geometric mean of the tokens' ratios: the paper writes the arithmetic mean, its code
    and GSPO take this one.
    """
    counts = torch.bincount(turns)
    sums = log_ratio.new_zeros(len(counts)).index_add(0, turns, log_ratio)
    return (sums / counts)[turns]


def bound_loss(gain: Tensor, advantages: Tensor, dual_clip: float) -> Tensor:
    """Where A < 0 the gain of a token is at least dual_clip A, its loss at most dual_clip |A| -> the gains (N,).

    However far a token's ratio has gone: beyond the bound there is no gradient. Where A >= 0 nothing changes.
    """
    bounded = torch.maximum(gain, dual_clip * advantages)
    return torch.where(advantages < 0, bounded, gain)


# ------------------------------------------------------------------------------------------------------------
# The difficulty filter (--filter) and supervised lessons (--sft)

def is_worth_learning(successes: list[bool], low: float = 0.2, high: float = 0.8) -> bool:
    """Appendix D.1: a question is kept if it is sometimes solved, and not nearly always.

    successes: of each try (at least one) whether it was right. The share that was has to lie between low and high,
    both included.
    """
    rate = sum(successes) / len(successes)
    return low <= rate <= high


def make_lesson(tokenizer, messages: list[dict]) -> Turn:
    """A conversation -> a Turn that learns what the assistant says in it, with its end tokens.

        system's and user's messages | said, end token | user's next message | said, end token | ...
    Only `said, end token` is learned, the rest is read. What was said stays as it is, as in a conversation that is
    sampled, even where a template would trim it.
    """
    end = tokenizer.after([])[0]                     # the end token: the first id behind a turn that has no ids yet
    ids, learned = [], []
    last = 0                                         # the place of the assistant's previous message
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        said = tokenizer.say(message["content"]) + [end]
        if not ids:
            shown = tokenizer.chat(messages[:i])
        else:
            shown = tokenizer.after([end])
            for between in messages[last + 1:i]:
                shown = shown + tokenizer.turn(between["role"], between["content"])
            shown = shown + tokenizer.assistant
        ids += shown + said
        learned += [False] * len(shown) + [True] * len(said)
        last = i
    first = learned.index(True)
    tokens = ids[first:]
    return Turn(ids[:first], tokens, [0.0] * len(tokens), True, learned=learned[first:])
