"""A card that is not there, so that what a real one refuses, or waits for, is seen on a machine without one.

    with card.pretend() as here:
        train.main(["--device", "cuda", ...])
        print(here.waits, here.launches, here.peak)

A tensor on this card is a Card: a shell that says "cuda:0" around a CPU tensor that does the work. Every operation
comes by in `run`, below autograd: there it is refused if tensors of both devices meet, counted, and done.

waits     how often the host had to wait for the card: .item(), .tolist(), copies between the two, boolean indices
launches  kernels, by operation; views are none
peak      bytes of the Cards that were alive at once, those that autograd keeps among them

To C++ a Card lies on "meta", a device without a driver that autograd could ask. What a real card refuses by type,
shape or size is not seen here, nor how fast it is.
"""
import collections
import contextlib
import functools
from unittest import mock

import torch
import torch.nn.functional as F
from torch.optim import optimizer
from torch.overrides import TorchFunctionMode
from torch.utils import _foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode

CUDA = torch.device("cuda", 0)
CPU = torch.device("cpu")

WAITING = {"_local_scalar_dense", "equal", "nonzero", "masked_select", "_unique2", "unique_dim", "bincount"}
CROSSING = {"_to_copy", "copy_"}                     # between the devices
SILENT = {"lift_fresh", "detach", "empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided",
          "_local_scalar_dense", "_unsafe_view", "_reshape_alias"}             # no kernel, though no view either


# ------------------------------------------------------------------------------------------------------------
# Tensors

class Card(torch.Tensor):
    """content: the CPU tensor with the numbers. device: cuda:0, or the CPU after `data` was moved there."""
    __torch_function__ = torch._C._disabled_torch_function_impl
    device = CUDA                                    # hides the attribute that says "meta"

    def __new__(cls, content):
        return torch.Tensor._make_wrapper_subclass(
            cls, content.shape, strides=content.stride(), dtype=content.dtype,
            storage_offset=content.storage_offset(), device="meta")

    def __init__(self, content):
        self.content = content
        self.held = Held(content)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return state.run(func, args, kwargs or {})

    @property
    def is_cuda(self):
        return self.device == CUDA

    def get_device(self):
        return 0 if self.is_cuda else -1

    def tolist(self):
        state.waits["tolist"] += self.is_cuda
        return self.content.tolist()

    def numpy(self):
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    @property
    def data(self):
        return self.detach()

    @data.setter
    def data(self, new):
        self.content, self.device, self.held = get_content(new), new.device, None
        if self.is_cuda:
            self.held = Held(self.content)


class Held:
    """Lives as long as a Card: memory counts once, however many views of it there are."""

    def __init__(self, content):
        storage = content.untyped_storage()
        self.key, self.size = storage.data_ptr(), storage.nbytes()
        state.views[self.key] += 1
        if state.views[self.key] == 1:
            state.bytes += self.size
            state.peak = max(state.peak, state.bytes)

    def __del__(self):
        state.views[self.key] -= 1
        if state.views[self.key] == 0:
            state.bytes -= self.size


def get_content(x):
    """x with what lies in each Card in its place; x: an argument of an operation."""
    if isinstance(x, Card):
        return x.content
    if isinstance(x, (list, tuple)):
        return type(x)(get_content(y) for y in x)
    return x


def wrap(x):
    """The reverse, of what an operation returned."""
    if isinstance(x, torch.Tensor):
        return Card(x)
    if isinstance(x, (list, tuple)):
        return type(x)(wrap(y) for y in x)
    return x


def collect_leaves(args, found):
    for x in args:
        if isinstance(x, (list, tuple)):
            collect_leaves(x, found)
        else:
            found.append(x)
    return found


# ------------------------------------------------------------------------------------------------------------
# Operations

@functools.cache
def describe(func):
    """Of an operation: its name, whether it writes in place, whether a CPU number may mix with tensors on the card."""
    name = func._schema.name.removeprefix("aten::")
    returned = func._schema.returns
    writes = bool(returned) and returned[0].alias_info is not None and returned[0].alias_info.is_write
    loose = torch.Tag.pointwise in func.tags or name.startswith(("where", "masked_fill", "index_put"))
    return name, writes, loose


