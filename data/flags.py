"""The command lines: each flag with its default and one clause of reason, and what is refused."""
import filecmp
import itertools
import math
import os
import pathlib
from argparse import BooleanOptionalAction, Namespace
from contextlib import suppress

import torch

from data import Parser, UserError
from data.extensions import memory
from data.problems import benchmarks
from data.formats.files import json_object, naming, read_json

# What a model wants when no flag says otherwise. Real ones take the literature's full-weight rate, 1e-6; the
# tiny one is far from what it was trained to be.
TINY = dict(data="arithmetic", lr=3e-4, max_new_tokens=64, questions=32, steps=60, eval_questions=1000)
REAL = dict(data="words", lr=1e-6, max_new_tokens=512, questions=16, steps=100, eval_questions=100)
LORA_RATE = 10             # an adapter wants 10 to 20 times the learning rate of full weights

# What a number must be at least
LEAST = {**dict.fromkeys("switch_every warmup clip kl lora filter dual_clip box_weight".split(), 0),
         "leak_weight": 0, "lora_alpha": 0, "lr": 1e-12, "sft_lr": 1e-12, "grad_clip": 1e-12,
         **dict.fromkeys("questions plans answers answers_high max_new_tokens batch steps turns updates "
                         "micro_tokens eval_every eval_questions show_every save_every limit".split(), 1)}

# The paper's settings, section 5 of its appendix: single turn, and a conversation. GPU hours: unmeasured.
PRESETS = {
    "paper": dict(process="rema", advantage="reinforce++", lr=5e-7, kl=0.01, plans=4, answers=4, updates=2,
                  questions=1000, max_new_tokens=2048, switch_every=4, first="low", filter=7500,
                  data="math-train", eval_data="math500", steps=24, eval_questions=500),
    "paper-turns": dict(process="rema", turns=30, share=True, ratio="turn", normalise="turn", dual_clip=3.0,
                        lr=1e-6, answers=16, updates=4, questions=128, max_new_tokens=512,
                        data="math-lv35", eval_data="math500", steps=300, eval_questions=500)}


def pick_device(name):
    """The device that was asked for, or the best there is. UserError if this machine has no such device."""
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UserError(f"--device {name}: this machine has none (--device cpu always works)") from None
    return name


def pick_dtype(device):
    """What to compute in: bfloat16 on a card that has it in hardware (a T4 has not), float32 elsewhere."""
    bf16 = device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if bf16 else "float32"


def claim(path):
    """Make the directory, or with -2, -3 ... the first of its name that does not exist yet -> its path."""
    for i in itertools.count(1):
        with suppress(FileExistsError):
            os.makedirs(candidate := path if i == 1 else f"{path}-{i}")
            return candidate


def unused(out, why):
    """UserError when a directory that was asked for holds something."""
    path = pathlib.Path(out or "")
    if out and path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{out} {why}")


def complete(args, defaults):
    """Fill in what no flag said. UserError: a number below its LEAST, guided plans where there are none."""
    for name, value in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    for name, least in LEAST.items():
        value = getattr(args, name, None)
        top = math.inf if name in ("clip", "grad_clip") else 1e12     # of these two inf means: never
        if value is not None and not least <= value <= top:           # nan is neither
            raise UserError(f"--{name.replace('_', '-')} must be at least {least:g} and finite, not {value}")
    if args.plan_format == "json" and (args.process, args.turns) != ("rema", 1):
        raise UserError("--plan-format json is for the plans of --process rema in one turn")


