"""Train the two agents of ReMA in turn, one frozen while the other learns; or one agent, for comparison.

    python train.py                                       the embedded tiny model, minutes on a laptop's CPU
    python train.py --process vrp                         the same budget for a single agent
    python train.py --model llama-1b --data gsm8k-train   a real model on one CUDA GPU
    python train.py --resume out/tiny-rema-s0             go on where a run was interrupted

Deviations from the paper, on purpose:
- GRPO, its loss averaged over the tokens of the whole batch, not REINFORCE++ (--advantage reinforce++);
- no KL term unless asked for (--kl 0.01: the paper's single-turn value), then in the loss, not the reward;
- one update for each batch of rollouts (--updates), so that the ratio is 1 and clipping does nothing;
- the problems of a step are drawn from the whole training set: no difficulty filter yet.
"""
import argparse
import json
import math
import pathlib
import signal
import time

import torch
from tqdm import tqdm

import eval as evaluation
import model as models
import rema
from data import UserError, plots
from data.checkpoint import append, atomic_write, forget_after, load_state, read_json, save_state
from data.plots import say
from rollout import batch_logprobs, rollout, stream

# What a model wants when no flag says otherwise: (data, learning rate, tokens a turn, questions, steps). Real
# models take the literature's full-weight rate, 1e-6; the tiny one is far from what it was trained to be.
DEFAULTS = {True: ("arithmetic", 3e-4, 64, 32, 60), False: ("words", 1e-6, 512, 16, 100)}


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    flag = parser.add_argument_group("model and problems").add_argument
    flag("--model", default="tiny", help="a name (tiny, llama-1b ...), a hub name, or a directory (tiny)")
    flag("--process", choices=sorted(rema.PROCESSES), default="rema", help="vrp, mrp: a single agent (rema)")
    flag("--data", help="arithmetic, words, a benchmark or JSON-lines file (arithmetic for tiny, else words)")
    flag("--eval-data", help="held-out problems, likewise (generated: the other split; a file: a tenth)")
    flag("--data-dir", help="a directory that holds NAME.jsonl, so that nothing is downloaded")
    flag("--example", action="store_true", help="three worked examples first: small models need to see the format")
    flag = parser.add_argument_group("sampling").add_argument
    flag("--questions", type=int, help="problems a step (32 for tiny, else 16)")
    flag("--plans", type=int, default=8, help="plans a problem while high learns: its group (8)")
    flag("--answers", type=int, default=8, help="answers a plan while the low-level or only agent learns (8)")
    flag("--answers-high", type=int, default=1, help="answers a plan while high learns: less noise (1)")
    flag("--max-new-tokens", type=int, help="for each turn (64 for tiny, else 512)")
    flag("--temperature", type=float, default=1.0, help="of samples and loss alike; 1 as in the paper (1.0)")
    flag("--batch", type=int, default=256, help="rows decoded at a time: fewer need less memory (256)")
    flag = parser.add_argument_group("learning").add_argument
    flag("--steps", type=int, help="batches of rollouts (60 for tiny, else 100)")
    flag("--switch-every", type=int, default=10, help="steps each agent learns; 0: both (10, the paper's)")
    flag("--first", choices=("high", "low"), default="high", help="who learns first; Algorithm 1: low (high)")
    flag("--updates", type=int, default=1, help="optimizer steps a batch: more make the ratio matter (1)")
    flag("--advantage", choices=rema.ADVANTAGES, default="grpo", help="what a reward is compared with (grpo)")
    flag("--normalise", choices=("batch", "sequence", "constant"), help="what the loss is divided by (batch)")
    flag("--lr", type=float, help="peak learning rate of AdamW (3e-4 for tiny, else 1e-6)")
    flag("--warmup", type=int, default=5, help="updates of each agent until the learning rate is reached (5)")
    flag("--clip", type=float, default=0.2, help="the ratio is clipped to 1 +- this (0.2, the paper's)")
    flag("--grad-clip", type=float, default=1.0, help="longest gradient that is taken as it is (1.0)")
    flag("--kl", type=float, default=0.0, help="weight of the KL term against the initial weights (0: none)")
    flag("--micro-tokens", type=int, default=16384, help="tokens at once in training, for memory (16384)")
    flag("--checkpointing", action="store_true", help="recompute in the backward pass: less memory, slower")
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
    flag("--resume", metavar="DIR", help="go on with a run and its settings; only more --steps may be added")
    args = parser.parse_args(argv)
    if args.resume:
        saved = read_json(pathlib.Path(args.resume) / "config.json")
        given = [name for name, value in vars(args).items() if value != parser.get_default(name)]
        if not {"steps", "switch_every", "seed"} <= saved.keys():
            raise UserError(f"{args.resume} holds no run of train.py: its config.json has other entries")
        if set(given) - {"resume", "steps"}:
            raise UserError(f"--resume takes its settings from the run: beside it only --steps, not {given}")
        evaluation.pick_device(saved["device"])
        saved.update(resume=args.resume, out=args.resume, steps=args.steps or saved["steps"])
        return argparse.Namespace(**saved)

    data, lr, tokens, questions, steps = DEFAULTS[args.model == "tiny"]
    args.device = device = evaluation.pick_device(args.device)
    defaults = dict(data=data, lr=lr, max_new_tokens=tokens, questions=questions, steps=steps,
                    eval_every=args.switch_every or 10, eval_questions=1000 if args.model == "tiny" else 100,
                    normalise="constant" if args.advantage == "dr_grpo" else "batch",
                    dtype="bfloat16" if device == "cuda" else "float32")
    for name, value in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    positive = ("questions", "plans", "answers", "answers_high", "max_new_tokens", "batch", "steps",
                "updates", "micro_tokens", "eval_every", "eval_questions", "show_every", "save_every")
    least = {"switch_every": 0, "warmup": 0, "clip": 0, "kl": 0, "lr": 1e-12, "grad_clip": 1e-12,
             **dict.fromkeys(positive, 1)}
    for name, bound in least.items():
        if getattr(args, name) < bound:
            flag = name.replace("_", "-")
            raise UserError(f"--{flag} must be at least {bound:g}, not {getattr(args, name)}")
    if args.temperature <= 0:
        raise UserError(f"--temperature {args.temperature:g}: greedy samples are all the same, "
                        "so nothing can be compared")
    for flag, size in (("--plans", args.plans), ("--answers", args.answers))[args.process != "rema":]:
        if size < 2 and args.advantage != "reinforce++":
            raise UserError(f"{flag} {size} is too small: --advantage {args.advantage} compares the samples "
                            "of a group, so take at least 2")
    return args


