"""What --data names: generated problems, a benchmark, or a file of one's own; and what is held out of it."""
import hashlib
import json
import random
import sys

from data import UserError
from data.answers.comparing import equivalent, unparsed
from data.problems.benchmarks import BENCHMARKS, load
from data.problems.generate import KINDS, generate
from data.problems.reading import mend_gold, problem_text
from data.views.bars import wait_for


def load_data(name: str, split: str, count: int | None, data_dir: str | None = None) -> list[dict]:
    """Rows {"id", "problem", "answer", ...} of generated problems, a benchmark, or a JSON-lines file.

    split: "train" or "heldout", for generated problems; a file is used as it is. count None: all rows (of
    generated ones 1,000). UserError for a name that is not known and for a malformed file.
    """
    if name not in KINDS:
        rows = load(name, data_dir)
        refuse_mixture(rows)
        if name not in BENCHMARKS:
            warn_of_golds(name, rows)
            warn_of_contradictions(name, rows)
        return rows[:count]
    if data_dir:
        print(f"--data-dir is not used for {name}, which is generated", file=sys.stderr)
    if count is None:
        count = 1000
    try:
        return generate(count, seed=0, split=split, kind=name)
    except ValueError as error:
        raise UserError(f"--data {name}: {error}") from None


def warn_of_golds(name: str, rows: list[dict]) -> None:
    """Say how many gold answers of a file can't be read as answers, which one is the first, and how it is mended."""
    unread = [row for row in rows if not row.get("judge") and unparsed(row["answer"])]
    if not unread:
        return
    first = unread[0]
    text = first["answer"]
    if len(text) > 60:
        text = f"...{text[-60:]}"
    advice = "write the number, expression or word alone"
    mended = mend_gold(first["answer"])
    if mended and mended != first["answer"]:
        advice = f"did you mean {mended[:60]!r}? Write that alone"
    print(f"{name}: {len(unread)} of {len(rows)} gold answers can't be read as an answer, so only the very same text "
          f"will be right; the first, of {first['id']}, is {text!r}: {advice}", file=sys.stderr)


def warn_of_contradictions(name: str, rows: list[dict]) -> None:
    """Say which problems stand there with different answers."""
    answers, contradicted = {}, []
    for row in rows:
        text = problem_text(row)
        if text not in answers:
            answers[text] = row["answer"]
        elif not equivalent(answers[text], row["answer"]):
            contradicted.append(row)
    if contradicted:
        print(f"{name}: {len(contradicted)} rows give another answer to a problem than an earlier row, such as "
              f"{contradicted[0]['problem'][:60]!r}: each is graded by its own", file=sys.stderr)


def split_data(data: str, eval_data: str | None, eval_questions: int | None, data_dir: str | None) -> tuple:
    """-> (training rows, held-out rows): generated splits, two files, or a shuffled tenth of one file held out.

    No problem is in both, by its text, and it is said where one was. UserError if one part has judge tasks and the
    other has not.
    """
    count = None
    if data in KINDS:                        # they have a split of their own
        count = 2000
        if not eval_data:
            eval_data = data
    rows = load_data(data, "train", count, data_dir)
    if eval_data:
        held = load_data(eval_data, "heldout", eval_questions, data_dir)
        rows = leave_out_held(rows, held)
    else:
        rows, held = hold_out_tenth(rows)
        held = held[:eval_questions]

    refuse_mixture(rows + held)
    return rows, held


def refuse_mixture(rows: list[dict]) -> None:
    """UserError: judge tasks and other problems, which are asked with other prompts."""
    if len({bool(row.get("judge")) for row in rows}) > 1:
        raise UserError("problems must all be judge tasks, or none of them, held-out ones included")


def leave_out_held(rows: list[dict], held: list[dict]) -> list[dict]:
    """The training rows that are not held out as well. All of them, with a warning, if none would be left."""
    texts = {problem_text(row) for row in held}
    apart = [row for row in rows if problem_text(row) not in texts]
    if not apart:
        print("every training problem is held out, too: held-out accuracy then says what was learned by heart, and "
              "nothing about new problems", file=sys.stderr)
        return rows
    if len(apart) < len(rows):
        print(f"{len(rows) - len(apart)} of {len(rows)} training problems are held out, too (by their text): they are "
              "not trained on", file=sys.stderr)
    return apart


