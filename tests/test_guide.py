"""Guided plans: always valid JSON, drawn from the model's own distribution over what is allowed."""
import json
import math

import pytest
import torch

import model as models
import rema
import rollout
import train
from data import UserError
from data.extensions.guide import ACTIONS, Guide, describe_actions
from data.problems.generate import generate as problems
from test_rollout import read_tokenizer, recorded        # noqa: F401

ASKED = rema.HIGH_JSON.prompt({"problem": "8+7*2"}, {})


def make_planner(dtype=torch.float32):
    """The embedded tokenizer under random weights that are large enough for opinions -> a guided agent."""
    model, tokenizer = models.load("tiny")
    model = models.Transformer(model.config)
    models.init_weights(model, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for weight in model.parameters():
            weight *= 2 if weight.dim() == 2 else 1
    agents = [rollout.Agent(rema.HIGH_JSON, model.to(dtype), tokenizer)]
    rollout.guide_plans(agents)
    return agents[0]


def draw_plans(agent, messages, samples, seed=0, **how):
    """Plans for one message list."""
    prompt = agent.tokenizer.chat(messages)
    return agent.generate([prompt], samples, generator=[rollout.make_generator(seed)], **how)[0]


def check(tokenizer, ids):
    found = json.loads(tokenizer.decode(ids))
    assert list(found) == ["action", "output"] and isinstance(found["output"], str)
    assert json.dumps(found, ensure_ascii=False) == tokenizer.decode(ids)      # its spacing, nothing escaped
    return ACTIONS.index(found["action"])


def gap(agent, turns, temperature=1.0):
    """The largest difference between the log-probs that an agent's trainer finds and those recorded."""
    with torch.no_grad():
        new, entropy = agent.compute_logprobs(turns, temperature)
    assert len(new) > 500 and entropy.isfinite().all() and entropy.min() > -1e-5
    return float((new - recorded(turns)).abs().max())


def test_every_guided_plan_is_valid_json():
    """500 plans of an untrained model at temperature 1.5, and the trainer's log-probs are the sampler's."""
    agent = make_planner()
    guide = agent.guide
    actions, samples, cut = [0, 0, 0], [], 0
    for limit in (guide.least, 40):
        plans = draw_plans(agent, ASKED, 250, seed=limit, max_new_tokens=limit, temperature=1.5)
        for plan in plans:
            actions[check(agent.tokenizer, plan.tokens)] += 1
            assert plan.stopped and len(plan.tokens) <= limit
            assert len(plan.tokens) == len(plan.logprobs) == len(plan.learned) == len(plan.states)
            assert all(logprob == 0 for logprob, learned in zip(plan.logprobs, plan.learned) if not learned)
            assert plan.count_learned() < len(plan.tokens) - 6
            cut += len(plan.tokens) == limit == 40
            samples.append(plan)
    assert min(actions) > 50 and 0 < cut < 250
    assert gap(agent, samples, 1.5) < 1e-5


def test_guided_trainer_and_sampler_agree_also_in_mixed_batches():     # noqa: F811
    """With shared weights plans, which are guided, and answers, which are not, are trained side by side."""
    model, tokenizer = models.load("tiny", dtype=torch.float64)
    agents = [rollout.Agent(rema.HIGH_JSON, model, tokenizer), rollout.Agent(rema.LOW, model, tokenizer)]
    rollout.guide_plans(agents)
    planner = agents[0]
    episodes = rollout.rollout(agents, problems(20), [4, 1], temperatures=[1.0, 1.0], max_new_tokens=40)
    assert len({check(tokenizer, e.turns[0].tokens) for e in episodes}) == 3
    assert all(e.turns[0].learned and not e.turns[1].learned for e in episodes)
    plans, answers = (rema.collect_turns(episodes, position) for position in (0, 1))
    assert gap(planner, plans) < 1e-10 and gap(planner, plans + answers) < 1e-10
    assert gap(planner, answers[:40] + plans + answers[40:]) < 1e-10
    assert gap(agents[1], plans) > 0.01


def test_forced_tokens_carry_no_gradient():     # noqa: F811
    """Of a plan's log-prob it is that of what was chosen: summed by hand over what each state allows."""
    agent = make_planner(torch.float64)
    plans = draw_plans(agent, ASKED, 6, max_new_tokens=24)
    logprobs, _ = agent.compute_logprobs(plans, 1.0)
    weights = [agent.model.lm_head.weight, agent.model.layers[0].mlp.up_proj.weight]
    found = torch.autograd.grad(logprobs.sum(), weights)
    total = 0.0
    for plan in plans:
        logits = agent.model(torch.tensor([plan.prompt + plan.tokens]))[0, len(plan.prompt) - 1:-1]
        for row, token, state, learned in zip(logits, plan.tokens, plan.states, plan.learned):
            allowed = row[agent.guide.allowed[state]]
            assert learned == (len(allowed) > 1)
            if learned:
                total = total + row[token] - allowed.logsumexp(-1)
    assert math.isclose(total.detach(), logprobs.detach().sum(), abs_tol=1e-9)
    for mine, theirs in zip(found, torch.autograd.grad(total, weights)):
        assert mine.abs().max() > 0.01 and torch.allclose(mine, theirs, atol=1e-9)


def by_hand(tokenizer, said, left):
    """Ids that may follow those that were said, straight from the texts."""
    end, = tokenizer.stop_ids
    opened = [tokenizer.encode(f'{{"action": "{action}", "output": "') for action in ACTIONS]
    empty = [tokenizer.encode(f'{{"action": "{action}", "output": ""}}') + [end] for action in ACTIONS]
    for path in opened:
        if said[:len(path)] == path:
            string = tokenizer.decode(said[len(path):])
            if string.endswith('"'):
                return set(tokenizer.encode("}"))
            if string.endswith('"}'):
                return {end}
            if left <= 2:
                return set(tokenizer.encode('"}'))
            return {id for id in range(528) if fits(tokenizer.token_bytes(id))}
    return {path[len(said)] for path in opened + empty if path[:len(said)] == said}


def fits(raw):
    """Whether a token may stand in a string, or end it, by the judgement of the json module."""
    for tail in (b"", b'"', b'"}'):
        try:
            text = raw.removesuffix(tail).decode()
            if raw and raw.endswith(tail) and json.loads(f'"{text}"') == text:
                return True
        except ValueError:
            pass
    return False


@pytest.mark.parametrize("temperature, least", [(0.7, 30), (1.0, 30), (0, 12)])
def test_logprobs_are_those_of_the_logits_masked_by_hand(temperature, least):     # noqa: F811
    agent = make_planner(torch.float64)
    model, tokenizer, chosen = agent.model, agent.tokenizer, 0
    plans = draw_plans(agent, ASKED, 6, seed=3, max_new_tokens=24, temperature=temperature)
    for plan in plans:
        with torch.no_grad():
            logits = model(torch.tensor([plan.prompt + plan.tokens]))[0, len(plan.prompt) - 1:-1]
        for t, (row, token) in enumerate(zip(logits, plan.tokens)):
            ids = sorted(by_hand(tokenizer, plan.tokens[:t], 24 - t))
            row = (row[ids] / (temperature or 1)).log_softmax(-1)
            assert math.isclose(row[ids.index(token)], plan.logprobs[t], abs_tol=1e-10)
            assert temperature or row[ids.index(token)] == row.max()
            assert plan.learned[t] == (len(ids) > 1)
            chosen += len(ids) > 1
    assert chosen >= least


def test_guide_under_top_p():
    agent = make_planner()
    plans = draw_plans(agent, rema.HIGH_JSON.prompt({"problem": "1+1"}, {}), 40, max_new_tokens=30, top_p=0.6)
    assert all(plan.stopped and check(agent.tokenizer, plan.tokens) >= 0 for plan in plans)


class Bytes:
    """A vocabulary that knows no words: 256 bytes and an end token."""
    vocab_size, stop_ids = 257, {256}

    def encode(self, text):
        return list(text.encode())

    def token_bytes(self, id):
        return bytes([id]) if id < 256 else b""

    def decode(self, ids):
        return bytes(ids).decode()

    def after(self, sampled):
        return [256]


@pytest.mark.parametrize("name", ["bytes", "smollm2", "llama3", "qwen2"])
def test_guides_of_other_tokenizers(request, name):
    """Random walks, most of them short of tokens; ids that only pad the model's head are never drawn."""
    tokenizer = Bytes() if name == "bytes" else read_tokenizer(request.getfixturevalue(name))
    guide = Guide(tokenizer, tokenizer.vocab_size + 100)
    generator, actions = torch.Generator().manual_seed(0), set()
    for limit in (guide.least, guide.least + 6):
        state, ids = torch.zeros(12, dtype=torch.int64), []
        for t in range(limit):
            state = guide.hurry(state, torch.full_like(state, limit - t))
            draws = torch.rand(guide.allowed[state].shape, generator=generator)
            ids.append((draws * guide.allowed[state]).argmax(-1))
            state = guide.next[state, ids[-1]].long()
        for row in torch.stack(ids, 1).tolist():
            ends = [i for i, id in enumerate(row) if id in tokenizer.stop_ids]
            actions.add(check(tokenizer, row[:ends[0]]))
            assert max(row[:ends[0]]) < tokenizer.vocab_size
    assert len(actions) == 3
    natural = '{"action": "DECOMPOSE", "output": "Add 2 and 3, then stop."}'   # '."}' may be one token
    state = torch.tensor([guide.START])
    for id in tokenizer.encode(natural) + [min(tokenizer.after([])[:1])]:
        assert guide.allowed[state, id]
        state = guide.next[state, id].long()
    assert state == guide.FREE


def test_a_plan_without_room_is_an_error_or_an_empty_turn():
    agent = make_planner()
    least, context, tokenizer = agent.guide.least, agent.model.config.context, agent.tokenizer
    with pytest.raises(UserError, match=f"a guided plan needs at least {least}"):
        draw_plans(agent, ASKED, 1, max_new_tokens=least - 1)
    for room in (least, least - 1):
        long = ASKED[:-1] + [{"role": "user", "content": "1"}]
        while len(tokenizer.chat(long)) < context - room:
            long[-1]["content"] += "1"
        [[turn]] = rollout.sample_turns(agent, [long], 1, [rollout.make_generator(0)], max_new_tokens=64)
        assert turn.stopped == (room == least) == bool(turn.text)


def test_plans_end_at_the_end_of_the_context():
    """Each row has the room that its own prompt leaves, whatever stands beside it; empty turns are no samples."""
    agent = make_planner()
    least, context, tokenizer = agent.guide.least, agent.model.config.context, agent.tokenizer
    conversations, rooms = [], []
    for room in (least, 1, least + 3, least - 1, least + 30):
        long = ASKED[:-1] + [{"role": "user", "content": "1"}]
        while len(tokenizer.chat(long)) < context - room:
            long[-1]["content"] += "1"
        conversations.append(long)
        rooms.append(context - len(tokenizer.chat(long)))
    generators = [rollout.make_generator(i) for i in range(5)]
    groups = rollout.sample_turns(agent, conversations, 8, generators, max_new_tokens=least + 9, temperature=1.5)
    for room, group in zip(rooms, groups):
        assert len(group) == 8
        for turn in group:
            assert bool(turn.tokens) == turn.stopped == (room >= least)
            assert len(turn.tokens) <= min(room, least + 9)
            if turn.tokens:
                check(tokenizer, turn.tokens)
    assert {len(turn.tokens) for turn in groups[4]} & {least + 9}            # the limit closed some
    episodes = [rema.Episode({}, (0, j), [turn]) for j, turn in enumerate(groups[1])]
    assert rema.collect_turns(episodes, 0) == [] and describe_actions(episodes) == {}


def test_shared_weights_write_plans_and_answers_each_in_its_way():
    """--share: the agent that answers is not guided, and lessons of free text can be learned by one that is."""
    args = train.parse(["--share", "--plan-format", "json", "--device", "cpu"])
    high, low = train.load_learners(args, rollout.choose_roles(args, [{}]))
    assert high.model is low.model and high.optimizer is low.optimizer
    [turns] = low.generate([low.tokenizer.chat(ASKED)], 2, max_new_tokens=20,
                           generator=[rollout.make_generator(0)])
    assert not any(isinstance(turn, rollout.GuidedTurn) for turn in turns)
    with torch.no_grad():
        assert torch.allclose(high.compute_logprobs(turns, 1.0)[0], low.compute_logprobs(turns, 1.0)[0], atol=1e-5)


def test_broken_weights_are_one_line():
    agent = make_planner()
    with torch.no_grad():
        agent.model.norm.weight.fill_(math.nan)
    with pytest.raises(UserError, match="not finite"):
        draw_plans(agent, ASKED, 1, max_new_tokens=40)


def test_action_shares_by_hand():
    """A plan counts once, whatever its answers; one without room never, nor a level that is no number."""
    episodes = []
    for i, (action, level, answers) in enumerate((("DECOMPOSE", 5, 1), ("DECOMPOSE", 2, 3), ("EMPTY", 1, 2),
                                                  ("DECOMPOSE", "?", 1), (None, 4, 1))):
        text = json.dumps({"action": action, "output": ""}) if action else ""
        plan = rollout.GuidedTurn([], [], [], True, "high", text, (i, 0))
        episodes += [rema.Episode({"level": level}, (i, 0, j), [plan]) for j in range(answers)]
    assert describe_actions(episodes) == dict(
        share_DECOMPOSE=3 / 4, share_REWRITE=0, share_EMPTY=1 / 4,
        level_DECOMPOSE=3.5, level_REWRITE=None, level_EMPTY=1)
    free = rema.Episode({"level": 1}, (9, 0), [rema.Turn([], [], [], True, "solo", "3", (9, 0))])
    assert describe_actions([free]) == {}
