"""A Hugging Face tokenizer directory, read with tiktoken: text to ids, ids to text, conversations to ids.

tokenizer.json describes a pipeline: normalise, cut into pieces by a regular expression, write the bytes of
a piece in a printable alphabet, merge neighbours by a list of merges. tiktoken is fast at it but knows no
list of merges: it joins any two neighbours that together are a token, lowest rank first. `rank_tokens`
makes that the same.

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
from data.answers.reading import split_thought
from data.formats.files import atomic_write

FILES = ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "config.json", "chat_template.jinja")
LONGEST_RUN = 4000
NEVER = 1 << 60             # the rank of a pair that is not merged

# GPT-2's alphabet for bytes: printable bytes are written as themselves, the others as characters from 256 on.
PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
LETTER = {}
for byte in PRINTABLE:
    LETTER[byte] = chr(byte)
for byte in range(256):
    if byte not in LETTER:
        LETTER[byte] = chr(256 + len(LETTER) - len(PRINTABLE))
RAW = {ord(letter): byte for byte, letter in LETTER.items()}

# Combining marks younger than the Unicode tables with which `tokenizers` normalises: to it they are no marks.
YOUNG = re.compile(
    r"(["
    r"\u07fd\u0898-\u089f\u08ca-\u08d3\u09fe\u0c3c\u0d3b-\u0d3c\u0eba\u1715\u1abf-\u1ace\u1df6-\u1dfa"
    r"\ua82c\U00010d24-\U00010d27\U00010eab-\U00010eac\U00010f46-\U00010f50\U00010f82-\U00010f85"
    r"\U00011070\U0001133b\U0001145e\U00011839-\U0001183a\U0001193d-\U0001193e\U00011943\U000119e0"
    r"\U00011a34\U00011a47\U00011a99\U00011d42\U00011d44-\U00011d45\U00011d97\U00016ff0-\U00016ff1"
    r"\U0001e130-\U0001e136\U0001e2ae\U0001e2ec-\U0001e2ef"
    r"])")


# ---------------------------------------------------------------------------------------------------------
# Chat formats. A chat template is a program (in Jinja), which writes text. That is not enough here: a name
# like <|im_end|> in a question must remain text, and what was sampled must remain the ids that were sampled.
# So the formats are written down below, and a checkpoint has the one that writes what its template writes
# in the conversations of PROBES, at least in those that this program has: a system message, then user and
# assistant in turns. Where the two differ in others (the template refuses a late system message, say), only
# those are refused. Templates that trim, drop a newline, add a sentence or skip a message have no format;
# quotes, blanks, names of variables and branches for tools do not matter. The template is a stranger's: it
# runs in Jinja's sandbox, as in transformers, and only here.

# What a format writes so is one token: <|im_end|>, DeepSeek's <｜User｜> with its wide bars, Mistral's [INST] and </s>
SPECIAL = r"(<\|\w+\|>|<｜[^｜]+｜>|\[/?(?:INST|SYSTEM_PROMPT)\]|</?s>)"
CHATML = "<|im_start|>{role}\n{content}<|im_end|>\n"
LLAMA = "<|start_header_id|>{role}<|end_header_id|>\n\n{content}<|eot_id|>"
DATED = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n{content}"
ROLES = ("system", "user", "assistant")


class Format(NamedTuple):
    """How a family writes a conversation: a turn for each message, then what the assistant's turn begins with."""
    name: str
    system: str | None              # how a turn of each role is written; None: see in_question
    user: str
    assistant: str
    begin: str = ""                 # what stands before everything
    opening: str | None = None      # how a system message is written that opens the conversation; None: as any
    default: str | None = None      # the system message of a conversation that brings none
    in_question: bool = False       # a system message stands in the last question, before it: Mistral Nemo
    trim: bool = False              # blanks around the content are left out
    think: str = ""                 # after the last header: an empty thought, Qwen 3 with thinking off; or the
                                    # beginning of one, DeepSeek R1
    thoughts: str = "said"          # the answers whose thoughts are shown: "said" all as they are; "last" those
                                    # behind the last question, Qwen 3; "all", with a block for each, TRL's Qwen 3;
                                    # "none", DeepSeek R1
    shapes: set | None = None       # of the conversations that it is exact for; None: of all

    @property
    def head(self) -> str:
        """What stands before the assistant's answer."""
        return self.assistant.split("{content}")[0] + self.think

    @property
    def opens_thought(self) -> bool:
        """Whether the assistant goes on with a thought that the prompt has begun."""
        return "<think>" in self.think and "</think>" not in self.think

    def form(self, role: str) -> str | None:
        """How a turn of that role is written."""
        return {"system": self.system, "user": self.user, "assistant": self.assistant}[role]

    def special_names(self) -> list[str]:
        """The tokens with which it frames turns; the last one ends the assistant's."""
        parts = [self.begin, self.opening or "", self.system or "", self.user, self.assistant]
        return re.findall(SPECIAL, "".join(parts))

    def turns(self, messages: list[dict]) -> list[tuple]:
        """[(role, content, form)] of every message that is written, defaults included."""
        said = []
        if self.default is not None and messages[0]["role"] != "system":
            said.append(("system", self.default, self.opening or self.system))
        for message in messages:
            form = self.form(message["role"])
            if self.opening and not said:
                form = self.opening
            said.append((message["role"], message["content"], form))
        if self.thoughts != "said":
            place_thoughts(said, self.thoughts)
        if self.in_question and said[0][0] == "system":
            put_into_question(said)
        return said

    def fill(self, content: str, form: str) -> str:
        """The text of one turn, or of a part of it."""
        if self.trim:
            content = content.strip()
        return form.format(content=content)

    def text(self, messages: list[dict]) -> str:
        """A conversation as text, up to where the assistant starts to speak."""
        text = self.begin
        for _, content, form in self.turns(messages):
            if form is None:
                return ""                           # it has no such turn
            text += self.fill(content, form)
        return text + self.head


