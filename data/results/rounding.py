"""How far the trainer's log-probs of a conversation are from those the sampler recorded, in float32.

    python -m data.results.rounding [15]

Conversations of the embedded model with itself in up to three turns, 200 a round, temperature 1. In float64
all agree to 1e-10 (tests/test_rollout.py); here each computes in its own order: rounding differs.
"""
import torch
from tqdm import tqdm

import rema
import rollout
from data.problems.generate import generate
from data.views.program import Parser, count, run_program
from model import load


def measure_gaps(agent, rows: list) -> torch.Tensor:
    """Differences of all tokens that were learned, |trainer - sampler|, of one agent's turns (N,)."""
    with torch.no_grad():
        new, _ = agent.compute_logprobs(rows, 1.0)
    recorded = []
    for row in rows:
        for logprob, learned in zip(row.logprobs, row.learned):
            if learned:
                recorded.append(logprob)
    return (new - torch.tensor(recorded)).abs()


def program(argv: list[str] | None) -> None:
    parser = Parser(__doc__)
    parser.add_argument("rounds", nargs="?", type=count, default=15, help="of some 7,000 tokens (15)")
    rounds = parser.parse_args(argv).rounds
    model, tokenizer = load("tiny")
    agents = [rollout.Agent(role, model, tokenizer) for role in (rema.HIGH_TURNS, rema.LOW_TURNS)]
    gaps = []
    for seed in tqdm(range(rounds), unit="round"):
        problems = generate(40, split="heldout", seed=seed)
        episodes = rollout.converse(agents, problems, samples=5, turns=3, temperatures=[1.0, 1.0],
                                    max_new_tokens=32, key=(seed,))
        for position, agent in enumerate(agents):
            rows = rema.collect_turns(episodes, position)
            gaps.append(measure_gaps(agent, rows))
    gap = torch.cat(gaps)
    above = int((gap > 1e-5).sum())
    print(f"{len(gap):,} tokens: mean {gap.mean():.1e}, 99.9 % below {gap.quantile(0.999):.1e}, "
          f"worst {gap.max():.1e}; above 1e-5: {above}")


def main(argv: list[str] | None = None) -> None:
    run_program(program, argv, "rounding")


if __name__ == "__main__":
    main()