def build(description):
    parser = Parser(description)
    flag = parser.add_argument_group("model and problems").add_argument
    flag("--model", default="tiny", help="a name (tiny, llama-1b ...), a hub name, or a directory (tiny)")
    flag("--process", choices=("mrp", "rema", "vrp"), default="rema", help="vrp, mrp: one agent (rema)")
    flag("--data", help="arithmetic, words, a benchmark or JSON-lines file (arithmetic for tiny, else words)")
    flag("--eval-data", help="held-out problems, likewise (generated: the other split; a file: a tenth)")
    flag("--data-dir", help="a directory that holds NAME.jsonl, so that nothing is downloaded")
    flag("--example", action="store_true", help="worked examples first: small models need to see the format")
    flag("--sft", metavar="FILE", help="JSON lines of {\"messages\": [...]}: a supervised warm start first")
    flag("--sft-lr", type=float, default=1e-5, help="its learning rate (1e-5)")
    flag("--preset", choices=PRESETS, help="the paper's settings, in one turn or many (GPU hours unmeasured)")
    flag("--lora", type=int, metavar="R", help="adapters of rank R; 0: all weights (0; above 4e9 of them 16)")
    flag("--lora-alpha", type=float, help="the adapters' output is multiplied by alpha / R (2 R)")
    flag("--lora-targets", help="layers with adapters, with commas between (all seven of a block)")
    flag("--share", action="store_true", help="one set of weights speaks for both roles and learns both")
    flag("--fit", action="store_true", help="only say how much memory this would take, and what would fit")
    flag = parser.add_argument_group("sampling").add_argument
    flag("--questions", type=int, help="problems a step (32 for tiny, else 16)")
    flag("--plans", type=int, default=8, help="plans a problem while high learns: its group (8)")
    flag("--answers", type=int, default=8, help="answers a plan while low or solo learns; conversations (8)")
    flag("--answers-high", type=int, default=1, help="answers a plan while only high learns: less noise (1)")
    flag("--turns", type=int, default=1, help="more: a conversation of up to so many turns a role (1)")
    flag("--plan-format", choices=("text", "json"), default="text", help="json: DECOMPOSE, REWRITE or EMPTY")
    flag("--filter", type=int, default=0, metavar="N", help="try N problems as a phase starts, keep those "
         "solved in 0.2 to 0.8 of 10 tries; 0: keep all (0)")
    flag("--max-new-tokens", type=int, help="for each turn (64 for tiny, else 512)")
    flag("--temperature", type=float, default=1.0, help="of samples and loss alike; 1 as in the paper (1.0)")
    flag("--batch", type=int, default=256, help="rows decoded at a time: fewer need less memory (256)")
    flag("--compile", action="store_true", help="compile decoding (CUDA graphs on a GPU): a minute at first")
    flag = parser.add_argument_group("learning").add_argument
    flag("--steps", type=int, help="batches of rollouts (60 for tiny, else 100)")
    flag("--switch-every", type=int, default=10, help="steps each agent learns; 0: both (10, the paper's)")
    flag("--first", choices=("high", "low"), default="high", help="who learns first; Algorithm 1: low (high)")
    flag("--updates", type=int, default=1, help="optimizer steps a batch: more make the ratio matter (1)")
    flag("--reward", choices=("base", "consistency"), default="base", help="of plans: truth, or agreement")
    flag("--box-weight", type=float, default=0.5, help="what a box earns a wrong answer, in one turn (0.5, "
         "the paper's)")
    flag("--leak-weight", type=float, default=1.0, help="what a box costs a plan, likewise (1, the paper's)")
    flag("--advantage", choices=("grpo", "dr_grpo", "rloo", "reinforce++"), default="grpo",
         help="what a reward is compared with (grpo)")
    flag("--normalise", choices=("batch", "sequence", "turn", "turns", "constant"),
         help="what the loss is divided by, see rema.token_weights (batch)")
    flag("--ratio", choices=("token", "turn"), default="token", help="one ratio a token, or a turn (token)")
    flag("--lr", type=float, help="peak learning rate of AdamW (3e-4 for tiny, else 1e-6; --lora: 10 times)")
    flag("--warmup", type=int, default=5, help="updates of each agent until the learning rate is reached (5)")
    flag("--clip", type=float, default=0.2, help="the ratio is clipped to 1 +- this (0.2, the paper's)")
    flag("--dual-clip", type=float, default=0.0, help="bounds a bad sample's loss; the paper's code: 3 (0)")
    flag("--grad-clip", type=float, default=1.0, help="longest gradient that is taken as it is (1.0)")
    flag("--kl", type=float, default=0.0, help="weight of the KL term against the initial weights (0: none)")
    flag("--micro-tokens", type=int, help="tokens at once in training, for memory; fewer than a prompt and "
         "its samples have: the prompt is run several times (16384; 1200 for real models on a CPU)")
    flag("--checkpointing", action=BooleanOptionalAction, help="recompute to save memory (on cuda, not tiny)")
    flag = parser.add_argument_group("watching").add_argument
    flag("--eval-every", type=int, help="steps between held-out evaluations (--switch-every, or 10)")
    flag("--eval-questions", type=int, help="held-out problems (1000 for tiny, else 100)")
    flag("--show-every", type=int, default=20, help="steps between two printed episodes (20)")
    flag("--save-every", type=int, default=10, help="steps between checkpoints for --resume (10)")
    flag = parser.add_argument_group("run").add_argument
    flag("--seed", type=int, default=0, help="of all draws (0)")
    flag("--device", help="cpu, cuda or mps (cuda where there is one)")
    flag("--dtype", choices=("float32", "bfloat16"), help="for compute; weights: float32 (bfloat16 on cuda)")
    flag("--out", help="the run's directory (out/MODEL-PROCESS-sSEED, with -2, -3 ... when that exists)")
    flag("--resume", metavar="DIR", help="go on with a run and its settings; only --steps may be changed")
    return parser