def place_thoughts(said: list[tuple], shown: str) -> None:
    """Qwen 3 shows thoughts after the last question only; there the last turn always has a block for them.

    With shown == "all" every answer has one, with "none" nobody's thoughts are shown.
    """
    roles = [role for role, _, _ in said]
    for i, (role, content, form) in enumerate(said):
        if role != "assistant" or not isinstance(content, str):
            continue
        if shown == "none":
            said[i] = role, content.split("</think>")[-1], form
            continue
        thought = ""
        if "</think>" in content:
            thought = content.split("</think>")[0].split("<think>")[-1].strip("\n")
            content = content.split("</think>")[-1].lstrip("\n")
        is_last = i == len(said) - 1
        behind_question = "user" in roles and "user" not in roles[i:]
        if shown == "all" or behind_question and (thought or is_last):
            content = f"<think>\n{thought}\n</think>\n\n" + content.lstrip("\n")
        said[i] = role, content, form


def put_into_question(said: list[tuple]) -> None:
    """The system message leaves the front and stands in the last turn, if that is a question."""
    _, system, _ = said.pop(0)
    if said and said[-1][0] == "user":
        role, question, form = said[-1]
        said[-1] = role, f"{system}\n\n{question}", form


def use_for_all(form: str) -> dict[str, str]:
    """One form for all roles, of which only the name differs."""
    return {role: form.replace("{role}", role) for role in ROLES}


QWEN3 = Format("Qwen 3", **use_for_all(CHATML), think="<think>\n\n</think>\n\n")     # a template that keeps the thoughts
LLAMA3 = Format("Llama 3", **use_for_all(LLAMA), begin="<|begin_of_text|>", trim=True)
DEEPSEEK = Format("DeepSeek R1", "{content}", "<｜User｜>{content}", "<｜Assistant｜>{content}<｜end▁of▁sentence｜>",
                  begin="<｜begin▁of▁sentence｜>", thoughts="none")
MISTRAL = Format("Mistral Small", "[SYSTEM_PROMPT]{content}[/SYSTEM_PROMPT]", "[INST]{content}[/INST]", "{content}</s>",
                 begin="<s>")
