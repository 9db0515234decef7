"""An advantage of one's own, which looks at more than the group: half of its baseline is what an agent used to earn.

    python -m data.examples.own_estimator       with any flags of train.py

GRPO compares a turn with its group alone, so a group whose turns all earned the same teaches nothing. Here such a
group still says whether it was better or worse than usual. The price: rewards of easy and of hard problems are
compared with each other, which is noise. Whether that pays is yours to find out (watch `same` and the accuracy).
"""
import train
from rema import Turn

MEMORY = 0.9                             # how much of the baseline stays from step to step
GROUP = 0.5                              # how much of what is subtracted is the group's mean


class MovingBaseline:
    """Called as rema.assign_advantages is. A = R - (GROUP x group mean + (1 - GROUP) x baseline of the agent)

    Each agent's baseline is the moving average of its mean rewards before this step (in its first step: of this one).
    It is not saved with a run: one that goes on begins with new ones.
    """

    def __init__(self):
        self.baselines = {}              # agent -> what it used to earn

    def __call__(self, turns: list[Turn], kind: str) -> None:
        if not turns:
            return
        agent = turns[0].agent
        mean = compute_mean(turns)
        usual = self.baselines.get(agent, mean)
        groups = {}
        for turn in turns:
            groups.setdefault(turn.group, []).append(turn)
        for members in groups.values():
            baseline = GROUP * compute_mean(members) + (1 - GROUP) * usual
            for turn in members:
                turn.advantage = turn.reward - baseline
        self.baselines[agent] = MEMORY * usual + (1 - MEMORY) * mean


def compute_mean(turns: list[Turn]) -> float:
    """What turns earned."""
    return sum(turn.reward for turn in turns) / len(turns)


def main(argv: list[str] | None = None) -> None:
    train.main(argv, assign_advantages=MovingBaseline())


if __name__ == "__main__":
    main()
