"""A Hugging Face tokenizer directory, read with tiktoken: text to ids, ids to text, conversations to ids.

tokenizer.json describes a pipeline: normalise, cut into pieces by a regular expression, write the bytes of
a piece in a printable alphabet, merge neighbours by a list of merges. tiktoken is fast at it but knows no
list of merges: it joins any two neighbours that together are a token, lowest rank first. `_ranks` makes
that the same.

The ids are those of the `tokenizers` library (no special tokens added or parsed). Known differences: digits
that Unicode 17 added, and runs of over LONGEST_RUN characters of one kind, which are cut: tiktoken may
overflow its stack there, or take quadratic time.
"""
import json
import pathlib
import re
import unicodedata
from typing import NamedTuple

import regex                # comes with tiktoken
import tiktoken
from jinja2.sandbox import ImmutableSandboxedEnvironment        # comes with torch

from data import UserError

FILES = "tokenizer.json tokenizer_config.json generation_config.json config.json chat_template.jinja".split()
LONGEST_RUN = 4000
NEVER = 1 << 60

# GPT-2's alphabet for bytes: printable bytes are written as themselves, the others as characters from 256 on.
LETTER = {b: chr(b) for b in [*range(33, 127), *range(161, 173), *range(174, 256)]}
LETTER |= {b: chr(256 + i) for i, b in enumerate(sorted(set(range(256)) - LETTER.keys()))}
RAW = {ord(letter): chr(b) for b, letter in LETTER.items()}

# Combining marks younger than the Unicode tables with which `tokenizers` normalises: to it they are no marks.
YOUNG = re.compile("([" + re.sub("([0-9a-f]+)[ \n]?", lambda code: chr(int(code[1], 16)), """7fd 898-89f
8ca-8d3 9fe c3c d3b-d3c eba 1715 1abf-1ace 1df6-1dfa a82c 10d24-10d27 10eab-10eac 10f46-10f50 10f82-10f85
11070 1133b 1145e 11839-1183a 1193d-1193e 11943 119e0 11a34 11a47 11a99 11d42 11d44-11d45 11d97 16ff0-16ff1
1e130-1e136 1e2ae 1e2ec-1e2ef""") + "])")


# ---------------------------------------------------------------------------------------------------------
# Chat formats. A chat template is a program (in Jinja), which writes text. That is not enough here: a name
# like <|im_end|> in a question must remain text, and what was sampled must remain the ids that were sampled.
# So the formats are written down below, and a checkpoint has the one that writes what its template writes
# in every conversation of PROBES. Templates that trim, drop a newline, add a sentence or skip a message
# write something else and are refused; quotes, blanks, names of variables and branches for tools do not
# matter. The template is a stranger's: it runs in Jinja's sandbox, as in transformers, and only here.

CHATML = "<|im_start|>{role}\n{content}<|im_end|>\n"
LLAMA = "<|start_header_id|>{role}<|end_header_id|>\n\n{content}<|eot_id|>"
DATED = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n{content}"


class Format(NamedTuple):
    """How a family writes a conversation: a turn for each message, then the assistant's header."""
    name: str
    turn: str = CHATML              # <|...|> is one token
    first: str = CHATML             # the turn that opens the conversation
    system: str | None = None       # the system message of a conversation that brings none
    trim: bool = False              # blanks around the content are left out
    think: str = ""                 # an empty thought after the last header: Qwen 3 with thinking off
    forget: bool = False            # thoughts of earlier turns are left out: Qwen 3

    @property
    def head(self):
        """What stands before the assistant's answer."""
        return self.turn.split("{content}")[0].format(role="assistant") + self.think

    def turns(self, messages):
        """(role, content, turn or first) for every message that is written, defaults included."""
        said = [(message["role"], message["content"]) for message in messages]
        if said[0][0] != "system" and self.system is not None:
            said.insert(0, ("system", self.system))
        last_user = max((i for i, (role, _) in enumerate(said) if role == "user"), default=len(said))
        for i, (role, content) in enumerate(said):
            if role == "assistant" and self.forget and isinstance(content, str):
                # Qwen 3 shows thoughts after the last question only.
                # There the last turn always has a block for them.
                thought, think, content = content.rpartition("</think>")
                content = content.lstrip("\n") if think else content
                thought = thought.split("</think>")[0].split("<think>")[-1].strip("\n")
                if i > last_user and (thought or i == len(said) - 1):
                    content = f"<think>\n{thought}\n</think>\n\n" + content.lstrip("\n")
            yield role, content, self.turn if i else self.first

    def fill(self, role, content, turn):
        """The text of one turn, or of a part of it."""
        return turn.format(role=role, content=content.strip() if self.trim else content)

    def text(self, messages):
        """A conversation as text, up to where the assistant starts to speak."""
        return "".join(self.fill(*turn) for turn in self.turns(messages)) + self.head