FORMATS = (
    Format("ChatML", **use_for_all(CHATML)),
    Format("Qwen 2", **use_for_all(CHATML), default="You are a helpful assistant."),
    Format("Qwen 2.5", **use_for_all(CHATML),
           default="You are Qwen, created by Alibaba Cloud. You are a helpful assistant."),
    Format("SmolLM2", **use_for_all(CHATML),
           default="You are a helpful AI assistant named SmolLM, trained by Hugging Face"),
    QWEN3,
    QWEN3._replace(thoughts="last"),
    QWEN3._replace(thoughts="all"),
    LLAMA3,
    LLAMA3._replace(name="Llama 3.1", opening=LLAMA3.system.replace("{content}", DATED), default=""),
    DEEPSEEK,                                                           # as first published
    DEEPSEEK._replace(think="<think>\n"),                               # as since February 2025
    MISTRAL,
    MISTRAL._replace(name="Mistral Nemo", system=None, in_question=True))

# Blanks around everything, thoughts, no user at all, an assistant at the end: formats differ in odd places.
MESSAGES = {"S": ("system", "\nRule %d. "), "U": ("user", " \nWhat is %d? \n"),
            "A": ("assistant", "\n\nIt is %d. \n"), "T": ("assistant", "\n<think>\nhm\n</think>\n\n It is %d.\n")}
PROBES = []
for talk in ("U", "UAU", "S", "A", "SU", "SUAUAU", "UA", "UT", "UAUTU", "SUAUTU", "SUTA", "USU"):
    probe = []
    for i, letter in enumerate(talk):
        role, text = MESSAGES[letter]
        probe.append({"role": role, "content": text % i})
    PROBES.append(probe)
NEEDED = {"SU", "SUTU"}             # the shapes of what this program writes, see find_shape


def find_shape(messages: list[dict]) -> str:
    """Who speaks when, a letter each; further rounds of user and assistant do not count: SUAUAU -> SU."""
    letters = ""
    for message in messages:
        if message["role"] != "assistant":
            letters += message["role"][0].upper()
        elif isinstance(message["content"], str) and "</think>" in message["content"]:
            letters += "T"
        else:
            letters += "A"
    return re.sub("(UA)+U", "U", letters)


def compile_template(template: str):
    """A chat template as a program. Whatever may go wrong does: it is a stranger's."""
    # {% generation %} marks what a trainer learns; only transformers knows it, and its effect is that of `with`.
    template = re.sub(r"({%[-+]?\s*)generation\b", r"\1with", template)
    template = re.sub(r"({%[-+]?\s*)endgeneration\b", r"\1endwith", template)
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                                extensions=["jinja2.ext.loopcontrols"])
    return environment.from_string(template)


def write_probes(template: str, names: dict) -> list[str | None]:
    """What a chat template writes for each of PROBES, None where it fails.

    names: {"bos_token": its name, ...}, and what else it may use.
    """
    texts = []
    program = None
    for messages in PROBES:
        try:
            program = program or compile_template(template)
            texts.append(program.render(messages=messages, tools=None, add_generation_prompt=True,
                                        enable_thinking=False, **names))
        except Exception:
            texts.append(None)
    return texts


def recognize_format(template: str, names: dict) -> Format | None:
    """The Format of a chat template: one that writes every probe as it does, or else most of them; or None."""
    texts = write_probes(template, names)            # without strftime_now Llama's templates write the date above
    if texts == [None] * len(PROBES):                # Mistral Small's need it. A date that no format holds: of
        texts = write_probes(template, {**names, "strftime_now": lambda _: "<|today|>"})       # another day tomorrow
    candidates = list(FORMATS)
    for form in FORMATS:
        candidates.append(form._replace(default=find_default_system(form, texts[0])))
    partial, most = None, set()
    for form in candidates:
        exact, wrong = set(), set()
        for messages, text in zip(PROBES, texts):
            if form.text(messages) == text:
                exact.add(find_shape(messages))
            else:
                wrong.add(find_shape(messages))
        if not wrong:
            return form
        exact -= wrong
        if NEEDED <= exact and len(exact) > len(most):
            partial, most = form._replace(shapes=exact), exact
    return partial


def find_default_system(form: Format, text: str | None) -> str | None:
    """The system message in the text of a conversation that brings none; None if there is none."""
    before, _, after = (form.opening or form.system or "").partition("{content}")
    before = form.begin + before
    if text is None or not after or not text.startswith(before):
        return None
    system = text.removeprefix(before).split(after)[0]
    if re.search(SPECIAL, system):
        return None
    return system