# ------------------------------------------------------------------------------------------------------------
# An agent that learns

class Learner:
    """A Transformer with AdamW on float32 master weights, whatever the type it computes in.

    bfloat16 has 8 significant bits: a weight of 1 moves by 0.004 or not at all, so updates of 1e-6 are lost.
    Gradients of all micro-batches are therefore summed and applied in float32, and the weights copied back.
    """

    def __init__(self, model, args):
        self.model, self.args, self.updates = model, args, 0
        self.weights = list(model.parameters())
        self.masters = self.weights
        if self.weights[0].dtype.itemsize < 4:
            self.masters = [weight.detach().float().requires_grad_() for weight in self.weights]
            for weight, master in zip(self.weights, self.masters):
                weight.register_post_accumulate_grad_hook(lambda w, m=master: self.collect(w, m))
        self.optimizer = torch.optim.AdamW(self.masters, lr=args.lr, betas=(0.9, 0.95), weight_decay=0.0,
                                           fused=args.device == "cuda")

    @staticmethod
    def collect(weight, master):
        master.grad = weight.grad.float() if master.grad is None else master.grad.add_(weight.grad)
        weight.grad = None

    def step(self):
        """Apply the gradient and forget it -> its norm before clipping. Not finite: nothing is applied."""
        norm = torch.nn.utils.clip_grad_norm_(self.masters, self.args.grad_clip).item()
        if math.isfinite(norm):
            for settings in self.optimizer.param_groups:
                settings["lr"] = self.args.lr * min(1.0, (self.updates + 1) / max(1, self.args.warmup))
            self.optimizer.step()
            self.updates += 1
            if self.masters is not self.weights:
                with torch.no_grad():
                    for weight, master in zip(self.weights, self.masters):
                        weight.copy_(master)
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def state(self):
        """Tensors from which load_state restores weights and moments bit for bit."""
        tensors = {f"weight.{i}": master.detach() for i, master in enumerate(self.masters)}
        for i, moments in self.optimizer.state_dict()["state"].items():
            tensors.update({f"{name}.{i}": value for name, value in moments.items()})
        return tensors

    def load_state(self, tensors, updates):
        self.updates = updates
        moments = {i: {name: tensors[f"{name}.{i}"].clone() for name in ("step", "exp_avg", "exp_avg_sq")}
                   for i in range(len(self.masters)) if f"step.{i}" in tensors}
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        with torch.no_grad():
            for i, (weight, master) in enumerate(zip(self.weights, self.masters)):
                master.copy_(tensors[f"weight.{i}"])
                weight.copy_(master)


