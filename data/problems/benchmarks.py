r"""Benchmarks and training sets, fetched once from where their authors keep them, and checked.

    load("math500")                 fetched into REMA_DATA (default ~/.cache/rema), later read from there
    load("math500", "some/dir")     some/dir/math500.jsonl: for a machine without a network
    load("mine.jsonl")              your own problems, a line each: {"problem": "...", "answer": "..."}

None of the texts is part of this project. What is: where they come from, how many rows they have and their
sha256 (benchmarks.json), and how each upstream's format becomes {"id", "problem", "answer", ...}: a figure for
"math500" means the same 500 problems for everybody. Gold answers lose dollar signs and a full stop at the end;
the few that are missing or malformed upstream are mended below.

splits.json lists the 485 pairs of RewardBench that are held out (both ways round: rewardbench970; all others,
both ways round: rewardbench5k), and the 133 training problems of math-tiny133, each with 8 digits of its text's
sha256: some copies of MATH have no ids. benchmarks.json also has "mended", answers that upstream are None since
their boxes have no braces, and "sections": how the name of a judge task's subset begins, and its section; the
first that fits counts (mt-bench-hard is no mt-bench).
"""
import difflib
import hashlib
import json
import operator
import os
import pathlib
import re
import sys

import regex                # comes with tiktoken

from data import UserError
from data.formats.files import atomic_write, read_json
from data.formats.hub import NAMES, open_url, read_some
from data.problems.generate import KINDS
from data.problems.reading import JUDGE, number_text, read_jsonl
from data.views.bars import open_bar

HERE = pathlib.Path(__file__).parent
TABLES = read_json(HERE / "benchmarks.json")
BENCHMARKS = TABLES["benchmarks"]       # name: {"rows", "sha256" (see `fingerprint`), "addresses" at HOSTS}
SPLITS = read_json(HERE / "splits.json")
HUB = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
HOSTS = {"github": "https://raw.githubusercontent.com", "rows": "https://datasets-server.huggingface.co",
         "hub": HUB.rstrip("/") + "/datasets"}


def load(name, data_dir=None) -> list:
    """The rows of a benchmark or a JSON-lines file: dicts with at least "id", "problem", "answer".

    name: a key of BENCHMARKS or a path; data_dir: where NAME.jsonl lies, if nothing is to be fetched.
    UserError: an unknown name (names a near one), no network, fetched rows that are not the published ones,
    all of read_jsonl's. A file in data_dir that is not the published one is used, with a word on stderr.
    """
    name = str(name)
    if name not in BENCHMARKS:
        return load_file(name)
    if data_dir:
        rows = read_jsonl(pathlib.Path(data_dir) / f"{name}.jsonl")
        if not published(name, rows):
            print(f"{data_dir}/{name}.jsonl is not the published {name} ({BENCHMARKS[name]['rows']} rows)",
                  file=sys.stderr)
        return rows

    cache = os.environ.get("REMA_DATA") or "~/.cache/rema"
    path = pathlib.Path(cache).expanduser() / f"{name}.jsonl"
    if path.is_file():
        rows = read_jsonl(path)
        if published(name, rows):
            return rows
    rows = fetch(name)
    if not published(name, rows):
        raise UserError(f"{name}: the {len(rows)} rows that were fetched are not the {BENCHMARKS[name]['rows']} "
                        f"published ones; try again, or put a {name}.jsonl into --data-dir")
    atomic_write(path, "".join([json.dumps(row, ensure_ascii=False) + "\n" for row in rows]))
    return read_jsonl(path)


OF_THE_HUB = {"openai/gsm8k": "gsm8k", "gsm8k-test": "gsm8k", "huggingfaceh4/math-500": "math500",
              "hendrycks/competition_math": "math-train", "eleutherai/hendrycks_math": "math-train",
              "allenai/reward-bench": "rewardbench970", "scalerlab/judgebench": "judgebench",
              "huggingfaceh4/aime_2024": "aime24", "maxwell-jia/aime_2024": "aime24", "math-ai/amc23": "amc23",
              "math-ai/minervamath": "minerva"}


