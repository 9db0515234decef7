import torch
from torch import Tensor


def draw(logits: Tensor, uniform: Tensor, temperature: float, top_p: float) -> tuple[Tensor, Tensor]:
    """logits (B, V), uniform (B,) in [0, 1) -> tokens (B,), log-probs (B,) under the distribution drawn from.

    Inverse CDF: the token in whose interval of the cumulative sum, lower end included, the uniform number falls; a
    token without probability is never drawn, however sums are rounded. Temperature 0 is greedy and reports log-probs
    at temperature 1, whatever top_p is. top_p below 1 (see keep_nucleus) is for evaluation only: in training the new
    policy's nucleus would differ from the old one's, and ratios would be 0 or infinite. All of it is computed in the
    logits' type, but in float32 where that is a smaller one.
    (Another way to choose takes another parameter along top_p's way: generate, decode, draw; converse_batch;
    GuidedAgent.)
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if temperature == 0:
        tokens = logits.argmax(-1)
        logprobs = logits.log_softmax(-1)
        return tokens, logprobs.gather(-1, tokens[:, None])[:, 0]
    logprobs = (logits / temperature).log_softmax(-1)
    probs = logprobs.exp()
    if top_p < 1:
        probs = keep_nucleus(probs, top_p)
        logprobs = probs.log()
    V = logits.shape[-1]
    places = torch.arange(V, device=logits.device)
    possible = probs > 0
    # The first possible token whose interval ends above the number; behind all of them, the last possible one.
    above = possible & (probs.cumsum(-1) > uniform[:, None])
    first = torch.where(above, places, V).amin(-1)
    last = torch.where(possible, places, -1).amax(-1)
    tokens = torch.where(first < V, first, last)
    return tokens, logprobs.gather(-1, tokens[:, None])[:, 0]
