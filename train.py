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
- the turn-level ratio is a geometric mean (rema.policy_loss says why);
- a conversation may fill the model's whole context (--preset paper-turns: the paper's has 4,096 tokens);
- --updates are passes over the whole batch, also in the presets, where the paper cuts it into mini-batches;
- the held-out accuracy of conversations asks for a right last answer only, the reward for [FINISH] as well.
"""
import argparse
import atexit
import json
import math
import os
import pathlib
import sys
import tempfile
import time
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from tqdm import tqdm

import eval as evaluation
import model as models
import rema
from data import UserError, guarded, interruptible
from data.extensions import memory
from data.views import plots
from data.problems.benchmarks import read_conversations, split_data
from data.formats.files import append, atomic_write, forget_after, read_json
from data.formats.hub import NAMES
from data.formats.state import load_state, save_state
from data.extensions.compiling import compile_step
from data.flags import claim, parse, unused
from data.extensions.guide import Guide, action_shares
from data.views.plots import say
from data.formats.tokenizer import Tokenizer
from rollout import batch_logprobs, load_agents, micro_batches, play, ranks, sources, stream, together


# ------------------------------------------------------------------------------------------------------------
# An agent that learns

class Learner:
    """A Transformer with AdamW on float32 master weights, whatever the type it computes in.

    bfloat16 has 8 significant bits: a weight of 1 moves by 0.004 or not at all, so updates of 1e-6 are lost.
    Gradients of all micro-batches are therefore summed and applied in float32, and the weights copied back.
    With LoRA only the adapters learn; they are float32 themselves.
    """

    def __init__(self, model, args):
        self.model, self.args, self.updates = model, args, 0
        self.weights = [weight for weight in model.parameters() if weight.requires_grad]
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

    def rest(self, device):
        """Masters and moments to "cpu" while the agent is frozen, and back: a card holds one agent's only."""
        if self.masters is not self.weights:
            for master in self.masters:
                master.data = master.data.to(device)
                for name, moment in self.optimizer.state[master].items():
                    # A fused optimizer wants its step count where the weights are, the plain one on the CPU.
                    place = device if name != "step" or self.optimizer.defaults["fused"] else "cpu"
                    self.optimizer.state[master][name] = moment.to(place)

    def step(self, rate=None):
        """Apply the gradient and forget it -> its norm before clipping. Not finite: nothing is applied."""
        for master in self.masters:              # of several processes, each has a part of the micro-batches
            master.grad = together(torch.zeros_like(master) if master.grad is None else master.grad)
        norm = torch.nn.utils.clip_grad_norm_(self.masters, self.args.grad_clip).item()
        if math.isfinite(norm):
            for group in self.optimizer.param_groups:
                group["lr"] = (rate or self.args.lr) * min(1, (self.updates + 1) / max(1, self.args.warmup))
            self.optimizer.step()
            self.updates += 1
            if self.masters is not self.weights:
                with torch.no_grad():
                    for weight, master in zip(self.weights, self.masters):
                        weight.copy_(master)
        self.optimizer.zero_grad(set_to_none=True)
        return norm


def load_learners(args, roles, dtype):
    """-> ({role name: Learner} in the order of learning, {role name: reference Transformer}, tokenizer).

    Each agent has its own weights; or its own adapters on one frozen base, which is then also the reference;
    or, with --share, there is one agent with two names.
    """
    agents, reference, found = {}, {}, sources(args.model, roles)
    generator = stream(args.seed, "adapters")
    for role in sorted(found, key=lambda role: role != args.first):
        if not agents or not (args.share or args.lora and len(set(found.values())) == 1):
            base, tokenizer = models.load(found[role], args.device, dtype)
        if not agents or not args.share:
            model = base
            if args.lora:
                name = NAMES.get(found[role], found[role])
                targets = args.lora_targets.split(",") if args.lora_targets else models.TARGETS
                model = models.adapt(base, args.lora, args.lora_alpha, generator, targets,
                                     pathlib.Path(name).resolve() if os.path.isdir(name) else name)
            model.checkpointing = args.checkpointing
            if args.compile:
                compile_step(model)
            learner = Learner(model, args)
        agents[role], reference[role] = learner, base
    if args.kl and not args.lora:
        reference = load_agents(args.model, roles, args.device, dtype)[0]
    return agents, reference if args.kl else {}, tokenizer


