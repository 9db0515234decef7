"""The mathematics of the method against hand-worked numbers; no model is needed."""
import hashlib
import json
import math
import pathlib
from argparse import Namespace

import pytest
import torch

import rema
import rewards
import rollout
import train
from data import UserError
from data.answers.leaking import leaks
from data.formats.files import read_json
from data.formats.tokenizer import Tokenizer
from data.views.statistics import is_leaking, is_verifying, record, share_dead_groups
from data.views.terminal import describe_episode
from rema import HIGH, LOW, Episode, Role, Turn

DATA = pathlib.Path(rema.__file__).parent / "data"
WORKED = read_json(DATA / "problems" / "worked.json")["examples"]
CONVERSATION = [rema.HIGH_TURNS, rema.LOW_TURNS]


def close(a, b):
    return a == pytest.approx(b, rel=1e-12)


# ------------------------------------------------------------------------------------------------------------
# Advantages

def test_advantages_by_hand():
    values, groups = [1.0, 0.0, 0.0, 3.0, 5.0], ["a", "a", "a", "b", "b"]
    # group a: mean 1/3, unbiased std sqrt(((2/3)^2 + 2 (1/3)^2) / 2) = sqrt(1/3); b: mean 4, std sqrt(2)
    s = math.sqrt(1 / 3)
    e = 1e-6
    assert rema.compute_advantages(values, groups, "grpo") == pytest.approx(
        [2 / 3 / (s + e), -1 / 3 / (s + e), -1 / 3 / (s + e), -1 / (2 ** .5 + e), 1 / (2 ** .5 + e)],
        rel=1e-12)
    assert close(rema.compute_advantages(values, groups, "dr_grpo"), [2 / 3, -1 / 3, -1 / 3, -1, 1])
    assert close(rema.compute_advantages(values, groups, "rloo"), [1, -.5, -.5, -2, 2])
    # the whole batch: mean 1.8, squares .64 + 2 * 3.24 + 1.44 + 10.24 = 18.8, std sqrt(4.7)
    assert close(rema.compute_advantages(values, groups, "reinforce++"),
                 [x / (math.sqrt(4.7) + 1e-6) for x in (-.8, -1.8, -1.8, 1.2, 3.2)])


def test_a_group_of_one_has_no_baseline():
    """So it has nothing to be compared with; train.py refuses such groups (tests/test_train.py)."""
    for kind in ("grpo", "rloo", "dr_grpo"):
        assert rema.compute_advantages([1.0, 0.0], ["q", "r"], kind) == [0.0, 0.0]
    with pytest.raises(ValueError, match="ppo"):
        rema.compute_advantages([1.0, 0.0], ["q", "q"], "ppo")


def test_equal_rewards_have_advantages_of_exactly_zero():
    """0.1 + 0.1 + 0.1 is not 0.3, and divided by a std of 0 + 1e-6 the rounding would count."""
    for kind in ("grpo", "dr_grpo", "rloo", "reinforce++"):
        assert rema.compute_advantages([0.1] * 3, ["q"] * 3, kind) == [0.0] * 3


def make_tree(questions, *samples):
    """Episodes of two agents, or more: samples[i] turns of agent i for all that it is shown, shared as when sampled."""
    episodes = [Episode({"answer": "3"}, (q,), []) for q in range(questions)]
    for name, n in zip(("high", "low", "last")[:len(samples)], samples):
        longer = []
        for episode in episodes:
            for i in range(n):
                place = episode.place + (i,)
                turn = Turn([1], [2, 3], [-.1, -.2], True, name, "a=1+2", place)
                longer.append(Episode(episode.row, place, [*episode.turns, turn]))
        episodes = longer
    return episodes


def test_groups_are_a_questions_plans_and_a_plans_answers():
    episodes = make_tree(2, 2, 2)
    for episode in episodes:
        question, plan, answer = episode.place
        episode.turns[0].reward = plan
        episode.turns[1].reward = 10 * plan + answer * (question + 1)      # differs by plan: groups must not mix

    plans = rema.collect_turns(episodes, 0)
    rema.assign_advantages(plans, "dr_grpo")
    assert [turn.advantage for turn in plans] == [-.5, .5, -.5, .5]                  # each plan counts once
    answers = rema.collect_turns(episodes, 1)
    rema.assign_advantages(answers, "dr_grpo")
    assert [turn.advantage for turn in answers] == [-.5, .5] * 2 + [-1, 1] * 2
    assert [turn.advantage for turn in episodes[7].turns] == [.5, 1]

    for turns in (plans, answers):
        assert share_dead_groups(turns) == 0 and rema.drop_dead_groups(turns) == turns
        assert all(turn.count_learned() == 2 for turn in turns)            # the token it stopped with as well


