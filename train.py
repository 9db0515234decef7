"""Train the two agents of ReMA in turn, one frozen while the other learns; or one, for comparison.

    python train.py                                       the embedded tiny model, on a laptop's CPU
    python train.py --process vrp                         the same budget for a single agent
    python train.py --model llama-1b --data gsm8k-train   a real model on one CUDA GPU
    python train.py --model llama-8b --lora 16 --fit      how much memory that would take
    torchrun --nproc_per_node 2 train.py                  questions split over two processes or GPUs
    python train.py --resume out/tiny-rema-s0             go on where a run was interrupted

Deviations from the paper, on purpose:
- GRPO where the paper has REINFORCE++ (--advantage reinforce++); the loss is a mean over all tokens
  of the batch;
- no KL term unless asked for (--kl 0.01: the paper's single-turn value), then in the loss, not the
  reward;
- one update for each batch of rollouts (--updates), so the ratio is 1 and clipping does nothing;
- no difficulty filter unless asked for (--filter 200): problems are drawn from all training data;
- the turn-level ratio is a geometric mean (rema.average_over_turns says why);
- a conversation may fill the model's whole context (--preset paper-turns: the paper's has 4,096);
- --updates are passes over the whole batch, also in the presets, where the paper cuts it into
  mini-batches;
- the held-out accuracy of conversations asks only whether the last answer is right. (Their reward
  also asks that the last plan said [FINISH] and that nothing was cut off.)
"""
from data.views import greeting  # noqa: F401  first of all, since torch takes seconds
import math
import time
from argparse import Namespace
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

import eval as evaluation
import rema
from data import UserError
from data.formats.roles import advise, note_program
from data.formats.runs import (claim_run, complete_line, continue_run, go_back, load_state, refuse_used_run,
                               save_state)
from data.problems.choosing import choose_questions, prepare_rows, split_data
from data.views import bars, report, terminal
from data.views.program import (Parser, add_machine_flags, amount, check_agents, count, count_or_none, interruptible,
                                pick_machine, rate, run_program, skippable)
from data.views.statistics import count_failures, describe_step, log_held_out, log_step
from data.views.bars import say
from model import Transformer, save
from rema import Role, Turn
from rollout import Agent, choose_roles, load_agents, sample_episodes


# ------------------------------------------------------------------------------------------------------------
# Flags and their defaults. TINY and REAL: what fits the embedded model, and any other one. Real models take the usual
# rate for training all weights, 1e-6; the tiny one is small and has much to learn, so it takes 300 times that.

TINY = dict(data="arithmetic", lr=3e-4, max_new_tokens=64, questions=32, steps=60, eval_questions=1000,
            micro_tokens=16384)
REAL = dict(data="words", lr=1e-6, max_new_tokens=512, questions=16, steps=100, eval_questions=100,
            micro_tokens=16384)

# Where extensions step in. At the end of this file they append functions to these lists:
#     FLAGS        add flags
#     DEFAULTS     fill in defaults, before fill_in_defaults does
#     CHECKS       refuse what can't work, or begin something; called in the order of the list, when all is known
#     AFTER        look at the agents after training
# EXTENSION_DEFAULTS: their settings as long as nobody asks for them, which the core may read even where their flags are
# cut away. A line of the core that calls an extension says so.
FLAGS, DEFAULTS, CHECKS, AFTER = [], [], [], []
EXTENSION_DEFAULTS = dict(turns=1, plan_format="text", example=False, sft=None, preset=None, lora=0, share=False,
                          fit=False, filter=0, reward="base", normalise="batch", ratio="token", dual_clip=0.0,
                          checkpointing=False, graphs=False)


def add_flags(parser: Parser) -> None:
    flag = parser.add_argument_group("model and problems").add_argument
    flag("--model", default="tiny", help="a name (tiny, llama-1b ...), a hub name, a directory or a run (tiny)")
    flag("--process", choices=sorted(rema.PROCESSES), default="rema", help="vrp, mrp: one agent (rema)")
    flag("--data", help="arithmetic, words, a benchmark or JSON-lines file (arithmetic for tiny, else words)")
    flag("--eval-data", help="held-out problems, likewise (generated: the other split; a file: a tenth)")
    flag("--data-dir", help="a directory that holds NAME.jsonl, so that nothing is downloaded")
    flag = parser.add_argument_group("sampling").add_argument
    flag("--questions", type=count, help="problems a step (32 for tiny, else 16)")
    flag("--group", type=count, nargs="+", default=[8], metavar="G", help="turns that an agent draws for what it is "
         "shown, while it learns: the group they are compared in; several numbers: of each agent (8)")
    flag("--followers", type=count, default=1, help="turns of those who speak after the learner: more, less noise (1)")
    flag("--max-new-tokens", type=count, help="for each turn (64 for tiny, else 512)")
    flag("--temperature", type=rate, default=1.0, help="of samples and loss alike; 1 as in the paper (1.0)")
    flag("--batch", type=count, default=256, help="rows decoded at a time: fewer need less memory (256)")
    flag = parser.add_argument_group("learning").add_argument
    flag("--steps", type=count, help="batches of rollouts (60 for tiny, else 100)")
    flag("--switch-every", type=count_or_none, default=10,
         help="steps each agent learns; 0: all at once (10, the paper's)")
    flag("--first", help="who learns first (who speaks first; in Algorithm 1 it is low)")
    flag("--updates", type=count, default=1, help="optimizer steps a batch: more make the ratio matter (1)")
    flag("--advantage", choices=("grpo", "dr_grpo", "rloo", "reinforce++"), default="grpo",
         help="what a reward is compared with (grpo)")
    flag("--lr", type=rate, help="peak learning rate of AdamW (3e-4 for tiny, else 1e-6; --lora: 10 times)")
    flag("--warmup", type=count_or_none, default=5, help="updates of each agent until the learning rate is reached (5)")
    flag("--clip", type=amount, default=0.2, help="the ratio is clipped to 1 +- this (0.2, the paper's)")
    flag("--grad-clip", type=rate, default=1.0, help="longest gradient that is taken as it is (1.0)")
    flag("--kl", type=amount, default=0.0, help="weight of the KL term against the first weights (0: none)")
    flag("--micro-tokens", type=count, help="tokens at once in training, with padding (16384; real models on a CPU 1200)")
    flag = parser.add_argument_group("watching").add_argument
    flag("--eval-every", type=count, help="steps between held-out evaluations (--switch-every, or 10)")
    flag("--eval-questions", type=count, help="held-out problems (1000 for tiny, else 100)")
    flag("--show-every", type=count, default=20, help="steps between two printed episodes (20)")
    flag("--save-every", type=count, default=10, help="steps between checkpoints for --resume (10)")
    add_machine_flags(parser)
    flag = parser.add_argument_group("run").add_argument
    flag("--out", help="the run's directory (out/MODEL-PROCESS-sSEED, with -2, -3 ... when that exists)")
    flag("--resume", metavar="DIR", help="go on with a run and its settings; only --steps may be changed")


