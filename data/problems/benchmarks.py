r"""Benchmarks and training sets: JSON lines, fetched once from where their authors keep them, and checked.

    load("math500")                 fetched into REMA_DATA (default ~/.cache/rema), later read from there
    load("math500", "some/dir")     some/dir/math500.jsonl: for a machine without a network
    load("mine.jsonl")              your own problems, a line each: {"problem": "...", "answer": "..."}

None of the texts is part of this project. What is: where they come from, how many rows they have and their
sha256 (data/benchmarks.json), and how each upstream's format becomes {"id", "problem", "answer", ...}: a
figure for "math500" means the same 500 problems for everybody. Gold answers lose dollar signs and a full stop
at the end; the few that are missing or malformed upstream are mended in `convert`.

Judge tasks (which of two responses is better?) look like any other row: `problem` holds the question and both
responses, `answer` is "A" or "B", `judge` is True. data/splits.json lists the 485 pairs of RewardBench
that are held out (both ways round: rewardbench970; all others, both ways round: rewardbench5k), and the 133
training problems of math-tiny133, each with 8 digits of its text's sha256: some copies of MATH have no ids.
"""
import difflib
import hashlib
import json
import os
import pathlib
import random
import re
import sys

import regex                # comes with tiktoken
from tqdm import tqdm

from data import UserError
from data.problems import arithmetic
from data.formats.files import atomic_write, json_object, naming, read_json
from data.formats.hub import NAMES, open_url, read_some