def test_dead_groups_are_left_out_unless_they_have_a_gradient():
    episodes = make_tree(2, 1, 2)
    for episode, reward in zip(episodes, (1.0, 1.0, 0.0, 1.0)):
        episode.turns[1].reward = reward
    turns = rema.collect_turns(episodes, 1)
    assert share_dead_groups(turns) == 0.5
    for kind, kept in (("grpo", 2), ("dr_grpo", 2), ("rloo", 2),
                       ("reinforce++", 4)):                                # whose baseline is the batch's
        rema.assign_advantages(turns, kind)
        assert len(rema.drop_dead_groups(turns)) == kept
    rema.assign_advantages(turns, "grpo")
    assert rema.drop_dead_groups(turns) == turns[2:]


def test_a_turn_alone_in_its_group_is_not_learned_from():
    """The others of its group were cut off before they spoke; with a mean of its own it would be no news."""
    turns = rema.collect_turns(make_tree(2, 2), 0)[:3]
    for turn, reward in zip(turns, (1.0, 0.0, 1.0)):
        turn.reward = reward
    for kind, expected in (("grpo", .5 / (math.sqrt(.5) + 1e-6)), ("rloo", 1), ("dr_grpo", .5)):
        rema.assign_advantages(turns, kind)
        assert [turn.advantage for turn in turns] == pytest.approx([expected, -expected, 0.0])
        assert turns[2].advantage == 0 and rema.drop_dead_groups(turns) == turns[:2]


# ------------------------------------------------------------------------------------------------------------
# Rewards

def test_score_gives_each_role_its_reward():
    episodes = make_tree(1, 1, 2)
    for episode, text in zip(episodes, (r"so \boxed{3}", r"so \boxed{4}")):
        episode.turns[1].text = text
    rema.score(episodes, [HIGH, LOW])
    assert [episode.turns[1].reward for episode in episodes] == [1.0, -0.5]
    assert [episode.turns[0].reward for episode in episodes] == [0.5, 0.5]
    assert [episode.correct for episode in episodes] == [True, False]
    for episode in episodes:
        episode.turns[0].text = r"the answer is \boxed{3}"
        episode.turns[1].text = "no box"
    rema.score(episodes, [HIGH, LOW])
    assert [episode.turns[1].reward for episode in episodes] == [-1.0, -1.0]
    assert [episode.turns[0].reward for episode in episodes] == [-1.0, -1.0]     # 0 right, 1 off for the leak


@pytest.mark.parametrize("reward", [None, math.nan, math.inf, -math.inf, "1", [1.0], torch.tensor(math.nan), {}])
def test_a_reward_that_is_no_finite_number_names_problem_and_response(reward):
    """Of whoever earns it, in one turn and in conversations; not a broken gradient some steps later."""
    episodes = answer_plan("add", ["right", "what was\nsaid"])
    low = Role("low", "", "", lambda turn, sharing: reward if turn is episodes[1].turns[1] else 1.0)
    high = Role("high", "", "", lambda turn, sharing: reward)
    with pytest.raises(UserError, match=r"reward of low .* problem: .*what was\\nsaid"):
        rema.score(episodes, [HIGH, low])
    with pytest.raises(UserError, match="reward of high"):
        rema.score(episodes, [high, LOW])
    with pytest.raises(UserError, match="problem: 'p'; response: .*boxed") as error:
        rema.score([converse("[FINISH]", "so \\boxed{5}")], [high, low])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("reward", [True, 2, -0.5, torch.tensor(0.25)])
def test_rewards_are_plain_numbers(reward):
    episodes = answer_plan("add", ["right"])
    rema.score(episodes, [Role("high", "", "", lambda turn, sharing: reward), LOW])
    assert type(episodes[0].turns[0].reward) is float and episodes[0].turns[0].reward == reward


def answer_plan(plan, texts, gold="5", **more):
    """Episodes of one plan, whose turn they share, and some answers to it."""
    row = {"id": 0, "problem": "p", "answer": gold, **more}
    shared = Turn([], [1], [-1.0], True, "high", plan, (0, 0))
    episodes = []
    for i, text in enumerate(texts):
        answer = Turn([], [1], [-1.0], True, "low", text, (0, 0, i))
        episodes.append(Episode(row, answer.place, [shared, answer]))
    return episodes