def parse(argv: list[str] | None) -> Namespace:
    """The settings, defaults filled in. UserError for what can't work, in one line."""
    parser = Parser(__doc__)
    parser.set_defaults(**EXTENSION_DEFAULTS)
    for add in [add_flags, *FLAGS]:
        add(parser)
    args = parser.parse_args(argv)
    if args.preset:                                  # extension
        args = apply_preset(parser, argv, args.preset)
    if args.resume:
        args = continue_run(args)
    else:
        for fill_in in [*DEFAULTS, fill_in_defaults]:
            fill_in(args)
    pick_machine(args, args.model)
    for check in CHECKS:
        check(args)
    return args


def fill_in_defaults(args: Namespace) -> None:
    defaults = REAL
    if args.model == "tiny":
        defaults = TINY
    for name, value in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.eval_every is None:
        args.eval_every = args.switch_every or 10


# ------------------------------------------------------------------------------------------------------------
# The optimizer

class Optimizer:
    """AdamW with a warm-up, on the weights themselves. See MasterOptimizer for weights in half precision.

    data/formats/runs.py writes and reads what --resume needs of it: the masters, the number of updates, and all tensors
    that torch's optimizer keeps (of AdamW, its moments).
    """

    def __init__(self, model: Transformer, args: Namespace):
        self.args = args
        self.lr = args.lr                            # its peak
        self.updates = 0
        self.weights = [weight for weight in model.parameters() if weight.requires_grad]
        self.masters = self.make_masters()           # what the optimizer changes: here the weights themselves
        self.adamw = torch.optim.AdamW(self.masters, lr=args.lr, betas=(0.9, 0.95), weight_decay=0.0,
                                       fused=self.weights[0].is_cuda)

    def make_masters(self) -> list[Tensor]:
        return self.weights

    def step(self) -> float:
        """Apply the gradient and forget it -> its norm before clipping. Not finite: nothing is applied."""
        if dist.is_initialized():                    # extension
            add_up_gradients(self.masters)
        norm = torch.nn.utils.clip_grad_norm_(self.masters, self.args.grad_clip).item()
        if math.isfinite(norm):
            self.updates += 1
            for group in self.adamw.param_groups:
                group["lr"] = self.lr * min(1, self.updates / max(1, self.args.warmup))
            self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)
        return norm


def load_learners(args: Namespace, roles: list[Role]) -> list[Agent]:
    """Agents that learn: each has weights of its own, and with --kl their first state as well, which stays."""
    if args.lora or args.share:                      # extension
        return load_sharing_learners(args, roles)
    agents = load_agents(args.model, roles, args, share=False)
    for agent in agents:
        if args.kl:                                  # extension
            agent.reference = copy_model(agent.model)
        add_optimizer(agent, args)
    return agents


def add_optimizer(agent: Agent, args: Namespace) -> None:
    """Make an agent able to learn."""
    agent.model.checkpointing = args.checkpointing
    if args.dtype == "bfloat16":                     # extension
        agent.optimizer = MasterOptimizer(agent.model, args)
    else:
        agent.optimizer = Optimizer(agent.model, args)


# ------------------------------------------------------------------------------------------------------------
# The update

def make_micro_batches(turns: list[Turn], budget: int) -> list[list[Turn]]:
    """Cut turns into lists of at most `budget` tokens with padding; a single turn over it goes alone.

    A prompt is run once in each list, so turns of one prompt stay side by side, and prompts of like length too.
    """
    ordered = sorted(turns, key=lambda turn: (len(turn.prompt), turn.prompt, len(turn.tokens)))
    batches, prompts, longest = [[]], set(), 0
    for turn in ordered:
        prompts.add(tuple(turn.prompt))
        longest = max(longest, len(turn.tokens))
        # Turns come in the order of their prompts' lengths, so this prompt is the longest so far. All prompts are
        # padded to its length, and all turns to that of the longest turn.
        padded = len(prompts) * len(turn.prompt) + (len(batches[-1]) + 1) * longest            # + 1: this turn
        if padded > budget and batches[-1]:
            batches.append([])
            prompts, longest = {tuple(turn.prompt)}, len(turn.tokens)
        batches[-1].append(turn)
    return batches


