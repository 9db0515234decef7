"""Train the two agents of ReMA in turn, one frozen while the other learns; or one agent, for comparison.

    python train.py                                       the embedded tiny model, minutes on a laptop's CPU
    python train.py --process vrp                         the same budget for a single agent
    python train.py --model llama-1b --data gsm8k-train   a real model on one CUDA GPU
    python train.py --model llama-8b --lora 16 --fit      how much memory that would take
    torchrun --nproc_per_node 2 train.py                  questions split over two processes or GPUs
    python train.py --resume out/tiny-rema-s0             go on where a run was interrupted

Deviations from the paper, on purpose:
- GRPO, its loss averaged over the tokens of the whole batch, not REINFORCE++ (--advantage reinforce++);
- no KL term unless asked for (--kl 0.01: the paper's single-turn value), then in the loss, not the reward;
- one update for each batch of rollouts (--updates), so that the ratio is 1 and clipping does nothing;
- no difficulty filter unless asked for (--filter 200): problems are drawn from the whole training set;
- the turn-level ratio is a geometric mean (rema.average_over_turns says why);
- a conversation may fill the model's whole context (--preset paper-turns: the paper's has 4,096 tokens);
- --updates are passes over the whole batch, also in the presets, where the paper cuts it into mini-batches;
- the held-out accuracy of conversations asks for a right last answer only, the reward for [FINISH] as well.
"""
import argparse
import json
import math
import pathlib
import time
from dataclasses import replace

import torch
import torch.distributed as dist
from tqdm import tqdm

import eval as evaluation
import rema
from data import UserError
from data.formats.files import append, atomic_write, forget_after, read_json
from data.formats.state import load_state, save_state
from data.problems.benchmarks import split_data
from data.views import curves, statistics, terminal
from data.views.program import (Parser, check_bounds, claim_directory, interruptible, pick_device, pick_dtype,
                                pick_threads, refuse_used, run_program)
from data.views.terminal import say
from model import Transformer, load, save
from rema import Role, Turn
from rollout import Agent, choose_roles, find_agents, make_generator, play


# ------------------------------------------------------------------------------------------------------------
# Flags and their defaults. What a model wants when no flag says otherwise: real ones take the literature's
# full-weight rate, 1e-6; the tiny one is far from what it was trained to be.

TINY = dict(data="arithmetic", lr=3e-4, max_new_tokens=64, questions=32, steps=60, eval_questions=1000,
            micro_tokens=16384)
REAL = dict(data="words", lr=1e-6, max_new_tokens=512, questions=16, steps=100, eval_questions=100,
            micro_tokens=16384)
LEAST = dict(switch_every=0, warmup=0, clip=0, kl=0, questions=1, group=1, followers=1, max_new_tokens=1, batch=1,
             steps=1, updates=1, micro_tokens=1, eval_every=1, eval_questions=1, show_every=1, save_every=1,
             threads=1, lr=1e-12, grad_clip=1e-12)

# Where extensions step in: functions that add flags, fill in defaults, check what was asked for, look at the
# agents after training; and what their flags are when nobody asks for them.
FLAGS, DEFAULTS, CHECKS, AFTER = [], [], [], []
VARIANTS = dict(turns=1, plan_format="text", example=False, sft=None, preset=None, lora=0, share=False, fit=False,
                filter=0, reward="base", normalise="batch", ratio="token", dual_clip=0.0, checkpointing=False)