def test_consistency_rewards_agreement_not_truth():
    episodes = answer_plan("add", ("\\boxed{4}", "\\boxed{4}", "\\boxed{8/2}", "\\boxed{5}"))
    rema.score(episodes, rema.reward_plans_for_agreement([HIGH, LOW]))
    assert [episode.turns[0].reward for episode in episodes] == [0.75] * 4
    assert [episode.turns[1].reward for episode in episodes] == [-0.5, -0.5, -0.5, 1.0]


@pytest.mark.parametrize("plan, consistency, box, leak, low, high", [
    ("add", False, 0.5, 1.0, [-0.5, -1.0, 1.0, -0.5], 0.25),
    ("\\boxed{5}", False, 0.8, 0.5, [-0.2, -1.0, 1.0, -0.2], -0.25),
    ("\\boxed{5}", True, 0.0, 0.25, [-1.0, -1.0, 1.0, -1.0], 0.25)])
def test_own_rewards_weigh_a_box_and_a_leak_as_they_like(plan, consistency, box, leak, low, high):
    """Whoever wants other weights brings two functions: here a wrong answer in a box earns box - 1."""
    def reward_answer(turn, episodes):
        reward = rema.reward_answer(turn, episodes)
        return box - 1 if reward == -0.5 else reward

    def reward_plan(turn, episodes):
        if consistency:
            return rewards.consistency_reward(turn.text, [episode.response for episode in episodes], leak)
        return rewards.plan_reward(turn.text, [episode.correct for episode in episodes], leak)

    episodes = answer_plan(plan, ("\\boxed{4}", "4", "\\boxed{5}", "\\boxed{4}"))
    rema.score(episodes, [Role("high", "", "{question}", reward_plan), Role("low", "", "{high}", reward_answer)])
    assert [episode.turns[1].reward for episode in episodes] == pytest.approx(low)
    assert [episode.turns[0].reward for episode in episodes] == [high] * 4


def test_judges_are_graded_by_their_verdict():
    episodes = []
    for i, text in enumerate(("So [B]", "[A]", "B is better")):
        turn = Turn([], [1], [-1.0], True, "solo", text, (0, i))
        episodes.append(Episode({"id": 0, "answer": "B", "judge": True}, turn.place, [turn]))
    rema.score(episodes, rema.make_judges([rema.VRP]))
    assert [(e.answer, e.correct, e.turns[0].reward) for e in episodes] == [
        ("B", True, 1.0), ("A", False, -0.5), (None, False, -1.0)]
    judges = rema.make_judges([HIGH, LOW])
    assert "[A] or [B]" in judges[1].prompt({"problem": "q"}, {"high": "p"})[0]["content"]
    for plan, high in (("Compare facts.", 1.0), ("Take [B].", 0.0)):             # a plan that gives the verdict
        [episode] = answer_plan(plan, ["[B]"], "B", judge=True)
        for roles in (judges, rema.reward_plans_for_agreement(judges)):
            rema.score([episode], roles)
            assert [turn.reward for turn in episode.turns] == [high, 1.0]
        assert is_leaking(episode) == (high == 0)
    [episode] = answer_plan("B is a letter; compare facts.", ["[B]"], "B", judge=True)
    assert not is_leaking(episode)


def test_answers_that_check_themselves_are_counted():
    for text in ("Let me check: 2", "let me verify this", "To make sure, again", "Double-check."):
        assert is_verifying(text)
    for text in ("a=2*3=6; 6-1=5.", "The checkout costs 5.", ""):
        assert not is_verifying(text)


def test_the_difficulty_filter_keeps_what_is_sometimes_solved():
    kept = [rema.is_worth_learning([True] * n + [False] * (10 - n)) for n in range(11)]
    assert kept == [False, False, *[True] * 7, False, False]


# ------------------------------------------------------------------------------------------------------------
# The loss

@pytest.mark.parametrize("advantage, ratio, expected_loss, moves", [
    (+1.0, 1.3, -1.2, False),     # good and already likelier by more than epsilon: no further
    (+1.0, 0.7, -0.7, True),      # good but less likely than before: pull it back up
    (-1.0, 1.3, +1.3, True),      # bad and likelier than before: push it down (max would cut this off)
    (-1.0, 0.7, +0.8, False),     # bad and already less likely: no further
])
def test_clip_on_both_sides_of_both_signs(advantage, ratio, expected_loss, moves):
    new = torch.tensor([math.log(ratio)], dtype=torch.float64, requires_grad=True)
    one = torch.ones(1, dtype=torch.float64)
    loss, stats = rema.policy_loss(new, 0 * one, advantage * one, one, clip=0.2)
    loss.backward()
    assert math.isclose(loss.item(), expected_loss, rel_tol=1e-12)
    assert (new.grad.item() != 0) == moves
    assert stats["clip_share"] == (0.0 if moves else 1.0)