def flatten(turns: list[Turn], device) -> Tensor:
    """What the loss needs of the learned tokens, turn by turn -> (3, N): old log-probs, advantages, weights."""
    old, advantages, weights = [], [], []
    for turn in turns:
        for i, logprob in enumerate(turn.logprobs):
            if turn.learned is None or turn.learned[i]:
                old.append(logprob)
                advantages.append(turn.advantage)
        weights += turn.weights
    return torch.tensor([old, advantages, weights], device=device)


def update(agent: Agent, turns: list[Turn], args: Namespace) -> dict[str, float]:
    """--updates optimizer steps on one batch of turns -> statistics for the log.

    The weights of the tokens are fixed for the whole batch first, so micro-batches only bound memory.
    """
    rema.assign_weights(turns)
    if args.normalise != "batch":                    # extension
        rema.assign_other_weights(turns, args.normalise, args.max_new_tokens)
    batches = make_micro_batches(turns, args.micro_tokens)
    if dist.is_initialized():                        # extension
        batches = batches[dist.get_rank()::dist.get_world_size()]
    device = agent.model.device

    sums = {"clip_share": 0.0, "entropy": 0.0, "kl": 0.0, "sampling_logp_difference": 0.0}
    counts = dict.fromkeys(sums, 0)                  # over how many tokens; the log has sum / count
    references = [None] * len(batches)
    if args.kl:                                      # extension
        references = compute_references(agent, batches, args.temperature)
    norms = []
    for i in range(args.updates):
        for batch, reference in zip(batches, references):
            old, advantages, weights = flatten(batch, device)
            turn_numbers = None
            if args.ratio == "turn":                 # extension
                turn_numbers = number_batch(batch, device)
            new, entropy = agent.compute_logprobs(batch, args.temperature)
            loss, found = rema.policy_loss(new, old, advantages, weights, clip=args.clip, kl=args.kl, ref=reference,
                                           turn_numbers=turn_numbers, dual_clip=args.dual_clip)
            loss.backward()
            found["entropy"] = entropy.mean()
            if i == 0:                               # of fresh samples: sampler and trainer should agree
                found["sampling_logp_difference"] = (new - old).abs().mean().detach()
            for name, value in found.items():
                sums[name] += value * len(old)
                counts[name] += len(old)
        norms.append(agent.optimizer.step())
    if dist.is_initialized():                        # extension
        add_up_sums(sums, device)
        add_up_sums(counts, device)
    tokens = sum(turn.count_learned() for turn in turns)
    result = {"grad_norm": torch.tensor(norms).max().item(), "trained_tokens": tokens * args.updates}
    for name, value in sums.items():
        result[name] = float(value) / max(1, counts[name])
    return result


# ------------------------------------------------------------------------------------------------------------
# The loop

def train(args: Namespace, agents: list[Agent], rows: list[dict], held_rows: list[dict],
          assign_advantages=rema.assign_advantages, interrupted=()) -> bool:
    """Do all steps that are left, or stop after a step: on Ctrl-C, or after three bad gradients -> whether it stopped.

    interrupted: not empty once Ctrl-C was pressed.
    agents: in speaking order, each with its optimizer. rows, held_rows: to learn from, to measure with.
    assign_advantages(turns, kind): see rema.assign_advantages. Everything goes to the directory args.out.
    """
    run = Run(args, agents, held_rows)
    roles = [agent.role for agent in agents]
    names = [agent.name for agent in agents]
    first = names.index(args.first)                  # check_agents filled it in
    done = run.restore()
    stopped = False
    for step in bars.count_steps(done, args.steps):  # 1, 2, 3 ... as in the log; rema counts from 0
        started = time.perf_counter()
        learning = rema.choose_learners(step - 1, len(agents), args.switch_every, first)
        if args.dtype == "bfloat16":                 # extension: the others' moments leave the card
            move_optimizers(agents, learning, args.device)

        # Sample: question -> plans -> answers
        pool, filtered = rows, {}
        if args.filter:                              # extension
            pool, filtered = filter_problems(args, agents, rows, step, learning[0])
        questions = choose_questions(pool, step, args.questions, args.seed)
        samples = rema.choose_samples(learning, len(agents), args.group, args.followers)
        episodes = sample_episodes(agents, questions, samples, temperatures=[args.temperature] * len(agents),
                                   turns=args.turns, key=(args.seed, step - 1),
                                   max_new_tokens=args.max_new_tokens, batch=args.batch)
        rema.score(episodes, roles)
        sampled = time.perf_counter()

        # Learn: compare each turn with its group, make better ones likelier
        jobs, results = [], []
        for position in learning:                    # the others are frozen: no update, so no step of their optimizers
            turns = rema.collect_turns(episodes, position)
            assign_advantages(turns, args.advantage)
            if not args.kl:                          # the KL term learns from dead groups, too
                turns = rema.drop_dead_groups(turns)
            jobs.append((agents[position], turns))
        if args.share:                               # extension: one update for all
            jobs = join_jobs(jobs)
        for agent, turns in jobs:
            if turns:                                # none if all groups are dead: then nothing is learned
                results.append(update(agent, turns, args))

        # Log, evaluate, save
        metrics = describe_step(episodes, names, learning, results)    # dead groups are counted, too
        metrics.update(filtered, time_sample=sampled - started, time_train=time.perf_counter() - sampled)
        stopped = run.finish_step(step, metrics, episodes, bool(interrupted))
        if stopped:
            break
    run.close()
    return stopped


# ------------------------------------------------------------------------------------------------------------
# Beside the path: what is measured, logged and saved