# ------------------------------------------------------------------------------------------------------------
# The update

def update(learner, samples, args, reference=None, guide=None):
    """--updates optimizer steps on one batch of samples -> statistics for the log.

    Every token's weight in the loss is fixed for the whole batch first, so micro-batches only bound memory,
    and several processes can share them out: their gradients are added up before the optimizer.
    """
    lengths = [[sample.turn.count(t) for t in dict.fromkeys(sample.turn) if t >= 0] for sample in samples]
    share = dict(zip(map(id, samples), rema.token_weights(lengths, args.normalise, args.max_new_tokens)))
    device, dtype = learner.weights[0].device, learner.masters[0].dtype
    batches = []
    for batch in micro_batches(samples, args.micro_tokens)[ranks()[0]::ranks()[1]]:
        old, advantage, weight = [torch.tensor(values, device=device, dtype=dtype) for values in (
            [logprob for s in batch for logprob in s.logprobs],
            [s.advantage for s in batch for _ in s.logprobs], [w for s in batch for w in share[id(s)]])]
        turn = None
        if args.ratio == "turn":             # numbered through the whole micro-batch
            places = torch.tensor([[i, t] for i, s in enumerate(batch) for t in s.turn if t >= 0])
            turn = places.unique(dim=0, return_inverse=True)[1].to(device)
        with torch.no_grad():
            ref = batch_logprobs(reference, batch, args.temperature, guide)[0] if args.kl else None
        batches.append((batch, old, advantage, weight, ref, turn))

    count, norms = sum(map(sum, lengths)), []
    total = dict.fromkeys(["clip_share", "entropy", "sampling_logp_difference"] + ["kl"] * bool(args.kl), 0.0)
    for i in range(args.updates):
        for batch, old, advantage, weight, ref, turn in batches:
            new, entropy = batch_logprobs(learner.model, batch, args.temperature, guide)
            loss, stats = rema.policy_loss(new, old, advantage, weight, args.clip, args.kl, ref, turn,
                                           args.dual_clip)
            loss.backward()
            stats["entropy"] = entropy.mean().item()
            if i == 0:                       # multiplied, because all of them are averaged over the updates
                stats["sampling_logp_difference"] = (new - old).abs().mean().item() * args.updates
            for name, value in stats.items():
                total[name] += value * len(old) / count / args.updates
        norms.append(learner.step())
    values = together(torch.tensor(list(total.values()), device=device)).tolist()
    return {**dict(zip(total, values)), "trained_tokens": count * args.updates,
            "grad_norm": max(norms, key=lambda norm: norm if math.isfinite(norm) else math.inf)}


# ------------------------------------------------------------------------------------------------------------
# The loop

@dataclass
class Run:
    """What the parts of a run share."""
    args: argparse.Namespace
    roles: tuple[rema.Role, ...]             # in the order of speaking
    agents: dict[str, Learner]               # by role name, in the order of learning
    reference: dict[str, models.Transformer]
    tokenizer: Tokenizer
    guide: Guide | None = None               # of plans that are JSON
    lessons: list = field(default_factory=list)              # yet to be learned: (first message, rema.Sample)

    @property
    def models(self):
        return {role: learner.model for role, learner in self.agents.items()}

    def play(self, rows, key, **how):
        return play(self.models, self.tokenizer, rows, self.roles, key=(self.args.seed, *key),
                    guide=self.guide, batch=self.args.batch, max_new_tokens=self.args.max_new_tokens, **how)

    def save(self, directory):
        for role, learner in self.agents.items() if not ranks()[0] else ():
            models.save(learner.model, self.tokenizer, directory / role)