# ---------------------------------------------------------------------------------------------------------
# Pieces and merges

def cut_pattern(steps):
    """The one regular expression that cuts text as the file's pre-tokenisers do one after the other."""
    words = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+|%s| ?[^\s\p{L}\p{N}]+%s|\s+(?!\S)|\s+"        # GPT-2's
    first = steps[0]
    kinds = [(step["type"], step.get("use_regex", True), bool(step.get("add_prefix_space"))) for step in steps]
    if kinds == [("ByteLevel", True, False)]:
        return words % (r" ?\p{N}+", "")
    if kinds == [("Digits", True, False), ("ByteLevel", True, False)]:
        # Blanks before a digit are a piece of their own, whole: for ByteLevel the text ends there.
        digits = r"\p{N}+"
        if first["individual_digits"]:
            digits = r"\p{N}"
        return words % (digits, r"|\s+(?=\p{N})")
    if kinds == [("Split", True, False), ("ByteLevel", False, False)]:
        pattern = first["pattern"].get("Regex")
        if not pattern:
            pattern = regex.escape(first["pattern"]["String"])
        if first["behavior"] == "Removed" and first["invert"]:
            return pattern
        if first["behavior"] == "Isolated" and not first["invert"]:
            return rf"{pattern}|(?:(?!{pattern})[\s\S])+"       # what lies between the matches is a piece
    raise UserError(f"the pre-tokeniser {json.dumps(steps)[:200]} is not supported")


def merge_letters(letters, order):
    """Merge as `tokenizers` does, the earliest merge of the list first: (parts, number of the last merge).

    merge_letters("the", {("t", "h"): 0, ("h", "e"): 1}) -> (["th", "e"], 0)
    """
    parts, last = list(letters), NEVER
    while True:
        ranks = [order.get(pair, NEVER) for pair in zip(parts, parts[1:])]
        best = min(ranks, default=NEVER)
        if best == NEVER:
            return parts, last
        last = best
        i = ranks.index(best)
        parts[i:i + 2] = [parts[i] + parts[i + 1]]


def rank_tokens(words, order, whole):
    """The tokens that tiktoken may know, in order of rank, and whether it then does exactly as the list says.

    A token belongs if merging its own letters by the list gives it back; its rank is the last merge on that
    way: where two neighbours spell such a token, their letters were merged as they are in the token alone,
    so the list joins these two as well, and both programs see the same candidates in the same order. With
    `whole` (ignore_merges, Llama 3) a piece that is a token wins over its merges; tokens that merging does
    not give then come last, which is exact unless two neighbours that the list leaves apart would spell
    one.
    """
    made, lost = [], {}
    for word in words:
        parts, last = merge_letters(word, order)
        if len(parts) > 1:
            lost[word] = parts
        elif len(word) > 1:
            made.append((last, word))
    tokens = list(LETTER.values())
    for _, word in sorted(made):
        tokens.append(word)
    if not whole:
        return tokens, True
    exact = True
    for parts in lost.values():
        for a, b in zip(parts, parts[1:]):
            if a + b in lost:
                exact = False
    return tokens + list(lost), exact


def raw_bytes(word):
    """The bytes that a word in GPT-2's alphabet stands for: "Ġa" -> b" a"."""
    return word.translate(RAW).encode("latin-1")


# ---------------------------------------------------------------------------------------------------------

