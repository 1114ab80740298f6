"""DeepSpeed's ZeRO: moments (stage 1), gradients (2) and weights (3) in parts, one on each worker."""

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.nn.functional import pad

from triplex.distributed.strategy import Replicated, Whole

_MOMENTS = ("exp_avg", "exp_avg_sq")  # of AdamW
_BUCKET = 16_000_000  # elements of a message; workers wait for each other at each of them


def import_deepspeed() -> Any:
    """The package, without what it would build with a C++ compiler."""
    if not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # an optimiser that DeepSpeed looks at loads torch's compiler
    import deepspeed

    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")  # of names that it still uses
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # sums in shared memory; gloo does without
    deepspeed.utils.logger.setLevel("WARNING")
    return deepspeed


class Sharded(Replicated):
    """A ZeRO engine around the module; what it divides among the workers is put together for sampling and saving."""

    def __init__(self, zero_stage: int, offload: bool) -> None:
        super().__init__()
        self.zero_stage, self.offload = zero_stage, offload

    def prepare(self, module: nn.Module, optimizer: torch.optim.Optimizer, max_grad_norm: float) -> Any:
        """The engine, whose forward fetches the weights that a layer needs."""
        deepspeed = import_deepspeed()
        deepspeed.init_distributed(dist_backend=distributed.get_backend(), verbose=False)
        if distributed.get_backend() == "gloo":
            deepspeed.comm.comm.cdb.all_gather_function = _Exchange
        place = {"device": "cpu" if self.offload else "none"}
        zero: dict[str, Any] = {
            "stage": self.zero_stage, "reduce_bucket_size": _BUCKET, "allgather_bucket_size": _BUCKET,
            "overlap_comm": False, "offload_optimizer": place,
        }  # fmt: skip
        if self.zero_stage == 3:
            zero |= {"offload_param": place, "stage3_param_persistence_threshold": 0, "contiguous_gradients": False}
        else:  # gradients are added up in the bucket; what DeepSpeed calls reduce_scatter does so too, in a copy of it
            zero |= {"reduce_scatter": False}
        config = {
            "train_micro_batch_size_per_gpu": 1,  # which nothing here reads: a pass has as many rows as fit
            "managed_gradient_accumulation": False,  # any number of passes, then a step
            "gradient_clipping": max_grad_norm,
            "gradient_allreduce_op": "mean" if self.zero_stage == 3 else "sum",  # which stage 3 does not have
            "zero_optimization": zero,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,  # torch's AdamW, which needs no compiler
        }
        self._learning_ones = [p for group in optimizer.param_groups for p in group["params"]]  # before they are moved
        self.engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=config)
        self.module, self.optimizer = module, optimizer
        return self.engine

    def divide(self, frozen: nn.Module, called: Iterable[str]) -> None:
        """At stage 3, by torch's FSDP, which descends on nothing here: a layer is put together while it runs."""
        if self.zero_stage < 3:
            return
        layers = [layer for m in frozen.modules() if isinstance(m, nn.ModuleList) for layer in m]
        for module in (*reversed(layers), frozen):  # the inner ones first
            divided = fully_shard(module, reshard_after_forward=True)
            if distributed.get_backend() == "gloo":
                divided.set_custom_all_gather(_Exchange)  # type: ignore[arg-type]  # has all that is called
        for method in called:
            register_fsdp_forward_method(frozen, method)

    def divide_at_rest(self, frozen: nn.Module) -> Whole:
        """At stage 3, by rows of each tensor."""
        if self.zero_stage < 3:
            return nullcontext
        tensors = list(frozen.parameters())
        mesh = init_device_mesh(tensors[0].device.type, (self.num_workers,))
        parts = [distribute_tensor(tensor.detach(), mesh, [Shard(0)], src_data_rank=None) for tensor in tensors]

        def hold(of: Callable[[DTensor], Tensor]) -> None:
            for tensor, part in zip(tensors, parts, strict=True):
                tensor.data = of(part)

        @contextmanager
        def whole() -> Iterator[None]:
            hold(DTensor.full_tensor)
            try:
                yield
            finally:
                hold(DTensor.to_local)

        hold(DTensor.to_local)
        return whole

    def backward(self, loss: Tensor) -> None:
        """Stage 3 takes the mean over the workers, and what is wanted is the sum."""
        self.engine.backward(loss * self.num_workers if self.zero_stage == 3 else loss)

    def step(self) -> Tensor:
        """As alone; a norm that is not finite is found when the weights have changed, and the run ends there."""
        self.engine.step()
        return torch.as_tensor(self.engine.get_global_grad_norm()).float()

    def zero_grad(self) -> None:
        """The engine forgets the gradients when it has descended."""

    @contextmanager
    def whole(self) -> Iterator[None]:
        """At stage 3 every worker gets all weights for the time, and its layers fetch none.

        Hooks are put back as they were: registered anew, they would forget the order of layers, by which DeepSpeed
        fetches ahead and keeps what comes again soon.
        """
        if self.zero_stage < 3:
            yield
            return
        zero = import_deepspeed().zero
        offload = self.engine.optimizer.parameter_offload
        handles = (offload.fwd_pre_hook, *offload.forward_hooks, *offload.backward_hooks)
        with zero.GatheredParameters(list(self.module.parameters())):
            parameter: Any
            for parameter in self.module.parameters():
                parameter.ds_active_sub_modules.clear()
            hooks = [handle.hooks_dict_ref().pop(handle.id) for handle in handles]
            try:
                yield
            finally:
                for handle, hook in zip(handles, hooks, strict=True):
                    handle.hooks_dict_ref()[handle.id] = hook

    def weights(self) -> dict[str, Tensor]:
        """What descends, in whole, by name."""
        with self.whole():
            learning = [(name, p) for name, p in self.module.named_parameters() if p.requires_grad]
            return {name: p.detach().to("cpu", copy=True) for name, p in learning}  # where there is room for them

    def moments(self) -> dict[str, Tensor]:
        """What the optimiser remembers, in whole, as one process would; on the first worker, which writes it."""
        get = import_deepspeed().utils.safe_get_full_optimizer_state
        found: dict[str, Tensor] = {}
        if self.optimizer.state:
            self._link_moments()
            step = self.optimizer.state[self._parts()[0]]["step"]
            for number, parameter in enumerate(self._learning_ones):
                found[f"{number}.step"] = step.clone()
                for name in _MOMENTS:
                    whole = get(parameter, name)
                    if self.is_first:
                        found[f"{number}.{name}"] = whole.view(_shape(parameter)).to("cpu", copy=True)
        return found

    @torch.no_grad()
    def load(self, weights: dict[str, Tensor], moments: dict[str, Tensor]) -> None:
        """Put back what `weights` and `moments` gave, on this or another number of workers."""
        by_name = dict(self.module.named_parameters())
        for name, value in weights.items():
            self._set(by_name[name], value)
        if not moments:
            return
        for part in self._parts():
            empty = {name: torch.zeros_like(part) for name in _MOMENTS}
            self.optimizer.state[part] = {"step": moments["0.step"].clone(), **empty}
        self._link_moments()
        for number, parameter in enumerate(self._learning_ones):
            for name in _MOMENTS:
                self._set(parameter, moments[f"{number}.{name}"], name)

    def _link_moments(self) -> None:
        """Tell each weight where its moments are: DeepSpeed does so after the first group's first step, for all groups,
        of which the others then have none yet."""
        if self.zero_stage < 3:
            self.engine.optimizer._hp_optimizer_states_linked = False
            self.engine.optimizer._lazy_init_hp_params_optimizer_state()

    def _parts(self) -> list[Tensor]:
        """The flat tensors that torch's optimiser descends by: this worker's."""
        engine = self.engine.optimizer
        return engine.fp32_partitioned_groups_flat if self.zero_stage == 3 else engine.single_partition_of_fp32_groups

    def _set(self, parameter: Any, value: Tensor, moment: str | None = None) -> None:
        """Write a weight, or a moment of it, given in whole, into this worker's part of it."""
        deepspeed = import_deepspeed()
        if self.zero_stage < 3:
            if moment:
                deepspeed.utils.safe_set_full_optimizer_state(parameter, value, moment)
            else:
                parameter.copy_(value)
                deepspeed.utils.safe_set_full_fp32_param(parameter, value)
            return
        size = parameter.ds_tensor.ds_numel
        padded = pad(value.flatten(), (0, size * self.num_workers - value.numel()))
        own = padded[size * self.rank : size * (self.rank + 1)]
        if moment:
            deepspeed.utils.safe_set_local_optimizer_state(parameter, own, moment)
            return
        deepspeed.utils.safe_set_local_fp32_param(parameter, own)
        with deepspeed.zero.GatheredParameters(parameter, modifier_rank=0):
            parameter.copy_(value)