def add_flags(parser: Parser) -> None:
    flag = parser.add_argument_group("model and problems").add_argument
    flag("--model", default="tiny", help="a name (tiny, llama-1b ...), a hub name, a directory or a run (tiny)")
    flag("--process", choices=sorted(rema.PROCESSES), default="rema", help="vrp, mrp: one agent (rema)")
    flag("--data", help="arithmetic, words, a benchmark or JSON-lines file (arithmetic for tiny, else words)")
    flag("--eval-data", help="held-out problems, likewise (generated: the other split; a file: a tenth)")
    flag("--data-dir", help="a directory that holds NAME.jsonl, so that nothing is downloaded")
    flag = parser.add_argument_group("sampling").add_argument
    flag("--questions", type=int, help="problems a step (32 for tiny, else 16)")
    flag("--group", type=int, nargs="+", default=[8], metavar="G", help="turns that an agent draws for what it is "
         "shown, while it learns: the group they are compared in; several numbers: of each agent (8)")
    flag("--followers", type=int, default=1, help="turns of those who speak after the learner: more, less noise (1)")
    flag("--max-new-tokens", type=int, help="for each turn (64 for tiny, else 512)")
    flag("--temperature", type=float, default=1.0, help="of samples and loss alike; 1 as in the paper (1.0)")
    flag("--batch", type=int, default=256, help="rows decoded at a time: fewer need less memory (256)")
    flag = parser.add_argument_group("learning").add_argument
    flag("--steps", type=int, help="batches of rollouts (60 for tiny, else 100)")
    flag("--switch-every", type=int, default=10, help="steps each agent learns; 0: all at once (10, the paper's)")
    flag("--first", help="who learns first; Algorithm 1: low (who speaks first)")
    flag("--updates", type=int, default=1, help="optimizer steps a batch: more make the ratio matter (1)")
    flag("--advantage", choices=("grpo", "dr_grpo", "rloo", "reinforce++"), default="grpo",
         help="what a reward is compared with (grpo)")
    flag("--lr", type=float, help="peak learning rate of AdamW (3e-4 for tiny, else 1e-6; --lora: 10 times)")
    flag("--warmup", type=int, default=5, help="updates of each agent until the learning rate is reached (5)")
    flag("--clip", type=float, default=0.2, help="the ratio is clipped to 1 +- this (0.2, the paper's)")
    flag("--grad-clip", type=float, default=1.0, help="longest gradient that is taken as it is (1.0)")
    flag("--kl", type=float, default=0.0, help="weight of the KL term against the first weights (0: none)")
    flag("--micro-tokens", type=int, help="tokens at once in training, padding included, for memory (16384)")
    flag = parser.add_argument_group("watching").add_argument
    flag("--eval-every", type=int, help="steps between held-out evaluations (--switch-every, or 10)")
    flag("--eval-questions", type=int, help="held-out problems (1000 for tiny, else 100)")
    flag("--show-every", type=int, default=20, help="steps between two printed episodes (20)")
    flag("--save-every", type=int, default=10, help="steps between checkpoints for --resume (10)")
    flag = parser.add_argument_group("run").add_argument
    flag("--seed", type=int, default=0, help="of all draws (0)")
    flag("--device", help="cpu, cuda or mps (cuda where there is one)")
    flag("--dtype", choices=("float32", "bfloat16"), help="for compute (float32; bfloat16 on cards that have it)")
    flag("--threads", type=int, help="of the CPU (1 for tiny: a second one mostly waits; else all)")
    flag("--out", help="the run's directory (out/MODEL-PROCESS-sSEED, with -2, -3 ... when that exists)")
    flag("--resume", metavar="DIR", help="go on with a run and its settings; only --steps may be changed")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The settings, defaults filled in. UserError for what can't work, in one line."""
    parser = Parser(__doc__)
    parser.set_defaults(**VARIANTS)
    for add in [add_flags, *FLAGS]:
        add(parser)
    args = parser.parse_args(argv)
    if args.preset:
        args = apply_preset(parser, argv, args.preset)
    if args.resume:
        return read_settings(parser, args)
    for fill in [*DEFAULTS, fill_in_defaults]:
        fill(args)
    for check in [check_settings, *CHECKS]:
        check(args)
    return args


def fill_in_defaults(args: argparse.Namespace) -> None:
    defaults = REAL
    if args.model == "tiny":
        defaults = TINY
    for name, value in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    args.device = pick_device(args.device)
    args.threads = pick_threads(args.threads, args.model)
    if args.dtype is None:
        args.dtype = str(pick_dtype(args.device)).removeprefix("torch.")
    if args.eval_every is None:
        args.eval_every = args.switch_every or 10


def check_settings(args: argparse.Namespace) -> None:
    check_bounds(args, LEAST)
    agents = len(rema.PROCESSES[args.process])
    if len(args.group) == 1:
        args.group = args.group * agents
    if len(args.group) != agents:
        raise UserError(f"--group takes one number, or one for each of the {agents} agents")
    if args.advantage != "reinforce++" and min(args.group) < 2:
        raise UserError(f"--group {min(args.group)}: --advantage {args.advantage} compares the samples of a group, "
                        "so take at least 2")
    if not 0 < args.temperature < math.inf:
        raise UserError(f"--temperature {args.temperature:g} must be above 0, and finite: greedy samples are all "
                        "the same, so nothing can be compared")


def read_settings(parser: Parser, args: argparse.Namespace) -> argparse.Namespace:
    """The settings of the run that --resume names; beside it only --steps may be said."""
    run = pathlib.Path(args.resume)
    saved = read_json(run / "config.json")
    for name, value in vars(args).items():
        if name not in ("resume", "steps") and value != parser.get_default(name):
            raise UserError(f"--resume takes its settings from the run: beside it only --steps, not --{name}")
    if not {"steps", "switch_every", "seed"} <= saved.keys():
        raise UserError(f"{run} holds no run of train.py: its config.json has other entries")
    if not vars(args).keys() <= saved.keys():
        raise UserError(f"{run} was made by another version of train.py, which alone can go on with it "
                        "(eval.py --model reads it)")
    done = count_steps(run)
    if not (run / "state.safetensors").exists() and done >= min(saved["save_every"], saved["steps"]):
        raise UserError(f"{run} has no state.safetensors, as published runs: it can't go on")
    steps = args.steps or saved["steps"]
    if steps < done:
        raise UserError(f"--steps {steps}: this run has done {done} already")
    check_bounds(args, LEAST)
    pick_device(saved["device"])
    pick_threads(saved["threads"], saved["model"])
    return argparse.Namespace(**{**saved, "resume": args.resume, "out": args.resume, "steps": steps})


def count_steps(run: pathlib.Path) -> int:
    """Steps in a run's log, 0 if it has none."""
    log = run / "metrics.jsonl"
    if not log.exists():
        return 0
    lines = log.read_bytes().split(b"\n")[:-1]               # the last may be half a line
    try:
        return json.loads(lines[-1])["step"] if lines else 0
    except (ValueError, LookupError, TypeError):
        raise UserError(f"{log}: malformed; it is not a log of train.py, or it was damaged") from None


# ------------------------------------------------------------------------------------------------------------
# The optimizer

