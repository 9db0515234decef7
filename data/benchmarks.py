r"""Benchmarks and training sets: JSON lines, fetched once from where their authors keep them, and checked.

    load("math500")                 fetched into REMA_DATA (default ~/.cache/rema), later read from there
    load("math500", "some/dir")     some/dir/math500.jsonl: for a machine without a network
    load("mine.jsonl")              your own problems, a line each: {"problem": "...", "answer": "..."}

None of the texts is part of this project. What is: where they come from, how each upstream's format becomes
{"id", "problem", "answer", ...}, how many rows that makes and their sha256: a figure for "math500" means the
same 500 problems for everybody. Gold answers lose dollar signs and a full stop at the end; the few that are
missing or malformed upstream are mended in `convert`.

Judge tasks (which of two responses is better?) look like any other row: `problem` holds the question and both
responses, `answer` is "A" or "B", `judge` is True. data/splits.json lists the 485 pairs of RewardBench
that are held out (both ways round: rewardbench970; all others, both ways round: rewardbench5k), and the 133
training problems of math-tiny133, each with 8 digits of its text's sha256: some copies of MATH have no ids.
"""
import difflib
import functools
import hashlib
import json
import os
import pathlib
import random
import re
import sys

import regex                # comes with tiktoken
from tqdm import tqdm

from data import UserError, arithmetic
from data.checkpoint import atomic_write, json_object, naming, open_url, read_json, read_some

