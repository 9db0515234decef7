"""Measure a model, or the agents of a run: accuracy with standard errors, and what the plan is worth.

    python eval.py                                    the embedded model, untrained, on arithmetic
    python eval.py --model out/tiny-rema-s0           the two agents of a run
    python eval.py --model smollm2-135m --process vrp --data mine.jsonl

Prints a table; writes a JSON-lines file with every response and verdict, and config.json beside it.
"""
from data.views import greeting  # noqa: F401  first of all, since torch takes seconds
from argparse import Namespace

import rema
from data.formats.files import write_json
from data.formats.runs import claim_evaluation, refuse_used
from data.problems.choosing import choose_held_out, number_copies
from data.views import bars, statistics, terminal
from data.views.program import Parser, count, run_program
from rema import Episode
from rollout import Agent, add_speaking_flags, choose_roles, complete_speaking, load_agents, sample_episodes


# ------------------------------------------------------------------------------------------------------------
# Flags and their defaults. Where extensions step in: functions that add flags, check them, and show more at the end.

FLAGS, CHECKS, AFTER = [], [], []


def parse(argv: list[str] | None) -> Namespace:
    parser = Parser(__doc__)
    parser.set_defaults(plans=1, answers=1)          # unless an extension's flag says so
    add_speaking_flags(parser)
    flag = parser.add_argument
    flag("--data", help="arithmetic, words, a benchmark's name or a JSON-lines file with problem and answer "
         "(as trained, else arithmetic for tiny, words for others)")
    flag("--data-dir", help="a directory that holds NAME.jsonl, instead of a download")
    flag("--limit", type=count, help="only the first N problems (all; of generated ones 1,000)")
    flag("--batch", type=count, default=256, help="rows decoded at a time: less memory, slower (256)")
    flag("--out", help="directory for episodes.jsonl (out/eval-MODEL-PROCESS-DATA)")
    for add_flags in FLAGS:
        add_flags(parser)
    args = parser.parse_args(argv)
    refuse_used(args.out, "is not empty: name another --out, or leave it away")
    return args


# ------------------------------------------------------------------------------------------------------------
# Measuring

def evaluate(agents: list[Agent], rows: list[dict], *, max_new_tokens: int, temperature: float = 0.0,
             samples: list[int] | None = None, key: tuple = ("eval",), **how) -> list[Episode]:
    """Episodes of each row, scored: one, or as many as samples says. how: what rollout.sample_episodes takes besides.

    A prompt that is too long for the context gets an empty turn; an episode whose last turn is empty is wrong.
    """
    episodes = sample_episodes(agents, number_copies(rows), samples or [1] * len(agents),
                               temperatures=[temperature] * len(agents), max_new_tokens=max_new_tokens, key=key, **how)
    rema.score(episodes, [agent.role for agent in agents])
    return episodes


def summarise(episodes: list[Episode]) -> dict[str, tuple[float, float | None]]:
    """What a table shows of episodes: {figure: (mean, standard error)}, in percent, but "tokens of ..." in tokens.

    The samples of a problem, and of its copies, are averaged first, so that each problem is one number; standard errors
    are over problems.
    """
    groups = statistics.group_by_problem(episodes)
    table = {}
    for figure, values in statistics.measure_problems(groups).items():
        table[figure] = statistics.estimate(figure, values)
    if len(episodes) > len(groups):                  # extension
        table.update(rate_samples(groups))
    return table


def measure_held_out(agents: list[Agent], rows: list[dict], args: Namespace, step: int) -> tuple[dict, list[Episode]]:
    """Held-out accuracy in percent with its standard error, at temperature 1 and greedy, for the log of a run.

    One episode a row, with the same draws every time; an answer that the context has no room for counts as wrong.
    Before training (step 0) and every --eval-every steps, see Run in train.py. -> figures, and the greedy episodes.
    """
    result = {}
    with terminal.show_measuring(agents, rows, args.turns, step) as bar:
        for name, temperature in (("t1", 1.0), ("greedy", 0.0)):
            episodes = evaluate(agents, rows, temperature=temperature, max_new_tokens=args.max_new_tokens,
                                turns=args.turns, batch=args.batch, bar=bar)
            result.update(statistics.describe_held_out(name, episodes))
    return result, episodes                          # greedy ones, which were the last


# ------------------------------------------------------------------------------------------------------------
# The program