class Run:
    """The directory of a run: metrics.jsonl (a line a step), episodes.jsonl, the agents, state.safetensors."""

    def __init__(self, args: Namespace, agents: list[Agent], held_rows: list[dict]):
        self.args, self.agents, self.held_rows = args, agents, held_rows
        self.out = Path(args.out)

    def restore(self) -> int:
        """Go back to the last step that was saved -> its number, 0 if there is none. Measure it, if it was not."""
        # The state holds the weights and moments of all agents, and a note. No generators: draws follow from the step.
        if self.args.dtype == "bfloat16":            # extension: a card has no room for the moments of all
            move_optimizers(self.agents, [], "cpu")
        note = load_state(Path(self.args.resume or self.out), self.agents)
        self.failures = note["failures"]             # gradients in a row that were not finite
        # best: the highest held-out accuracy so far, greedy. last: the metrics of the step that was saved.
        self.best, self.last = go_back(self.args, note["step"])
        if note["unmeasured"]:           # the start, or a step whose evaluation was due and did not come about
            if not self.measure(note["step"], self.last):
                raise KeyboardInterrupt
            complete_line(self.out, self.last)
        terminal.show_start(self.last, len(self.held_rows))
        return note["step"]

    def measure(self, step: int, metrics: dict) -> bool:
        """Add held-out accuracy to a step's metrics, keep the best agents -> False if Ctrl-C cut it short.

        What was said about the first five problems is kept for report.html.
        """
        with skippable():
            figures, said = evaluation.measure_held_out(self.agents, self.held_rows, self.args, step)
            metrics.update(figures)
            log_held_out(self.out, step, said)
        if step and metrics.get("heldout_greedy", -1) > self.best:
            self.best = metrics["heldout_greedy"]
            self.save_agents(self.out / "best")
        return "heldout_greedy" in metrics

    def finish_step(self, step: int, metrics: dict, episodes: list, interrupted: bool) -> bool:
        """Evaluate, log, save -> whether the run stops after this step.

        A run that stops is not measured first, so that it stops at once. restore() makes up for that when it goes on.
        """
        args = self.args
        self.failures = count_failures(self.failures, metrics["grad_norm"])
        stop = interrupted or self.failures >= 3
        if dist.is_initialized():                    # extension
            stop = agree(stop, args.device)
        due = step % args.eval_every == 0 or step == args.steps
        if due and not stop:
            stop = not self.measure(step, metrics)
        log_step(self.out, step, metrics, episodes)
        terminal.show_step(step, metrics, self.last, episodes, args.show_every)
        self.last = metrics
        if is_first_process() and (stop or step == args.steps or step % args.save_every == 0):
            # unmeasured: an evaluation was due, but the run was stopped before it, or in the middle of it.
            note = {"step": step, "failures": self.failures, "unmeasured": due and stop}
            save_state(self.out, self.agents, note)
        return stop

    def save_agents(self, directory: Path) -> None:
        if is_first_process():
            for agent in self.agents:
                save(agent.model, agent.tokenizer, directory / agent.name)

    def close(self) -> None:
        """Save the agents, draw the curves. UserError if the run had to be given up."""
        self.save_agents(self.out)
        report.leave_report(self.args)
        if self.failures >= 3:
            raise UserError(f"stopped: three gradients in a row were not finite; the run is kept in {self.out}")


def is_first_process() -> bool:
    """Is this the one that saves and prints? (torchrun starts several, which all have the same weights.)"""
    return not dist.is_initialized() or dist.get_rank() == 0


# ------------------------------------------------------------------------------------------------------------
# The program

def program(argv: list[str] | None, roles: list[Role] | None, assign_advantages) -> None:
    args = parse(argv)
    if args.fit:                                     # extension
        return print_fit(args, roles)
    refuse_used_run(args)
    rows, held_rows = split_data(args.data, args.eval_data, args.eval_questions, args.data_dir)
    chosen = roles or choose_roles(args, rows)
    note_program(args, argv, chosen, roles is not None, assign_advantages)
    agents = load_learners(args, chosen)
    check_agents(args, agents)
    rows = prepare_rows(rows, held_rows, agents, args)
    if args.sft:                                     # extension
        warm_start(args, agents)
    claim_run(args)
    with interruptible(say, args) as interrupted:
        left_undone = train(args, agents, rows, held_rows, assign_advantages, interrupted)
    if left_undone:
        return say(f"interrupted; to go on: {advise(args)}")
    terminal.print_closing(args, held_rows)
    for look in AFTER:
        look(args, agents, held_rows)
    terminal.print_files(args.out, agents)


def main(argv: list[str] | None = None, *, roles: list[Role] | None = None,
         assign_advantages=rema.assign_advantages) -> None:
    """Train as the command line says; what builds on this script calls it with its own roles or advantages.

    roles: in speaking order, each with its prompt and reward (None: those of --process).
    assign_advantages(turns, kind): notes an advantage on each turn of the agent that learns.
    """
    run_program(program, argv, "train.py", roles=roles, assign_advantages=assign_advantages)


# --- extensions ---------------------------------------------------------------------------------------------

import atexit  # noqa: E402
import copy  # noqa: E402
import filecmp  # noqa: E402
import os  # noqa: E402
import json  # noqa: E402
from argparse import BooleanOptionalAction  # noqa: E402
from dataclasses import replace  # noqa: E402

from data.extensions import memory, processes  # noqa: E402
from data.views.program import pick_device, refuse_without_effect  # noqa: E402
from data.formats.hub import NAMES  # noqa: E402
from data.formats.runs import find_agents, holds_adapters  # noqa: E402
from data.formats.files import atomic_write, read_json  # noqa: E402
from data.problems.reading import read_conversations  # noqa: E402
from data.views.statistics import count_tokens, count_turns, group_by_question  # noqa: E402
from model import TARGETS, add_adapters, load  # noqa: E402
from rollout import VARIATIONS, add_variant_flags, equip, make_generator  # noqa: E402


