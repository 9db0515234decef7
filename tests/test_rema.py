"""The mathematics of the method against hand-worked numbers; no model is needed."""
import math

import pytest
import torch

import rema
import rewards


def close(a, b):
    return a == pytest.approx(b, rel=1e-12)


def test_advantages_by_hand():
    values, groups = [1.0, 0.0, 0.0, 3.0, 5.0], ["a", "a", "a", "b", "b"]
    # group a: mean 1/3, unbiased std sqrt(((2/3)^2 + 2 (1/3)^2) / 2) = sqrt(1/3); b: mean 4, std sqrt(2)
    s = math.sqrt(1 / 3)
    e = 1e-6
    assert rema.advantages(values, groups, "grpo") == pytest.approx(
        [2 / 3 / (s + e), -1 / 3 / (s + e), -1 / 3 / (s + e), -1 / (2 ** .5 + e), 1 / (2 ** .5 + e)],
        rel=1e-12)
    assert close(rema.advantages(values, groups, "dr_grpo"), [2 / 3, -1 / 3, -1 / 3, -1, 1])
    assert close(rema.advantages(values, groups, "rloo"), [1, -.5, -.5, -2, 2])
    # the whole batch: mean 1.8, squares .64 + 2 * 3.24 + 1.44 + 10.24 = 18.8, std sqrt(4.7)
    assert close(rema.advantages(values, groups, "reinforce++"),
                 [x / (math.sqrt(4.7) + 1e-6) for x in (-.8, -1.8, -1.8, 1.2, 3.2)])


def test_a_group_of_one_has_no_baseline():
    for kind in ("grpo", "rloo"):
        with pytest.raises(ValueError, match="at least 2"):
            rema.advantages([1.0], ["q"], kind)
    assert rema.advantages([1.0, 0.0], ["q", "r"], "dr_grpo") == [0.0, 0.0]
    with pytest.raises(KeyError, match="ppo"):
        rema.advantages([1.0], ["q"], "ppo")


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


def test_token_weights_by_hand():
    lengths = [[1], [3], [1, 3]]                       # three sequences; the third has turns of 1 and 3 tokens
    assert rema.token_weights(lengths, "batch", 10) == [[1 / 8], [1 / 8] * 3, [1 / 8] * 4]
    for kind, expected in (("sequence", [[1 / 3], [1 / 9] * 3, [1 / 12] * 4]),
                           ("turn", [[1 / 3], [1 / 9] * 3, [1 / 6] + [1 / 18] * 3]),
                           ("turns", [[1 / 4], [1 / 12] * 3, [1 / 4] + [1 / 12] * 3]),
                           ("constant", [[1 / 30], [1 / 30] * 3, [1 / 30] * 4])):
        found = rema.token_weights(lengths, kind, 10)
        assert [len(x) for x in found] == [1, 3, 4]
        assert all(close(a, b) for a, b in zip(found, expected)), kind
        assert kind == "constant" or math.isclose(sum(map(sum, found)), 1)


def episode(question, plan, sample, high, low, correct=False, plan_text="a=1+2"):
    turns = [rema.Turn("high", [1], [2, 3], [-.1, -.2], True, plan_text),
             rema.Turn("low", [1, 2], [4], [-.3], True, "x")]
    return rema.Episode({"answer": "3"}, question, plan, sample, turns, correct, {"high": high, "low": low})


def test_groups_are_a_questions_plans_and_a_plans_answers():
    episodes = [episode(q, p, a, high=p, low=a * (q + 1))
                for q in range(2) for p in range(2) for a in range(2)]
    for one, other in zip(episodes[::2], episodes[1::2]):
        other.turns[0] = one.turns[0]                                  # answers to one plan share its Turn
    rows, dead = rema.samples(episodes, "high", "dr_grpo")
    assert [row.advantage for row in rows] == [-.5, .5, -.5, .5] and dead == 0       # each plan counts once
    rows, dead = rema.samples(episodes, "low", "dr_grpo")
    assert [row.advantage for row in rows] == [-.5, .5] * 2 + [-1, 1] * 2 and dead == 0
    assert episodes[7].advantages == {"high": .5, "low": 1}


