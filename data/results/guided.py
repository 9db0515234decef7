"""Guided plans of an untrained model: how many of them are valid JSON?

    python -m data.results.guided [10000]

Random weights under the embedded tokenizer, temperature 1.5. The ids of each plan, decoded, must parse.
"""
import collections
import json
import time

import torch

import rema
from data.extensions.guide import ACTIONS
from data.views.program import Parser, count, run_program
from model import Transformer, init_weights, load
from rollout import Agent, guide_plans, make_generator

LIMIT = 48                               # tokens of a plan
AT_ONCE = 500


def read_action(text: str) -> str | None:
    """What a plan wants to be done. None: it is no valid plan."""
    try:
        plan = json.loads(text)
    except ValueError:
        return None
    if list(plan) != ["action", "output"] or not isinstance(plan["output"], str):
        return None
    if plan["action"] not in ACTIONS:
        return None
    return plan["action"]


def make_untrained_agent():
    tiny, tokenizer = load("tiny")
    model = Transformer(tiny.config)
    init_weights(model, torch.Generator().manual_seed(0))
    agents = [Agent(rema.HIGH_JSON, model, tokenizer)]
    guide_plans(agents)
    return agents[0]


def program(argv: list[str] | None) -> None:
    parser = Parser(__doc__)
    parser.add_argument("count", nargs="?", type=count, default=10_000, help="plans (10000)")
    wanted = parser.parse_args(argv).count
    started = time.perf_counter()
    agent = make_untrained_agent()
    messages = agent.role.prompt({"problem": "8+7*2"}, {})
    prompt = agent.tokenizer.chat(messages)
    actions = collections.Counter()
    tokens, longest = 0, 0
    for i in range(0, wanted, AT_ONCE):
        [plans] = agent.generate([prompt], min(AT_ONCE, wanted - i), max_new_tokens=LIMIT, temperature=1.5,
                                 generator=[make_generator("guided", i)])
        for plan in plans:
            tokens += len(plan.tokens)
            if len(plan.tokens) == LIMIT:
                longest += 1
            action = read_action(agent.tokenizer.decode(plan.tokens))
            if action is not None and plan.stopped:
                actions[action] += 1
    print(f"{actions.total()} of {wanted} plans are valid; {dict(actions)}; {tokens / wanted:.1f} tokens a plan, "
          f"{longest} closed by the limit of {LIMIT}; {time.perf_counter() - started:.0f} s")


def main(argv: list[str] | None = None) -> None:
    run_program(program, argv, "guided")


if __name__ == "__main__":
    main()