# ------------------------------------------------------------------------------------------------------------
# The paper's settings (--preset), section 5 of its appendix: single turn, and a conversation. GPU hours: unmeasured.

PRESETS = {
    "paper": dict(process="rema", advantage="reinforce++", lr=5e-7, kl=0.01, group=[4], updates=2,
                  questions=1000, max_new_tokens=2048, switch_every=4, first="low", filter=7500,
                  data="math-train", eval_data="math500", steps=24, eval_questions=500),
    "paper-turns": dict(process="rema", turns=30, share=True, ratio="turn", normalise="turn", dual_clip=3.0,
                        lr=1e-6, group=[16], updates=4, questions=128, max_new_tokens=512,
                        data="math-lv35", eval_data="math500", steps=300, eval_questions=500)}


def add_preset_flag(parser: Parser) -> None:
    flag = parser.add_argument_group("settings of the paper").add_argument
    flag("--preset", choices=sorted(PRESETS), help="the paper's settings, in one turn or many (GPU hours unmeasured)")


def apply_preset(parser: Parser, argv: list[str] | None, preset: str) -> Namespace:
    """Read the flags again, with the preset's values as defaults.

    Without --lr, lr stays None: fill_in_sharing_defaults fills it in, since adapters take ten times the preset's.
    """
    parser.set_defaults(**{**PRESETS[preset], "lr": None})
    return parser.parse_args(argv)


# ------------------------------------------------------------------------------------------------------------
# Variants of reward, loss and memory

def add_training_flags(parser: Parser) -> None:
    parser.set_defaults(normalise=None, checkpointing=None)  # fill_in_training_defaults decides
    parser.epilog = memory.CARDS
    flag = parser.add_argument_group("variants of reward, loss and memory").add_argument
    flag("--reward", choices=("base", "consistency"), default="base", help="of plans: truth, or agreement (base)")
    flag("--normalise", choices=("batch", "sequence", "turn", "turns", "constant"),
         help="what the loss is divided by, see rema.assign_other_weights (batch; dr_grpo: constant)")
    flag("--ratio", choices=("token", "turn"), default="token", help="one ratio a token, or a turn (token)")
    flag("--dual-clip", type=amount, default=0.0, help="bounds a bad sample's loss; the paper's code: 3 (0)")
    flag("--checkpointing", action=BooleanOptionalAction, help="recompute to save memory (on cuda, not tiny)")
    flag("--fit", action="store_true", help="only say how much memory this would take, and what would fit")


def fill_in_training_defaults(args: Namespace) -> None:
    if args.fit:
        args.device = "cpu"
    device = pick_device(args.device)
    on_card = torch.device(device).type == "cuda"
    if args.normalise is None:
        args.normalise = "batch"
        if args.advantage == "dr_grpo":
            args.normalise = "constant"
    if args.turns == 1 and args.normalise in ("turn", "turns"):
        # With one turn a row these are the same. (In a guided plan forced tokens stand between learned ones, which
        # number_turns would take for several turns.)
        args.normalise = "sequence"
    if args.checkpointing is None:
        args.checkpointing = args.model != "tiny" and (args.fit or on_card)
    if args.micro_tokens is None and args.model != "tiny" and torch.device(device).type == "cpu" and not args.fit:
        args.micro_tokens = 1200                     # of real models on a CPU


def check_training(args: Namespace) -> None:
    if args.turns > 1 and args.followers > 1:
        raise UserError("--followers is for one turn: in a conversation nobody answers the same words several times")
    if "group" in args.typed and args.turns > 1 and args.switch_every == 0 and len(set(args.group)) > 1:
        raise UserError("--group takes one number where all learn from the same conversations")
    if args.switch_every == 0:
        refuse_without_effect(args, ["first", "followers"], "all learn at once")
    if not args.sft:
        refuse_without_effect(args, ["sft_lr"], "there is no warm start, --sft FILE")
    if not args.lora:
        refuse_without_effect(args, ["lora_alpha", "lora_targets"], "there are no adapters, --lora R")
    if 0 < args.dual_clip <= 1:
        raise UserError(f"--dual-clip {args.dual_clip:g} must be above 1, or 0 for none")
    if args.ratio == "turn" and args.plan_format == "json":
        raise UserError("--ratio turn is not for --plan-format json: forced tokens have no ratio")
    if args.reward == "consistency":
        answers = args.followers
        if args.switch_every == 0:
            answers = args.group[-1]
        if args.process != "rema" or args.turns > 1:
            raise UserError("--reward consistency is for the plans of --process rema in one turn")
        if answers < 4:
            raise UserError(f"--reward consistency with {answers} answers to a plan: agreement among so few says "
                            "nothing, take at least 4 (--followers 4)")


def number_batch(turns: list[Turn], device) -> Tensor:
    """Which turn each learned token belongs to (N,), numbered through the whole micro-batch, for --ratio turn."""
    numbers, first = [], 0
    for turn in turns:
        own = rema.number_turns(turn)
        numbers += [first + number for number in own]
        first = numbers[-1] + 1
    return torch.tensor(numbers, device=device)


def copy_model(model: Transformer) -> Transformer:
    """A model as it is now, for --kl. What is frozen is shared with it: the base of adapters."""
    copied = {}                                      # deepcopy's memo: id of an object -> what to take for its copy
    for weight in model.parameters():
        if not weight.requires_grad:
            copied[id(weight)] = weight
    return copy.deepcopy(model, copied)