def test_dead_groups_are_left_out_unless_they_have_a_gradient():
    episodes = [episode(q, 0, a, 0, float(a) if q else 1.0) for q in range(2) for a in range(2)]
    rows, dead = rema.samples(episodes, "low", "grpo")
    assert len(rows) == 2 and dead == 0.5
    assert len(rema.samples(episodes, "low", "grpo", keep_dead=True)[0]) == 4  # a KL term moves them too
    assert len(rema.samples(episodes, "low", "reinforce++")[0]) == 4           # their baseline is the batch's


def test_score_gives_each_role_its_reward():
    episodes = [episode(0, 0, a, 0, 0) for a in range(2)]
    for e, text in zip(episodes, (r"so \boxed{3}", r"so \boxed{4}")):
        e.turns[1].text = text
    rema.score(episodes)
    assert [e.rewards["low"] for e in episodes] == [1.0, -0.5]
    assert [e.rewards["high"] for e in episodes] == [0.5, 0.5]
    for e in episodes:
        e.turns[0].text = r"the answer is \boxed{3}"
        e.turns[1].text = "no box"
    rema.score(episodes)
    assert [e.rewards["low"] for e in episodes] == [-1.0, -1.0]
    assert [e.rewards["high"] for e in episodes] == [-1.0, -1.0]               # 0 right, 1 off for the leak


def test_high_learns_first_and_then_in_turn():
    who = [rema.learners(step, ["high", "low"], 2) for step in range(6)]
    assert who == [("high",)] * 2 + [("low",)] * 2 + [("high",)] * 2
    assert (rema.learners(5, ["high", "low"], 0) == ("high", "low")
            and rema.learners(5, ["solo"], 2) == ("solo",))
    assert rema.sampling_shape(("high",), 8, 6) == (8, 1) and rema.sampling_shape(("low",), 8, 6) == (1, 6)
    assert (rema.sampling_shape(("high", "low"), 4, 4) == (4, 4)
            and rema.sampling_shape(("solo",), 8, 6) == (1, 6))


def test_prompts_take_any_text_as_it_is():
    messages = rema.LOW.prompt("what is {plan}?", "{question} \\boxed{")
    assert messages[1]["content"] == "Problem:\nwhat is {plan}?\n\nPlan:\n{question} \\boxed{"


def test_a_worked_example_stands_before_the_question():
    for process in rema.PROCESSES:
        for plain, shown in zip(rema.roles(process), rema.roles(process, example=True)):
            prompt = shown.prompt("q", "p")
            assert prompt[:1] + prompt[-1:] == plain.prompt("q", "p") and not plain.example
            assert [message["role"] for message in prompt] == ["system"] + ["user", "assistant"] * 3 + ["user"]
    high, low = rema.roles("rema", True)
    for i, (question, plan, working) in enumerate(map(dict.values, rema.EXAMPLES)):
        answer = rewards.extract(working)
        assert plan in low.example[2 * i]["content"] and question in high.example[2 * i]["content"]
        assert high.example[2 * i + 1]["content"] == plan and low.example[2 * i + 1]["content"] == working
        assert not rewards.leaks(plan, answer) and rewards.is_correct(working, answer)


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_one_ratio_a_turn_is_the_geometric_mean():
    """Two turns of one and two tokens; worked by hand. exp(mean log r): 1.1 for the first, sqrt(1.5) after."""
    ratios, turn = tensor(1.1, 1.0, 1.5), torch.tensor([0, 1, 1])
    weight = tensor(0.5, 0.25, 0.25)
    for advantage in (2.0, -2.0):
        new = ratios.log().requires_grad_()
        loss, stats = rema.policy_loss(new, torch.zeros(3, dtype=torch.float64), advantage * torch.ones(3).double(),
                                       weight, clip=0.5, turn=turn)
        assert math.isclose(loss.item(), -advantage * (0.5 * 1.1 + 0.5 * math.sqrt(1.5)), rel_tol=1e-12)
        assert stats["clip_share"] == 0
        loss.backward()                                # d r / d log r_j = r / n for each of a turn's n tokens
        expected = -advantage * tensor(0.5 * 1.1, 0.25 * math.sqrt(1.5), 0.25 * math.sqrt(1.5))
        assert torch.allclose(new.grad, expected, rtol=1e-12)