def load_file(name):
    """A file of one's own. UserError with the nearest name if there is none: perhaps it is misspelt."""
    if name.endswith(".jsonl") or os.path.exists(name):
        return read_jsonl(name)
    known = [*KINDS, *BENCHMARKS]
    if name.lower() in OF_THE_HUB:
        nearest = OF_THE_HUB[name.lower()]
    else:
        nearest = difflib.get_close_matches(name.lower().split("/")[-1], known, 1, cutoff=0)[0]
    advice = repr(nearest)
    if nearest + "-train" in known:
        advice += f", to train on '{nearest}-train'"
    what = f"no data {name!r}"
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        what = f"{name!r} is no file, and data sets of the hub are not read by their names there"
    raise UserError(f"{what}; nearest is {advice} (known: {', '.join(known)}, a .jsonl)")


def published(name, rows):
    """Are these the rows that everybody's figures are about?"""
    return fingerprint(name, rows) == BENCHMARKS[name]["sha256"]


def fingerprint(name, rows):
    """sha256 of the lines json.dumps([problem, answer]); judges: [question, response_a, response_b, answer].

    In order; but sorted for RewardBench, whose order is ours, and MATH's training set: copies differ in it.
    """
    lines = []
    for row in rows:
        fields = [*JUDGE, "answer"] if row.get("judge") else ["problem", "answer"]
        lines.append(json.dumps([str(row.get(field)).strip() for field in fields]))
    if name.startswith(("rewardbench", "math-t")):
        lines.sort()
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def paper_figures(model: str, benchmark: str) -> dict:
    """{process: greedy pass@1 in the paper, percent} (tables 1 and 2); model: its short name or the hub's."""
    for name, figures in TABLES["paper"].items():
        if model in (name, NAMES[name]):
            return figures.get(benchmark, {})
    return {}


# ------------------------------------------------------------------------------------------------------------
# Fetching

def fetch(name):
    """A benchmark's rows from upstream. UserError: no network, or a file that is not in the known format."""
    if name == "math-tiny133":
        return choose_tiny133(load("math-train"))
    rows = []
    number = 0                                           # of the row, over all files
    for address in BENCHMARKS[name]["addresses"]:
        url = address.format(**HOSTS)
        try:
            with open_bar(f"fetching {name}", None, "row") as bar:
                for row in download_rows(url):
                    rows += convert(name, number, row)
                    number += 1
                    bar.update()
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise UserError(f"{url}: damaged or in a new format (row {number}: {error!r}); try again, or put "
                            f"a {name}.jsonl into --data-dir") from None
    if name == "math-train":
        rows.sort(key=operator.itemgetter("id"))
    if name.startswith("rewardbench"):                   # mixed well: --limit takes from every subset
        rows.sort(key=hash_of_id)
    return rows


def download_rows(url):
    """The rows at `url`: JSON lines, one JSON list, or pages of the hub's rows service."""
    if "/rows?" in url:
        yield from download_pages(url)
    elif url.endswith(".json"):
        yield from json.loads(download_text(url))
    else:
        for line in download_text(url).split("\n"):
            yield json.loads(line)


def download_pages(url):
    """What the rows service has, 100 rows at a time. ValueError: it leaves something out."""
    count = 0
    total = 1                                            # until the first page says it
    while count < total:
        page = json.loads(download_text(f"{url}&offset={count}&length=100"))
        if not page["rows"] or any(entry["truncated_cells"] for entry in page["rows"]):
            raise ValueError("rows are missing or cut")
        for entry in page["rows"]:
            yield entry["row"]
        count += len(page["rows"])
        total = page["num_rows_total"]


def download_text(url):
    with open_url(url, url) as reply:
        return read_some(reply, 2 ** 28).decode().strip()