class Tokenizer:
    """Text to ids and back, and one checkpoint's chat format.

    vocab_size  the highest id + 1 (the model's embedding may have more rows: those ids decode to nothing)
    stop_ids    every id that ends a turn: of generation_config, config, tokenizer_config and chat template
    special     {name: id} of what text can't hold; added: of the other added tokens, whose names are text
    """

    @classmethod
    def load(cls, directory, base: "Tokenizer | None" = None) -> "Tokenizer":
        """Read a Hugging Face directory; a UserError if it is missing, malformed or unsupported.

        base: the tokenizer from which an adapter's directory takes the files that it lacks.
        """
        try:
            files = read_files(pathlib.Path(directory))
            if base and files.items() <= base.files.items():
                return base
            return cls(files, base)
        except UserError as error:
            raise UserError(f"{directory}: {error}") from None
        except Exception as why:        # a stranger's files: anything may be missing or of another type
            raise UserError(f"{directory}: cannot read the tokenizer ({type(why).__name__}: {why})") from why

    def __init__(self, files, base=None):
        self.files = dict(files)
        if base:
            self._inherit(base)
        if "tokenizer.json" not in self.files:
            raise UserError("there is no tokenizer.json")
        file = self._parse("tokenizer.json")
        self._named = dict(file["model"]["vocab"])
        added = file.get("added_tokens") or []
        for token in added:
            self._named[token["content"]] = token["id"]
        self._read_stop_ids()
        self._read_template()
        self._sort_added(added)
        self._read_words(file["model"])
        self._read_pipeline(file)

    def _parse(self, name):
        """The content of one of the files, an empty dict if it is absent."""
        return json.loads(self.files.get(name, "{}"))

    def _inherit(self, base):
        """Take from another tokenizer the files that are not here, but one chat template alone."""
        template = self._find_template()
        for name, content in base.files.items():
            if name not in self.files and not (template and name == "chat_template.jinja"):
                self.files[name] = content
        if not self._find_template():                               # it stands in a file that is here, without it
            self.files["chat_template.jinja"] = (base._find_template() or "").encode()

    def _find_template(self):
        """The text of the chat template, None or empty without one."""
        if "chat_template.jinja" in self.files:                     # where transformers 5 keeps it
            return self.files["chat_template.jinja"].decode()
        template = self._parse("tokenizer_config.json").get("chat_template")
        if isinstance(template, list):                              # several templates, each with a name
            template = {entry["name"]: entry["template"] for entry in template}.get("default")
        return template

    def _read_stop_ids(self):
        """The end tokens that three files name: one by its name, two by their ids."""
        self.stop_ids = set()
        eos = token_name(self._parse("tokenizer_config.json").get("eos_token"))
        if eos:
            self.stop_ids.add(self.special_id(eos))
        for name in ("generation_config.json", "config.json"):
            ends = self._parse(name).get("eos_token_id")
            if isinstance(ends, int):
                ends = [ends]
            for end in ends or []:
                if type(end) is not int:
                    raise UserError(f"an eos_token_id in {name} is not a token id: {end!r}")
                self.stop_ids.add(end)

    def _read_template(self):
        """The chat template -> self._format, or None and what the problem is.

        The token that ends its turns stops the sampler, too: a base checkpoint's files name only <|endoftext|>.
        """
        config = self._parse("tokenizer_config.json")
        template = self._find_template()
        if template:
            names = {key: token_name(config.get(key)) for key in ("bos_token", "eos_token")}
            self._format = recognize_format(template, names)
            self._problem = ("its chat template is none of Llama 3 to 3.2, Qwen 2 to 3, SmolLM2, DeepSeek R1 Distill, "
                             "Mistral Nemo and Small, and plain ChatML")
        else:
            self._format = None
            self._problem = "it has no chat template (take an Instruct checkpoint)"
        if self._format:
            end = self._format.special_names()[-1]
            if end in self._named:
                self.stop_ids.add(self._named[end])

    def _sort_added(self, added):
        """What ends or frames a turn is special, whatever the file says: text must not be able to hold it.

        What frames a thought is text: the model says it.
        """
        self.special, self.added, frame = {}, {}, []
        if self._format:
            frame = self._format.special_names()
        for token in added:
            name, id = token["content"], token["id"]
            is_special = token["special"] and name not in ("<think>", "</think>")
            if is_special or id in self.stop_ids or name in frame:
                self.special[name] = id
            elif token.get("lstrip") or token.get("rstrip") or token.get("single_word"):
                raise UserError("an added token that takes its neighbours along is not supported")
            else:
                self.added[name] = id
        # Special names are found in a text as well, so that the longest wins as in `tokenizers`; they remain text.
        names = sorted(self.added | self.special, key=len, reverse=True)
        self._names = re.compile("|".join([re.escape(name) for name in names]))

    def _read_words(self, model):
        """Vocabulary -> self._words, and merges -> self._order, each pair's place in the list."""
        if model.get("type") != "BPE":
            raise UserError(f"tokenizer.json is no byte-level BPE (model type {model.get('type')})")
        if model.get("dropout") or model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
            raise UserError("tokenizer.json: a BPE with dropout, prefix or suffix is not supported")
        letters = set(LETTER.values())
        self._words = {}
        for word, id in model["vocab"].items():
            if word not in self.special and letters.issuperset(word):
                self._words[word] = id
        self._missing = {byte for byte, letter in LETTER.items() if letter not in self._words}
        if self._missing and model.get("byte_fallback"):
            raise UserError("a SentencePiece vocabulary, whose tokens are no bytes but for a fallback (byte_fallback: "
                            "Mistral 7B, Llama 2), is not supported; take a byte-level one: Mistral Nemo, Llama 3")
        self._order = {}
        for i, merge in enumerate(model["merges"]):
            if isinstance(merge, str):
                merge = merge.split(" ")
            a, b = merge
            if a + b in self.special:
                continue
            if not {a, b, a + b} <= self._words.keys():
                raise UserError(f"tokenizer.json merges {a!r} and {b!r}, which its vocabulary does not hold")
            self._order[a, b] = i

    def _read_pipeline(self, file):
        """Normaliser, pre-tokenisers and ranks -> the tiktoken Encoding, and the bytes of every id."""
        normalizer = file.get("normalizer")
        if normalizer not in (None, {"type": "NFC"}):
            raise UserError(f"the normaliser {json.dumps(normalizer)[:200]} is not supported")
        self._nfc = normalizer is not None
        self._whole = bool(file["model"].get("ignore_merges"))
        steps = file.get("pre_tokenizer") or {"type": None}
        pattern = cut_pattern(steps["pretokenizers"] if steps["type"] == "Sequence" else [steps])
        tokens, self._exact = rank_tokens(self._words, self._order, self._whole)
        self._ids = [self._words.get(token) for token in tokens]                # rank -> id
        ranks = {raw_bytes(token): rank for rank, token in enumerate(tokens)}
        self._encoding = tiktoken.Encoding("file", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
        self._pieces = regex.compile(pattern)
        self._bytes = {}                                                        # what an id stands for
        for word, id in self._named.items():
            self._bytes[id] = word.encode()
        for word, id in self._words.items():
            self._bytes[id] = raw_bytes(word)
        for id in self.special.values():
            self._bytes[id] = b""
        self.vocab_size = max(self._bytes) + 1

    # Text ---------------------------------------------------------------------------------------------------

    def encode(self, text: str) -> list[int]:
        """Ids of ordinary text: never a special token, whatever it holds. Lone surrogates become U+FFFD.

        An added token that is not special (Qwen 3's <think>) is ordinary: its name in a text is its id.
        """
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        ids, start = [], 0
        if self.added:
            for match in self._names.finditer(text):
                if match[0] in self.added:
                    ids += self._encode_plain(text[start:match.start()])
                    ids.append(self.added[match[0]])
                    start = match.end()
        return ids + self._encode_plain(text[start:])

    def _encode_plain(self, text):
        """Ids of text without added tokens, cut where blanks, letters and digits or other signs run on."""
        if self._nfc and not text.isascii():
            text = "".join([unicodedata.normalize("NFC", part) for part in YOUNG.split(text)])
        ids, start = [], 0
        for run in re.finditer(r"\s+|[^\W_]+|(?:[^\w\s]|_)+", text):
            for cut in range(run.start() + LONGEST_RUN, run.end(), LONGEST_RUN):
                ids += self._encode_chunk(text[start:cut])
                start = cut
        return ids + self._encode_chunk(text[start:])

    def _encode_chunk(self, text):
        if self._exact and self._missing.isdisjoint(text.encode()):
            return [self._ids[rank] for rank in self._encoding.encode_ordinary(text)]
        # A byte that is no token (SmolLM2 lacks 21): tiktoken panics, `tokenizers` drops it before it merges.
        ids = []
        for piece in self._pieces.finditer(text):
            word = "".join([LETTER[byte] for byte in piece.group().encode()])
            if self._whole and word in self._words:
                parts = [word]
            else:
                known = [letter for letter in word if letter in self._words]
                parts, _ = merge_letters(known, self._order)
            for part in parts:
                ids.append(self._words[part])
        return ids

    def decode(self, ids) -> str:
        """Text of ids: special and unknown ids are dropped, bytes that are no UTF-8 become U+FFFD."""
        return b"".join([self.token_bytes(id) for id in ids]).decode("utf-8", "replace")

    def token_bytes(self, id: int) -> bytes:
        """The bytes that one id stands for, b"" if it is special or unknown."""
        return self._bytes.get(int(id), b"")

    def special_id(self, name: str) -> int:
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
    def format(self) -> Format:
        """The checkpoint's chat Format; UserError if its template is not known."""
        if self._format is None:
            raise UserError(f"cannot write conversations for this checkpoint: {self._problem}")
        return self._format

    def chat(self, messages: list[dict]) -> list[int]:
        """[{"role", "content"}] -> the chat template's ids, up to where the assistant starts to speak.

        Content is ordinary text (or ids, taken as they are); special tokens come from the format alone.
        """
        if not messages:
            raise UserError("a conversation needs at least one message")
        for message in messages:
            check_role(message["role"])
        shapes = self.format.shapes
        if shapes is not None and find_shape(messages) not in shapes:
            raise UserError("this checkpoint's chat template writes such a conversation in a way of its own: begin "
                            "with a system message, then let user and assistant take turns")
        ids = self._render(self.format.begin)
        for role, content, form in self.format.turns(messages):
            ids += self.turn(role, content, form)
        return ids + self.assistant

    def turn(self, role: str, content, form: str | None = None) -> list[int]:
        """One more message as ids, with its end token and what follows; content: text or sampled ids.

        form: how the turn is written; left out: as one of that role that does not open the conversation.
        """
        check_role(role)
        form = form or self.format.form(role)
        if form is None:
            raise UserError("this checkpoint's chat template has no system messages but one, at the beginning")
        if isinstance(content, str):
            return self._render(form, content)
        before, behind = form.split("{content}")
        return self._render(before) + list(content) + self._close(content, behind)

    @property
    def assistant(self) -> list[int]:
        """The ids behind which the assistant speaks."""
        return self._render(self.format.head)

    def after(self, sampled: list[int]) -> list[int]:
        """The forced ids behind a sampled turn: the end token unless it is there, and what follows."""
        return self._close(sampled, self.format.assistant.split("{content}")[1])

    def _close(self, content, behind):
        ids = self._render(behind)
        if ids and len(content) and content[-1] == ids[0]:
            del ids[0]
        return ids

    def read(self, sampled: list[int]) -> tuple[str, str]:
        """Sampled ids -> (what was thought, what was said), see split_thought."""
        text = self.decode(sampled)
        if text and self._format and self._format.opens_thought:
            text = self._format.think + text
        return split_thought(text)

    def say(self, text: str) -> list[int]:
        """The ids with which the assistant would say a text, which may begin with a <think>, without the end token.

        Where the prompt has begun a thought that goes on, or ends at once, as in DeepSeek's own answers without one.
        """
        if self.format.opens_thought:
            think = self.format.think
            if text.lstrip().startswith(think):
                text = text.lstrip().removeprefix(think)
            else:
                text = "\n</think>\n\n" + text
        return self.encode(text)

    def _render(self, form, content=""):
        """Ids of a format: what SPECIAL finds is a special token, text between two is encoded in one piece."""
        ids = []
        for i, part in enumerate(re.split(SPECIAL, form)):
            if i % 2:
                ids.append(self.special_id(part))
            else:
                ids += self.encode(self.format.fill(content, part))
        return ids

    def save(self, directory):
        """Write the files that were read, byte for byte (config.json is the model's to write)."""
        for name, content in self.files.items():
            if name != "config.json":
                atomic_write(pathlib.Path(directory) / name, content)


def check_role(role):
    if role not in ROLES:
        raise UserError(f"unknown role {role!r} in a conversation: take system, user or assistant")


def read_files(directory: pathlib.Path) -> dict[str, bytes]:
    """What lies in a directory of the files that a tokenizer is made of."""
    files = {}
    for name in FILES:
        if (directory / name).is_file():
            files[name] = (directory / name).read_bytes()
    return files


def token_name(token):
    """The name of a token in tokenizer_config.json, which holds a string, an AddedToken or nothing."""
    if isinstance(token, dict):
        return token["content"]
    return token