class Operations(TorchDispatchMode):
    """Sees every operation; those with a Card among their arguments come by Card.__torch_dispatch__."""

    def __init__(self):
        super().__init__()
        self.meant = False                           # somebody in Python said device="meta" and meant it
        self.clear()

    @classmethod
    def _should_skip_dynamo(cls):
        """Newer torches would wrap what is below, once for each operation, against a compiler that is not used here."""
        return False

    def clear(self):
        self.waits, self.launches = collections.Counter(), collections.Counter()
        self.views, self.bytes, self.peak = collections.Counter(), 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return self.run(func, args, kwargs or {})

    def run(self, func, args, kwargs):
        name, writes, loose = describe(func)
        leaves = collect_leaves(args, collect_leaves(kwargs.values(), []))
        tensors = [x for x in leaves if isinstance(x, torch.Tensor)]
        asked = kwargs.get("device")
        if asked is None and not any(isinstance(x, Card) for x in tensors):
            return func(*args, **kwargs)             # of the CPU alone
        on_card = any(isinstance(x, Card) and x.device == CUDA for x in tensors)
        from_card = on_card
        if asked is not None:
            # Where C++ makes something beside a Card it asks for "meta": that is where it takes the Card to be.
            on_card = asked.type == "cuda" or (asked.type == "meta" and not self.meant)
            if on_card:
                kwargs = {**kwargs, "device": CPU}
        if name in CROSSING:
            crosses = len({x.device.type for x in tensors}) == 2 or (name == "_to_copy" and on_card != from_card)
            self.waits["copy"] += crosses and not kwargs.get("non_blocking")
        elif on_card:
            self.check_devices(name, loose, args, tensors)
            if any(isinstance(x, torch.Generator) and x.device == CPU for x in leaves):
                raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
            self.waits[name] += name in WAITING
        if on_card and not func.is_view and name not in SILENT:
            self.launches[name] += 1
        kwargs = {key: get_content(x) for key, x in kwargs.items()}
        result = func(*get_content(args), **kwargs)
        if writes:
            if "out" in kwargs:                      # in place: the very tensor that came in
                return kwargs["out"]
            return args[0]
        if on_card:
            return wrap(result)
        return result

    def check_devices(self, name, loose, args, tensors):
        """RuntimeError where CUDA has one."""
        if name in ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"):
            indices = [x for x in args[1] if x is not None]
            if args[0].device == CPU:
                raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
            self.waits["boolean index"] += any(x.dtype == torch.bool for x in indices)
            self.waits["copy"] += sum(x.device == CPU for x in indices)        # those are moved by themselves
            tensors = [args[0], *args[2:3]]
        for x in tensors:
            if x.device != CUDA and not (loose and x.dim() == 0):              # a CPU number may mix
                raise RuntimeError(f"Expected all tensors to be on the same device, but found at least two devices, "
                                   f"cuda:0 and {x.device}! (in method wrapper_CUDA_{name})")


class Calls(TorchFunctionMode):
    """Sees every call from Python, for the names of devices in it."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        args = [name_card(x) for x in args]
        kwargs = {key: name_card(x) for key, x in (kwargs or {}).items()}
        before = state.meant
        state.meant = str(kwargs.get("device")) == "meta"
        try:
            return func(*args, **kwargs)
        finally:
            state.meant = before


def name_card(x):
    """"cuda" is cuda:0, which C++ would ask a driver about."""
    if isinstance(x, (str, torch.device)) and str(x) == "cuda":
        return CUDA
    return x


# ------------------------------------------------------------------------------------------------------------
# What is one kernel on a card, but several operations on "meta"

attend, normalise = F.scaled_dot_product_attention, F.rms_norm


def attend_on_card(q, k, v, attn_mask=None, **how):
    """One kernel, which keeps its inputs, its result and a number a row for the backward pass, but no scores.

    With a mask AND fewer key heads a card has none: then the scores are kept, as operation by operation.
    """
    if not isinstance(q, Card) or attn_mask is None or q.shape[1] != k.shape[1]:
        return attend(q, k, v, attn_mask=attn_mask, **how)
    if attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=q.dtype).masked_fill_(~attn_mask, -torch.inf)
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, attn_mask=attn_mask)[0]


def normalise_on_card(x, shape, weight=None, eps=None):
    if isinstance(x, Card) and weight is None:
        return Normed.apply(x, shape, eps)
    return normalise(x, shape, weight, eps)


class Normed(torch.autograd.Function):
    """RMSNorm as one kernel, which keeps its input and a number a row."""

    @staticmethod
    def forward(ctx, x, shape, eps):
        wide = x.content.to(torch.promote_types(x.dtype, torch.float32))
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
        state.launches["rms_norm"] += 1
        ctx.save_for_backward(x, Card(scale))
        return Card(normalise(x.content, shape, eps=eps))

    @staticmethod
    def backward(ctx, gradient):
        x, scale = ctx.saved_tensors
        scale, gradient = scale.content, gradient.content.to(scale.dtype)
        normed = x.content.to(scale.dtype) * scale
        result = scale * (gradient - normed * (gradient * normed).mean(-1, keepdim=True))
        state.launches["rms_norm"] += 1
        return Card(result.to(x.dtype)), None, None


state = Operations()


# ------------------------------------------------------------------------------------------------------------
# The card

@contextlib.contextmanager
def pretend(memory=80 * 10 ** 9):
    """In here torch finds one card of so many bytes -> what it counts."""
    state.clear()
    found = dict(is_available=lambda: True, is_initialized=lambda: True, _lazy_init=lambda: None, _initialized=True,
                 device_count=lambda: 1, current_device=lambda: 0, device=lambda _: contextlib.nullcontext(),
                 mem_get_info=lambda: (memory, memory), is_bf16_supported=lambda including_emulation=True: True,
                 get_rng_state=lambda *_: torch.get_rng_state(), set_rng_state=lambda *_: None,
                 is_current_stream_capturing=lambda: False)
    # Inference mode is no_grad here: it would hand composed operations over whole, and C++ could not take them apart.
    enter, leave = torch.no_grad.__enter__, torch.no_grad.__exit__
    patches = [mock.patch.multiple(F, scaled_dot_product_attention=attend_on_card, rms_norm=normalise_on_card),
               mock.patch.multiple(torch.cuda, **found),
               mock.patch.multiple(torch.inference_mode, __enter__=enter, __exit__=leave),
               mock.patch.object(optimizer.Optimizer, "_accelerator_graph_capture_health_check", lambda _: None,
                                 create=True),
               mock.patch.object(_foreach_utils, "_foreach_supported_types", [torch.Tensor, Card])]
    torch._C._set_only_lift_cpu_tensors(True)        # torch.tensor(list, device=card) is made here, then moved
    try:
        with contextlib.ExitStack() as stack:
            for patch in [*patches, Calls(), state]:
                stack.enter_context(patch)
            yield state
    finally:
        torch._C._set_only_lift_cpu_tensors(False)