def test_kl_is_zero_at_the_reference_and_never_negative():
    new = torch.tensor([-1.0, -2.0, -0.5], dtype=torch.float64, requires_grad=True)
    zero = torch.zeros(3, dtype=torch.float64)
    loss, stats = rema.policy_loss(new, new.detach(), zero, zero + 1, kl=1.0, ref=new.detach())
    loss.backward()
    assert stats["kl"] == 0 and loss.item() == 0 and not new.grad.any()
    ref = torch.tensor([-1.5, -1.0, -0.5], dtype=torch.float64)
    # k3 by hand: e^-.5 + .5 - 1 = .10653, e^1 - 1 - 1 = .71828, 0
    _, stats = rema.policy_loss(new, new.detach(), zero, zero + 1, kl=1.0, ref=ref)
    assert math.isclose(stats["kl"], (math.exp(-.5) - .5 + math.e - 2) / 3, rel_tol=1e-12)


@pytest.mark.parametrize("below", [0.0, 1.0, -3.0, 15.0, 19.9, 20.1, 94.0, 1e4, -94.0])
def test_k3_is_bounded(below):
    """exp(94) is no float32. Up to 20 nats below the reference loss and gradient are those of the formula."""
    new = torch.tensor([-1.0 - below, -2.0], requires_grad=True)
    ref, zeros, weights = torch.tensor([-1.0, -2.5]), torch.zeros(2), torch.tensor([0.5, 0.5])
    loss, found = rema.policy_loss(new, new.detach(), zeros, weights, kl=0.1, ref=ref)
    loss.backward()
    assert math.isfinite(loss.item()) and new.grad.isfinite().all() and math.isfinite(found["kl"].item())
    assert math.isclose(new.grad[1].item(), 0.1 * 0.5 * (1 - math.exp(-0.5)), rel_tol=1e-4)
    assert 0 <= loss < 0.1 * math.exp(20)
    if below < 20:
        expected = 0.1 * 0.5 * (math.exp(below) - below - 1 + math.exp(-0.5) + 0.5 - 1)
        assert math.isclose(loss.item(), expected, rel_tol=1e-4, abs_tol=1e-6)
        assert math.isclose(new.grad[0].item(), 0.1 * 0.5 * (1 - math.exp(below)), rel_tol=1e-4, abs_tol=1e-6)
    else:
        assert new.grad[0] == 0


def test_token_weights_by_hand():
    """Three rows; the third is a conversation with turns of 1 and 3 tokens, and two between them that are read."""
    learned = [None, None, [True, False, False, True, True, True]]
    rows = [Turn([], [1] * n, [-1.0] * n, True, learned=mask) for n, mask in zip((1, 3, 6), learned)]
    rema.assign_weights(rows)
    assert [row.weights for row in rows] == [[1 / 8], [1 / 8] * 3, [1 / 8] * 4]
    for kind, expected in (("sequence", [[1 / 3], [1 / 9] * 3, [1 / 12] * 4]),
                           ("turn", [[1 / 3], [1 / 9] * 3, [1 / 6] + [1 / 18] * 3]),
                           ("turns", [[1 / 4], [1 / 12] * 3, [1 / 4] + [1 / 12] * 3]),
                           ("constant", [[1 / 30], [1 / 30] * 3, [1 / 30] * 4])):
        rema.assign_other_weights(rows, kind, 10)
        found = [row.weights for row in rows]
        assert [len(weights) for weights in found] == [1, 3, 4]
        assert all(close(a, b) for a, b in zip(found, expected)), kind
        assert kind == "constant" or math.isclose(sum(map(sum, found)), 1)
    with pytest.raises(ValueError, match="word"):
        rema.assign_other_weights(rows, "word", 10)


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_one_ratio_a_turn_is_the_geometric_mean():
    """Two turns of one and two tokens; worked by hand. exp(mean log r): 1.1 for the first, sqrt(1.5) after."""
    ratios, turns = tensor(1.1, 1.0, 1.5), torch.tensor([0, 1, 1])
    weights = tensor(0.5, 0.25, 0.25)
    for advantage in (2.0, -2.0):
        new = ratios.log().requires_grad_()
        loss, stats = rema.policy_loss(new, torch.zeros(3, dtype=torch.float64), advantage * torch.ones(3).double(),
                                       weights, clip=0.5, turn_numbers=turns)
        assert math.isclose(loss.item(), -advantage * (0.5 * 1.1 + 0.5 * math.sqrt(1.5)), rel_tol=1e-12)
        assert stats["clip_share"] == 0
        loss.backward()                                # d r / d log r_j = r / n for each of a turn's n tokens
        expected = -advantage * tensor(0.5 * 1.1, 0.25 * math.sqrt(1.5), 0.25 * math.sqrt(1.5))
        assert torch.allclose(new.grad, expected, rtol=1e-12)


