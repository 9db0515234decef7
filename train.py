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
- the turn-level ratio is a geometric mean (rema.policy_loss says why).
"""
import json
import math
import os
import pathlib
import signal
import sys
import tempfile
import time

import torch
import torch.distributed as dist
from tqdm import tqdm

import eval as evaluation
import model as models
import rema
from data import UserError, memory, plots
from data.benchmarks import read_jsonl, split_data
from data.checkpoint import (NAMES, append, atomic_write, forget_after, load_state, read_json,
                             save_state)
from data.flags import claim, parse, unused
from data.guide import Guide
from data.plots import say
from rollout import batch_logprobs, micro_batches, play, ranks, stream, together


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
                    self.optimizer.state[master][name] = moment.to("cpu" if name == "step" else device)

    def step(self, rate=None):
        """Apply the gradient and forget it -> its norm before clipping. Not finite: nothing is applied."""
        for master in self.masters:              # of several processes, each has a part of the micro-batches
            master.grad = together(torch.zeros_like(master) if master.grad is None else master.grad)
        norm = torch.nn.utils.clip_grad_norm_(self.masters, self.args.grad_clip).item()
        if math.isfinite(norm):
            for settings in self.optimizer.param_groups:
                warm = min(1.0, (self.updates + 1) / max(1, self.args.warmup))
                settings["lr"] = warm * (rate or self.args.lr)
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
    agents, reference, shared = {}, {}, None
    generator = stream(args.seed, "adapters")
    sources = evaluation.sources(args.model, roles)
    for role in sorted(sources, key=lambda role: role != args.first):
        source = sources[role]
        if not (shared and (args.share or args.lora)):
            shared, tokenizer = models.load(source, args.device, dtype)
        if not (agents and args.share):
            model = shared
            if args.lora:
                name = NAMES.get(source, source)
                targets = args.lora_targets.split(",") if args.lora_targets else models.TARGETS
                model = models.adapt(shared, args.lora, args.lora_alpha, generator, targets,
                                     pathlib.Path(name).resolve() if os.path.isdir(name) else name)
            model.checkpointing = args.checkpointing
            learner = Learner(model, args)
        agents[role], reference[role] = learner, shared
    if not args.kl:
        return agents, {}, tokenizer
    return agents, reference if args.lora else evaluation.load_agents(
        args.model, roles, args.device, dtype)[0], tokenizer


# ------------------------------------------------------------------------------------------------------------
# The update

def update(learner, samples, args, reference=None, guide=None):
    """--updates optimizer steps on one batch of samples -> statistics for the log.

    Every token's weight in the loss is fixed for the whole batch first, so micro-batches only bound memory,
    and several processes can share them out: their gradients are added up before the optimizer.
    """
    lengths = [[sample.turn.count(t) for t in dict.fromkeys(sample.turn) if t >= 0] for sample in samples]
    weights = rema.token_weights(lengths, args.normalise, args.max_new_tokens)
    share = {id(sample): weight for sample, weight in zip(samples, weights)}
    device = learner.weights[0].device
    dtype = torch.promote_types(learner.weights[0].dtype, torch.float32)
    rank, world = ranks()
    batches = []
    for batch in micro_batches(samples, args.micro_tokens)[rank::world]:
        old, advantage, weight = [torch.tensor(values, device=device, dtype=dtype) for values in (
            [logprob for s in batch for logprob in s.logprobs],
            [s.advantage for s in batch for _ in s.logprobs], [w for s in batch for w in share[id(s)]])]
        turn = None
        if args.ratio == "turn":             # numbered through the whole micro-batch
            places = [(i, t) for i, s in enumerate(batch) for t in s.turn if t >= 0]
            number = {place: j for j, place in enumerate(dict.fromkeys(places))}
            turn = torch.tensor([number[place] for place in places], device=device)
        with torch.no_grad():
            ref = batch_logprobs(reference, batch, args.temperature, guide)[0] if args.kl else None
        batches.append((batch, old, advantage, weight, ref, turn))

    count, norms = sum(map(sum, lengths)), []
    names = ["clip_share", "entropy", "sampling_logp_difference"] + ["kl"] * bool(args.kl)
    total = dict.fromkeys(names, 0.0)
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

def models_of(agents):
    return {role: learner.model for role, learner in agents.items()}


def one_step(step, agents, tokenizer, rows, roles, args, reference, guide):
    """Sample, score, learn -> (metrics, episodes)."""
    learning = rema.learners(step, list(agents), args.switch_every)
    plans, answers = rema.sampling_shape(learning, args.plans, args.answers, args.answers_high)
    for role, learner in agents.items():
        learner.rest(args.device if role in learning else "cpu")
    started = time.perf_counter()
    episodes = play(models_of(agents), tokenizer, rows, roles, turns=args.turns, plans=plans,
                    answers=args.answers if args.turns > 1 else answers, guide=guide, batch=args.batch,
                    max_new_tokens=args.max_new_tokens, temperature=args.temperature, key=(args.seed, step))
    sampled = time.perf_counter()
    rema.score(episodes, args.reward, args.turns > 1)
    turns = rema.all_turns(episodes)
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
    if guide:
        metrics.update(rema.action_shares(episodes))
    trained, found = 0, []
    for learner in dict.fromkeys(agents[role] for role in learning):              # with --share: one for both
        names = [role for role in learning if agents[role] is learner]
        parts = [rema.samples(episodes, role, args.advantage, keep_dead=args.kl > 0) for role in names]
        samples = [sample for part, _ in parts for sample in part]
        stats = update(learner, samples, args, reference.get(names[0]), guide) if samples else {}
        trained += stats.pop("trained_tokens", 0)
        found.append({"frac_reward_zero_std": sum(dead for _, dead in parts) / len(parts), **stats})
    for name in ("frac_reward_zero_std", "entropy", "kl", "grad_norm", "clip_share",
                 "sampling_logp_difference"):
        values = [one[name] for one in found if name in one]           # of the learners; two are averaged
        metrics[name] = sum(values) / len(values) if values else None
    ended = time.perf_counter()
    metrics.update(time_sample=sampled - started, time_train=ended - sampled,
                   sample_tokens_per_s=tokens / (sampled - started),
                   train_tokens_per_s=trained / (ended - sampled))
    return metrics, episodes


def refilter(step, agents, tokenizer, rows, roles, args, guide):
    """The difficulty filter at the start of a phase, appendix D.1 -> (rows to train on, metrics or {}).

    --filter problems are tried 10 times by the agent about to be trained, the other one greedy; those solved
    in 0.2 to 0.8 of the tries are kept. Too few: problems that were not kept fill the batch, and are counted.
    """
    start = step // args.switch_every * args.switch_every
    place = pathlib.Path(args.resume or args.out) / f"pool-{start}.json"
    if step > start:
        return read_json(place)["rows"], {}
    learning, = rema.learners(step, list(agents), args.switch_every)
    order = torch.randperm(len(rows), generator=stream(args.seed, "filter", step)).tolist()
    tried = [rows[i] for i in order[:args.filter]]
    episodes = play(models_of(agents), tokenizer, tried, roles, plans=10 if learning == "high" else 1,
                    answers=1 if learning == "high" else 10, max_new_tokens=args.max_new_tokens,
                    temperature={role.name: float(role.name == learning) for role in roles},
                    key=(args.seed, "filter", step), batch=args.batch, guide=guide)
    rema.score(episodes)
    solved = [[] for _ in tried]
    for episode in episodes:
        solved[episode.question].append(episode.correct)
    kept = [row for row, successes in zip(tried, solved) if rema.worth_learning(successes)]
    others = [row for row, successes in zip(tried, solved) if not rema.worth_learning(successes)]
    filled = max(0, args.questions - len(kept))
    metrics = {"filter_kept": len(kept) / len(tried), "filter_refilled": filled,
               "filter_tokens": sum(len(turn.tokens) for turn in rema.all_turns(episodes))}
    say(f"filter: {len(kept)} of {len(tried)} problems are neither too easy nor too hard for {learning}"
        + (f"; {filled} others fill the batch" if filled else ""))
    pool = kept + others[:filled]
    atomic_write(pathlib.Path(args.out) / place.name, json.dumps({"rows": pool}).encode())
    return pool, metrics


def warm_start(agents, tokenizer, roles, args):
    """--sft: one pass over conversations, before RL; a role learns those with its own system message.

    A conversation with another system message, or none, teaches all agents. The optimizer starts anew after.
    """
    rows = read_jsonl(args.sft, ("messages",))
    for number, row in enumerate(rows, 1):
        try:
            assert any(one["role"] == "assistant" and one["content"] + "" for one in row["messages"])
        except (AssertionError, KeyError, TypeError):
            raise UserError(f"{args.sft}, conversation {number}: messages must be a list of role and "
                            "content, one of them the assistant's") from None
    known = {role.system for role in roles}
    for learner in dict.fromkeys(agents.values()):
        own = {role.system for role in roles if agents[role.name] is learner}
        mine = [row["messages"] for row in rows if row["messages"][0]["content"] in own
                or row["messages"][0]["content"] not in known]
        order = torch.randperm(len(mine), generator=stream(args.seed, "sft")).tolist()
        for start in tqdm(range(0, len(mine), args.questions), desc="warm start", unit="step"):
            samples = [rema.lesson(tokenizer, mine[i]) for i in order[start:start + args.questions]]
            count = sum(t >= 0 for sample in samples for t in sample.turn)
            for batch in micro_batches(samples, args.micro_tokens):
                (-batch_logprobs(learner.model, batch)[0].sum() / count / ranks()[1]).backward()
            learner.step(args.sft_lr)
        learner.optimizer.state.clear()
        learner.updates = 0


def run(argv):
    args = parse(argv, __doc__)
    if args.fit:
        return print(memory.table(args.model, args))
    if not args.resume:
        unused(args.out, f"holds another run: name another --out, or continue it with --resume {args.out}")
    train_rows, eval_rows = split_data(args)
    roles = rema.roles(args.process, args.example, args.turns, args.plan_format, eval_rows[0].get("judge"))
    agents, reference, tokenizer = load_learners(args, roles, getattr(torch, args.dtype))
    model = agents[roles[0].name].model
    context, guide = model.config.context, None
    if args.plan_format == "json":
        guide = Guide(tokenizer, model.config.vocab_size, args.device)

    fit, held = (evaluation.fitting(rows, tokenizer, roles, context, args.max_new_tokens)
                 for rows in (train_rows, eval_rows))
    if len(fit) < len(train_rows) or len(held) < len(eval_rows):
        say(f"with --max-new-tokens {args.max_new_tokens}, {len(train_rows) - len(fit)} of {len(train_rows)} "
            f"training problems do not fit the context of {context} and are left out; "
            f"{len(eval_rows) - len(held)} held-out ones do not fit and count as wrong")
    if len(fit) < args.questions:
        raise UserError(f"{len(fit)} training problems fit, fewer than --questions {args.questions}")

    def measure():
        return evaluation.held_out(models_of(agents), tokenizer, eval_rows, roles, args.max_new_tokens,
                                   args.batch, turns=args.turns, guide=guide)

    if ranks()[0]:                                           # what only the first process shows and keeps
        args.out = tempfile.mkdtemp()
        sys.stdout = sys.stderr = open(os.devnull, "w")
    args.out = args.out or str(claim(
        pathlib.Path("out") / f"{pathlib.Path(args.model).name}-{args.process}-s{args.seed}"))
    out = pathlib.Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    atomic_write(out / "config.json", json.dumps(vars(args), indent=1).encode())
    first, best, failures = 1, -1.0, 0
    saved = pathlib.Path(args.resume or out) / "state.safetensors"
    if args.resume and saved.exists():
        first, best, failures = load_state(saved, agents)
        forget_after(out / "metrics.jsonl", first)
        forget_after(out / "episodes.jsonl", first)
        first += 1
    else:
        for name in ("metrics.jsonl", "episodes.jsonl"):
            (out / name).unlink(missing_ok=True)
        if args.sft:
            warm_start(agents, tokenizer, roles, args)
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
                        interrupted, measure, guide)
    finally:
        if previous is not None:
            signal.signal(signal.SIGINT, previous)
    if not healthy:
        raise UserError(f"stopped: three gradients in a row were not finite; the run is kept in {out}")
    closing_table(args, agents, tokenizer, eval_rows, roles, guide)


def pick(rows, step, args):
    """The rows of a step: the data is shuffled for each pass, the place in it follows from the step alone.

    copy: a problem that comes twice in a step draws different samples.
    """
    chosen = []
    for place in range((step - 1) * args.questions, step * args.questions):
        epoch, i = divmod(place, len(rows))
        if not chosen or i == 0:
            order = torch.randperm(len(rows), generator=stream(args.seed, "order", epoch)).tolist()
        row = rows[order[i]]
        chosen.append({**row, "copy": sum(one["id"] == row["id"] for one in chosen)})
    return chosen


def train(first, agents, tokenizer, rows, roles, args, out, best, failures, reference, interrupted, measure,
          guide):
    """Steps `first` to --steps, or until interrupted -> whether the gradients were finite."""
    for step in tqdm(range(first, args.steps + 1), initial=first - 1, total=args.steps, desc="train",
                     unit="step"):
        pool, filtered = rows, {}
        if args.filter:
            pool, filtered = refilter(step - 1, agents, tokenizer, rows, roles, args, guide)
        metrics, episodes = one_step(step - 1, agents, tokenizer, pick(pool, step, args), roles, args,
                                     reference, guide)
        metrics.update(filtered)
        norm = metrics["grad_norm"]                          # None: all groups were dead
        bad = norm is not None and not math.isfinite(norm)
        failures = failures + 1 if bad else failures if norm is None else 0
        stop = together(torch.tensor(float(bool(interrupted)), device=args.device)).item() > 0
        last = step == args.steps or stop or failures == 3
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


def closing_table(args, agents, tokenizer, eval_rows, roles, guide):
    """What the run has changed, for stdout."""
    print(f"\n{args.model}, {args.process}, {len(eval_rows)} held-out problems of "
          f"{args.eval_data or args.data}, percent")
    print(plots.before_and_after(plots.read(args.out)))
    if len(roles) == 2 and args.turns == 1:
        outcomes = evaluation.diagnose(models_of(agents), tokenizer, eval_rows, roles, batch=args.batch,
                                       max_new_tokens=args.max_new_tokens, guide=guide)
        print(evaluation.diagnosis(outcomes))
    print(f"{args.out}: curves.png, metrics.jsonl, episodes.jsonl, config.json, {', '.join(agents)}, best")


def main(argv=None):
    if "WORLD_SIZE" in os.environ and not dist.is_initialized():             # torchrun
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    evaluation.guarded(run, argv, "train.py")


if __name__ == "__main__":
    main()
