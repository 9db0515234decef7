"""Guided plans of an untrained model: how many of them are valid JSON?

    python -m data.results.guided [10000]

Random weights under the embedded tokenizer, temperature 1.5. The ids of each plan, decoded, must parse.
"""
import collections
import json
import time

import torch

import rema
import rollout
from data import Parser, UserError, guarded
from data.extensions.guide import ACTIONS, Guide
from data.formats.files import read_json
from data.formats.hub import resolve
from data.formats.config import Config
from data.formats.tokenizer import Tokenizer
from model import Transformer


def main(argv=None, max_new_tokens=48):
    parser = Parser(__doc__)
    parser.add_argument("count", nargs="?", type=int, default=10_000, help="plans (10000)")
    count = parser.parse_args(argv).count
    if count < 1:
        raise UserError(f"{count} plans: at least 1, please")
    directory = resolve("tiny")
    tokenizer, config = Tokenizer.load(directory), Config.from_hf(read_json(directory / "config.json"))
    model = Transformer(config).init_weights(torch.Generator().manual_seed(0))
    guide, started = Guide(tokenizer, config.vocab_size), time.perf_counter()
    prompt = tokenizer.chat(rema.HIGH_JSON.prompt("8+7*2"))
    valid, actions, tokens, longest = 0, collections.Counter(), 0, 0
    for i in range(0, count, 500):
        [plans] = rollout.generate(model, [prompt], min(500, count - i), max_new_tokens=max_new_tokens,
                                   temperature=1.5, stop_ids=tokenizer.stop_ids, guide=guide,
                                   generator=rollout.stream("guided", i))
        for plan in plans:
            tokens, longest = tokens + len(plan.tokens), longest + (len(plan.tokens) == max_new_tokens)
            try:
                found = json.loads(tokenizer.decode(plan.tokens))
            except ValueError:
                continue
            if list(found) == ["action", "output"] and found["action"] in ACTIONS and plan.stopped:
                valid += isinstance(found["output"], str)
                actions[found["action"]] += 1
    print(f"{valid} of {count} plans are valid; {dict(actions)}; {tokens / count:.1f} tokens a plan, {longest} closed "
          f"by the limit of {max_new_tokens}; {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    guarded(main, None, "guided")