def parse(argv, description=None):
    """argv -> the settings, defaults filled in. UserError for what can't work, in one line."""
    parser = build(description)
    args = parser.parse_args(argv)
    if args.preset:
        parser.set_defaults(**{**PRESETS[args.preset], "lr": None})
        args = parser.parse_args(argv)
    if args.resume:
        saved = read_json(pathlib.Path(args.resume) / "config.json")
        given = {name for name, value in vars(args).items() if value != parser.get_default(name)}
        if not {"steps", "switch_every", "seed"} <= saved.keys():
            raise UserError(f"{args.resume} holds no run of train.py: its config.json has other entries")
        if wrong := ", ".join(sorted(f"--{name.replace('_', '-')}" for name in given - {"resume", "steps"})):
            raise UserError(f"--resume takes its settings from the run: beside it only --steps, not {wrong}")
        complete(args, {})
        log = pathlib.Path(args.resume) / "metrics.jsonl"
        lines = log.read_bytes().split(b"\n")[:-1] if log.exists() else []      # the last may be half a line
        with naming(log, malformed=(ValueError, LookupError)):
            done = json_object(lines[-1])["step"] if lines else 0
        stateless = not (log.parent / "state.safetensors").exists()
        if stateless and done >= min(saved["save_every"], saved["steps"]):
            raise UserError(f"{args.resume} has no state.safetensors, as published runs: it can't go on")
        if args.steps and args.steps < done:
            raise UserError(f"--steps {args.steps}: this run has done {done} already")
        pick_device(saved["device"])
        return Namespace(**{**vars(args), **saved, "resume": args.resume, "out": args.resume,
                            "steps": args.steps or saved["steps"]})

    args.device = "cpu" if args.fit else pick_device(args.device)
    args.switch_every = 0 if args.share else args.switch_every
    if args.lora is None:
        args.lora = 0
        with suppress(UserError):            # not here yet, or a run's directory: the loader will say
            args.lora = memory.default_lora(memory.config_of(args.model))
    tiny, card = args.model == "tiny", args.device == "cuda"
    defaults = dict(TINY if tiny else REAL, lora_alpha=2.0 * args.lora, eval_every=args.switch_every or 10,
                    normalise="constant" if args.advantage == "dr_grpo" else "batch",
                    dtype=pick_dtype(args.device), checkpointing=not tiny and (args.fit or card),
                    micro_tokens=1200 if args.device == "cpu" and not (tiny or args.fit) else 16384)
    defaults["lr"] = PRESETS.get(args.preset, defaults)["lr"] * (LORA_RATE if args.lora else 1)
    complete(args, defaults)
    parts = [os.path.join(args.model, role) for role in ("high", "low")]
    if args.share and all(map(os.path.isdir, parts)) and filecmp.cmpfiles(
            *parts, os.listdir(parts[0]), shallow=False)[1]:
        raise UserError(f"{args.model} holds two agents, but --share trains one: name {' or '.join(parts)}")
    two, grouped = args.process == "rema", args.advantage != "reinforce++"
    agreeing = (args.answers_high, "--answers-high") if args.switch_every else (args.answers, "--answers")
    alone = f"is too small: --advantage {args.advantage} compares the samples of a group, so take at least 2"
    for bad, why in (
            (grouped and two and args.turns == 1 and args.plans < 2, f"--plans {args.plans} {alone}"),
            (grouped and args.answers < 2, f"--answers {args.answers} {alone}"),
            (not 0 < args.temperature < math.inf, f"--temperature {args.temperature:g} must be above 0, and "
             "finite: greedy samples are all the same, so nothing can be compared"),
            (0 < args.dual_clip <= 1, f"--dual-clip {args.dual_clip:g} must be above 1, or 0 for none"),
            (args.turns > 1 and not two, f"--turns {args.turns} needs two agents: --process rema"),
            (args.compile and args.turns > 1, "--compile is for --turns 1: what a conversation holds grows"),
            (args.lora and not args.lora_alpha, "--lora-alpha 0 switches the adapters off: leave it away"),
            (args.share and not two, "--share needs two roles: --process rema"),
            (args.filter and (args.turns > 1 or args.switch_every == 0),
             "--filter tests the agent about to be trained: it needs --turns 1 and a --switch-every"),
            (0 < args.filter < args.questions, f"--filter {args.filter} tries fewer problems than one step "
             f"takes: --questions {args.questions}"),
            (args.sft and args.kl, "--kl would pull back to the weights before --sft: make the warm start a "
             "run of its own (--steps 1), then take it as --model"),
            (args.reward == "consistency" and (not two or args.turns > 1),
             "--reward consistency is for the plans of --process rema in one turn"),
            (args.reward == "consistency" and agreeing[0] < 4,
             f"--reward consistency with {agreeing[1]} {agreeing[0]}: agreement among so few answers says "
             "nothing, take at least 4")):
        if bad:
            raise UserError(why)
    return args


# ------------------------------------------------------------------------------------------------------------
# eval.py and rollout.py: what a flag does not say is as the run was trained