class _Exchange:
    """Every worker gets the others' parts, each straight to its place in `output_tensor`; gloo's own all_gather copies
    all of them on the way. Called as DeepSpeed and torch's FSDP call an all_gather."""

    @staticmethod
    def allocate(size: Iterable[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Where FSDP gathers."""
        return torch.empty(*size, dtype=dtype, device=device)

    def __init__(self, output_tensor: Tensor, input_tensor: Tensor, group: Any, async_op: bool) -> None:
        """`input_tensor` is this worker's part, there already or not; in step with the other workers."""
        parts, rank = output_tensor.chunk(distributed.get_world_size(group)), distributed.get_rank(group)
        parts[rank].copy_(input_tensor)
        others = [(distributed.get_global_rank(group, i), part) for i, part in enumerate(parts) if i != rank]
        sent = [distributed.P2POp(distributed.isend, parts[rank], other, group) for other, _ in others]
        received = [distributed.P2POp(distributed.irecv, part, other, group) for other, part in others]
        self._works = distributed.batch_isend_irecv(sent + received)
        if not async_op:
            self.wait()

    def wait(self) -> None:
        """Until all of them are there."""
        for work in self._works:
            work.wait()


def _shape(parameter: nn.Parameter) -> torch.Size:
    """That of the whole weight."""
    return getattr(parameter, "ds_shape", parameter.shape)