def choose_tiny133(rows):
    """The 133 problems of math-train, found by the sha256 of their text."""
    by_hash = {short_hash(row["problem"]): row for row in rows}
    return [{**by_hash[digits], "id": name} for name, digits in SPLITS["math-tiny133"].items()]


def hash_of_id(row):
    return short_hash(row["id"])


def short_hash(text):
    return hashlib.sha256(text.encode()).hexdigest()[:8]


# ------------------------------------------------------------------------------------------------------------
# Converting

def convert(name, number, row):
    """Row `number` of an upstream in the house's form: a list of one row, of RewardBench two or none."""
    if name.startswith("rewardbench"):                   # a pair, once with the better response first
        pair = f"{row['subset']}/{row['id']}"
        if (pair in SPLITS["rewardbench970"]) != (name == "rewardbench970"):
            return []
        return [judge_row(pair + "/A", row["prompt"], row["chosen"], row["rejected"], "A", row["subset"]),
                judge_row(pair + "/B", row["prompt"], row["rejected"], row["chosen"], "B", row["subset"])]
    if name == "judgebench":                             # label "A>B": A is better
        return [judge_row(row["pair_id"], row["question"], row["response_A"], row["response_B"],
                          row["label"][0], row["source"])]
    return [convert_problem(name, number, row)]


def judge_row(identity, question, response_a, response_b, answer, subset):
    category = "other"
    for beginning, section in TABLES["sections"].items():
        if subset.startswith(beginning):
            category = section
            break
    return {"id": identity, "question": question, "response_a": response_a, "response_b": response_b,
            "answer": answer, "subset": subset, "category": category, "judge": True}


def convert_problem(name, number, row):
    """A problem of mathematics: each upstream has its own names for what we need, and its own slips."""
    identity = row.get("unique_id") or f"{name}-{number}"
    problem = row.get("problem", row.get("question")).strip()
    solution = row.get("solution", "")
    if name.startswith("gsm8k"):
        if name == "gsm8k":
            identity = f"gsm8k-test-{number}"
        solution = row["answer"]
        answer = solution.split("####")[1].replace(",", "")
    elif name in ("aime24", "amc23"):
        contest, place = re.search(r"/(\w+)_Problems/Problem_(\d+)$", row["url"]).groups()
        identity = f"{contest}_P{place}"
        answer = number_text(float(row["answer"]))
    elif name == "olympiadbench":
        identity = f"{name}-{row['id']}"
        solution = "\n".join(row["solution"])
        answer = row["final_answer"][0]
    elif name == "math-lv35":
        identity = f"lv35-{number}"
        answer = TABLES["mended"].get(identity, row["gt_answer"])
    elif name in ("math-train", "minerva"):
        answer = boxed(solution)
    else:
        answer = row["answer"]

    if name.startswith("math-") and not answer:
        answer = "0"                    # two proofs that a number of primes is 0 end in an empty \boxed{}
    if name == "gaokao2023en":
        answer = answer.replace("solution:", "")
        if not answer:                  # two problems have it glued to their end
            problem, answer = re.fullmatch(r"(.*?)(?:answers|Answer): (.*)", problem, re.DOTALL).groups()
    answer = re.sub(r"(?<!\\)\$", "", str(answer)).strip().rstrip(".,").strip()

    found = {"id": identity, "problem": problem, "answer": answer}
    level = re.search(r"\d", str(row.get("level")))      # 5, "Level 5" or "Level ?"
    if level:
        found["level"] = int(level[0])
    for key in ("type", "subject", "subfield"):          # the later, the finer
        if row.get(key):
            found["subject"] = row[key]
    if solution:
        found["solution"] = solution
    return found


def boxed(solution):
    r"""What stands in the last \boxed{...} (or \boxed x) of a solution: the answer, in MATH and Minerva."""
    rest = solution.rpartition("\\boxed")[2]
    braces = regex.match(r"\{((?:[^{}]|\{(?1)\})*)\}", rest)         # (?1): the group again, inside itself
    if braces:
        return braces[1]
    return re.match(r" ?([^\s$.{]+)", rest)[1]
