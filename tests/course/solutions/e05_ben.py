import torch
from torch import Tensor


def last_possible(probs: Tensor) -> Tensor:
    """The last token of each row that has a probability, (B, V) -> (B, 1)."""
    places = torch.arange(probs.shape[-1], device=probs.device)
    return torch.where(probs > 0, places, -1).amax(-1, keepdim=True)


def invert_cdf(probs: Tensor, uniform: Tensor) -> Tensor:
    """The token in whose interval the number falls, (B, V), (B,) -> (B, 1)."""
    ends = probs.cumsum(-1)
    numbers = uniform.to(probs)[:, None]
    tokens = torch.searchsorted(ends, numbers, right=True)     # the first whose interval ends above the number
    return torch.minimum(tokens, last_possible(probs))


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
        logprobs = logits.log_softmax(-1)
        tokens = logits.argmax(-1, keepdim=True)
    else:
        logprobs = (logits / temperature).log_softmax(-1)
        probs = logprobs.exp()
        if top_p < 1:
            probs = keep_nucleus(probs, top_p)
            logprobs = probs.log()
        tokens = invert_cdf(probs, uniform)
    return tokens[:, 0], logprobs.gather(-1, tokens)[:, 0]