def program(argv: list[str] | None) -> None:
    args = parse(argv)
    trained = complete_speaking(args)
    for check in CHECKS:
        check(args)
    if args.temperature is None:
        args.temperature = 0.0
    rows = choose_held_out(args, trained)
    agents = load_agents(args.model, choose_roles(args, rows), args)
    samples = [1] * len(agents)
    if args.plans * args.answers > 1:                # extension
        samples = choose_numbers_of_samples(args, len(agents))
    out = claim_evaluation(args)
    with bars.open_bar(f"measuring {len(rows):,} problems", len(rows) * statistics.count_turns(samples, args.turns)) as bar:
        episodes = evaluate(agents, rows, max_new_tokens=args.max_new_tokens, temperature=args.temperature,
                            samples=samples, key=(args.seed, "eval"), top_p=args.top_p, batch=args.batch,
                            turns=args.turns, bar=bar)
    statistics.refuse_if_nothing_fits(episodes, agents[0].model.config.context)
    write_json(out / "episodes.jsonl", [statistics.record(episode) for episode in episodes])
    terminal.print_table(args, rows, summarise(episodes))
    for look in AFTER:
        look(args, agents, rows, episodes, out)
    print(f"every response and verdict: {out / 'episodes.jsonl'}")


def main(argv: list[str] | None = None) -> None:
    run_program(program, argv, "eval.py")


# --- extensions ---------------------------------------------------------------------------------------------

import collections  # noqa: E402
import math  # noqa: E402
from pathlib import Path  # noqa: E402

from data import UserError  # noqa: E402

import rewards  # noqa: E402
from data.problems import benchmarks  # noqa: E402
from data.problems.choosing import drop_copies  # noqa: E402
from data.views import page  # noqa: E402
from data.views.program import refuse_without_effect  # noqa: E402
from data.views.statistics import compute_mean, compute_rate, show_error  # noqa: E402
from rollout import add_variant_flags, make_generator, sample_turns, unknown_reward  # noqa: E402


# ------------------------------------------------------------------------------------------------------------
# Several samples of a problem: avg@n, pass@k, votes

def compute_percent(shares: list[float]) -> tuple[float, float | None]:
    """compute_rate of shares, which are not in percent yet."""
    return compute_rate([100 * share for share in shares])


def compute_gain(differences: list[float]) -> tuple[float, float | None]:
    """Of differences, problem by problem, of two shares: their mean in percent, with its standard error."""
    return compute_mean([100 * difference for difference in differences])


def add_samples_flags(parser: Parser) -> None:
    flag = parser.add_argument_group("several samples a problem").add_argument
    flag("--plans", type=count, default=1, help="plans a problem: avg@n, pass@k and votes (1)")
    flag("--answers", type=count, default=1, help="answers a plan, or conversations a problem (1)")


def check_samples(args: Namespace) -> None:
    if args.turns > 1 and args.plans > 1:
        raise UserError("--plans is for one turn: --answers gives more conversations")
    if args.temperature is None and args.plans * args.answers > 1:
        args.temperature = 1.0                       # greedy samples would all be the same
    if not args.temperature:
        refuse_without_effect(args, ["top_p"], "greedy decoding takes the likeliest token; add a --temperature")


def choose_numbers_of_samples(args: Namespace, agents: int) -> list[int]:
    """Turns that each agent draws: the first one plans, the last one answers."""
    if agents == 1:
        return [args.plans * args.answers]
    return [args.plans] + [1] * (agents - 2) + [args.answers]


def compute_pass_at(k: int, outcomes: list[bool]) -> float:
    """Chance that k of a problem's n samples hold a right one, unbiased: 1 - C(n - c, k) / C(n, k).

    arXiv 2107.03374. k above n counts as n.

    >>> compute_pass_at(2, [1, 0, 0, 0])
    0.5
    """
    n, c = len(outcomes), sum(outcomes)
    k = min(k, n)
    return 1 - math.comb(n - c, k) / math.comb(n, k)


def vote(answers: list[str | None]) -> str | None:
    """The answer that most give, up to equivalence; the first of equals; None if nobody gives one."""
    votes = collections.Counter(answer for answer in answers if answer is not None)
    best, most = None, 0
    for answer in votes:
        found = sum(votes[other] for other in votes if rewards.equivalent(answer, other))
        if found > most:
            best, most = answer, found
    return best


def vote_by_plan(group: list[Episode]) -> str | None:
    """Each plan's answers elect one, then the plans' choices do."""
    answers = {}
    for episode in group:
        answers.setdefault(episode.place[:-1], []).append(episode.answer)
    choices = [vote(given) for given in answers.values()]
    return vote(choices)


