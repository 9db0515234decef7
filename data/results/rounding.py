"""How far the trainer's log-probs of a conversation are from those the sampler recorded, in float32.

    python -m data.results.rounding [15]

Conversations of the embedded model with itself in up to three turns, 200 a round, temperature 1. In float64
all agree to 1e-10 (tests/test_rollout.py); here each computes in its own order: rounding differs.
"""
import torch
from tqdm import tqdm

import model as models
import rema
import rollout
from data import Parser, UserError, guarded
from data.problems.generate import generate


def main(argv=None):
    parser = Parser(__doc__)
    parser.add_argument("rounds", nargs="?", type=int, default=15, help="of some 7,000 tokens (15)")
    rounds = parser.parse_args(argv).rounds
    if rounds < 1:
        raise UserError(f"{rounds} rounds: at least 1, please")
    (model, tokenizer), roles, gaps = models.load("tiny"), rema.roles("rema", turns=2), []
    for seed in tqdm(range(rounds), unit="round"):
        episodes = rollout.converse({"high": model, "low": model}, tokenizer,
                                    generate(40, split="heldout", seed=seed), roles, turns=3, samples=5,
                                    max_new_tokens=32, key=(seed,))
        for role in roles:
            rows = [rema.sample(e.said(role.name), 1.0) for e in episodes if e.said(role.name)]
            with torch.no_grad():
                new, _ = rollout.batch_logprobs(model, rows)
            gaps.append((new - torch.tensor([x for row in rows for x in row.logprobs])).abs())
    gap = torch.cat(gaps)
    print(f"{len(gap):,} tokens: mean {gap.mean():.1e}, 99.9 % below {gap.quantile(0.999):.1e}, worst "
          f"{gap.max():.1e}; above 1e-5: {int((gap > 1e-5).sum())}")


if __name__ == "__main__":
    guarded(main, None, "rounding")