FORMATS = (
    Format("ChatML"),
    Format("Qwen 2", system="You are a helpful assistant."),
    Format("Qwen 2.5", system="You are Qwen, created by Alibaba Cloud. You are a helpful assistant."),
    Format("SmolLM2", system="You are a helpful AI assistant named SmolLM, trained by Hugging Face"),
    Format("Qwen 3", think="<think>\n\n</think>\n\n"),                  # a template that keeps the thoughts
    Format("Qwen 3", think="<think>\n\n</think>\n\n", forget=True),
    Format("Llama 3", LLAMA, "<|begin_of_text|>" + LLAMA, trim=True),
    Format("Llama 3.1", LLAMA, "<|begin_of_text|>" + LLAMA.replace("{content}", DATED), trim=True, system=""))

# Blanks around everything, thoughts, no user at all, an assistant at the end: formats differ in odd places.
S, U, A, T = (("system", "\nRule %d. "), ("user", " \nWhat is %d? \n"), ("assistant", "\n\nIt is %d. \n"),
              ("assistant", "\n<think>\nhm\n</think>\n\n It is %d.\n"))
PROBES = [[{"role": role, "content": text % i} for i, (role, text) in enumerate(talk)] for talk in
          ([U], [S], [A], [S, U], [U, A], [U, T], [U, A, U, T, U], [S, U, T, A], [U, S, U])]


def _recognise(template, bos):
    """The Format of a chat template, None if there is none."""
    try:        # without the function strftime_now, Llama's templates write the date above
        program = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(template)
        texts = [program.render(messages=talk, bos_token=bos, tools=None, add_generation_prompt=True,
                                enable_thinking=False) for talk in PROBES]
    except Exception:       # whatever goes wrong in it: it is none of ours
        return None
    return next((form for form in FORMATS if [form.text(talk) for talk in PROBES] == texts), None)


# ---------------------------------------------------------------------------------------------------------
# Pieces and merges

def _pattern(steps):
    """The one regular expression that cuts text as the file's pre-tokenisers do one after the other."""
    words = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+|%s| ?[^\s\p{L}\p{N}]+%s|\s+(?!\S)|\s+"        # GPT-2's
    kinds = [(s["type"], s.get("use_regex", True), bool(s.get("add_prefix_space"))) for s in steps]
    if kinds == [("ByteLevel", True, False)]:
        return words % (r" ?\p{N}+", "")
    if kinds == [("Digits", True, False), ("ByteLevel", True, False)]:
        # Blanks before a digit are a piece of their own, whole: for ByteLevel the text ends there.
        return words % (r"\p{N}" if steps[0]["individual_digits"] else r"\p{N}+", r"|\s+(?=\p{N})")
    if kinds == [("Split", True, False), ("ByteLevel", False, False)]:
        pattern = steps[0]["pattern"].get("Regex") or regex.escape(steps[0]["pattern"]["String"])
        how = steps[0]["behavior"], steps[0]["invert"]
        if how == ("Removed", True):
            return pattern
        if how == ("Isolated", False):
            return rf"{pattern}|(?:(?!{pattern})[\s\S])+"       # what lies between the matches is a piece
    raise UserError(f"the pre-tokeniser {json.dumps(steps)[:200]} is not supported")


