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
    with pytest.raises(ValueError, match="unknown"):
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


def test_token_weights_sum_to_one_where_they_should():
    lengths = [1, 3, 4]
    assert rema.token_weights(lengths, "batch", 10) == [1 / 8] * 3
    assert close(rema.token_weights(lengths, "sequence", 10), [1 / 3, 1 / 9, 1 / 12])
    assert close(rema.token_weights(lengths, "constant", 10), [1 / 30] * 3)
    for kind in ("batch", "sequence"):
        assert math.isclose(sum(w * n for w, n in zip(rema.token_weights(lengths, kind, 10), lengths)), 1)


def episode(question, plan, sample, high, low, correct=False, plan_text="a=1+2"):
    turns = [rema.Turn("high", [1], [2, 3], [-.1, -.2], True, plan_text),
             rema.Turn("low", [1, 2], [4], [-.3], True, "x")]
    return rema.Episode({"answer": "3"}, question, plan, sample, turns, correct, {"high": high, "low": low})


def test_groups_are_a_questions_plans_and_a_plans_answers():
    episodes = [episode(q, p, a, high=p, low=a * (q + 1))
                for q in range(2) for p in range(2) for a in range(2)]
    rows, dead = rema.samples(episodes, "high", "dr_grpo")
    assert [row.advantage for row in rows] == [-.5, .5, -.5, .5] and dead == 0       # each plan counts once
    rows, dead = rema.samples(episodes, "low", "dr_grpo")
    assert [row.advantage for row in rows] == [-.5, .5] * 2 + [-1, 1] * 2 and dead == 0
    assert episodes[6].advantages == {"high": .5, "low": -1}


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
    for i, (question, plan, working) in enumerate(rema.EXAMPLES):
        answer = rewards.extract(working)
        assert plan in low.example[2 * i]["content"] and question in high.example[2 * i]["content"]
        assert high.example[2 * i + 1]["content"] == plan and low.example[2 * i + 1]["content"] == working
        assert not rewards.leaks(plan, answer) and rewards.is_correct(working, answer)