def test_the_turn_ratio_is_clipped_as_a_whole():
    """sqrt(1.5) = 1.22 is over 1.2: for A > 0 the turn stops, though one of its tokens has ratio 1."""
    turns, weights = torch.tensor([0, 1, 1]), tensor(0.5, 0.25, 0.25)
    new = tensor(1.1, 1.0, 1.5).log().requires_grad_()
    loss, stats = rema.policy_loss(new, tensor(0, 0, 0), tensor(1, 1, 1), weights, clip=0.2, turn_numbers=turns)
    assert math.isclose(loss.item(), -(0.5 * 1.1 + 0.5 * 1.2), rel_tol=1e-12)
    assert math.isclose(stats["clip_share"], 2 / 3, rel_tol=1e-6)
    loss.backward()
    assert new.grad[0] != 0 and new.grad[1] == new.grad[2] == 0
    new = tensor(1.1, 1.0, 1.5).log().requires_grad_()                 # A < 0: the min keeps the larger loss
    loss, _ = rema.policy_loss(new, tensor(0, 0, 0), tensor(-1, -1, -1), weights, clip=0.2, turn_numbers=turns)
    assert math.isclose(loss.item(), 0.5 * 1.1 + 0.5 * math.sqrt(1.5), rel_tol=1e-12)


def test_dual_clip_and_the_clamp_bound_a_bad_sample():
    for log_ratio, dual, expected in ((2.0, 3.0, 3.0), (2.0, 0.0, math.exp(2)), (5.0, 0.0, math.exp(3)),
                                      (0.5, 3.0, math.exp(0.5))):
        loss, _ = rema.policy_loss(tensor(log_ratio), tensor(0), tensor(-1), tensor(1), dual_clip=dual)
        assert math.isclose(loss.item(), expected, rel_tol=1e-12)
    loss, _ = rema.policy_loss(tensor(2.0), tensor(0), tensor(1), tensor(1), dual_clip=3.0)
    assert math.isclose(loss.item(), -1.2)                             # A > 0: the dual clip has no part in it


def test_guided_tokens_without_a_choice_are_not_learned():
    """They stand between others of the one turn that a plan is: --normalise turn counts it once."""
    turn = Turn([9], [4, 5, 6], [0.0, -1.5, 0.0], True, "high", "{}", learned=[False, True, False], advantage=2.0)
    rema.assign_weights([turn])
    assert turn.count_learned() == 1 and turn.weights == [1.0] and rema.number_turns(turn) == [0]
    assert train.flatten([turn], "cpu").tolist() == [[-1.5], [2.0], [1.0]]
    for kind in ("turn", "turns"):
        assert train.parse(["--plan-format", "json", "--normalise", kind]).normalise == "sequence"
    assert train.parse(["--turns", "2", "--normalise", "turns"]).normalise == "turns"


# ------------------------------------------------------------------------------------------------------------
# Who learns when

def test_high_learns_first_and_then_in_turn():
    who = [rema.choose_learners(step, 2, 2) for step in range(6)]
    assert who == [[0]] * 2 + [[1]] * 2 + [[0]] * 2
    assert [rema.choose_learners(step, 2, 2, first=1) for step in (0, 1, 2)] == [[1], [1], [0]]
    assert rema.choose_learners(5, 2, 0) == [0, 1] and rema.choose_learners(5, 1, 2) == [0]
    assert rema.choose_samples([0], 2, [8, 6]) == [8, 1] and rema.choose_samples([1], 2, [8, 6]) == [1, 6]
    assert rema.choose_samples([0, 1], 2, [4]) == [4, 4] and rema.choose_samples([0], 1, [6]) == [6]
    assert rema.choose_samples([0], 2, [8], followers=4) == [8, 4]
    assert rema.choose_samples([1], 2, [8], followers=4) == [1, 8]


# ------------------------------------------------------------------------------------------------------------
# Three agents: whatever follows from a place in the list is written for a list of any length