def _merge(letters, order):
    """Merge as `tokenizers` does, the earliest merge of the list first: (parts, number of the last merge)."""
    parts, last = list(letters), NEVER
    ranks = [order.get(pair, NEVER) for pair in zip(parts, parts[1:])]
    while ranks and (best := min(ranks)) < NEVER:
        i, last = ranks.index(best), best
        parts[i:i + 2] = [parts[i] + parts[i + 1]]
        near = slice(max(i - 1, 0), i + 2)              # only pairs with the new part have another rank now
        ranks[near] = [order.get(pair, NEVER) for pair in zip(parts[near], parts[near][1:])]
    return parts, last


def _ranks(words, order, whole):
    """The tokens that tiktoken may know, in order of rank, and whether it then does exactly as the list says.

    A token belongs if merging its own letters by the list gives it back; its rank is the last merge on that
    way: where two neighbours spell such a token, their letters were merged as they are in the token alone,
    so the list joins these two as well, and both programs see the same candidates in the same order. With
    `whole` (ignore_merges, Llama 3) a piece that is a token wins over its merges; tokens that merging does
    not give then come last, which is exact unless two neighbours that the list leaves apart would spell
    one.
    """
    merged = {word: _merge(word, order) for word in words}
    lost = {word: parts for word, (parts, _) in merged.items() if len(parts) > 1}
    ranked = sorted((last, word) for word, (_, last) in merged.items() if word not in lost and len(word) > 1)
    tokens = [LETTER[b] for b in range(256)] + [word for _, word in ranked]
    spelt = any(a + b in lost for parts in lost.values() for a, b in zip(parts, parts[1:]))
    return (tokens + list(lost), not spelt) if whole else (tokens, True)


# ---------------------------------------------------------------------------------------------------------