HOSTS = {"github": "https://raw.githubusercontent.com", "rows": "https://datasets-server.huggingface.co",
         "hub": (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/") + "/datasets"}
HERE = pathlib.Path(__file__).parent
SPLITS, TABLES = read_json(HERE / "splits.json"), read_json(HERE / "benchmarks.json")
BENCHMARKS = TABLES["benchmarks"]       # name: {"rows", "sha256" (see `fingerprint`), "addresses" at HOSTS}
# Greedy pass@1 in the paper (tables 1 and 2), percent, by model and benchmark
PAPER = {(one, name): row for model, rows in TABLES["paper"].items() for one in (model, NAMES[model])
         for name, row in rows.items()}
JUDGE = ("question", "response_a", "response_b")
# section: how the names of its subsets begin; the first that fits counts (mt-bench-hard is no mt-bench)
SECTIONS = {"Chat Hard": ("mt-bench-hard", "llmbar"), "Chat": ("alpacaeval", "mt-bench"), "knowledge": "mmlu",
            "Safety": ("refusals", "xstest", "donotanswer"), "Reasoning": ("hep", "math-prm"),
            "coding": "livecodebench", "math": "livebench-math", "reasoning": "livebench-reasoning"}
GENERATED = ("arithmetic", "words")


def load(name, data_dir=None):
    """The rows of a benchmark or a JSON-lines file: dicts with at least "id", "problem", "answer".

    name: a key of BENCHMARKS or a path; data_dir: where NAME.jsonl lies, if nothing is to be fetched.
    UserError: an unknown name (names a near one), no network, fetched rows that are not the published ones,
    all of read_jsonl's. A file in data_dir that is not the published one is used, with a word on stderr.
    """
    name = str(name)
    if name not in BENCHMARKS:
        if name.endswith(".jsonl") or os.path.exists(name):
            return read_jsonl(name)
        known = [*GENERATED, *BENCHMARKS]
        near = "".join(f"; nearest is {one!r}" for one in difflib.get_close_matches(name.lower(), known, 1))
        raise UserError(f"no data {name!r}{near} (known: {', '.join(known)}, a .jsonl)")
    count, url = BENCHMARKS[name]["rows"], addresses(name)[0]
    if data_dir:
        rows = read_jsonl(pathlib.Path(data_dir) / f"{name}.jsonl")
        if not published(name, rows):
            print(f"{data_dir}/{name}.jsonl is not the published {name} ({count} rows)", file=sys.stderr)
        return rows
    path = pathlib.Path(os.path.expanduser(os.environ.get("REMA_DATA") or "~/.cache/rema")) / f"{name}.jsonl"
    if path.is_file() and published(name, rows := read_jsonl(path)):
        return rows
    rows = tiny133(load("math-train")) if name == "math-tiny133" else fetch(name)
    if not published(name, rows):
        raise UserError(f"{name}: the {len(rows)} rows from {url} are not the {count} published ones; try "
                        f"again, or put a {name}.jsonl into --data-dir")
    atomic_write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return read_jsonl(path)


def published(name, rows):
    return len(rows) == BENCHMARKS[name]["rows"] and fingerprint(name, rows) == BENCHMARKS[name]["sha256"]


def fingerprint(name, rows):
    """sha256 of the lines json.dumps([problem, answer]); judges: [question, response_a, response_b, answer].

    In order; but sorted for RewardBench, whose order is ours, and MATH's training set: copies differ in it.
    """
    fields = [[*(JUDGE if row.get("judge") else ["problem"]), "answer"] for row in rows]
    lines = [json.dumps([str(row.get(key)).strip() for key in keys]) for row, keys in zip(rows, fields)]
    lines = sorted(lines) if name.startswith(("rewardbench", "math-t")) else lines
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


# ------------------------------------------------------------------------------------------------------------
# What --data names

def load_data(name, split, count, data_dir=None):
    """Rows {"id", "problem", "answer", ...} of generated problems, a benchmark, or a JSON-lines file.

    Generated problems have disjoint splits "train" and "heldout"; a file is used as it is. count None: all
    rows (for generated ones 1,000). Raises UserError for a name that is not known and for a malformed file.
    """
    if name in GENERATED:
        try:
            return arithmetic.generate(count or 1000, seed=0, split=split, kind=name)
        except ValueError as error:
            raise UserError(f"--data {name}: {error}") from None
    return load(name, data_dir)[:count]


def split_data(args):
    """-> (training, held-out rows): generated splits, two files, or a shuffled tenth of one file held out."""
    rows = load_data(args.data, "train", 2000 if args.data in GENERATED else None, args.data_dir)
    if args.eval_data or args.data in GENERATED:
        held = load_data(args.eval_data or args.data, "heldout", args.eval_questions, args.data_dir)
    else:
        random.Random("held out").shuffle(rows)
        tenth = max(1, len(rows) // 10)
        rows, held = rows[tenth:], rows[:tenth][:args.eval_questions]
    if len({bool(row.get("judge")) for row in rows + held}) > 1:
        raise UserError("training and held-out problems must all be judge tasks, or none of them")
    return rows, held


# ------------------------------------------------------------------------------------------------------------
# Reading

def read_conversations(path):
    """The message lists of a file for --sft. UserError: one is malformed, or there is nothing to learn."""
    found = [row["messages"] for row in read_jsonl(path, ("messages",))]
    for number, messages in enumerate(found, 1):
        good = isinstance(messages, list) and all(isinstance(one, dict) and isinstance(one.get("role"), str)
                                                  and isinstance(one.get("content"), str) for one in messages)
        roles = [one["role"] for one in messages] if good else []
        known = {"system", "user", "assistant"}
        if set(roles) - known or "assistant" not in roles[1:] or roles[0] == "assistant":
            raise UserError(f"{path}, conversation {number}: messages must be a list of role (system, user, "
                            "assistant) and content (text); the assistant speaks in it, but not first")
    return found


def read_jsonl(path, required=("problem", "answer")):
    """The rows of a JSON-lines file (UTF-8, an object a line, blank lines allowed): a list of dicts.

    Problem and answer have to be text; a number as an answer becomes text (27.0 is "27"). A row of question,
    response_a, response_b becomes a judge row, one without an id gets FILE-LINE. UserError: file and line.
    """
    path, rows = pathlib.Path(path), []
    with naming(path, "read"):
        lines = path.read_bytes().splitlines()          # of bytes: those of a text also end at U+2028
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                rows.append(check(json_object(line.decode("utf-8-sig")), required, f"{path.stem}-{number}"))
            except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
                raise UserError(f"{path}, line {number}: malformed JSON ({error})") from None
            except ValueError as error:
                raise UserError(f"{path}, line {number}: {error}") from None
    if not rows:
        raise UserError(f"{path}: empty; one JSON object a line is needed")
    return rows


def check(row, required, default_id):
    """The row in the house's form. ValueError says what is wrong with it."""
    if "problem" not in row and all(isinstance(row.get(key), str) for key in JUDGE):
        if row.get("answer") not in ("A", "B"):
            raise ValueError(f"the answer to a judge task is 'A' or 'B', not {row.get('answer')!r}")
        row |= {"problem": judge_text(row), "judge": True}
    for field in required:
        if field not in row:
            raise ValueError(f"no {field!r} (only {', '.join(map(repr, row))})")
    if type(row.get("answer")) in (int, float):
        row["answer"] = number_text(row["answer"])
    for field in ("problem", "answer"):
        if field in row and not (isinstance(row[field], str) and row[field].strip()):
            raise ValueError(f"{field!r} is {row[field]!r}, not text")
    return {**row, "id": str(default_id if row.get("id") is None else row["id"])}


def number_text(number):
    return str(int(number) if number // 1 == number else number)


def judge_text(row):
    """What a judge is asked; the verdict is [A] or [B]."""
    responses = "".join(f"[Response {name}]\n{row[f'response_{name.lower()}']}\n[End of response {name}]\n\n"
                        for name in "AB")
    return f"Question:\n{row['question']}\n\n{responses}Which response is better, [A] or [B]?"


# ------------------------------------------------------------------------------------------------------------
# Fetching

def addresses(name):
    return [address.format(**HOSTS) for address in BENCHMARKS[name]["addresses"]]


def fetch(name):
    """A benchmark's rows from upstream. UserError: no network, or a file that is not in the known format."""
    rows, number = [], 0
    for url in addresses(name):
        try:
            for row in upstream(url, name):
                rows += convert(name, number, row)
                number += 1
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError) as error:
            raise UserError(f"{url}: damaged or in a new format (row {number}: {error!r}); try again, or put "
                            f"a {name}.jsonl into --data-dir") from None
    if name == "math-train":
        rows.sort(key=lambda row: row["id"])
    if name.startswith("rewardbench"):                  # mixed well: --limit takes from every subset
        rows.sort(key=lambda row: short_hash(row["id"]))
    return rows


def upstream(url, name):
    """The rows at `url`: JSON lines, one JSON list, or pages of the hub's rows service (100 rows at most)."""
    def get(url):
        with open_url(url, url) as reply:
            return read_some(reply, 2 ** 28).decode().strip()

    if "/rows?" not in url:
        return json.loads(get(url)) if url.endswith(".json") else map(json.loads, get(url).split("\n"))
    found, total = [], 1
    with tqdm(desc=name, unit=" rows") as bar:
        while len(found) < total:
            page = json.loads(get(f"{url}&offset={len(found)}&length=100"))
            if not page["rows"] or any(entry["truncated_cells"] for entry in page["rows"]):
                raise ValueError("rows are missing or cut")
            found += [entry["row"] for entry in page["rows"]]
            bar.total = total = page["num_rows_total"]
            bar.update(len(page["rows"]))
    return found


def convert(name, number, row):
    """Row `number` of an upstream in the house's form: a list of one row, for RewardBench of two."""
    if name.startswith("rewardbench"):
        pair, good, bad = f"{row['subset']}/{row['id']}", row["chosen"], row["rejected"]
        if (pair in SPLITS["rewardbench970"]) != (name == "rewardbench970"):
            return []
        return [judge_row(f"{pair}/{answer}", row["prompt"], a, b, answer, row["subset"])
                for answer, a, b in (("A", good, bad), ("B", bad, good))]
    if name == "judgebench":
        return [judge_row(row["pair_id"], row["question"], row["response_A"], row["response_B"],
                          {"A>B": "A", "B>A": "B"}[row["label"]], row["source"])]

    problem = (row["problem"] if "problem" in row else row["question"]).strip()
    identity, solution = row.get("unique_id") or f"{name}-{number}", row.get("solution", "")
    if name.startswith("gsm8k"):
        identity, solution = f"gsm8k-{'train' if name.endswith('train') else 'test'}-{number}", row["answer"]
        answer = solution.split("####")[1].replace(",", "")
    elif name in ("aime24", "amc23"):
        contest, place = re.search(r"/(\w+)_Problems/Problem_(\d+)$", row["url"]).groups()
        identity, answer = f"{contest}_P{place}", number_text(float(row["answer"]))
    elif name == "olympiadbench":
        identity, answer, solution = f"{name}-{row['id']}", row["final_answer"][0], "\n".join(row["solution"])
    elif name == "math-lv35":
        identity, answer = f"lv35-{number}", row["gt_answer"]
        answer = {"lv35-3380": "9", "lv35-7997": "2"}.get(identity, answer)     # there None: boxes without {}
    else:
        answer = boxed(solution) if name in ("math-train", "minerva") else row["answer"]
    if name.startswith("math-") and not answer:
        answer = "0"                    # two proofs that a number of primes is 0 end in an empty \boxed{}
    if name == "gaokao2023en":
        answer = answer.replace("solution:", "")
        if not answer:                  # two problems have it glued to their end
            problem, answer = re.fullmatch(r"(.*?)(?:answers|Answer): (.*)", problem, re.DOTALL).groups()
    answer = re.sub(r"(?<!\\)\$", "", str(answer)).strip().rstrip(".,").strip()
    level = re.search(r"\d", str(row.get("level")))            # 5, "Level 5" or "Level ?"
    found = {"id": identity, "problem": problem, "answer": answer, "level": int(level[0]) if level else None,
             "subject": row.get("subfield") or row.get("subject") or row.get("type"), "solution": solution}
    return [{key: value for key, value in found.items() if value}]


def judge_row(identity, question, response_a, response_b, answer, subset):
    section = next((name for name, starts in SECTIONS.items() if subset.startswith(starts)), "other")
    return {"id": identity, "question": question, "response_a": response_a, "response_b": response_b,
            "answer": answer, "subset": subset, "category": section, "judge": True}


def boxed(solution):
    r"""What stands in the last \boxed{...} (or \boxed x) of a solution: the answer, in MATH and Minerva."""
    rest = solution.rpartition("\\boxed")[2]
    braces = regex.match(r"\{((?:[^{}]|\{(?1)\})*)\}", rest)         # (?1): the group again, inside itself
    return braces[1] if braces else re.match(r" ?([^\s$.{]+)", rest)[1]


def tiny133(rows):
    """The 133 problems of math-train, found by the sha256 of their text."""
    known = {short_hash(row["problem"]): row for row in rows}
    return [{**known[key], "id": name} for name, key in SPLITS["math-tiny133"].items() if key in known]


def short_hash(text):
    return hashlib.sha256(text.encode()).hexdigest()[:8]