HOSTS = {"github": "https://raw.githubusercontent.com", "rows": "https://datasets-server.huggingface.co",
         "hub": (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/") + "/datasets"}
QWEN = "{github}/QwenLM/Qwen2.5-Math/main/evaluation/data/{name}/test.jsonl"      # of the benchmark
MATH = "{github}/QwenLM/Qwen2.5-Math/main/evaluation/data/math/train.jsonl"
JUDGEBENCH = "{github}/ScalerLab/JudgeBench/main/data/dataset=judgebench,response_model="
REWARD = "{rows}/rows?dataset=allenai/reward-bench&config=default&split=filtered"
# name: rows, sha256 (see `fingerprint`), addresses: {host} is one of HOSTS, {name} the benchmark
BENCHMARKS = {
    "math500": (500, "8a5df26f1ccd58c9d5473807b031f81655ca2404b5f8733747d6c961a57c7605",
      ["{hub}/HuggingFaceH4/MATH-500/resolve/main/test.jsonl"]),
    "gsm8k": (1319, "127acd14551bfca9222ca04bed738d496ab7189e4e81e167b3053c225dc961e0",
      ["{github}/openai/grade-school-math/master/grade_school_math/data/test.jsonl"]),
    "aime24": (30, "e79ec57a38631062b725f0f71ff001e0da223915368e18fac439133ef829db01", [QWEN]),
    "amc23": (40, "7a2f036440d4456148fafaad534b6dbf866206553d2aa94fbe34eea8c35f6f4e", [QWEN]),
    "gaokao2023en": (385, "9e36b4dbc876f616ef0f2e017053e838a5b0cee79f1f41cd4733fb708a114312", [QWEN]),
    "minerva": (272, "370dcde4fee34399f73f0e9366b836a316036fac1cc1d6805d20cdea9db24701",
      [QWEN.replace("{name}", "minerva_math")]),
    "olympiadbench": (675, "d99f6c089864a36a0bfe94234fe5bcc6a4abbe21da1c875a8886f281537850a0", [QWEN]),
    "rewardbench970": (970, "f28c72b5dd64792c07c128e30d1fa15d471cbcf19796d03ee8ec23539a60b9bc", [REWARD]),
    "judgebench": (620, "e91ec9f09f856da1168743c322d71695ee62172f3faf7cad774f9667071244d8",
      [f"{JUDGEBENCH}gpt-4o-2024-05-13.jsonl", f"{JUDGEBENCH}claude-3-5-sonnet-20240620.jsonl"]),
    "gsm8k-train": (7473, "f7298e0a97bd89363dd8d004b6c910f57414fe68a3414e4a02be5d79c9334723",
      ["{github}/openai/grade-school-math/master/grade_school_math/data/train.jsonl"]),
    "math-train": (7500, "a25233d3e457fc1634e5588481cb5c91fed9041a33cd8b8e056c5ef0bef826db", [MATH]),
    "math-lv35": (8523, "849a2722d81ae8681e53a9e58502ad76c3fb14d7171acb8f9be41909f2422dc5",
    ["{github}/hkust-nlp/simpleRL-reason/v0/train/data/math_level3to5_data_processed_with_qwen_prompt.json"]),
    "math-tiny133": (133, "a46e5ed5c9779f149fff7487dd25d3aab58ff3fb1bf9a8f442eb6bd2fb77d197", [MATH]),
    "rewardbench5k": (5000, "9b37f67e924daae65a1302dd3b9693ffe568f04d9738ca66525372965f979f14", [REWARD])}

# Greedy pass@1 in the paper (tables 1 and 2), percent, by model and benchmark
PAPER = {(model, name): dict(zip(("VRP", "VRP + RL", "MRP + RL", "ReMA"), numbers)) for model, rows in {
    "llama3-8b": {"math500": (30.80, 33.40, 32.80, 33.80), "gsm8k": (67.48, 81.80, 79.68, 79.38),
                  "aime24": (0.00, 0.00, 3.33, 0.00), "amc23": (2.50, 10.00, 12.50, 22.50),
                  "gaokao2023en": (22.34, 27.53, 23.38, 28.57), "minerva": (8.82, 16.54, 18.01, 13.97),
                  "olympiadbench": (8.44, 8.89, 9.33, 8.89)},
    "llama-8b": {"math500": (50.80, 50.20, 48.60, 53.20), "gsm8k": (86.05, 84.53, 85.37, 87.26),
                 "rewardbench970": (69.48, 82.89, 81.13, 83.71), "judgebench": (51.29, 51.94, 52.90, 52.90)},
    "qwen-7b": {"math500": (75.00, 77.20, 76.40, 74.40), "gsm8k": (92.04, 91.36, 91.81, 90.60),
                "rewardbench970": (78.56, 85.36, 86.49, 83.51), "judgebench": (58.39, 56.94, 58.39, 56.94)},
}.items() for name, numbers in rows.items()}
JUDGE = ("question", "response_a", "response_b")
# section: how the names of its subsets begin; the first that fits counts (mt-bench-hard is no mt-bench)
SECTIONS = {"Chat Hard": ("mt-bench-hard", "llmbar"), "Chat": ("alpacaeval", "mt-bench"), "knowledge": "mmlu",
            "Safety": ("refusals", "xstest", "donotanswer"), "Reasoning": ("hep", "math-prm"),
            "coding": "livecodebench", "math": "livebench-math", "reasoning": "livebench-reasoning"}
GENERATED = ("arithmetic", "words")


def load(name, data_dir=None):
    """The rows of a benchmark or a JSON-lines file: dicts with at least "id", "problem", "answer".

    name: a key of BENCHMARKS or a path; data_dir: where NAME.jsonl lies, if nothing is to be fetched.
    UserError: an unknown name (names the nearest), no network, fetched rows that are not the published ones,
    all of read_jsonl's. A file in data_dir that is not the published one is used, with a word on stderr.
    """
    name = str(name)
    if name not in BENCHMARKS:
        if name.endswith(".jsonl") or os.path.exists(name):
            return read_jsonl(name)
        known = [*GENERATED, *BENCHMARKS]
        nearest = difflib.get_close_matches(name.lower(), known, 1, cutoff=0)[0]
        raise UserError(f"no data {name!r}; nearest is {nearest!r} (known: {', '.join(known)}, a .jsonl)")
    count, url = BENCHMARKS[name][0], addresses(name)[0]
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
    return (len(rows), fingerprint(name, rows)) == BENCHMARKS[name][:2]


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
        return rows, load_data(args.eval_data or args.data, "heldout", args.eval_questions, args.data_dir)
    random.Random("held out").shuffle(rows)
    tenth = max(1, len(rows) // 10)
    return rows[tenth:], rows[:tenth][:args.eval_questions]


# ------------------------------------------------------------------------------------------------------------
# Reading

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
    return [address.format(name=name, **HOSTS) for address in BENCHMARKS[name][2]]


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
        if (pair in splits()["rewardbench970"]) != (name == "rewardbench970"):
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


@functools.cache
def splits():
    return read_json(pathlib.Path(__file__).parent / "splits.json")


def tiny133(rows):
    """The 133 problems of math-train, found by the sha256 of their text."""
    known = {short_hash(row["problem"]): row for row in rows}
    return [{**known[key], "id": name} for name, key in splits()["math-tiny133"].items() if key in known]


def short_hash(text):
    return hashlib.sha256(text.encode()).hexdigest()[:8]
