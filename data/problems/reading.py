"""JSON lines: problems, judge tasks and conversations, one object a line.

    {"problem": "What is 1+1?", "answer": "2"}
    {"question": "...", "response_a": "...", "response_b": "...", "answer": "A"}
    {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}

A judge task (which of two responses is better?) becomes a row like any other: `problem` holds the question and
both responses, `answer` is "A" or "B", `judge` is True.
"""
import json
import math
import pathlib
import re

from data import UserError
from data.formats.files import json_object, naming

JUDGE = ("question", "response_a", "response_b")


def read_jsonl(path, required=("problem", "answer")) -> list[dict]:
    """The rows of a file (UTF-8, blank lines allowed), each as `check` leaves it.

    A row without an id gets FILE-LINE. UserError, with file and line: no JSON object, or not a row as above.
    """
    path = pathlib.Path(path)
    with naming(path):
        content = path.read_bytes()
    refuse_other_formats(path, content)
    lines = content.splitlines()                         # of bytes: those of a text also end at U+2028
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json_object(line.decode("utf-8-sig"), constant=refuse_constant)
            rows.append(check(row, required, f"{path.stem}-{number}"))
        except UnicodeDecodeError:
            raise UserError(f"{path}, line {number}: this is not UTF-8; save the file in that encoding") from None
        except (json.JSONDecodeError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: malformed JSON ({error})") from None
        except ValueError as error:
            if "integer string conversion" in str(error):
                error = "a number of thousands of digits; put it in quotes"
            raise UserError(f"{path}, line {number}: {error}") from None
    if not rows:
        raise UserError(f"{path}: empty; one JSON object a line is needed")
    return rows


def check(row, required, default_id):
    """The row with an id, text as its problem and answer (27.0 is "27"), and `judge` if it is a judge task.

    ValueError says what is wrong with it.
    """
    row.pop("judge", None)               # what others call so means something else
    if "problem" not in row and all(isinstance(row.get(field), str) for field in JUDGE):
        if row.get("answer") not in ("A", "B"):
            raise ValueError(f"the answer to a judge task is 'A' or 'B', not {row.get('answer')!r}")
        row.update(problem=judge_text(row), judge=True)
    for field in required:
        if field not in row:
            raise ValueError(f"no {field!r} (only {list(row)}){advise_name(field, row)}")
    if type(row.get("answer")) in (int, float):          # a bool is no number here
        if not math.isfinite(row["answer"]):
            raise ValueError(f"'answer' is {row['answer']}, no finite number")
        row["answer"] = number_text(row["answer"])
    for field in ("problem", "answer"):
        if field in row and not (isinstance(row[field], str) and row[field].strip()):
            raise ValueError(f"{field!r} is {row[field]!r}, not text")
    if row.get("id") is None:
        row["id"] = default_id
    return {**row, "id": str(row["id"])}


def refuse_constant(name: str):
    raise ValueError(f"{name} is no JSON and no answer")


def mend_gold(answer: str) -> str | None:
    r"""What was perhaps meant by a gold answer: what stands behind ####, in its last \boxed{}, or its last number."""
    for pattern in (r"####\s*(.*\S)", r"\\boxed\s*\{([^{}]*)\}", r"(-?\d[\d,]*(?:\.\d+)?)"):
        found = re.findall(pattern, answer)
        if found:
            return found[-1]
    return None


# What others call a field.
NAMES = {"problem": ("question", "prompt", "query", "input", "instruction", "problem_text"),
         "answer": ("solution", "final_answer", "gold", "target", "label", "output", "ground_truth", "expected_answer"),
         "messages": ("conversation", "conversations", "dialog", "chat")}
PACKED = {b"\x1f\x8b": "gunzip", b"PK\x03\x04": "unzip", b"BZh": "bunzip2", b"\xfd7zXZ": "unxz", b"\x28\xb5\x2f\xfd": "unzstd"}


def advise_name(field: str, row: dict) -> str:
    for name in NAMES.get(field, ()):
        if name in row:
            return f": rename {name!r} to {field!r}"
    return ""


def refuse_other_formats(path: pathlib.Path, content: bytes) -> None:
    """UserError, with what to do, for what people have instead of JSON lines."""
    for beginning, program in PACKED.items():
        if content.startswith(beginning):
            raise UserError(f"{path} is compressed: unpack it first ({program} {path})")
    if content.startswith((b"PAR1", b"ARROW1")):
        raise UserError(f"{path} is a Parquet or Arrow file: write it as JSON lines first, one object a line")
    start = content.lstrip(b"\xef\xbb\xbf \t\r\n")
    convert = "python -c \"import json, sys; {}\" " + f"{path} > {path.stem}.jsonl"
    if start.startswith(b"["):
        code = "[print(json.dumps(row)) for row in json.load(open(sys.argv[1]))]"
        raise UserError(f"{path} is one JSON list; one object a line is needed. This makes it: {convert.format(code)}")
    if path.suffix.lower() in (".csv", ".tsv") and not start.startswith(b"{"):
        tabs = ""
        if path.suffix.lower() == ".tsv":
            tabs = r", delimiter='\t'"
        code = ("import csv; [print(json.dumps(row)) for row in csv.DictReader(open(sys.argv[1], encoding='utf-8-sig')"
                f"{tabs})]")
        raise UserError(f"{path} is a table; JSON lines are needed, with the columns problem and answer as fields. "
                        f"This makes them: {convert.format(code)}")
    if start.startswith(b"{") and start.splitlines()[0].strip() == b"{":
        raise UserError(f"{path} has JSON over several lines; one object a line is needed, without line ends in it")


def problem_text(row: dict) -> str:
    """What makes a problem this one and no other: its text, however it is spaced."""
    return " ".join(row["problem"].split())


def number_text(number) -> str:
    """27.0 -> "27", 0.5 -> "0.5"."""
    if number // 1 == number:
        number = int(number)
    return str(number)


def judge_text(row: dict) -> str:
    """What a judge is asked; the verdict is [A] or [B]."""
    return (f"Question:\n{row['question']}\n\n"
            f"[Response A]\n{row['response_a']}\n[End of response A]\n\n"
            f"[Response B]\n{row['response_b']}\n[End of response B]\n\n"
            "Which response is better, [A] or [B]?")


def read_conversations(path) -> list:
    """The message lists of a file for --sft. UserError: one is malformed, or there is nothing to learn."""
    conversations = []
    for number, row in enumerate(read_jsonl(path, ("messages",)), 1):
        messages = row["messages"]
        if not is_conversation(messages):
            raise UserError(f"{path}, conversation {number}: messages must be a list of role (system, user, "
                            "assistant) and content (text); the assistant speaks in it, but not first")
        conversations.append(messages)
    return conversations


def is_conversation(messages):
    """A list of {"role", "content"} in which the assistant speaks, but not first."""
    if not isinstance(messages, list):
        return False
    roles = []
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            return False
        if message.get("role") not in ("system", "user", "assistant"):
            return False
        roles.append(message["role"])
    return "assistant" in roles[1:] and roles[0] != "assistant"