# ------------------------------------------------------------------------------------------------------------
# The update

def micro_batches(samples, budget):
    """Cut rema.Samples into lists of at most `budget` tokens with padding; those of one prompt stay together.

    Groups of like length go together, so that little is padded. A group that alone is over the budget is cut
    up (its prompt then runs once for each part); a single sample over the budget goes alone.
    """
    by_prompt = {}
    for sample in samples:
        by_prompt.setdefault(tuple(sample.prompt), []).append(sample)
    parts = []
    for prompt, group in by_prompt.items():
        group.sort(key=lambda sample: len(sample.tokens))
        size = max(1, (budget - len(prompt)) // len(group[-1].tokens))
        parts += [group[i:i + size] for i in range(0, len(group), size)]
    parts.sort(key=lambda part: len(part[-1].tokens) + len(part[0].prompt))

    batches, cost = [], lambda ps: (len(ps) * max(len(p[0].prompt) for p in ps)
                                    + sum(map(len, ps)) * max(len(p[-1].tokens) for p in ps))
    for part in parts:
        if batches and cost(batches[-1] + [part]) <= budget:
            batches[-1].append(part)
        else:
            batches.append([part])
    order = {prompt: i for i, prompt in enumerate(by_prompt)}             # parts of one prompt meet again
    return [sorted((sample for part in batch for sample in part), key=lambda one: order[tuple(one.prompt)])
            for batch in batches]


def update(learner, samples, args, reference=None):
    """--updates optimizer steps on one batch of samples -> statistics for the log.

    Every token's weight in the loss is fixed for the whole batch first, so micro-batches only bound memory.
    """
    weights = rema.token_weights([len(sample.tokens) for sample in samples], args.normalise,
                                 args.max_new_tokens)
    share = {id(sample): weight for sample, weight in zip(samples, weights)}
    device = learner.weights[0].device
    dtype = torch.promote_types(learner.weights[0].dtype, torch.float32)
    batches = []
    for batch in micro_batches(samples, args.micro_tokens):
        flat = [torch.tensor(values, device=device, dtype=dtype) for values in (
            [logprob for s in batch for logprob in s.logprobs],
            [s.advantage for s in batch for _ in s.tokens], [share[id(s)] for s in batch for _ in s.tokens])]
        with torch.no_grad():
            batches.append((batch, *flat,
                            batch_logprobs(reference, batch, args.temperature)[0] if args.kl else None))

    total, count, norms = {}, sum(len(sample.tokens) for sample in samples), []
    for i in range(args.updates):
        for batch, old, advantage, weight, ref in batches:
            new, entropy = batch_logprobs(learner.model, batch, args.temperature)
            loss, stats = rema.policy_loss(new, old, advantage, weight, args.clip, args.kl, ref)
            loss.backward()
            stats["entropy"] = entropy.mean().item()
            if i == 0:
                stats["sampling_logp_difference"] = (new - old).abs().mean().item()
            for name, value in stats.items():
                total[name] = total.get(name, 0.0) + value * len(old) / count
        norms.append(learner.step())
    for name in total.keys() - {"sampling_logp_difference"}:
        total[name] /= args.updates
    return {**total, "grad_norm": max(norms, key=lambda norm: norm if math.isfinite(norm) else math.inf),
            "trained_tokens": count * args.updates}


# ------------------------------------------------------------------------------------------------------------
# The loop

def models_of(agents):
    return {role: learner.model for role, learner in agents.items()}


def one_step(step, agents, tokenizer, rows, roles, args, reference):
    """Sample, score, learn -> (metrics, episodes)."""
    learning = rema.learners(step, sorted(agents, key=lambda role: role != args.first), args.switch_every)
    plans, answers = rema.sampling_shape(learning, args.plans, args.answers, args.answers_high)
    started = time.perf_counter()
    episodes = rollout(models_of(agents), tokenizer, rows, roles, plans=plans,
                       answers=answers, max_new_tokens=args.max_new_tokens, temperature=args.temperature,
                       key=(args.seed, step), batch=args.batch)
    sampled = time.perf_counter()
    rema.score(episodes)
    turns = {id(turn): turn for episode in episodes for turn in episode.turns}.values()
    tokens = sum(len(turn.tokens) for turn in turns)
    metrics = {"learner": "+".join(sorted(learning)),
               "accuracy": sum(e.correct for e in episodes) / len(episodes)}
    for role in agents:
        metrics[f"reward_{role}"] = sum(e.rewards[role] for e in episodes) / len(episodes)
    theirs = [turn for turn in turns if turn.role in learning]
    metrics.update(length=sum(len(turn.tokens) for turn in theirs) / len(theirs),
                   truncated=sum(not turn.stopped for turn in theirs) / len(theirs),
                   repeated=sum(plots.repeated_share(turn.tokens) for turn in theirs) / len(theirs),
                   unparsed=evaluation.unparsed(episodes), episodes=len(episodes), sampled_tokens=tokens)
    trained, found = 0, []
    for role in learning:
        samples, dead = rema.samples(episodes, role, args.advantage, keep_dead=args.kl > 0)
        stats = update(agents[role], samples, args, reference.get(role)) if samples else {}
        trained += stats.pop("trained_tokens", 0)
        found.append({"frac_reward_zero_std": dead, **stats})
    for name in ("frac_reward_zero_std", "entropy", "kl", "grad_norm", "clip_share",
                 "sampling_logp_difference"):
        values = [one[name] for one in found if name in one]           # of the learners; two are averaged
        metrics[name] = sum(values) / len(values) if values else None
    ended = time.perf_counter()
    metrics.update(time_sample=sampled - started, time_train=ended - sampled,
                   sample_tokens_per_s=tokens / (sampled - started),
                   train_tokens_per_s=trained / (ended - sampled))
    return metrics, episodes


def run(argv):
    args = parse(argv)
    if args.out and not args.resume and (out := pathlib.Path(args.out)).exists() and (
            not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} holds another run: name another --out, or continue it with --resume {out}")
    dtype, roles = getattr(torch, args.dtype), rema.roles(args.process, args.example)
    agents, context = {}, 0
    for role, source in evaluation.sources(args.model, roles).items():       # each agent has its own weights
        model, tokenizer = models.load(source, args.device, dtype)
        model.checkpointing, context = args.checkpointing, model.config.context
        agents[role] = Learner(model, args)
    reference = evaluation.load_agents(args.model, roles, args.device, dtype)[0] if args.kl else {}

    train_rows, eval_rows = evaluation.split_data(args)
    fit = evaluation.fitting(train_rows, tokenizer, roles, context, args.max_new_tokens)
    if len(fit) < len(train_rows):
        say(f"{len(train_rows) - len(fit)} of {len(train_rows)} training problems are left out: with "
            f"--max-new-tokens {args.max_new_tokens} they do not fit the context of {context}")
    held = evaluation.fitting(eval_rows, tokenizer, roles, context, args.max_new_tokens)
    if len(held) < len(eval_rows):
        say(f"{len(eval_rows) - len(held)} held-out problems do not fit either: they count as wrong")
    if len(fit) < args.questions:
        raise UserError(f"{len(fit)} training problems fit, fewer than --questions {args.questions}")

    def measure():
        return evaluation.held_out(models_of(agents), tokenizer, eval_rows, roles, args.max_new_tokens,
                                   args.batch)

    args.out = args.out or str(evaluation.claim(
        pathlib.Path("out") / f"{pathlib.Path(args.model).name}-{args.process}-s{args.seed}"))
    out = pathlib.Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    atomic_write(out / "config.json", json.dumps(vars(args), indent=1).encode())
    first, best, failures = 1, -1.0, 0
    if args.resume and (out / "state.safetensors").exists():
        first, best, failures = load_state(out / "state.safetensors", agents)
        forget_after(out / "metrics.jsonl", first)
        forget_after(out / "episodes.jsonl", first)
        first += 1
    else:
        for name in ("metrics.jsonl", "episodes.jsonl"):
            (out / name).unlink(missing_ok=True)
        before = {"step": 0, **measure()}
        append(out / "metrics.jsonl", json.dumps(before))
        say(f"before training: held-out {before['heldout_greedy']:.1f} % greedy, "
            f"{before['heldout_t1']:.1f} % at temperature 1 ({len(eval_rows)} problems)")
        say("watch the reward, not the loss: with one update a batch the loss is near 0 by construction")

    interrupted = []

    def stop_soon(*_):
        interrupted.append(True)
        say("interrupted: this step ends, then the run is saved")
    try:
        previous = signal.signal(signal.SIGINT, stop_soon)
    except ValueError:                       # not the main thread: then whoever started it deals with Ctrl-C
        previous = None
    try:
        healthy = train(first, agents, tokenizer, fit, roles, args, out, best, failures, reference,
                        interrupted, measure)
    finally:
        if previous is not None:
            signal.signal(signal.SIGINT, previous)
    if not healthy:
        raise UserError(f"stopped: three gradients in a row were not finite; the run is kept in {out}")
    closing_table(args, agents, tokenizer, eval_rows, roles)


def pick(rows, step, args):
    """The rows of a step: the data is shuffled for each pass, the place in it follows from the step alone."""
    chosen = []
    for place in range((step - 1) * args.questions, step * args.questions):
        epoch, i = divmod(place, len(rows))
        if not chosen or i == 0:
            order = torch.randperm(len(rows), generator=stream(args.seed, "order", epoch)).tolist()
        chosen.append(rows[order[i]])
    return chosen


def train(first, agents, tokenizer, rows, roles, args, out, best, failures, reference, interrupted, measure):
    """Steps `first` to --steps, or until interrupted -> whether the gradients were finite."""
    for step in tqdm(range(first, args.steps + 1), initial=first - 1, total=args.steps, desc="train",
                     unit="step"):
        metrics, episodes = one_step(step - 1, agents, tokenizer, pick(rows, step, args), roles,
                                     args, reference)
        norm = metrics["grad_norm"]                          # None: all groups were dead
        bad = norm is not None and not math.isfinite(norm)
        failures = failures + 1 if bad else failures if norm is None else 0
        last = step == args.steps or bool(interrupted) or failures == 3
        if step % args.eval_every == 0 or last:
            metrics.update(measure())
        append(out / "metrics.jsonl", json.dumps({"step": step, **metrics}))
        append(out / "episodes.jsonl", "\n".join(f'{{"step": {step}, {evaluation.record(episode)[1:]}'
                                                 for episode in episodes))
        say(plots.log_line(step, metrics))
        for name in plots.watch(metrics):
            say(f"  warning: {name}")
        if "heldout_greedy" in metrics:
            say(f"  held-out {metrics['heldout_greedy']:.1f} % greedy, {metrics['heldout_t1']:.1f} % "
                "at temperature 1")
            if metrics["heldout_greedy"] > best:
                best = metrics["heldout_greedy"]
                save_agents(agents, tokenizer, out / "best")
        if step % args.show_every == 0:
            for episode in (episodes[0], episodes[-1]):
                say(plots.episode_text(episode))
        if step % args.save_every == 0 or last:
            save_state(out / "state.safetensors", agents, step, best, failures)
        if last:
            break
    save_agents(agents, tokenizer, out)
    plots.curves(plots.read(out), out / "curves.png", f"{args.model}, {args.process}, seed {args.seed}")
    return failures < 3


def save_agents(agents, tokenizer, directory):
    for role, learner in agents.items():
        models.save(learner.model, tokenizer, directory / role)


def closing_table(args, agents, tokenizer, eval_rows, roles):
    """What the run has changed, for stdout."""
    print(f"\n{args.model}, {args.process}, {len(eval_rows)} held-out problems of "
          f"{args.eval_data or args.data}, percent")
    print(plots.before_and_after(plots.read(args.out)))
    if len(roles) == 2:
        outcomes = evaluation.diagnose(models_of(agents), tokenizer, eval_rows, roles, batch=args.batch,
                                       max_new_tokens=args.max_new_tokens)
        print(evaluation.diagnosis(outcomes))
    print(f"{args.out}: curves.png, metrics.jsonl, episodes.jsonl, config.json, {', '.join(agents)}, best")


def main(argv=None):
    evaluation.guarded(run, argv, "train.py")


if __name__ == "__main__":
    main()