@torch.no_grad()
def compute_references(agent: Agent, batches: list[list[Turn]], temperature: float) -> list[Tensor]:
    """Log-probs of the learned tokens of each batch under the weights that the agent began with, for --kl."""
    first = replace(agent, model=agent.reference)
    return [first.compute_logprobs(turns, temperature)[0] for turns in batches]


def vary_reward(roles: list[Role], args: Namespace, rows: list[dict]) -> list[Role]:
    if getattr(args, "reward", "base") == "consistency":     # eval.py has no such flag
        return rema.reward_plans_for_agreement(roles)
    return roles


VARIATIONS.append(vary_reward)


def print_fit(args: Namespace, roles: list[Role] | None) -> None:
    args.voices = len(roles or rema.PROCESSES[args.process])
    print(memory.table(args.model, args))


# ------------------------------------------------------------------------------------------------------------
# Weights in half precision

class MasterOptimizer(Optimizer):
    """AdamW on float32 copies of the weights, the masters, whatever type the model computes in.

    bfloat16 has 8 significant bits: a weight of 1 moves by 0.004 or not at all, so updates of 1e-6 would be
    lost. Gradients of all micro-batches are therefore summed and applied in float32, and the weights copied back.
    """

    def make_masters(self) -> list[Tensor]:
        masters = []
        for weight in self.weights:
            master = weight
            if weight.dtype != torch.float32:        # adapters are float32 themselves
                master = weight.detach().float().requires_grad_()
                self.collect_gradients(weight, master)
            masters.append(master)
        return masters

    def collect_gradients(self, weight: Tensor, master: Tensor) -> None:
        """From now on: as soon as a backward pass has a gradient of `weight`, add it to its master's and drop it."""
        def collect(weight):
            if master.grad is None:
                master.grad = weight.grad.float()
            else:
                master.grad += weight.grad
            weight.grad = None
        weight.register_post_accumulate_grad_hook(collect)

    @torch.no_grad()
    def step(self) -> float:
        norm = super().step()
        for weight, master in zip(self.weights, self.masters):
            if master is not weight:
                weight.copy_(master)
        return norm

    def move(self, device: str) -> None:
        """Masters and moments to "cpu" while the agent is frozen, and back: a card holds one agent's only."""
        if self.masters[0] is self.weights[0]:       # adapters: no copies, and so small that they stay
            return
        for master in self.masters:
            master.data = master.data.to(device)
            state = self.adamw.state[master]
            for name, value in state.items():
                if name != "step" or self.adamw.defaults["fused"]:             # a plain step count stays on the CPU
                    state[name] = value.to(device)


def move_optimizers(agents: list[Agent], learning: list[int], device: str) -> None:
    """A card holds the masters and moments of those who learn only: the others' leave before theirs come."""
    for position, agent in enumerate(agents):
        if position not in learning:
            agent.optimizer.move("cpu")
    for position in learning:
        agents[position].optimizer.move(device)


# ------------------------------------------------------------------------------------------------------------
# Agents that share weights: one set for all (--share), or adapters of their own on one frozen base (--lora)

LORA_RATE = 10             # an adapter wants 10 to 20 times the learning rate of full weights


def add_sharing_flags(parser: Parser) -> None:
    parser.set_defaults(lora=None)                           # fill_in_sharing_defaults decides
    flag = parser.add_argument_group("agents that share weights").add_argument
    flag("--share", action="store_true", help="one set of weights speaks for all roles and learns all")
    flag("--lora", type=count_or_none, metavar="R", help="adapters of rank R; 0: all weights (0; above 4e9 of them 16)")
    flag("--lora-alpha", type=rate, help="the adapters' output is multiplied by alpha / R (2 R)")
    flag("--lora-targets", help="layers with adapters, with commas between (all seven of a block)")


def fill_in_sharing_defaults(args: Namespace) -> None:
    if args.share:
        if args.switch_every != 0:
            refuse_without_effect(args, ["switch_every"], "with --share all learn at once")
        args.switch_every = 0
    if args.lora is None:
        args.lora = 0
        try:
            args.lora = memory.default_lora(memory.config_of(args.model))
        except UserError:                            # not here yet, or a run's directory: the loader will say
            pass
    if args.lora_alpha is None:
        args.lora_alpha = 2.0 * args.lora
    if args.lr is None:
        defaults = REAL
        if args.model == "tiny":
            defaults = TINY
        args.lr = PRESETS.get(args.preset, defaults)["lr"]
        if args.lora or holds_adapters(args.model):
            args.lr = LORA_RATE * args.lr


def check_sharing(args: Namespace) -> None:
    if not args.share:
        return
    if args.process != "rema":
        raise UserError("--share needs two roles: --process rema")
    # A run of two agents that learned apart holds two directories with different files: which of them is meant?
    parts = [os.path.join(args.model, name) for name in ("high", "low")]
    if os.path.isdir(parts[0]) and os.path.isdir(parts[1]):
        _, different, _ = filecmp.cmpfiles(*parts, os.listdir(parts[0]), shallow=False)
        if different:
            raise UserError(f"{args.model} holds two agents, but --share trains one: name {' or '.join(parts)}")


def load_sharing_learners(args: Namespace, roles: list[Role]) -> list[Agent]:
    """As load_learners. The base of adapters is also the reference: it is the model with its adapters off."""
    generator = make_generator(args.seed, "adapters")
    bases, agents = {}, []
    for role, source in zip(roles, find_agents(args.model, [role.name for role in roles])):
        if args.share and agents:
            agents.append(replace(agents[0], role=role))
            continue
        if source not in bases:
            with bars.wait_for(f"loading {source}"):
                bases[source] = load(source, args.device, getattr(torch, args.dtype))
        base, tokenizer = bases[source]
        agent = Agent(role, base, tokenizer)
        if args.lora:
            agent.model = add_named_adapters(base, source, generator, args)
            agent.reference = base
        elif args.kl:
            agent.reference = copy_model(base)
        add_optimizer(agent, args)
        agents.append(agent)
    equip(agents, args)
    return agents