def hold_out_tenth(rows: list[dict]) -> tuple[list[dict], list[dict]]:
    """A tenth of the problems of one file, shuffled; one that stands there several times goes to one side whole."""
    random.Random("held out").shuffle(rows)
    problems = drop_copies(rows)
    if len(problems) < 2:
        raise UserError("a single problem can't be both trained on and held out: give more, or --eval-data")
    held = problems[:max(1, len(problems) // 10)]
    texts = {problem_text(row) for row in held}
    if len(problems) < len(rows):
        print(f"{len(rows) - len(problems)} of {len(rows)} problems are copies of others, by their text: of those "
              "held out one each is kept, and none is trained on", file=sys.stderr)
    return [row for row in rows if problem_text(row) not in texts], held


def choose_held_out(args, trained: dict) -> list[dict]:
    """The rows that eval.py measures with: of a run what it held out, unless --data says. Fills in args.data."""
    if args.data is None and trained:
        if "eval_data" not in trained:
            raise UserError(f"{args.model}: its config.json is not one of train.py, so say --data")
        args.data = trained["eval_data"] or trained["data"]
        data_dir = args.data_dir or trained["data_dir"]
        _, rows = split_data(trained["data"], trained["eval_data"], trained["eval_questions"], data_dir)
        if args.limit and args.limit > len(rows):
            print(f"--limit {args.limit}: this run held out {len(rows)} problems; --data {args.data} has others, perhaps "
                  "some that it was trained on", file=sys.stderr)
        return rows[:args.limit]
    if args.data is None:
        args.data = "words"
        if args.model == "tiny":
            args.data = "arithmetic"
    return load_data(args.data, "heldout", args.limit, args.data_dir)


def choose_questions(rows: list[dict], step: int, count: int, seed: int) -> list[dict]:
    """The `count` problems of a step (from 1): the data, shuffled anew for each pass.

    The place in it follows from the step alone.
    """
    chosen = []
    first = (step - 1) * count
    for place in range(first, first + count):
        epoch, i = divmod(place, len(rows))
        if place == first or i == 0:
            order = list(range(len(rows)))
            random.Random(f"order {seed} {epoch}").shuffle(order)
        chosen.append(rows[order[i]])
    return number_copies(chosen)


def drop_copies(rows: list[dict]) -> list[dict]:
    """The first row of each problem, by its text."""
    first = {}
    for row in rows:
        first.setdefault(problem_text(row), row)
    return list(first.values())


def number_copies(rows: list[dict]) -> list[dict]:
    """The rows with a "copy": 0, 1, 2 ... of those with one id. Draws follow from both, so copies draw their own."""
    numbered, copies = [], {}
    for row in rows:
        copies[row["id"]] = copies.get(row["id"], -1) + 1
        numbered.append({**row, "copy": copies[row["id"]]})
    return numbered


def measure_prompt(row: dict, agents: list) -> int:
    """Tokens of the longest prompt about a problem, as long as nobody has said anything."""
    nothing = {agent.name: "" for agent in agents}
    lengths = [len(agent.tokenizer.chat(agent.role.prompt(row, nothing))) for agent in agents]
    return max(lengths)


def prepare_rows(rows: list[dict], held_rows: list[dict], agents: list, args) -> list[dict]:
    """What a run trains on: the rows that are short enough. args.rows_digest tells problems and answers from others.

    UserError: the run that goes on had others.
    """
    digest = hashlib.sha256()
    for row in [*rows, *held_rows]:
        digest.update(json.dumps([row["problem"], row["answer"]]).encode())
    digest = digest.hexdigest()[:16]
    if getattr(args, "rows_digest", digest) != digest:       # runs of older versions have none
        raise UserError(f"{args.resume}: --data {args.data} holds other problems or answers than when this run began; "
                        "put the old ones back, or begin another run")
    args.rows_digest = digest
    return leave_out_long(rows, held_rows, agents, args)


def leave_out_long(rows: list[dict], held_rows: list[dict], agents: list, args) -> list[dict]:
    """Rows whose prompts leave room in the context for all that the agents may say.

    How many are left out is said, and how many held-out ones will be wrong. UserError: fewer than a step takes
    are left.
    """
    if len(rows) < args.questions:
        raise UserError(f"there are {len(rows)} problems to train on, fewer than --questions {args.questions}: take "
                        f"--questions {len(rows)} or more data")
    context = agents[0].model.config.context
    room = context - len(agents) * args.max_new_tokens
    with wait_for(f"counting the tokens of {len(rows):,} prompts"):
        lengths = [measure_prompt(row, agents) for row in rows]
    fitting = [row for row, length in zip(rows, lengths) if length <= room]
    if len(fitting) < args.questions:
        raise UserError(describe_lack_of_room(len(fitting), lengths, context, len(agents), args))
    held_out = [row for row in held_rows if measure_prompt(row, agents) > room]
    if held_out or len(fitting) < len(rows):
        print(f"with --max-new-tokens {args.max_new_tokens}, {len(rows) - len(fitting)} of {len(rows)} training "
              f"problems do not fit the context of {context} and are left out; {len(held_out)} held-out ones do not "
              "fit and count as wrong", file=sys.stderr)
    return fitting


def describe_lack_of_room(fitting: int, lengths: list[int], context: int, agents: int, args) -> str:
    """Why too few problems fit, and what would make room. lengths: of the prompts, in tokens."""
    wanted = sorted(lengths)[args.questions - 1]             # if so much fits, enough problems do
    most = (context - wanted) // agents
    advice = "these prompts are too long for this model"
    if most >= 1:
        advice = f"--max-new-tokens {most} leaves room for --questions {args.questions} of them"
    return (f"the context of this model is {context} tokens, of which {agents} x --max-new-tokens {args.max_new_tokens} "
            f"are kept free: {fitting} of {len(lengths)} training problems fit, the longest prompt has {max(lengths)} "
            f"tokens; {advice}")