def is_answer(choice: str | None, gold: str) -> bool:
    return choice is not None and rewards.equivalent(gold, choice)


def rate_samples(groups: list[list[Episode]]) -> dict[str, tuple[float, float]]:
    """How often problems are solved by several samples: all of them, then those of each level, subject, category.

    Nothing if fewer than half of the problems have several: then a file only holds some problems twice.
    """
    several = [group for group in groups if len(group) > 1]
    if 2 * len(several) < len(groups):
        return {}
    table = compute_rates(groups)
    for part, chosen in statistics.split_groups(groups).items():
        for figure, rate in compute_rates(chosen).items():
            table[f"{figure}, {part}"] = rate
    return table


def compute_rates(groups: list[list[Episode]]) -> dict[str, tuple[float, float]]:
    """pass@k and votes. groups: the n episodes of each problem."""
    table = {}
    n = max(len(group) for group in groups)
    k = 2
    while k < 2 * n:                                 # with n = 6 k is 2, 4, 8, and min(k, n) 2, 4, 6
        shares = []
        for group in groups:
            outcomes = [episode.correct for episode in group]
            shares.append(compute_pass_at(k, outcomes))
        table[f"pass@{min(k, n)}"] = compute_percent(shares)
        k = 2 * k
    flat, by_plan = [], []
    for group in groups:
        gold = group[0].row["answer"]
        answers = [episode.answer for episode in group]
        flat.append(is_answer(vote(answers), gold))
        by_plan.append(is_answer(vote_by_plan(group), gold))
    table["majority vote, flat"] = compute_percent(flat)
    table["majority vote, hierarchical"] = compute_percent(by_plan)
    return table


# ------------------------------------------------------------------------------------------------------------
# Does the plan matter (--diagnose)?

def add_diagnose_flag(parser: Parser) -> None:
    parser.add_argument("--diagnose", action="store_true",
                        help="also answer under swapped and empty plans: do they matter?")


def check_diagnose(args: Namespace) -> None:
    if args.diagnose and (args.process != "rema" or args.turns > 1):
        raise UserError("--diagnose is about plans: --process rema in one turn")
    if args.diagnose and args.roles and len(args.roles) != 2:
        raise UserError(f"--diagnose is about the plan of two agents, and {args.model} has {len(args.roles)}")
    if args.diagnose and args.limit == 1:
        raise UserError("--diagnose swaps the plans of two problems: --limit 1 is too few")


def diagnose(agents: list[Agent], rows: list[dict], *, max_new_tokens: int, key: tuple = ("eval",),
             batch: int = 256) -> dict[str, list[bool]]:
    """Greedy answers under each plan kept, swapped for the next problem's, and emptied.

    -> {"kept" | "swapped" | "emptied": right or wrong, one a problem}. A lazy high-level agent shows no drop.
    """
    high, low = agents
    rows = drop_copies(rows)
    bar = bars.open_bar(f"diagnosis: other plans for {len(rows):,} problems", 4 * len(rows))
    common = dict(max_new_tokens=max_new_tokens, batch=batch, bar=bar)
    kept = evaluate(agents, rows, key=key, **common)
    plans = [episode.turns[0].text for episode in kept]
    changed = {"swapped": plans[1:] + plans[:1], "emptied": [""] * len(plans)}
    outcomes = {"kept": [episode.correct for episode in kept]}
    for name, texts in changed.items():
        conversations, generators = [], []
        for row, plan in zip(rows, texts):
            conversations.append(low.role.prompt(row, {high.name: plan}))
            generators.append(make_generator(*key, name, row["id"]))
        groups = sample_turns(low, conversations, 1, generators, temperature=0.0, **common)
        outcomes[name] = []
        for row, [turn] in zip(rows, groups):
            answer = Episode(row, (0, 0), [turn])
            outcomes[name].append(rewards.is_correct(answer.response, row["answer"]))
    bar.close()
    return outcomes


def is_clear(mean: float, error: float | None) -> bool:
    """Whether a figure is above 0 by more than two standard errors."""
    return error is not None and mean > 2 * error


def subtract(first: list[bool], second: list[bool]) -> list[int]:
    """Problem by problem: 1 right in the first only, -1 in the second only."""
    differences = []
    for one, other in zip(first, second):
        differences.append(one - other)
    return differences