def add_named_adapters(base: Transformer, source: str, generator: torch.Generator, args: Namespace) -> Transformer:
    """Adapters as the flags say. source: where the base is, which PEFT has to find again."""
    name = NAMES.get(source, source)
    if os.path.isdir(name):
        name = Path(name).resolve()
    targets = TARGETS
    if args.lora_targets:
        targets = args.lora_targets.split(",")
    return add_adapters(base, args.lora, args.lora_alpha, generator, targets, name)


def join_jobs(jobs: list[tuple[Agent, list[Turn]]]) -> list[tuple[Agent, list[Turn]]]:
    """All turns in one update of the weights that the agents share."""
    everything = []
    for _, turns in jobs:
        everything += turns
    return [(jobs[0][0], everything)]


# ------------------------------------------------------------------------------------------------------------
# The difficulty filter (--filter), appendix D.1

def add_filter_flag(parser: Parser) -> None:
    flag = parser.add_argument_group("difficulty filter").add_argument
    flag("--filter", type=count_or_none, default=0, metavar="N",
         help="try N problems as a phase starts, keep those solved in 0.2 to 0.8 of 10 tries; 0: keep all (0)")


def check_filter(args: Namespace) -> None:
    if args.filter and (args.turns > 1 or args.switch_every == 0):
        raise UserError("--filter tests the agent about to be trained: it needs --turns 1 and a --switch-every")
    if 0 < args.filter < args.questions:
        raise UserError(f"--filter {args.filter} tries fewer problems than one step takes: "
                        f"--questions {args.questions}")


def choose_tries(agents: int, learner: int) -> tuple[list[int], list[float]]:
    """How problems are tried, by agents in speaking order: how many turns each draws for each thing that it is shown,
    and at what temperature.

    The agent at the position `learner` is about to be trained, so its chances are measured: 10 turns at temperature 1.
    All others, before and after it, say once what is likeliest: 1 turn at temperature 0. That makes 10 tries a problem.

    >>> choose_tries(2, 0)
    ([10, 1], [1.0, 0.0])
    """
    samples, temperatures = [1] * agents, [0.0] * agents
    samples[learner], temperatures[learner] = 10, 1.0
    return samples, temperatures


def choose_pool(rows: list[dict], outcomes: list[list[bool]], questions: int) -> tuple[list[dict], list[dict]]:
    """The rows that are kept, and those that fill the batch where fewer than `questions` are kept.

    outcomes[i]: whether each try at rows[i] was right; rema.is_worth_learning decides by them. Both lists are in the
    order of the rows. The batch is filled with the first of the rows that were not kept, so many that there are
    `questions` rows together, or with all of them where they are too few; with none if enough are kept.
    """
    kept, others = [], []
    for row, tries in zip(rows, outcomes):
        if rema.is_worth_learning(tries):
            kept.append(row)
        else:
            others.append(row)
    refill = others[:max(0, questions - len(kept))]
    return kept, refill


def filter_problems(args: Namespace, agents: list[Agent], rows: list[dict], step: int,
                    learner: int) -> tuple[list[dict], dict]:
    """The rows to train on in the phase that a step belongs to, and metrics of the filter in its first step.

    --filter problems are tried (choose_tries), some of them kept (choose_pool), and those that fill the batch counted.
    """
    start = (step - 1) // args.switch_every * args.switch_every                # the phase's first step, from 0
    name = f"pool-{start}.json"
    if step - 1 > start:                             # in the middle of a phase: what its first step kept
        # Of torchrun's processes only the first one writes into the run, so the others look there, too.
        return read_json(Path(args.resume or args.out) / name)["rows"], {}
    order = torch.randperm(len(rows), generator=make_generator(args.seed, "filter", start)).tolist()
    tried = [rows[i] for i in order[:args.filter]]
    samples, temperatures = choose_tries(len(agents), learner)
    with bars.open_bar(f"filter: trying {len(tried):,} problems", len(tried) * count_turns(samples, args.turns)) as bar:
        episodes = sample_episodes(agents, tried, samples, temperatures=temperatures, key=(args.seed, "filter", start),
                                   max_new_tokens=args.max_new_tokens, batch=args.batch, bar=bar)
    rema.score(episodes, [agent.role for agent in agents])
    outcomes = []
    for tries in group_by_question(episodes):
        outcomes.append([episode.correct for episode in tries])
    kept, refill = choose_pool(tried, outcomes, args.questions)
    text = f"filter: {len(kept)} of {len(tried)} problems are neither too easy nor too hard for {agents[learner].name}"
    if refill:
        text += f"; {len(refill)} others fill the batch"
    say(text)
    atomic_write(Path(args.out) / name, json.dumps({"rows": kept + refill}))
    metrics = {"filter_kept": len(kept) / len(tried), "filter_refilled": len(refill),
               "filter_tokens": count_tokens(episodes)}
    return kept + refill, metrics


# ------------------------------------------------------------------------------------------------------------
# A supervised warm start (--sft)

def add_sft_flags(parser: Parser) -> None:
    flag = parser.add_argument_group("supervised warm start").add_argument
    flag("--sft", metavar="FILE", help="JSON lines of {\"messages\": [...]}: a supervised warm start first")
    flag("--sft-lr", type=rate, default=1e-5, help="its learning rate (1e-5)")