PLANNER = Role("planner", "Plan.", "{question}", rema.reward_plan)
CRITIC = Role("critic", "Criticise the plan.", "{question}\n{planner}", rema.reward_plan)
SOLVER = Role("solver", "Solve.", "{question}\n{planner}\n{critic}", rema.reward_answer)


def test_three_agents_are_shown_all_that_was_said_before_them():
    row = {"problem": "1+2"}
    said = {}
    for role, shown in ((PLANNER, "1+2"), (CRITIC, "1+2\nadd"), (SOLVER, "1+2\nadd\nfine")):
        assert role.prompt(row, said)[-1]["content"] == shown
        said[role.name] = {"planner": "add", "critic": "fine"}.get(role.name)


def test_three_agents_learn_one_after_the_other():
    who = [rema.choose_learners(step, 3, 2) for step in range(8)]
    assert who == [[0], [0], [1], [1], [2], [2], [0], [0]]
    assert [rema.choose_learners(step, 3, 1, first=2) for step in range(4)] == [[2], [0], [1], [2]]
    assert rema.choose_learners(4, 3, 0) == [0, 1, 2]
    # Who learns draws its group; one turn of each before it, `followers` of each behind it.
    for learner, alone, followed in ((0, [4, 1, 1], [4, 2, 2]), (1, [1, 4, 1], [1, 4, 2]), (2, [1, 1, 4], [1, 1, 4])):
        assert rema.choose_samples([learner], 3, [4]) == alone
        assert rema.choose_samples([learner], 3, [4], followers=2) == followed
    assert rema.choose_samples([1], 3, [2, 3, 4]) == [1, 3, 1]
    assert rema.choose_samples([0, 1, 2], 3, [2, 3, 4]) == [2, 3, 4]


def test_three_agents_are_scored_and_compared_within_their_groups():
    """One question, 2 plans, 2 critiques of each, 2 answers to each: 8 episodes. The answer is 3.

    plan 0, critique 0: right, wrong in a box     plan 1, critique 0: no box, no box
    plan 0, critique 1: right, right              plan 1, critique 1: right, no box; the critique states 3
    """
    episodes = make_tree(1, 2, 2, 2)
    right, wrong, none = "\\boxed{3}", "\\boxed{4}", "three"
    for episode, text in zip(episodes, (right, wrong, right, right, none, none, right, none)):
        episode.turns[2].text = text
    episodes[6].turns[1].text = "No: \\boxed{3}."
    rema.score(episodes, [PLANNER, CRITIC, SOLVER])

    plans, critiques, answers = [rema.collect_turns(episodes, position) for position in range(3)]
    assert [turn.reward for turn in plans] == [.75, .25]
    assert [turn.reward for turn in critiques] == [.5, 1, 0, -.5]                  # .5 - 1 for the box
    assert [turn.reward for turn in answers] == [1, -.5, 1, 1, -1, -1, 1, -1]

    assert [turn.group for turn in plans] == [(0,)] * 2
    assert [turn.group for turn in critiques] == [(0, 0)] * 2 + [(0, 1)] * 2
    assert [turn.group for turn in answers] == [(0, p, c) for p in (0, 1) for c in (0, 1) for _ in range(2)]
    sharing = rema.group_by_turn(episodes, 1)
    assert [[e.place for e in group] for group in sharing] == [
        [(0, p, c, 0), (0, p, c, 1)] for p in (0, 1) for c in (0, 1)]

    for turns, expected in ((plans, [.25, -.25]), (critiques, [-.25, .25, .25, -.25]),
                            (answers, [.75, -.75, 0, 0, 0, 0, 1, -1])):
        rema.assign_advantages(turns, "dr_grpo")
        assert [turn.advantage for turn in turns] == expected
    assert rema.drop_dead_groups(answers) == answers[:2] + answers[6:]
    assert [share_dead_groups(turns) for turns in (plans, critiques, answers)] == [0, 0, .5]


# ------------------------------------------------------------------------------------------------------------
# Conversations

def converse(*texts, stopped=True, answer="5", sample=0):
    """high and low in turn; stopped: whether the last of them ended by itself."""
    turns = []
    for i, text in enumerate(texts):
        ended = stopped or i + 1 < len(texts)
        turns.append(Turn([9], [1, 2], [-1.0, -2.0], ended, ("high", "low")[i % 2], text))
    return rema.Conversation({"id": 0, "problem": "p", "answer": answer}, (0, sample), turns, names=("high", "low"))


