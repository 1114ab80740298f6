"""One step's rows among several workers: whose turn which rows are, and what each has found out put together.

Legend: B sequences, R response.
"""

from torch import Tensor
from torch.nn.functional import pad

from triplex.distributed.strategy import Strategy
from triplex.rewards.contract import RewardOutput
from triplex.rl.batch import Batch
from triplex.rl.rollout import Responses


def gather_responses(strategy: Strategy, own: Responses, num: int, max_new_tokens: int, pad_id: int) -> Responses:
    """All `num` responses, as wide as the longest; each worker has sampled those of its share of the prompts."""
    if strategy.num_workers == 1:
        return own
    missing = max_new_tokens - own.ids.shape[1]

    def gathered(x: Tensor, fill: int = 0) -> Tensor:
        return strategy.gather(pad(x, (0, missing), value=fill) if x.dim() == 2 else x, num)

    mask = gathered(own.mask)
    width = int(mask.any(0).sum())
    values = None if own.values is None else gathered(own.values)[:, :width]
    return Responses(
        gathered(own.ids, pad_id)[:, :width], mask[:, :width], gathered(own.logprobs)[:, :width],
        gathered(own.terminated), values,
    )  # fmt: skip


def gather_rewards(strategy: Strategy, own: RewardOutput, num: int) -> RewardOutput:
    """All `num` rewards; each worker has scored those of its share."""
    return RewardOutput(
        strategy.gather(own.total, num),
        {name: strategy.gather(values, num) for name, values in own.components.items()},
        strategy.gather(own.valid, num),
        {name: strategy.gather_lists(values) for name, values in own.extras.items()},
    )


def own_passes(minibatch: Batch, max_tokens: int, strategy: Strategy) -> list[tuple[Tensor, int]]:
    """(rows, 1) of each of this worker's passes over its share of the mini-batch.

    Workers whose weights are sharded read them together, so all make as many passes: one that lacks some begins with
    the first row of all, counted 0 times.
    """
    order = minibatch.row.argsort()  # those of one prompt stay together

    def passes_of(worker: int) -> list[Tensor]:
        share = order[strategy.share(len(order), worker=worker)]
        return [share[rows] for rows in minibatch.rows(share).passes(max_tokens)]

    each = [passes_of(worker) for worker in range(strategy.num_workers)]
    own = each[strategy.rank]
    repeated = max(map(len, each)) - len(own)
    return [(order[:1], 0)] * repeated + [(rows, 1) for rows in own]
