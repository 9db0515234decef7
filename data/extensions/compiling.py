"""--compile: one decoding step as compiled code, on a card as CUDA graphs (never tried: no card)."""
import torch


def compile_step(model):
    """Replace model.step by its compiled self, for which caches must be static: see model.Cache.

    A CUDA graph reads and writes where it did when it was recorded. So each step is a new beginning for
    torch; keys and values stay where they are; and the lengths, which a step hands to the next one, are
    copied out of the graph's memory.
    """
    graphs = model.embed_tokens.weight.device.type == "cuda"
    compiled = torch.compile(model.step, mode="reduce-overhead" if graphs else None)

    def step(token, cache):
        torch.compiler.cudagraph_mark_step_begin()
        for kv in cache.kv.values():
            torch._dynamo.mark_static_address(kv)
        logits = compiled(token, cache)
        cache.length = cache.length.clone()
        return logits

    model.step, model.compiled = step, True