class Tokenizer:
    """Text to ids and back, and one checkpoint's chat format.

    vocab_size  the highest id + 1 (the model's embedding may have more rows: those ids decode to nothing)
    stop_ids    every id that ends a turn: generation_config, config and tokenizer_config together
    """

    @classmethod
    def load(cls, directory):
        """Read a Hugging Face directory; a UserError if it is missing, malformed or unsupported."""
        try:
            return cls(pathlib.Path(directory))
        except UserError as error:
            raise UserError(f"{directory}: {error}") from None
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError,
                regex.error) as why:
            raise UserError(f"{directory}: cannot read the tokenizer ({type(why).__name__}: {why})") from why

    def __init__(self, directory):
        self.files = {name: (directory / name).read_bytes() for name in FILES if (directory / name).is_file()}
        if "tokenizer.json" not in self.files:
            raise UserError("there is no tokenizer.json")
        file, config, generation, model = (json.loads(self.files.get(name, "{}")) for name in FILES[:4])
        added = file.get("added_tokens") or []
        self._named = file["model"]["vocab"] | {token["content"]: token["id"] for token in added}

        # End tokens and the chat format
        bos, eos = (token["content"] if isinstance(token, dict) else token      # an AddedToken, or a string
                    for token in (config.get("bos_token"), config.get("eos_token")))
        ends = [self.special_id(eos)] if eos else []
        for value in (generation.get("eos_token_id"), model.get("eos_token_id")):
            ends += value if isinstance(value, list) else [] if value is None else [value]
        if not all(type(end) is int for end in ends):
            raise UserError(f"an eos_token_id is not a token id: {ends}")
        self.stop_ids = set(ends)
        template = config.get("chat_template")
        if isinstance(template, list):                              # several templates, each with a name
            template = {entry["name"]: entry["template"] for entry in template}.get("default")
        if "chat_template.jinja" in self.files:                     # where transformers 5 keeps it
            template = self.files["chat_template.jinja"].decode()
        self._format = _recognise(template, bos) if template else None
        self._problem = ("its chat template is none of Llama 3 to 3.2, Qwen 2 to 3, SmolLM2 and plain ChatML"
                         if template else "it has no chat template (take an Instruct checkpoint)")

        # What ends or frames a turn is special, whatever the file says: text must not be able to hold it.
        frame = re.findall(r"<\|\w+\|>", self._format.first) if self._format else ()
        self.special = {token["content"]: token["id"] for token in added
                        if token["special"] or token["id"] in self.stop_ids or token["content"] in frame}
        plain = [token for token in added if token["content"] not in self.special]
        self.added = {token["content"]: token["id"] for token in plain}
        if any(token.get(key) for token in plain for key in ("lstrip", "rstrip", "single_word")):
            raise UserError("an added token that takes its neighbours along is not supported")
        self._read_model(file["model"], file.get("normalizer"), file.get("pre_tokenizer") or {"type": None})

    def _read_model(self, model, normalizer, steps):
        """Vocabulary and merges -> the tiktoken Encoding, and the bytes of every id."""
        if model.get("type") != "BPE" or any(model.get(key) for key in
                                             ("dropout", "continuing_subword_prefix", "end_of_word_suffix")):
            raise UserError(f"tokenizer.json is no byte-level BPE (model type {model.get('type')})")
        if normalizer not in (None, {"type": "NFC"}):
            raise UserError(f"the normaliser {json.dumps(normalizer)[:200]} is not supported")
        self._nfc, self._whole = normalizer is not None, bool(model.get("ignore_merges"))
        pattern = _pattern(steps["pretokenizers"] if steps["type"] == "Sequence" else [steps])

        letters = set(LETTER.values())
        self._words = {word: id for word, id in model["vocab"].items()
                       if word not in self.special and letters.issuperset(word)}
        self._missing = {b for b in range(256) if LETTER[b] not in self._words}
        if self._missing and model.get("byte_fallback"):
            raise UserError("tokens that stand for single bytes (byte_fallback) are not supported")
        pairs = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in model["merges"]]
        self._order = {(a, b): i for i, (a, b) in enumerate(pairs) if a + b not in self.special}
        for a, b in self._order:
            if not {a, b, a + b} <= self._words.keys():
                raise UserError(f"tokenizer.json merges {a!r} and {b!r}, which its vocabulary does not hold")
        tokens, self._exact = _ranks(self._words, self._order, self._whole)
        self._ids = [self._words.get(token) for token in tokens]                # rank -> id
        self._pieces = regex.compile(pattern)
        ranks = {token.translate(RAW).encode("latin-1"): rank for rank, token in enumerate(tokens)}
        self._encoding = tiktoken.Encoding("file", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})

        self._bytes = {id: word.encode() for word, id in self._named.items()}
        self._bytes.update((id, word.translate(RAW).encode("latin-1")) for word, id in self._words.items())
        self._bytes.update((id, b"") for id in self.special.values())
        self.vocab_size = max(self._bytes) + 1
        # Special tokens are found as well, so that the longest name wins as in `tokenizers`, but remain text.
        names = sorted(self.added | self.special, key=len, reverse=True)
        self._names = re.compile("|".join(map(re.escape, names)))

    # Text ---------------------------------------------------------------------------------------------------

    def encode(self, text):
        """Ids of ordinary text: never a special token, whatever it holds. Lone surrogates become U+FFFD.

        An added token that is not special (Qwen 3's <think>) is ordinary: its name in a text is its id.
        """
        text, ids, start = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"), [], 0
        for name in self._names.finditer(text) if self.added else ():
            if name[0] in self.added:
                ids += self._encode_plain(text[start:name.start()]) + [self.added[name[0]]]
                start = name.end()
        return ids + self._encode_plain(text[start:])

    def _encode_plain(self, text):
        """Ids of text without added tokens, cut where blanks, letters and digits or other signs run on."""
        if self._nfc and not text.isascii():
            text = "".join(unicodedata.normalize("NFC", part) for part in YOUNG.split(text))
        runs = (run.span() for run in re.finditer(r"\s+|[^\W_]+|(?:[^\w\s]|_)+", text))
        cuts = [0, *(cut for a, b in runs for cut in range(a + LONGEST_RUN, b, LONGEST_RUN)), len(text)]
        return [id for a, b in zip(cuts, cuts[1:]) for id in self._encode_chunk(text[a:b])]

    def _encode_chunk(self, text):
        if self._exact and self._missing.isdisjoint(text.encode()):
            return [self._ids[rank] for rank in self._encoding.encode_ordinary(text)]
        # A byte that is no token (SmolLM2 lacks 21): tiktoken panics, `tokenizers` drops it before it merges.
        ids = []
        for piece in self._pieces.finditer(text):
            word = "".join(LETTER[b] for b in piece.group().encode())
            known = [letter for letter in word if letter in self._words]
            whole = self._whole and word in self._words
            ids += [self._words[part] for part in ([word] if whole else _merge(known, self._order)[0])]
        return ids

    def decode(self, ids):
        """Text of ids: special and unknown ids are dropped, bytes that are no UTF-8 become U+FFFD."""
        return b"".join(self.token_bytes(id) for id in ids).decode("utf-8", "replace")

    def token_bytes(self, id):
        """The bytes that one id stands for, b"" if it is special or unknown."""
        return self._bytes.get(int(id), b"")

    def special_id(self, name):
        """The id of the token with that name; UserError if there is none."""
        if name not in self._named:
            raise UserError(f"there is no token {name!r} in the vocabulary")
        return self._named[name]

    # Conversations ------------------------------------------------------------------------------------------
    # They grow by appending; what was sampled is never decoded and encoded again:
    #     ids = chat(messages)                      up to the assistant's header
    #     ids += sampled + after(sampled)           what was sampled, then what the template puts behind it
    #     ids += turn("user", text) + assistant     the next message, and the assistant's header again

    @property
    def format(self):
        """The checkpoint's chat Format; UserError if its template is not known."""
        if self._format is None:
            raise UserError(f"cannot write conversations for this checkpoint: {self._problem}")
        return self._format

    def chat(self, messages):
        """[{"role", "content"}] -> the chat template's ids, up to where the assistant starts to speak.

        Content is ordinary text (or ids, taken as they are); special tokens come from the format alone.
        """
        if not messages:
            raise UserError("a conversation needs at least one message")
        return [id for turn in self.format.turns(messages) for id in self.turn(*turn)] + self.assistant

    def turn(self, role, content, form=None):
        """One more message as ids, with its end token and what follows; content: text or sampled ids.

        form: how the turn is written; left out: as one that does not open the conversation.
        """
        if role not in ("system", "user", "assistant"):
            raise UserError(f"unknown role {role!r} in a conversation: take system, user or assistant")
        form = form or self.format.turn
        if isinstance(content, str):
            return self._render(form, role, content)
        return self._render(form.split("{content}")[0], role) + list(content) + self.after(content)

    @property
    def assistant(self):
        """The ids behind which the assistant speaks."""
        return self._render(self.format.head)

    def after(self, sampled):
        """The forced ids behind a sampled turn: the end token unless it is there, and what follows."""
        ids = self._render(self.format.turn.split("{content}")[1])
        return ids[1:] if len(sampled) and sampled[-1] == ids[0] else ids

    def _render(self, form, role="", content=""):
        """Ids of a format: <|...|> is a special token, text between two of them is encoded in one piece."""
        parts = re.split(r"(<\|\w+\|>)", form)
        return [id for i, part in enumerate(parts) for id in
                ([self.special_id(part)] if i % 2 else self.encode(self.format.fill(role, content, part)))]

    def save(self, directory):
        """Write the files that were read, byte for byte (config.json is the model's to write)."""
        for name in self.files.keys() - {"config.json"}:
            (pathlib.Path(directory) / name).write_bytes(self.files[name])