def test_rewards_of_conversations():
    """1 only when finished, right and not cut off; both agents earn the same."""
    told = [converse("add", "2+3", "check [FINISH]", "\\boxed{5}"),
            converse("[FINISH]", "\\boxed{4}", sample=1),                     # finished, wrong
            converse("add", "\\boxed{5}", sample=2),                          # right, never finished
            converse("[FINISH] add", "\\boxed{5}", stopped=False, sample=3),  # cut off
            converse("add it all up", stopped=False, sample=4)]               # cut off before an answer
    rema.score(told, CONVERSATION)
    for position in (0, 1):
        assert [e.spoken_by(position).reward for e in told] == [1.0, 0.0, 0.0, 0.0, 0.0]
    assert [e.correct for e in told] == [True, False, True, True, False]

    plans = rema.collect_turns(told, 0)
    rema.assign_advantages(plans)
    mean, std = 0.2, math.sqrt((0.8 ** 2 + 4 * 0.2 ** 2) / 4)
    assert len(plans) == 5 and math.isclose(plans[0].advantage, 0.8 / (std + 1e-6))
    answers = rema.collect_turns(told, 1)
    rema.assign_advantages(answers)
    mean, std = 0.25, 0.5                              # of four: in the fifth the low-level agent said nothing
    assert len(answers) == 4 and math.isclose(answers[0].advantage, (1 - mean) / (std + 1e-6))
    assert answers[0].prompt == [9] and answers[0].tokens == [1, 2, 9, 1, 2]
    assert answers[0].learned == [True, True, False, True, True]
    assert answers[0].logprobs == [-1.0, -2.0, 0.0, -1.0, -2.0]
    assert rema.number_turns(answers[0]) == [0, 0, 1, 1] and answers[0].group == (0,)


def test_a_record_holds_what_each_agent_has_earned():
    told = converse("add", "2+3", "check [FINISH]", "\\boxed{5}")
    rema.score([told], CONVERSATION)
    assert record(told)["rewards"] == {"high": 1.0, "low": 1.0}
    assert "rewards    high +1.00, low +1.00" in describe_episode(told)
    [episode] = answer_plan("add", ["\\boxed{4}"])
    rema.score([episode], [HIGH, LOW])
    assert record(episode)["rewards"] == {"high": 0.0, "low": -0.5}


def test_a_turn_without_room_is_not_run_through_the_model():
    """Its prompt alone may pass the end of the context."""
    told = converse("add", "2+3")
    told.turns = [Turn([9, 9], [1, 2], [-0.5, -0.25], True, "low"), Turn([7] * 50, [], [], False, "low")]
    row = told.spoken_by(1)
    assert (row.prompt, row.tokens, row.logprobs) == ([9, 9], [1, 2], [-0.5, -0.25])
    assert row.learned == [True, True]


# ------------------------------------------------------------------------------------------------------------
# Prompts

def choose_roles(process, judge=False, **form):
    """The roles that these flags choose."""
    flags = {"turns": 1, "plan_format": "text", "example": False, **form}
    row = {"judge": True} if judge else {}
    return rollout.choose_roles(Namespace(process=process, **flags), [row])


def test_prompts_take_any_text_as_it_is():
    messages = LOW.prompt({"problem": "what is {plan}?"}, {"high": "{question} \\boxed{"})
    assert messages[1]["content"] == "Problem:\nwhat is {plan}?\n\nPlan:\n{question} \\boxed{"


def test_a_worked_example_stands_before_the_question():
    row, said = {"problem": "q"}, {"high": "p"}
    for process in rema.PROCESSES:
        for plain, shown in zip(choose_roles(process), choose_roles(process, example=True)):
            prompt = shown.prompt(row, said)
            assert prompt[:1] + prompt[-1:] == plain.prompt(row, said) and not plain.examples
            assert [message["role"] for message in prompt] == ["system"] + ["user", "assistant"] * 3 + ["user"]
    high, low = choose_roles("rema", example=True)
    for i, example in enumerate(WORKED):
        question, plan, working = example["question"], example["plan"], example["working"]
        answer = rewards.extract(working)
        assert plan in low.examples[2 * i]["content"] and question in high.examples[2 * i]["content"]
        assert high.examples[2 * i + 1]["content"] == plan and low.examples[2 * i + 1]["content"] == working
        assert not leaks(plan, answer) and rewards.is_correct(working, answer)


def test_worked_examples_of_a_conversation_finish_in_both_lists():
    high, low = choose_roles("rema", example=True, turns=2)
    assert [m["content"] for m in high.examples[1::2]] == [example["plan"] + " [FINISH]" for example in WORKED]
    assert all(message["content"].endswith("[FINISH]") for message in low.examples[::2])