def one_step(run, step, rows):
    """Sample, score, learn -> (metrics, episodes)."""
    args, agents = run.args, run.agents
    learning = rema.learners(step, list(agents), args.switch_every)
    plans, answers = rema.sampling_shape(learning, args.plans, args.answers, args.answers_high)
    for role in sorted(agents, key=learning.__contains__):   # who is frozen leaves the card first
        agents[role].rest(args.device if role in learning else "cpu")
    t0 = time.perf_counter()
    episodes = run.play(rows, (step,), turns=args.turns, plans=plans, temperature=args.temperature,
                        answers=args.answers if args.turns > 1 else answers)
    t1 = time.perf_counter()
    rema.score(episodes, args.reward, args.turns > 1, args.box_weight, args.leak_weight)
    turns = rema.all_turns(episodes)
    tokens, mean = sum(len(turn.tokens) for turn in turns), lambda values: sum(values) / len(values)
    theirs = [turn for turn in turns if turn.role in learning] or turns
    metrics = {"learner": "+".join(sorted(learning)), "accuracy": mean([e.correct for e in episodes]),
               **{f"reward_{role}": mean([e.rewards[role] for e in episodes]) for role in agents},
               "length": mean([len(turn.tokens) for turn in theirs]),
               "truncated": mean([not turn.stopped for turn in theirs]),
               "repeated": mean([plots.repeated_share(turn.tokens) for turn in theirs]),
               "unparsed": evaluation.unparsed(episodes), "episodes": len(episodes), "sampled_tokens": tokens}
    if run.guide:
        metrics.update(action_shares(episodes))
    trained, found = 0, []
    for learner in dict.fromkeys(agents[role] for role in learning):              # with --share: one for both
        names = [role for role in learning if agents[role] is learner]
        parts = [rema.samples(episodes, role, args.advantage, keep_dead=args.kl > 0) for role in names]
        samples = [sample for part, _ in parts for sample in part]
        stats = update(learner, samples, args, run.reference.get(names[0]), run.guide) if samples else {}
        trained += stats.pop("trained_tokens", 0)
        found.append({"frac_reward_zero_std": mean([dead for _, dead in parts]), **stats})
    for name in ("frac_reward_zero_std", "entropy", "kl", "grad_norm", "clip_share",
                 "sampling_logp_difference"):
        values = [one[name] for one in found if name in one]           # of the learners; two are averaged
        metrics[name] = mean(values) if values else None
    metrics.update(time_sample=t1 - t0, time_train=time.perf_counter() - t1, trained_tokens=trained)
    return metrics, episodes


def refilter(run, step, rows):
    """The difficulty filter at the start of a phase, appendix D.1 -> (rows to train on, metrics or {}).

    --filter problems are tried 10 times by the agent about to be trained, the other one greedy; those solved
    in 0.2 to 0.8 of the tries are kept. Too few: problems that were not kept fill the batch, and are counted.
    """
    args, start = run.args, step // run.args.switch_every * run.args.switch_every
    place = pathlib.Path(args.resume or args.out) / f"pool-{start}.json"
    if step > start:
        return read_json(place)["rows"], {}
    learning, = rema.learners(step, list(run.agents), args.switch_every)
    order = torch.randperm(len(rows), generator=stream(args.seed, "filter", step)).tolist()
    tried, high = [rows[i] for i in order[:args.filter]], learning == "high"
    episodes = run.play(tried, ("filter", step), plans=10 if high else 1, answers=1 if high else 10,
                        temperature={role.name: float(role.name == learning) for role in run.roles})
    rema.score(episodes)
    worth = [rema.worth_learning([e.correct for e in one]) for one in evaluation.split(episodes, "question")]
    kept = [row for row, good in zip(tried, worth) if good]
    others = [row for row, good in zip(tried, worth) if not good][:max(0, args.questions - len(kept))]
    metrics = {"filter_kept": len(kept) / len(tried), "filter_refilled": len(others),
               "filter_tokens": sum(len(turn.tokens) for turn in rema.all_turns(episodes))}
    say(f"filter: {len(kept)} of {len(tried)} problems are neither too easy nor too hard for {learning}"
        + (f"; {len(others)} others fill the batch" if others else ""))
    atomic_write(pathlib.Path(args.out) / place.name, json.dumps({"rows": kept + others}))
    return kept + others, metrics