class Optimizer:
    """AdamW on float32 master weights, whatever type the model computes in.

    bfloat16 has 8 significant bits: a weight of 1 moves by 0.004 or not at all, so updates of 1e-6 would be
    lost. Gradients of all micro-batches are therefore summed and applied in float32, and the weights copied back.
    """

    def __init__(self, model: Transformer, lr: float, warmup: int = 0, grad_clip: float = 1.0):
        self.lr, self.warmup, self.grad_clip = lr, warmup, grad_clip
        self.updates = 0
        self.weights = [weight for weight in model.parameters() if weight.requires_grad]
        self.masters = self.weights
        self.has_masters = self.weights[0].dtype.itemsize < 4
        if self.has_masters:
            self.masters = [weight.detach().float().requires_grad_() for weight in self.weights]
            for weight, master in zip(self.weights, self.masters):
                self.collect_gradients(weight, master)
        on_card = self.weights[0].is_cuda
        self.adamw = torch.optim.AdamW(self.masters, lr=lr, betas=(0.9, 0.95), weight_decay=0.0, fused=on_card)

    def collect_gradients(self, weight, master):
        """From now on a gradient of `weight` is added to that of its master, and forgotten."""
        def collect(weight):
            if master.grad is None:
                master.grad = weight.grad.float()
            else:
                master.grad += weight.grad
            weight.grad = None
        weight.register_post_accumulate_grad_hook(collect)

    def move(self, device: str) -> None:
        """Masters and moments to "cpu" while the agent is frozen, and back: a card holds one agent's only."""
        if not self.has_masters:
            return
        for master in self.masters:
            master.data = master.data.to(device)
            state = self.adamw.state[master]
            for name, value in state.items():
                if name != "step" or self.adamw.defaults["fused"]:             # a plain step count stays on the CPU
                    state[name] = value.to(device)

    def step(self) -> float:
        """Apply the gradient and forget it -> its norm before clipping. Not finite: nothing is applied."""
        for master in self.masters:
            if master.grad is None:
                master.grad = torch.zeros_like(master)
        if dist.is_initialized():
            add_up([master.grad for master in self.masters])
        norm = torch.nn.utils.clip_grad_norm_(self.masters, self.grad_clip).item()
        if math.isfinite(norm):
            self.updates += 1
            for group in self.adamw.param_groups:
                group["lr"] = self.lr * min(1, self.updates / max(1, self.warmup))
            self.adamw.step()
            if self.has_masters:
                with torch.no_grad():
                    for weight, master in zip(self.weights, self.masters):
                        weight.copy_(master)
        self.adamw.zero_grad(set_to_none=True)
        return norm


def load_learners(args: argparse.Namespace, roles: list[Role]) -> list[Agent]:
    """Agents that learn: each has weights of its own (with --kl their first state as well, which stays)."""
    dtype = getattr(torch, args.dtype)
    if args.lora or args.share:
        return load_sharing_learners(args, roles, dtype)
    agents = []
    for role, source in zip(roles, find_agents(args.model, roles)):
        model, tokenizer = load(source, args.device, dtype)
        agent = Agent(role, model, tokenizer)
        model.checkpointing = args.checkpointing
        agent.optimizer = Optimizer(model, args.lr, args.warmup, args.grad_clip)
        if args.kl:
            agent.reference, _ = load(source, args.device, dtype)
        agents.append(agent)
    if args.plan_format == "json":
        guide_first(agents)
    return agents


# ------------------------------------------------------------------------------------------------------------
# The update

