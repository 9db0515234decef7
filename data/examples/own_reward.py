"""A reward of one's own: the usual one, and short answers earn a little more.

    python -m data.examples.own_reward          with any flags of train.py

A reward is a function of a turn and of the episodes that begin with it. Accuracy is judged apart, by
rewards.is_correct, so a strange reward can't make a run look good.
"""
from dataclasses import replace

import train
from rema import HIGH, LOW, Episode, Turn, reward_answer

FREE, LONGEST = 10, 60                   # tokens: up to FREE cost nothing, LONGEST and more all of PRICE
PRICE = 0.2


def reward_short_answer(turn: Turn, episodes: list[Episode]) -> float:
    """+1, -0.5 or -1 as usual, less up to PRICE for length: never enough to make a wrong answer the better one."""
    share = (len(turn.tokens) - FREE) / (LONGEST - FREE)
    return reward_answer(turn, episodes) - PRICE * min(1, max(0, share))


def main(argv: list[str] | None = None) -> None:
    train.main(argv, roles=[HIGH, replace(LOW, reward=reward_short_answer)])


if __name__ == "__main__":
    main()