def warm_start(run):
    """--sft: one pass over conversations, before RL; a role learns those with its own system message.

    A conversation with another system message, or none, teaches all agents. The optimizer starts anew after.
    Ctrl-C ends the program: --resume then begins with this once more.
    """
    args, known = run.args, {role.system for role in run.roles}
    for learner in dict.fromkeys(run.agents.values()):
        others = known - {role.system for role in run.roles if run.agents[role.name] is learner}
        mine = [lesson for system, lesson in run.lessons if system not in others]
        order = torch.randperm(len(mine), generator=stream(args.seed, "sft")).tolist()
        bar = tqdm(range(0, len(mine), args.questions), desc="warm start", unit="step")
        for start in bar:
            samples, loss = [mine[i] for i in order[start:start + args.questions]], 0.0
            count = sum(t >= 0 for sample in samples for t in sample.turn)
            for batch in micro_batches(samples, args.micro_tokens):
                part = -batch_logprobs(learner.model, batch)[0].sum() / count
                (part / ranks()[1]).backward()
                loss += part.item()
            learner.step(args.sft_lr)
            bar.set_postfix_str(f"loss {loss:.3f}")
        learner.optimizer.state.clear()
        learner.updates = 0


def pick(rows, step, args):
    """The rows of a step: the data is shuffled for each pass, the place in it follows from the step alone.

    copy: a problem that comes twice in a step draws different samples.
    """
    places = [divmod(place, len(rows)) for place in range((step - 1) * args.questions, step * args.questions)]
    orders = {epoch: torch.randperm(len(rows), generator=stream(args.seed, "order", epoch)).tolist()
              for epoch in dict(places)}
    chosen = [rows[orders[epoch][i]] for epoch, i in places]
    ids = [row["id"] for row in chosen]
    return [{**row, "copy": ids[:i].count(row["id"])} for i, row in enumerate(chosen)]


def train(run, rows, held_rows, interrupted):
    """All steps that are to be done, or until interrupted -> whether that left some undone."""
    args, out = run.args, pathlib.Path(run.args.out)

    def measure():
        return evaluation.held_out(run.models, run.tokenizer, held_rows, run.roles, args.max_new_tokens,
                                   args.batch, turns=args.turns, guide=run.guide)

    done, best, failures, stop, logs = -1, -1.0, 0, False, (out / "metrics.jsonl", out / "episodes.jsonl")
    saved = pathlib.Path(args.resume or out) / "state.safetensors"
    if saved.exists():
        done, best, failures = load_state(saved, run.agents)
        for learner in run.agents.values():                  # until its turn comes: a card holds one agent's
            learner.rest("cpu")
    for log in logs:
        forget_after(log, done)
    if done < 0:
        done = 0
        before = {"step": 0, **measure()}
        append(logs[0], json.dumps(before))
        say(f"before training, {len(held_rows)} problems:{plots.held_out_line(before)}\n"
            "watch the reward, not the loss: with one update a batch the loss is near 0 by construction")
    for step in tqdm(range(done + 1, args.steps + 1), "train", args.steps, initial=done, unit="step"):
        pool, filtered = refilter(run, step - 1, rows) if args.filter else (rows, {})
        metrics, episodes = one_step(run, step - 1, pick(pool, step, args))
        norm = metrics["grad_norm"]                          # None: all groups were dead
        bad = norm is not None and not math.isfinite(norm)
        failures = failures + 1 if bad else failures if norm is None else 0
        stop = together(torch.tensor(float(bool(interrupted)), device=args.device)).item() > 0
        last = step == args.steps or stop or failures >= 3
        metrics.update(filtered, **measure() if step % args.eval_every == 0 or last else {})
        append(logs[0], json.dumps({"step": step, **metrics}))
        append(logs[1], "\n".join(f'{{"step": {step}, {evaluation.record(e)[1:]}' for e in episodes))
        say("\n  warning: ".join([plots.log_line(step, metrics), *plots.watch(metrics)]))
        if metrics.get("heldout_greedy", -1) > best:
            best = metrics["heldout_greedy"]
            run.save(out / "best")
        if step % args.show_every == 0:
            say("\n".join(map(plots.episode_text, (episodes[0], episodes[-1]))))
        if (step % args.save_every == 0 or last) and not ranks()[0]:
            save_state(saved, run.agents, step, best, failures)
        if stop or failures >= 3:
            break
    run.save(out)
    plots.curves(plots.read(out), out / "curves.png", f"{args.model}, {args.process}, seed {args.seed}")
    if failures >= 3:
        raise UserError(f"stopped: three gradients in a row were not finite; the run is kept in {out}")
    return stop and step < args.steps


