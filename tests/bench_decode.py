"""Where a decoding step's time goes, and what was tried against it: the figures of data/results/speed.md.

    python tests/bench_decode.py DIR [--threads 2] [--compile]

DIR: SmolLM2-135M. 64 rows under 8 prompts of 80 to 192 tokens, as in tests/bench.py. The median of 8 calls.
"""
import argparse
import pathlib
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import model as models  # noqa: E402
import rollout  # noqa: E402
from data.extensions.compiling import compile_step  # noqa: E402


def milliseconds(call, times=8):
    call()
    found = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        found.append(1e3 * (time.perf_counter() - start))
    return statistics.median(found)


def products(dtype, layers=30):
    """q, k, v and gate, up of all layers: one product each, joined, and joined in float32."""
    x, make = torch.randn(64, 576).to(dtype), lambda out: torch.randn(576, out).to(dtype).t()
    for name, widths in (("q, k, v", (576, 192, 192)), ("gate, up", (1536, 1536))):
        single = [make(width) for _ in range(layers) for width in widths]
        joined = [make(sum(widths)) for _ in range(layers)]
        wide = [weight.float() for weight in joined]
        print(f"{str(dtype)[6:]:9} {name:9} apart {milliseconds(lambda: [F.linear(x, w) for w in single]):6.1f} ms"
              f"  joined {milliseconds(lambda: [F.linear(x, w) for w in joined]):6.1f} ms  joined, in float32 "
              f"{milliseconds(lambda: [F.linear(x.float(), w).to(dtype) for w in wide]):6.1f} ms")


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="also compile the step: a minute and more")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    big = torch.randn(2048, 2048)
    print(f"2,048 x 2,048 in float32: {2e-6 * 2048 ** 3 / milliseconds(lambda: big @ big):.0f} GFLOP/s")
    for dtype in (torch.float32, torch.bfloat16):
        products(dtype)
    model, _ = models.load(args.model)
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randint(1000, 40_000, (n,), generator=generator).tolist() for n in range(80, 208, 16)]
    group, token = torch.arange(8).repeat_interleave(8), torch.full((64,), 1000)

    def steps(number=24):
        cache = models.Cache(rollout.prefill(model, prompts)[0], group, 64, static=model.compiled)
        start = time.perf_counter()
        for _ in range(number):
            model.step(token, cache)
        return 1e3 * (time.perf_counter() - start) / number

    for how in ["as it is"] + ["compiled"] * args.compile:
        if how == "compiled":
            compile_step(model)
            start = time.perf_counter()
            steps(2)
            print(f"compiling took {time.perf_counter() - start:.0f} s")
        print(f"a step of the model, float32, {how}: {statistics.median(steps() for _ in range(3)):.0f} ms")
    if not args.compile:
        with profile(activities=[ProfilerActivity.CPU]) as found:
            steps(8)
        print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=12, max_name_column_width=30))


if __name__ == "__main__":
    main()