def test_the_turn_ratio_is_clipped_as_a_whole():
    """sqrt(1.5) = 1.22 is over 1.2: for A > 0 the turn stops, though one of its tokens has ratio 1."""
    turn, weight = torch.tensor([0, 1, 1]), tensor(0.5, 0.25, 0.25)
    new = tensor(1.1, 1.0, 1.5).log().requires_grad_()
    loss, stats = rema.policy_loss(new, tensor(0, 0, 0), tensor(1, 1, 1), weight, clip=0.2, turn=turn)
    assert math.isclose(loss.item(), -(0.5 * 1.1 + 0.5 * 1.2), rel_tol=1e-12)
    assert math.isclose(stats["clip_share"], 2 / 3, rel_tol=1e-6)
    loss.backward()
    assert new.grad[0] != 0 and new.grad[1] == new.grad[2] == 0
    new = tensor(1.1, 1.0, 1.5).log().requires_grad_()                 # A < 0: the min keeps the larger loss
    loss, _ = rema.policy_loss(new, tensor(0, 0, 0), tensor(-1, -1, -1), weight, clip=0.2, turn=turn)
    assert math.isclose(loss.item(), 0.5 * 1.1 + 0.5 * math.sqrt(1.5), rel_tol=1e-12)


def test_dual_clip_and_the_clamp_bound_a_bad_sample():
    for log_ratio, dual, expected in ((2.0, 3.0, 3.0), (2.0, 0.0, math.exp(2)), (5.0, 0.0, math.exp(3)),
                                      (0.5, 3.0, math.exp(0.5))):
        loss, _ = rema.policy_loss(tensor(log_ratio), tensor(0), tensor(-1), tensor(1), dual_clip=dual)
        assert math.isclose(loss.item(), expected, rel_tol=1e-12)
    loss, _ = rema.policy_loss(tensor(2.0), tensor(0), tensor(1), tensor(1), dual_clip=3.0)
    assert math.isclose(loss.item(), -1.2)                             # A > 0: the dual clip has no part in it


def conversation(*texts, stopped=True, answer="5", sample=0):
    turns = [rema.Turn(("high", "low")[i % 2], [9], [1, 2], [-1.0, -2.0], stopped or i + 1 < len(texts), text)
             for i, text in enumerate(texts)]
    return rema.Episode({"id": 0, "answer": answer}, 0, 0, sample, turns)


def test_rewards_of_conversations():
    """1 only when finished, right and not cut off; both agents earn the same."""
    told = [conversation("add", "2+3", "check [FINISH]", "\\boxed{5}"),
            conversation("[FINISH]", "\\boxed{4}", sample=1),                     # finished, wrong
            conversation("add", "\\boxed{5}", sample=2),                          # right, never finished
            conversation("[FINISH] add", "\\boxed{5}", stopped=False, sample=3),  # cut off
            conversation("add it all up", stopped=False, sample=4)]                 # cut off before an answer
    rema.score(told, conversation=True)
    assert [e.rewards for e in told] == [{"high": r, "low": r} for r in (1.0, 0.0, 0.0, 0.0, 0.0)]
    assert [e.correct for e in told] == [True, False, True, True, False]
    rows, dead = rema.samples(told, "low")
    assert len(rows) == 4 and dead == 0            # the fifth has no low-level turn, but counts in the mean
    mean, std = 0.2, math.sqrt((0.8 ** 2 + 4 * 0.2 ** 2) / 4)
    assert math.isclose(rows[0].advantage, 0.8 / (std + 1e-6))
    assert rows[0].prompt == [9] and rows[0].tokens == [1, 2, 9, 1, 2]
    assert rows[0].turn == [0, 0, -1, 1, 1] and rows[0].logprobs == [-1.0, -2.0, -1.0, -2.0]


def test_consistency_rewards_agreement_not_truth():
    told = [rema.Episode({"id": 0, "answer": "5"}, 0, 0, k, [
        rema.Turn("high", [], [1], [-1.0], True, "add"), rema.Turn("low", [], [1], [-1.0], True, text)])
        for k, text in enumerate(("\\boxed{4}", "\\boxed{4}", "\\boxed{8/2}", "\\boxed{5}"))]
    rema.score(told, reward="consistency")
    assert [e.rewards["high"] for e in told] == [0.75] * 4
    assert [e.rewards["low"] for e in told] == [-0.5, -0.5, -0.5, 1.0]