@pytest.mark.parametrize("process", rema.PROCESSES)
@pytest.mark.parametrize("form", [dict(), dict(turns=2), dict(plan_format="json"), dict(example=True)])
def test_judges_end_with_a_verdict_where_solvers_end_with_a_box(process, form):
    if process != "rema" and ("turns" in form or "plan_format" in form):
        with pytest.raises(UserError, match="--process rema"):
            choose_roles(process, judge=True, **form)
        return
    for plain, judge in zip(choose_roles(process, **form), choose_roles(process, judge=True, **form)):
        assert ("boxed" in plain.system) == (rema.VERDICT in judge.system) and "boxed" not in judge.system
        assert (plain.name, plain.user, ()) == (judge.name, judge.user, judge.examples)


ASKED = [("(1+2)*3", "a=1+2\nb=a*3"), ("What is {plan} of \\boxed{é}?", "{question} 3 × 4"), ("1+1", "")]
PROMPTS = {                      # flags -> sha256 of what the agents are told, as at commit 5dc5466
    "vrp": "39b37396316756c8c9c77e7f838d8364cbb950620c119046c467ba919970c82c",
    "vrp example": "afce9483ce8622b9d74ef411192ee3c173815d3fca68ae05eefb3ac61d0948f9",
    "vrp judge": "32f6c1a7a28d1a6ca752d2edbf4a88db2d6a08c5ef8565866bf1783853ea0e72",
    "mrp": "3c9ea4c75b1ddf8012d5d9d0e2ad7bafff0fe042a230368f7808e7bf13f6c07c",
    "mrp example": "62e41bc90c6a0f614cbdc6fd8a460fcaf37f53e4ebd361a51331fa39fc3b5a22",
    "mrp judge": "d70153fd4804da55e328eeac9fefb17aee6e0716e0a65f5392a8f8a0db9da2e6",
    "rema": "0fc0cc68485c4f975dd7448db7c8b0ac048385413defa1b996f87c28036bd3bf",
    "rema example": "fdc39e9e8a8b44f511d5c2e268d2eab2d5e4224a27259261d1717eb1fb918bab",
    "rema judge": "79a4ef1470d25a1b6f437f8e0cf08c7254e4047e031f77cb33bb3ca66164fc23",
    "rema json": "1b49f1c1680cd2a066da8d14c14ae233905c5b886fc4169883b8cadbe8810a14",
    "rema json example": "d90b1876f7b002feab5dc4b6e6de7f234451f91fda8123f220c48aa661552ea4",
    "rema json judge": "b211b062ef31c2b27c37ae112e75d23939d8b7a2161f905b66bdf108d65cd551",
    "rema turns": "151ef1d58c857fd2d38185e9345346cf1c3e06f51578f91eeb5efd751c0da049",
    "rema turns example": "7179746386c9041c23e53eaff657b8bd5fe7128c6702a3bb337345801cd83e52",
    "rema turns judge": "0c12baeadf7e565ebc8147c1215b5035c8d4236fdc944b2b1fb8991ed5072de9"}


@pytest.mark.parametrize("flags", PROMPTS)
def test_prompts_are_byte_for_byte_what_they_were(flags):
    """The embedded model was warm-started on these texts. Messages, and the ids that its template makes of them."""
    process, *variants = flags.split()
    form = {}
    if "json" in variants:
        form["plan_format"] = "json"
    if "turns" in variants:
        form["turns"] = 2
    if "example" in variants:
        form["example"] = True
    tokenizer = Tokenizer.load(DATA / "tiny")
    told = []
    for role in choose_roles(process, judge="judge" in variants, **form):
        for question, plan in ASKED:
            messages = role.prompt({"problem": question}, {"high": plan})
            told.append([role.name, messages, tokenizer.chat(messages)])
    text = json.dumps(told, sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest() == PROMPTS[flags]


@pytest.mark.parametrize("name, digest", [
    ("model.safetensors", "33c26b798e32e9d7add675b50e5e591e374365e21056cb8e344d6897e959e578"),
    ("tokenizer.json", "4e3382a9aae62c60e33895d965a2d1818dc18d6f74f7d4b4c6f8d606f83bb42d"),
    ("config.json", "2de918bd7531b3479d2853d765479d32632e1142515111fe77e0d6e3f54af537")])
def test_the_embedded_model_is_byte_for_byte_what_it_was(name, digest):
    """Published curves begin with these weights."""
    assert hashlib.sha256((DATA / "tiny" / name).read_bytes()).hexdigest() == digest