def closing_table(run, held_rows):
    """What the run has changed, for stdout."""
    args = run.args
    print(f"\n{args.model}, {args.process}, {len(held_rows)} held-out problems of "
          f"{args.eval_data or args.data}, percent\n{plots.before_and_after(plots.read(args.out))}")
    if len(run.roles) == 2 and args.turns == 1:
        print(evaluation.diagnosis(evaluation.diagnose(run.models, run.tokenizer, held_rows, run.roles,
              batch=args.batch, max_new_tokens=args.max_new_tokens, guide=run.guide)))
    print(f"{args.out}: curves.png, metrics.jsonl, episodes.jsonl, best, {', '.join(run.agents)}")


def prepare(args):
    """-> (Run, training rows that fit the context, all held-out rows). UserError: too few fit."""
    train_rows, held_rows = split_data(args)
    roles = rema.roles(args.process, args.example, args.turns, args.plan_format, held_rows[0].get("judge"))
    run = Run(args, roles, *load_learners(args, roles, getattr(torch, args.dtype)))
    config = next(iter(run.agents.values())).model.config
    if args.plan_format == "json":
        run.guide = Guide(run.tokenizer, config.vocab_size, args.device)
    if args.sft and not (args.resume and (pathlib.Path(args.resume) / "state.safetensors").exists()):
        run.lessons = [(messages[0]["content"], rema.lesson(run.tokenizer, messages))
                       for messages in read_conversations(args.sft)]
        if (longest := max(len(one.prompt + one.tokens) for _, one in run.lessons)) > config.context:
            raise UserError(f"--sft: a conversation of {longest} tokens, but a context of {config.context}")
    fit, held = (evaluation.fitting(rows, run.tokenizer, roles, config.context, args.max_new_tokens)
                 for rows in (train_rows, held_rows))
    if len(fit) < len(train_rows) or len(held) < len(held_rows):
        say(f"with --max-new-tokens {args.max_new_tokens}, {len(train_rows) - len(fit)} of {len(train_rows)} "
            f"training problems do not fit the context of {config.context} and are left out; "
            f"{len(held_rows) - len(held)} held-out ones do not fit and count as wrong")
    if len(fit) < args.questions:
        raise UserError(f"{len(fit)} training problems fit, fewer than --questions {args.questions}")
    return run, fit, held_rows


def program(argv):
    args = parse(argv, __doc__)
    if args.fit:
        return print(memory.table(args.model, args))
    if not args.resume:
        unused(args.out, f"holds another run: name another --out, or continue it with --resume {args.out}")
    run, rows, held_rows = prepare(args)
    if ranks()[0]:                                           # what only the first process shows and keeps
        args.out = tempfile.mkdtemp()
        sys.stdout = sys.stderr = open(os.devnull, "w")
    args.out = args.out or claim(f"out/{pathlib.Path(args.model).name}-{args.process}-s{args.seed}")
    atomic_write(pathlib.Path(args.out) / "config.json", json.dumps(vars(args), indent=1))
    if run.lessons:
        warm_start(run)
    with interruptible(say) as interrupted:
        stopped = train(run, rows, held_rows, interrupted)
    if stopped:
        return say(f"interrupted; to go on: python train.py --resume {args.out}")
    closing_table(run, held_rows)


def main(argv=None):
    if "WORLD_SIZE" in os.environ and not dist.is_initialized():             # torchrun
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        atexit.register(dist.destroy_process_group)          # its threads may abort the exit otherwise
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    guarded(program, argv, "train.py")


if __name__ == "__main__":
    main()