def test_the_weights_of_a_box_and_of_a_leak():
    def told(plan):
        return [rema.Episode({"id": 0, "answer": "5"}, 0, 0, k, [
            rema.Turn("high", [], [1], [-1.0], True, plan), rema.Turn("low", [], [1], [-1.0], True, text)])
            for k, text in enumerate(("\\boxed{4}", "4", "\\boxed{5}", "\\boxed{4}"))]
    for plan, reward, box, leak, low, high in (
            ("add", "base", 0.5, 1.0, [-0.5, -1.0, 1.0, -0.5], 0.25),
            ("\\boxed{5}", "base", 0.8, 0.5, [-0.2, -1.0, 1.0, -0.2], -0.25),
            ("\\boxed{5}", "consistency", 0.0, 0.25, [-1.0, -1.0, 1.0, -1.0], 0.25)):
        episodes = told(plan)
        rema.score(episodes, reward, box=box, leak=leak)
        assert [e.rewards["low"] for e in episodes] == pytest.approx(low)
        assert [e.rewards["high"] for e in episodes] == [high] * 4


def test_judges_are_graded_by_their_verdict():
    told = [rema.Episode({"id": 0, "answer": "B", "judge": True}, 0, 0, k, [
        rema.Turn("solo", [], [1], [-1.0], True, text)]) for k, text in enumerate(("So [B]", "[A]", "B is better"))]
    rema.score(told)
    assert [(e.answer, e.correct, e.rewards["solo"]) for e in told] == [
        ("B", True, 1.0), ("A", False, -0.5), (None, False, -1.0)]
    assert "[A] or [B]" in rema.roles("rema", judge=True)[1].prompt("q", "p")[0]["content"]
    for plan, high in (("Compare facts.", 1.0), ("Take [B].", 0.0)):             # a plan that gives the verdict
        told = [rema.Episode({"id": 0, "answer": "B", "judge": True}, 0, 0, 0, [
            rema.Turn("high", [], [1], [-1.0], True, plan), rema.Turn("low", [], [1], [-1.0], True, "[B]")])]
        rema.score(told)
        assert told[0].rewards == {"low": 1.0, "high": high}


def test_answers_that_check_themselves_are_counted():
    assert all(map(rema.verifies, ("Let me check: 2", "let me verify this", "To make sure, again", "Double-check.")))
    assert not any(map(rema.verifies, ("a=2*3=6; 6-1=5.", "The checkout costs 5.", "")))


def test_a_turn_without_room_is_not_run_through_the_model():
    """Its prompt alone may pass the end of the context."""
    said = rema.Turn("low", [9, 9], [1, 2], [-0.5, -0.25], True, "")
    row = rema.sample([said, rema.Turn("low", [7] * 50, [], [], False, "")], 1.0)
    assert (row.prompt, row.tokens, row.turn, row.logprobs) == ([9, 9], [1, 2], [0, 0], [-0.5, -0.25])


def test_worked_examples_of_a_conversation_finish_in_both_lists():
    high, low = rema.roles("rema", example=True, turns=2)
    assert [m["content"] for m in high.example[1::2]] == [plan["plan"] + " [FINISH]" for plan in rema.EXAMPLES]
    assert all(one["content"].endswith("[FINISH]") for one in low.example[::2])


def test_the_difficulty_filter_keeps_what_is_sometimes_solved():
    assert [rema.worth_learning([1] * n + [0] * (10 - n)) for n in range(11)] == [
        False, False, *[True] * 7, False, False]


def test_guided_tokens_without_a_choice_are_not_learned():
    turn = rema.Turn("high", [9], [4, 5, 6], [0.0, -1.5, 0.0], True, "{}", [-1, 2, -1])
    row = rema.sample([turn], 1.0)
    assert row.turn == [-1, 0, -1] and row.logprobs == [-1.5] and row.states == [-1, 2, -1]


@pytest.mark.parametrize("process", rema.PROCESSES)
@pytest.mark.parametrize("form", [dict(), dict(turns=2), dict(plan_format="json"), dict(example=True)])
def test_judges_end_with_a_verdict_where_solvers_end_with_a_box(process, form):
    for plain, judge in zip(rema.roles(process, **form), rema.roles(process, judge=True, **form)):
        assert ("boxed" in plain.system) == (rema.VERDICT in judge.system) and "boxed" not in judge.system
        assert (plain.name, plain.user, ()) == (judge.name, judge.user, judge.example)