def check_sft(args: Namespace) -> None:
    if args.sft and args.kl:
        raise UserError("--kl would pull back to the weights before --sft: make the warm start a run of its own "
                        "(--steps 1), then take it as --model")


def read_lessons(args: Namespace, agents: list[Agent]) -> list[tuple[str, Turn]]:
    """(first message, lesson) of each conversation; none for a run that goes on. UserError: one is too long."""
    if args.resume and (Path(args.resume) / "state.safetensors").exists():
        return []
    lessons = []
    for messages in read_conversations(args.sft):
        lesson = rema.make_lesson(agents[0].tokenizer, messages)
        length, context = len(lesson.prompt) + len(lesson.tokens), agents[0].model.config.context
        if length > context:
            raise UserError(f"--sft: a conversation of {length} tokens, but a context of {context}")
        lessons.append((messages[0]["content"], lesson))
    return lessons


def warm_start(args: Namespace, agents: list[Agent]) -> None:
    """One pass over conversations. Each agent learns those that begin with its own system message.

    A conversation that begins with no agent's system message teaches all of them. Afterwards the optimizer starts anew.
    (In a run that goes on there are no lessons: it has had them.)
    """
    lessons = read_lessons(args, agents)
    systems = {agent.role.system for agent in agents}
    learners = agents
    if args.share:
        learners = agents[:1]
    for agent in learners:
        others = systems - {agent.role.system}
        if args.share:
            others = set()
        mine = [lesson for system, lesson in lessons if system not in others]
        order = torch.randperm(len(mine), generator=make_generator(args.seed, "sft")).tolist()
        optimizer = agent.optimizer
        optimizer.lr = args.sft_lr
        bar = bars.open_bar(f"warm start of {agent.name}", len(mine), "conversation")
        at_once = args.questions                     # conversations an update
        for start in range(0, len(mine), at_once):
            turns = [mine[i] for i in order[start:start + at_once]]
            count = sum(turn.count_learned() for turn in turns)
            loss = 0.0
            batches = make_micro_batches(turns, args.micro_tokens)
            if dist.is_initialized():
                batches = batches[dist.get_rank()::dist.get_world_size()]
            for batch in batches:
                logprobs, _ = agent.compute_logprobs(batch, 1.0)
                part = -logprobs.sum() / count
                part.backward()
                loss += part.item()
            optimizer.step()
            bar.describe(f"loss {loss:.3f}")
            bar.update(len(turns))
        bar.close()
        optimizer.adamw.state.clear()
        optimizer.updates = 0
        optimizer.lr = args.lr


# ------------------------------------------------------------------------------------------------------------
# For report.html: which settings are other than usual?

def note_usual_settings(args: Namespace) -> None:
    """What the settings would be if --model and --process alone had been said."""
    parser = Parser("")
    parser.set_defaults(**EXTENSION_DEFAULTS)
    for add in [add_flags, *FLAGS]:
        add(parser)
    usual = parser.parse_args(["--model", args.model, "--process", args.process])
    for fill_in in [*DEFAULTS, fill_in_defaults]:
        fill_in(usual)
    usual.first = rema.PROCESSES[args.process][0].name
    report.USUAL.clear()
    report.USUAL.update(vars(usual))


# ------------------------------------------------------------------------------------------------------------
# After training: does the plan matter?

def print_worth_of_plans(args: Namespace, agents: list[Agent], held_rows: list[dict]) -> None:
    if len(agents) == 2 and args.turns == 1 and len(held_rows) > 1:
        few = held_rows[:500]                        # enough for a small error, and a reader is waiting
        print(f"  what the plan is worth, on {len(few)} problems:")
        outcomes = evaluation.diagnose(agents, few, max_new_tokens=args.max_new_tokens, batch=args.batch)
        diagnosis = evaluation.describe_diagnosis(outcomes)
        print(diagnosis)
        report.write_report(args, diagnosis)


# ------------------------------------------------------------------------------------------------------------
# Several processes (torchrun): each plays its share of the questions, takes its share of the micro-batches, and
# gradients are added up before the optimizer. Only the first one shows and keeps anything.

def join_processes(args: Namespace) -> None:
    if "WORLD_SIZE" not in os.environ or dist.is_initialized():
        return
    on_card = torch.device(args.device).type == "cuda"
    dist.init_process_group("nccl" if on_card else "gloo")
    atexit.register(dist.destroy_process_group)      # its threads may abort the exit otherwise
    if on_card:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    atexit.register(processes.join(args).finish)


def add_up_gradients(weights: list[Tensor]) -> None:
    """Each process has gradients of its share of the micro-batches, or none: afterwards all have their sums."""
    for weight in weights:
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        dist.all_reduce(weight.grad)


def add_up_sums(sums: dict[str, float], device) -> None:
    """As add_up_gradients, for the sums that a log is made of."""
    values = torch.tensor([float(value) for value in sums.values()], device=device)
    dist.all_reduce(values)
    sums.update(zip(sums, values.tolist()))


def agree(stop: bool, device: str) -> bool:
    """Whether any process wants to stop."""
    wish = torch.tensor(float(stop), device=device)
    dist.all_reduce(wish)
    return wish.item() > 0


FLAGS += [add_variant_flags, add_preset_flag, add_training_flags, add_sharing_flags, add_filter_flag, add_sft_flags]
DEFAULTS += [fill_in_training_defaults, fill_in_sharing_defaults]
CHECKS += [check_training, check_sharing, check_filter, check_sft, join_processes, note_usual_settings]
AFTER += [print_worth_of_plans]


if __name__ == "__main__":
    main()