def make_micro_batches(turns: list[Turn], budget: int) -> list[list[Turn]]:
    """Cut turns into lists of at most `budget` tokens with padding; those of one prompt stay together.

    A group that alone is over the budget is cut up (its prompt then runs once for each part); a single turn
    over the budget goes alone. Groups of like length go together, so that little is padded.
    """
    groups = {}
    for turn in turns:
        groups.setdefault(tuple(turn.prompt), []).append(turn)
    parts = []
    for prompt, group in groups.items():
        group.sort(key=lambda turn: len(turn.tokens))
        longest = len(group[-1].tokens)
        size = max(1, (budget - len(prompt)) // longest)
        for start in range(0, len(group), size):
            parts.append(group[start:start + size])
    parts.sort(key=lambda part: len(part[0].prompt) + len(part[-1].tokens))

    batches = []
    for part in parts:
        if batches and count_padded(batches[-1] + part) <= budget:
            batches[-1] = batches[-1] + part
        else:
            batches.append(part)
    return batches


def count_padded(turns: list[Turn]) -> int:
    """Tokens of a micro-batch: its prompts, once each, and its turns, all as long as the longest."""
    prompts = {tuple(turn.prompt) for turn in turns}
    longest_prompt = max(len(prompt) for prompt in prompts)
    longest_turn = max(len(turn.tokens) for turn in turns)
    return len(prompts) * longest_prompt + len(turns) * longest_turn


def flatten(turns: list[Turn], device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probs when sampled, advantages and weights of all learned tokens, turn by turn -> three times (N,)."""
    old, advantages, weights = [], [], []
    for turn in turns:
        for i, logprob in enumerate(turn.logprobs):
            if turn.learned is None or turn.learned[i]:
                old.append(logprob)
                advantages.append(turn.advantage)
        weights += turn.weights
    rows = torch.tensor([old, advantages, weights], dtype=torch.float64)
    old, advantages, weights = rows.to(device, torch.float32)
    return old, advantages, weights


def update(agent: Agent, turns: list[Turn], args: argparse.Namespace) -> dict[str, float]:
    """--updates optimizer steps on one batch of turns -> statistics for the log.

    The weights of the tokens are fixed for the whole batch first, so micro-batches only bound memory.
    """
    rema.assign_weights(turns)
    if args.normalise != "batch":
        rema.assign_other_weights(turns, args.normalise, args.max_new_tokens)
    batches = make_micro_batches(turns, args.micro_tokens)
    if dist.is_initialized():
        batches = batches[dist.get_rank()::dist.get_world_size()]
    device = agent.model.embed_tokens.weight.device
    count = sum(turn.count_learned() for turn in turns)

    sums = {"clip_share": 0.0, "entropy": 0.0, "sampling_logp_difference": 0.0, "kl": 0.0}
    norms, references = [], []
    for i in range(args.updates):
        for j, batch in enumerate(batches):
            old, advantages, weights = flatten(batch, device)
            reference, numbers = None, None
            if args.kl:
                if i == 0:
                    references.append(compute_reference(agent, batch, args.temperature))
                reference = references[j]
            if args.ratio == "turn":
                numbers = number_batch(batch, device)
            new, entropy = agent.compute_logprobs(batch, args.temperature)
            loss, found = rema.policy_loss(new, old, advantages, weights, args.clip, args.kl, reference, numbers,
                                           args.dual_clip)
            loss.backward()
            found["entropy"] = entropy.mean()
            if i == 0:                               # before the first step sampler and trainer should agree
                found["sampling_logp_difference"] = (new - old).abs().mean().detach()
            for name, value in found.items():
                sums[name] = sums[name] + value * len(old)
        norms.append(agent.optimizer.step())

    if dist.is_initialized():
        add_up_sums(sums, device)
    result = {"trained_tokens": count * args.updates, "grad_norm": max(norms)}
    for name, value in sums.items():
        tokens = count * args.updates
        if name == "sampling_logp_difference":
            tokens = count
        result[name] = float(value) / tokens
    return result


@torch.no_grad()
def compute_reference(agent: Agent, turns: list[Turn], temperature: float) -> torch.Tensor:
    """Log-probs of the learned tokens under the weights that the agent began with."""
    first = replace(agent, model=agent.reference)
    return first.compute_logprobs(turns, temperature)[0]


# ------------------------------------------------------------------------------------------------------------
# The loop

def choose_questions(rows: list[dict], step: int, args: argparse.Namespace) -> list[dict]:
    """The problems of a step (from 1): the data, shuffled anew for each pass.

    The place in it follows from the step alone. copy: a problem that stands there twice draws other samples.
    """
    chosen, copies = [], {}
    first = (step - 1) * args.questions
    for place in range(first, first + args.questions):
        epoch, i = divmod(place, len(rows))
        if place == first or i == 0:
            order = torch.randperm(len(rows), generator=make_generator(args.seed, "order", epoch)).tolist()
        row = rows[order[i]]
        copies[row["id"]] = copies.get(row["id"], -1) + 1
        chosen.append({**row, "copy": copies[row["id"]]})
    return chosen


def train(args: argparse.Namespace, agents: list[Agent], rows: list[dict], held_rows: list[dict],
          assign_advantages=rema.assign_advantages, interrupted=()) -> bool:
    """All steps that are to be done, or until interrupted is not empty -> whether that left some undone.

    agents: in speaking order, each with its optimizer. rows, held_rows: to learn from, to measure with.
    assign_advantages(turns, kind): see rema.assign_advantages. Everything goes to the directory args.out.
    """
    run = Run(args, agents, held_rows)
    roles = [agent.role for agent in agents]
    names = [agent.name for agent in agents]
    first = names.index(args.first or names[0])
    done = run.restore()
    if done is None:
        done = run.begin()
    stopped = False
    for step in tqdm(range(done + 1, args.steps + 1), "train", args.steps, initial=done, unit="step"):
        started = time.perf_counter()
        # Who learns; the optimizers of the others leave the card
        learning = rema.choose_learners(step - 1, len(agents), args.switch_every, first)
        for position in sorted(range(len(agents)), key=lambda position: position in learning):
            agents[position].optimizer.move(args.device if position in learning else "cpu")

        # Sample: question -> plans -> answers
        pool, filtered = rows, {}
        if args.filter:
            pool, filtered = filter_problems(args, agents, rows, step, learning[0])
        questions = choose_questions(pool, step, args)
        samples = rema.choose_samples(learning, args.group, args.followers)
        episodes = play(agents, questions, samples, temperatures=[args.temperature] * len(agents),
                        turns=args.turns, key=(args.seed, step - 1), max_new_tokens=args.max_new_tokens,
                        batch=args.batch)
        rema.score(episodes, roles)
        sampled = time.perf_counter()

        # Learn: compare each turn with its group, make better ones likelier
        lessons, dead_shares, found = [], [], []
        for position in learning:
            turns = rema.collect_turns(episodes, position)
            assign_advantages(turns, args.advantage)
            dead_shares.append(rema.share_of_dead_groups(turns))
            if not args.kl:                          # which is learned from the others, too
                turns = rema.drop_dead_groups(turns)
            lessons.append((agents[position], turns))
        if args.share:
            lessons = join_lessons(lessons)
        for agent, turns in lessons:
            if turns:
                found.append(update(agent, turns, args))

        # Log, evaluate, save
        metrics = statistics.describe_step(episodes, names, learning, dead_shares, found)
        metrics.update(filtered, time_sample=sampled - started, time_train=time.perf_counter() - sampled)
        stopped = run.finish_step(step, metrics, episodes, interrupted)
        if stopped:
            break
    run.close()
    return stopped and step < args.steps


# ------------------------------------------------------------------------------------------------------------
# Beside the path: what is measured, logged and saved

class Run:
    """The directory of a run: metrics.jsonl (a line a step), episodes.jsonl, the agents, state.safetensors."""

    def __init__(self, args: argparse.Namespace, agents: list[Agent], held_rows: list[dict]):
        self.args, self.agents, self.held_rows = args, agents, held_rows
        self.out = pathlib.Path(args.out)
        self.metrics, self.episodes = self.out / "metrics.jsonl", self.out / "episodes.jsonl"
        self.best, self.failures = -1.0, 0           # best held-out accuracy; bad gradients in a row

    def restore(self) -> int | None:
        """Go back to the last saved step -> its number; None: there is none."""
        done = None
        state = pathlib.Path(self.args.resume or self.out) / "state.safetensors"
        if state.exists():
            note = load_state(state, self.agents)
            done, self.best, self.failures = note["step"], note["best"], note["failures"]
            for agent in self.agents:
                agent.optimizer.move("cpu")          # until its turn comes: a card holds one agent's only
        last = done
        if done is None:
            last = -1
        for log in (self.metrics, self.episodes):
            forget_after(log, last)
        return done

    def begin(self) -> int:
        """Measure the agents as they are -> 0, the number of steps done."""
        before = {"step": 0, **self.measure()}
        append(self.metrics, json.dumps(before))
        say(f"before training, {len(self.held_rows)} problems:{terminal.held_out_line(before)}\n"
            "watch the reward, not the loss: with one update a batch the loss is near 0 by construction")
        return 0

    def measure(self) -> dict:
        return evaluation.measure_held_out(self.agents, self.held_rows, turns=self.args.turns,
                                           max_new_tokens=self.args.max_new_tokens, batch=self.args.batch)

    def finish_step(self, step: int, metrics: dict, episodes: list, interrupted) -> bool:
        """Log, evaluate, save -> whether to stop here."""
        args = self.args
        norm = metrics["grad_norm"]                  # None: all groups were dead
        if norm is not None and math.isfinite(norm):
            self.failures = 0
        elif norm is not None:
            self.failures += 1
        stop = bool(interrupted) or self.failures >= 3
        if dist.is_initialized():
            stop = agree(stop, args.device)
        last = stop or step == args.steps
        if last or step % args.eval_every == 0:
            metrics.update(self.measure())
        append(self.metrics, json.dumps({"step": step, **metrics}))
        for episode in episodes:
            append(self.episodes, json.dumps({"step": step, **statistics.record(episode)}, ensure_ascii=False))
        say(terminal.log_line(step, metrics))
        for warning in terminal.find_warnings(metrics):
            say(f"  warning: {warning}")
        if step % args.show_every == 0:
            say(terminal.describe_episode(episodes[0]))
            say(terminal.describe_episode(episodes[-1]))
        if metrics.get("heldout_greedy", -1) > self.best:
            self.best = metrics["heldout_greedy"]
            self.save_agents(self.out / "best")
        if last or step % args.save_every == 0:
            self.save_state(step)
        return stop

    def save_state(self, step: int) -> None:
        if is_first_process():
            note = {"step": step, "best": self.best, "failures": self.failures}
            save_state(self.out / "state.safetensors", self.agents, note)

    def save_agents(self, directory: pathlib.Path) -> None:
        if is_first_process():
            for agent in self.agents:
                save(agent.model, agent.tokenizer, directory / agent.name)

    def close(self) -> None:
        """Save the agents, draw the curves. UserError if the run had to be given up."""
        args = self.args
        self.save_agents(self.out)
        title = f"{args.model}, {args.process}, seed {args.seed}"
        curves.draw_curves(curves.read_metrics(self.out), self.out / "curves.png", title)
        if self.failures >= 3:
            raise UserError(f"stopped: three gradients in a row were not finite; the run is kept in {self.out}")


def is_first_process() -> bool:
    """Of torchrun's, which all have the same weights; of one, it is that one."""
    return not dist.is_initialized() or dist.get_rank() == 0


# ------------------------------------------------------------------------------------------------------------
# The program

def leave_out_long(rows: list[dict], agents: list[Agent], max_new_tokens: int) -> list[dict]:
    """Rows whose prompts leave room in the context for all that the agents may say."""
    room = agents[0].model.config.context - len(agents) * max_new_tokens
    nothing = {agent.name: "" for agent in agents}
    fitting = []
    for row in rows:
        longest = max(len(agent.tokenizer.chat(agent.role.prompt(row, nothing))) for agent in agents)
        if longest <= room:
            fitting.append(row)
    return fitting


def program(argv: list[str] | None, roles: list[Role] | None = None,
            assign_advantages=rema.assign_advantages) -> None:
    args = parse(argv)
    if args.fit:
        return print_fit(args)
    if not args.resume:
        refuse_used(args.out, f"holds another run: name another --out, or continue it with --resume {args.out}")
    rows, held_rows = split_data(args.data, args.eval_data, args.eval_questions, args.data_dir)
    agents = load_learners(args, roles or choose_roles(args, rows))
    fitting = leave_out_long(rows, agents, args.max_new_tokens)
    if len(fitting) < len(rows):
        say(f"with --max-new-tokens {args.max_new_tokens}, {len(rows) - len(fitting)} of {len(rows)} training "
            f"problems do not fit the context of {agents[0].model.config.context} and are left out")
    if len(fitting) < args.questions:
        raise UserError(f"{len(fitting)} training problems fit, fewer than --questions {args.questions}")
    if args.sft:
        lessons = read_lessons(args, agents)
    if not args.out:
        args.out = claim_directory(f"out/{pathlib.Path(args.model).name}-{args.process}-s{args.seed}")
    atomic_write(pathlib.Path(args.out) / "config.json", json.dumps(vars(args), indent=1))
    if args.sft:
        warm_start(args, agents, lessons)
    with interruptible(say) as interrupted:
        left_undone = train(args, agents, fitting, held_rows, assign_advantages, interrupted)
    if left_undone:
        return say(f"interrupted; to go on: python train.py --resume {args.out}")
    print(f"\n{args.model}, {args.process}, {len(held_rows)} held-out problems of {args.eval_data or args.data}, "
          f"percent\n{terminal.before_and_after(curves.read_metrics(args.out))}")
    for look in AFTER:
        look(args, agents, held_rows)
    print(f"{args.out}: curves.png, metrics.jsonl, episodes.jsonl, best, "
          f"{', '.join(agent.name for agent in agents)}")


def main(argv: list[str] | None = None, *, roles: list[Role] | None = None,
         assign_advantages=rema.assign_advantages) -> None:
    """Train as the command line says; what builds on this script calls it with its own roles or advantages.

    roles: in speaking order, each with its prompt and reward (None: those of --process).
    assign_advantages(turns, kind): notes an advantage on each turn of the agent that learns.
    """
    run_program(program, argv, "train.py", roles=roles, assign_advantages=assign_advantages)


# --- extensions ---------------------------------------------------------------------------------------------

import atexit  # noqa: E402
import filecmp  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
from argparse import BooleanOptionalAction  # noqa: E402

from data.extensions import memory  # noqa: E402
from data.formats.hub import NAMES  # noqa: E402
from data.problems.benchmarks import read_conversations  # noqa: E402
from model import TARGETS, add_adapters  # noqa: E402
from rollout import add_variant_flags, guide_first  # noqa: E402


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
    parser.add_argument("--preset", choices=sorted(PRESETS),
                        help="the paper's settings, in one turn or many (GPU hours unmeasured)")


def apply_preset(parser: Parser, argv: list[str] | None, preset: str) -> argparse.Namespace:
    """Read the flags again, with the preset's values as defaults."""
    parser.set_defaults(**PRESETS[preset])
    return parser.parse_args(argv)


# ------------------------------------------------------------------------------------------------------------
# Variants of reward, loss and memory

def add_training_flags(parser: Parser) -> None:
    flag = parser.add_argument
    flag("--reward", choices=("base", "consistency"), default="base", help="of plans: truth, or agreement (base)")
    flag("--normalise", choices=("batch", "sequence", "turn", "turns", "constant"),
         help="what the loss is divided by, see rema.assign_other_weights (batch; dr_grpo: constant)")
    flag("--ratio", choices=("token", "turn"), default="token", help="one ratio a token, or a turn (token)")
    flag("--dual-clip", type=float, default=0.0, help="bounds a bad sample's loss; the paper's code: 3 (0)")
    flag("--checkpointing", action=BooleanOptionalAction, help="recompute to save memory (on cuda, not tiny)")
    flag("--fit", action="store_true", help="only say how much memory this would take, and what would fit")


def fill_in_training_defaults(args: argparse.Namespace) -> None:
    if args.fit:
        args.device = "cpu"
    device = pick_device(args.device)
    on_card = torch.device(device).type == "cuda"
    if args.normalise is None:
        args.normalise = "batch"
        if args.advantage == "dr_grpo":
            args.normalise = "constant"
    if args.checkpointing is None:
        args.checkpointing = args.model != "tiny" and (args.fit or on_card)
    if args.micro_tokens is None and args.model != "tiny" and device == "cpu" and not args.fit:
        args.micro_tokens = 1200                     # of real models on a CPU


def check_training(args: argparse.Namespace) -> None:
    if 0 < args.dual_clip <= 1 or not 0 <= args.dual_clip < math.inf:
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


def number_batch(turns: list[Turn], device) -> torch.Tensor:
    """Which turn each learned token belongs to (N,), numbered through the whole micro-batch, for --ratio turn."""
    numbers, first = [], 0
    for turn in turns:
        own = rema.number_turns(turn)
        numbers += [first + number for number in own]
        first = numbers[-1] + 1
    return torch.tensor(numbers, device=device)


def print_fit(args: argparse.Namespace) -> None:
    print(memory.table(args.model, args))


# ------------------------------------------------------------------------------------------------------------
# Agents that share weights: one set for all (--share), or adapters of their own on one frozen base (--lora)

LORA_RATE = 10             # an adapter wants 10 to 20 times the learning rate of full weights


def add_sharing_flags(parser: Parser) -> None:
    flag = parser.add_argument
    flag("--share", action="store_true", help="one set of weights speaks for all roles and learns all")
    flag("--lora", type=int, metavar="R", help="adapters of rank R; 0: all weights (0; above 4e9 of them 16)")
    flag("--lora-alpha", type=float, help="the adapters' output is multiplied by alpha / R (2 R)")
    flag("--lora-targets", help="layers with adapters, with commas between (all seven of a block)")


def fill_in_sharing_defaults(args: argparse.Namespace) -> None:
    if args.share:
        args.switch_every = 0
    if args.lora is None:
        args.lora = 0
        try:
            args.lora = memory.default_lora(memory.config_of(args.model))
        except UserError:                            # not here yet, or a run's directory: the loader will say
            pass
    if args.lora_alpha is None:
        args.lora_alpha = 2.0 * args.lora
    if args.lora and (args.lr is None or args.lr == PRESETS.get(args.preset, {}).get("lr")):
        rate = PRESETS.get(args.preset, REAL)["lr"]
        if args.model == "tiny" and not args.preset:
            rate = TINY["lr"]
        args.lr = LORA_RATE * rate


def check_sharing(args: argparse.Namespace) -> None:
    check_bounds(args, {"lora": 0, "lora_alpha": 0})
    if args.lora and not args.lora_alpha:
        raise UserError("--lora-alpha 0 switches the adapters off: leave it away")
    if not args.share:
        return
    if args.process != "rema":
        raise UserError("--share needs two roles: --process rema")
    parts = [os.path.join(args.model, name) for name in ("high", "low")]
    if os.path.isdir(parts[0]) and os.path.isdir(parts[1]):
        _, different, _ = filecmp.cmpfiles(*parts, os.listdir(parts[0]), shallow=False)
        if different:
            raise UserError(f"{args.model} holds two agents, but --share trains one: name {' or '.join(parts)}")


def load_sharing_learners(args: argparse.Namespace, roles: list[Role], dtype: torch.dtype) -> list[Agent]:
    """As load_learners. The base of adapters is also the reference: it is the model with its adapters off."""
    generator = make_generator(args.seed, "adapters")
    bases, agents = {}, []
    for role, source in zip(roles, find_agents(args.model, roles)):
        if args.share and agents:
            agents.append(replace(agents[0], role=role))
            continue
        if source not in bases:
            bases[source] = load(source, args.device, dtype)
        model, tokenizer = bases[source]
        agent = Agent(role, model, tokenizer)
        if args.lora:
            name = NAMES.get(source, source)
            if os.path.isdir(name):
                name = pathlib.Path(name).resolve()
            targets = TARGETS
            if args.lora_targets:
                targets = args.lora_targets.split(",")
            agent.model = add_adapters(model, args.lora, args.lora_alpha, generator, targets, name)
        if args.kl:
            agent.reference = model
            if not args.lora:
                agent.reference, _ = load(source, args.device, dtype)
        agent.model.checkpointing = args.checkpointing
        agent.optimizer = Optimizer(agent.model, args.lr, args.warmup, args.grad_clip)
        agents.append(agent)
    if args.plan_format == "json":
        guide_first(agents)
    return agents


def join_lessons(lessons: list[tuple[Agent, list[Turn]]]) -> list[tuple[Agent, list[Turn]]]:
    """All turns in one update of the weights that the agents share."""
    everything = []
    for _, turns in lessons:
        everything += turns
    return [(lessons[0][0], everything)]


# ------------------------------------------------------------------------------------------------------------
# The difficulty filter (--filter), appendix D.1

def add_filter_flag(parser: Parser) -> None:
    parser.add_argument("--filter", type=int, default=0, metavar="N", help="try N problems as a phase starts, keep "
                        "those solved in 0.2 to 0.8 of 10 tries; 0: keep all (0)")


def check_filter(args: argparse.Namespace) -> None:
    check_bounds(args, {"filter": 0})
    if args.filter and (args.turns > 1 or args.switch_every == 0):
        raise UserError("--filter tests the agent about to be trained: it needs --turns 1 and a --switch-every")
    if 0 < args.filter < args.questions:
        raise UserError(f"--filter {args.filter} tries fewer problems than one step takes: "
                        f"--questions {args.questions}")


def filter_problems(args: argparse.Namespace, agents: list[Agent], rows: list[dict], step: int,
                    learner: int) -> tuple[list[dict], dict]:
    """The rows to train on in the phase that a step belongs to, and metrics of the filter in its first step.

    --filter problems are tried 10 times by the agent about to be trained, the others greedy. Too few are kept:
    problems that were not fill the batch, and are counted.
    """
    start = (step - 1) // args.switch_every * args.switch_every
    kept_in = pathlib.Path(args.resume or args.out) / f"pool-{start}.json"
    if step - 1 > start:
        return read_json(kept_in)["rows"], {}
    order = torch.randperm(len(rows), generator=make_generator(args.seed, "filter", start)).tolist()
    tried = [rows[i] for i in order[:args.filter]]
    samples, temperatures = [1] * len(agents), [0.0] * len(agents)
    samples[learner], temperatures[learner] = 10, 1.0
    episodes = play(agents, tried, samples, temperatures=temperatures, key=(args.seed, "filter", start),
                    max_new_tokens=args.max_new_tokens, batch=args.batch)
    rema.score(episodes, [agent.role for agent in agents])
    kept, others = [], []
    for row, tries in zip(tried, statistics.group_by_question(episodes)):
        if rema.is_worth_learning([episode.correct for episode in tries]):
            kept.append(row)
        else:
            others.append(row)
    refill = others[:max(0, args.questions - len(kept))]
    text = f"filter: {len(kept)} of {len(tried)} problems are neither too easy nor too hard for {agents[learner].name}"
    if refill:
        text += f"; {len(refill)} others fill the batch"
    say(text)
    atomic_write(pathlib.Path(args.out) / kept_in.name, json.dumps({"rows": kept + refill}))
    metrics = {"filter_kept": len(kept) / len(tried), "filter_refilled": len(refill),
               "filter_tokens": statistics.count_tokens(episodes)}
    return kept + refill, metrics


# ------------------------------------------------------------------------------------------------------------
# A supervised warm start (--sft)

def add_sft_flags(parser: Parser) -> None:
    flag = parser.add_argument
    flag("--sft", metavar="FILE", help="JSON lines of {\"messages\": [...]}: a supervised warm start first")
    flag("--sft-lr", type=float, default=1e-5, help="its learning rate (1e-5)")


def check_sft(args: argparse.Namespace) -> None:
    check_bounds(args, {"sft_lr": 1e-12})
    if args.sft and args.kl:
        raise UserError("--kl would pull back to the weights before --sft: make the warm start a run of its own "
                        "(--steps 1), then take it as --model")


def read_lessons(args: argparse.Namespace, agents: list[Agent]) -> list[tuple[str, Turn]]:
    """(first message, lesson) of each conversation; none for a run that goes on. UserError: one is too long."""
    if args.resume and (pathlib.Path(args.resume) / "state.safetensors").exists():
        return []
    lessons = []
    for messages in read_conversations(args.sft):
        lesson = rema.make_lesson(agents[0].tokenizer, messages)
        length, context = len(lesson.prompt) + len(lesson.tokens), agents[0].model.config.context
        if length > context:
            raise UserError(f"--sft: a conversation of {length} tokens, but a context of {context}")
        lessons.append((messages[0]["content"], lesson))
    return lessons


def warm_start(args: argparse.Namespace, agents: list[Agent], lessons: list[tuple[str, Turn]]) -> None:
    """One pass over conversations: an agent learns those with its own system message.

    A conversation with another system message, or none, teaches all agents. The optimizer starts anew after.
    Ctrl-C ends the program: --resume then begins with this once more.
    """
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
        bar = tqdm(range(0, len(mine), args.questions), desc="warm start", unit="step")
        for start in bar:
            turns = [mine[i] for i in order[start:start + args.questions]]
            count = sum(turn.count_learned() for turn in turns)
            loss = 0.0
            for batch in make_micro_batches(turns, args.micro_tokens):
                logprobs, _ = agent.compute_logprobs(batch, 1.0)
                part = -logprobs.sum() / count
                part.backward()
                loss += part.item()
            optimizer.step()
            bar.set_postfix_str(f"loss {loss:.3f}")
        optimizer.adamw.state.clear()
        optimizer.updates = 0
        optimizer.lr = args.lr


# ------------------------------------------------------------------------------------------------------------
# After training: does the plan matter?

def print_diagnosis(args: argparse.Namespace, agents: list[Agent], held_rows: list[dict]) -> None:
    if len(agents) == 2 and args.turns == 1:
        outcomes = evaluation.diagnose(agents, held_rows, max_new_tokens=args.max_new_tokens, batch=args.batch)
        print(evaluation.describe_diagnosis(outcomes))


# ------------------------------------------------------------------------------------------------------------
# Several processes (torchrun): each plays its share of the questions, takes its share of the micro-batches, and
# gradients are added up before the optimizer. Only the first one shows and keeps anything.

def join_processes(args: argparse.Namespace) -> None:
    if "WORLD_SIZE" not in os.environ or dist.is_initialized():
        return
    on_card = torch.device(args.device).type == "cuda"
    dist.init_process_group("nccl" if on_card else "gloo")
    atexit.register(dist.destroy_process_group)      # its threads may abort the exit otherwise
    if on_card:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if dist.get_rank() > 0:
        args.out = tempfile.mkdtemp()
        sys.stdout = sys.stderr = open(os.devnull, "w")


def add_up(tensors: list[torch.Tensor]) -> None:
    """Each tensor becomes the sum of all processes' tensors."""
    for tensor in tensors:
        dist.all_reduce(tensor)


def add_up_sums(sums: dict[str, float], device) -> None:
    """The same for the sums that a log is made of."""
    values = torch.tensor([float(value) for value in sums.values()], device=device)
    add_up([values])
    for name, value in zip(sums, values.tolist()):
        sums[name] = value


def agree(stop: bool, device: str) -> bool:
    """Whether any process wants to stop."""
    wish = torch.tensor(float(stop), device=device)
    add_up([wish])
    return wish.item() > 0


FLAGS += [add_variant_flags, add_preset_flag, add_training_flags, add_sharing_flags, add_filter_flag, add_sft_flags]
DEFAULTS += [fill_in_training_defaults, fill_in_sharing_defaults]
CHECKS += [check_training, check_sharing, check_filter, check_sft, join_processes]
AFTER += [print_diagnosis]


if __name__ == "__main__":
    main()