def speaking(description):
    """A parser with what the two have in common: who speaks, and how."""
    parser = Parser(description)
    flag = parser.add_argument
    flag("--model", default="tiny", help="a name, a hub name, a directory or a run's directory (tiny)")
    flag("--process", choices=("mrp", "rema", "vrp"), help="who speaks (as trained, else rema)")
    flag("--example", action="store_true", help="worked examples first: small models need to see the format")
    flag("--turns", type=int, help="a conversation of up to so many turns a role (as trained, else 1)")
    flag("--plan-format", choices=("text", "json"), help="json: guided plans (as trained, else text)")
    flag("--max-new-tokens", type=int, help="for a turn (as trained, else 64 for tiny, 512 for others)")
    flag("--temperature", type=float, help="0 is greedy, as the paper evaluates (0; several samples: 1)")
    flag("--top-p", type=float, default=1.0, help="draw from the likeliest tokens of this mass (1: all)")
    flag("--seed", type=int, default=0, help="of the draws when the temperature is not 0 (0)")
    flag("--device", help="cpu, cuda or mps (cuda where there is one)")
    return parser


def as_trained(args):
    """Fill in what no flag said, from the config of the run --model -> that config, {} if it is no run."""
    directory = pathlib.Path(args.model)
    places = [one for one in (directory, directory.parent) if (one / "metrics.jsonl").exists()]   # RUN/best
    trained = read_json(places[0] / "config.json") if places else {}
    if not 0 <= (args.temperature or 0) < math.inf or not 0 < args.top_p <= 1:
        raise UserError(f"--temperature {args.temperature} must be 0 or more, --top-p {args.top_p} in (0, 1]")
    args.base = trained.get("model", args.model)             # what the run started from
    tiny = args.model == "tiny" or getattr(args, "data", "") == "arithmetic"
    args.example = args.example or trained.get("example", False)
    usual = dict(process="rema", turns=1, plan_format="text", max_new_tokens=64 if tiny else 512)
    complete(args, {name: trained.get(name, value) for name, value in usual.items()})
    args.device = pick_device(args.device)
    return trained


def parse_question(argv, description):
    """rollout.py's argv -> its settings."""
    parser = speaking(description)
    parser.add_argument("question", help="what is asked")
    parser.add_argument("--answer", help="the gold answer: then a verdict is given")
    parser.add_argument("--logprobs", choices=("number", "shade"), help="of each token, behind or under it")
    args = parser.parse_args(argv)
    if not args.question.strip():
        raise UserError("the question is empty")
    as_trained(args)
    args.temperature = args.temperature or 0.0
    return args


def parse_eval(argv, description):
    """eval.py's argv -> (settings, rows to evaluate: of a run what it held out, unless --data says)."""
    parser = speaking(description)
    flag = parser.add_argument
    flag("--data", help="arithmetic, words, a benchmark's name or a JSON-lines file with problem and answer "
         "(as trained, else arithmetic for tiny, words for others)")
    flag("--data-dir", help="a directory that holds NAME.jsonl, instead of a download")
    flag("--limit", type=int, help="only the first N problems (all; of generated ones 1,000)")
    flag("--plans", type=int, default=1, help="plans a problem: avg@n, pass@k and votes (1)")
    flag("--answers", type=int, default=1, help="answers a plan, or conversations a problem (1)")
    flag("--diagnose", action="store_true", help="also answer under swapped and empty plans: do they matter?")
    flag("--page", choices=("all", "right", "wrong"), default="all", help="episodes in episodes.html (all)")
    flag("--shade", action="store_true", help="episodes.html shows each token's log-prob as a shade")
    flag("--batch", type=int, default=256, help="rows decoded at a time: less memory, slower (256)")
    flag("--out", help="directory for episodes.jsonl (out/eval-MODEL-PROCESS-DATA)")
    args = parser.parse_args(argv)
    trained = as_trained(args)
    unused(args.out, "is not empty: name another --out, or leave it away")
    if args.diagnose and (args.process, args.turns) != ("rema", 1):
        raise UserError("--diagnose is about plans: --process rema in one turn")
    if args.turns > 1 < args.plans:
        raise UserError("--plans is for one turn: --answers gives more conversations")
    if args.temperature is None:
        args.temperature = float(args.plans * args.answers > 1)
    if trained and not args.data:
        if "eval_data" not in trained:
            raise UserError(f"{args.model}: its config.json is not one of train.py, so say --data")
        args.data = trained["eval_data"] or trained["data"]
        trained["data_dir"] = args.data_dir or trained["data_dir"]
        return args, benchmarks.split_data(Namespace(**trained))[1][:args.limit]
    args.data = args.data or ("arithmetic" if args.model == "tiny" else "words")
    return args, benchmarks.load_data(args.data, "heldout", args.limit, args.data_dir)