def describe_diagnosis(outcomes: dict[str, list[bool]]) -> str:
    """What swapped and emptied plans cost, paired problem by problem, and in words what is clear by two errors."""
    kept = outcomes["kept"]
    mean, error = compute_percent(kept)
    lines = [f"  greedy, plan kept            {mean:6.1f} % +- {show_error(error)}"]
    costs = {}
    for name in ("swapped", "emptied"):
        mean, error = compute_percent(outcomes[name])
        costs[name] = compute_gain(subtract(kept, outcomes[name]))
        cost, cost_error = costs[name]
        lines.append(f"  greedy, plan {name:15} {mean:6.1f} % +- {show_error(error)}   "
                     f"costs {cost:.1f} points +- {show_error(cost_error)}")
    worth = "no cost of an empty plan beyond two standard errors: nothing here says that plans help"
    if is_clear(*costs["emptied"]):
        worth = "plans help: without one fewer answers are right"
    lines.append(f"    {worth}")
    if is_clear(*compute_gain(subtract(outcomes["emptied"], outcomes["swapped"]))):
        lines.append("    wrong plans are followed: another problem's plan is worse than none")
    return "\n".join(lines)


def describe_roles(table: dict[str, tuple[float, float | None]]) -> list[str]:
    """Who does the work, and who pays: sentences about figures of summarise."""
    costs, total = [], 0.0
    for figure, (mean, _) in table.items():
        if figure.startswith("tokens of "):
            costs.append(f"{mean:.1f}")
            total += mean
    lines = [f"an episode costs {' + '.join(costs)} = {total:.1f} tokens: compare accuracies at equal costs"]
    leaks = table["plans with the gold answer"]
    checks = table["answers with a verifying phrase"]
    if is_clear(*leaks):
        lines.append(f"roles are reversed in {leaks[0]:.1f} % of the plans: they hold the answer, so the planner solved it")
        if is_clear(*checks):
            lines.append(f"and {checks[0]:.1f} % of the answers verify: perhaps they only check what the plan says")
    else:
        lines.append("no sign that roles are reversed: plans do not hold the answer, beyond two standard errors")
    return lines


def print_diagnosis(args: Namespace, agents: list[Agent], rows: list[dict], episodes: list[Episode],
                    out: Path) -> None:
    if not args.diagnose:
        return
    outcomes = diagnose(agents, rows, max_new_tokens=args.max_new_tokens, key=(args.seed, "eval"), batch=args.batch)
    print(describe_diagnosis(outcomes))
    for sentence in describe_roles(summarise(episodes)):
        print(f"    {sentence}")


# ------------------------------------------------------------------------------------------------------------
# What else stands beside the table: actions of guided plans, the paper's figures, a page to read

def add_page_flags(parser: Parser) -> None:
    flag = parser.add_argument_group("a page to read").add_argument
    flag("--page", choices=("all", "right", "wrong"), default="all", help="episodes in episodes.html (all)")
    flag("--shade", action="store_true", help="episodes.html shows each token's log-prob as a shade")


def print_actions(args: Namespace, agents: list[Agent], rows: list[dict], episodes: list[Episode],
                  out: Path) -> None:
    for name, value in statistics.describe_actions(episodes).items():
        text = "     -"
        if value is not None:
            text = f"{value:6.2f}"
        print(f"  {name:44} {text}")


def print_paper(args: Namespace, agents: list[Agent], rows: list[dict], episodes: list[Episode],
                out: Path) -> None:
    for name, value in benchmarks.paper_figures(args.base, args.data).items():
        print(f"  the paper's {name:32} {value:7.2f} %")


def name_unknown_rewards(args: Namespace, agents: list[Agent], rows: list[dict], episodes: list[Episode],
                         out: Path) -> None:
    for agent in agents:
        if agent.role.reward is unknown_reward:
            print(f"only the program that trained {agent.name} has its reward: episodes.jsonl says 0, accuracy is apart")


def write_page(args: Namespace, agents: list[Agent], rows: list[dict], episodes: list[Episode],
               out: Path) -> None:
    tokenizer = None
    if args.shade:
        tokenizer = agents[0].tokenizer
    title = f"{args.model}, {args.process}, {args.data}"
    page.html_page(episodes, out / "episodes.html", title, tokenizer, args.page)
    print(f"{out / 'episodes.html'}: to read, the first {page.SHOWN} at most")


FLAGS += [add_variant_flags, add_samples_flags, add_diagnose_flag, add_page_flags]
CHECKS += [check_samples, check_diagnose]
AFTER += [print_diagnosis, print_actions, print_paper, name_unknown_rewards, write_page]


if __name__ == "__main__":
    main()
