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

    def widened(x: Tensor, fill: int = 0) -> Tensor:
        return pad(x, (0, missing), value=fill)

    given = [widened(own.ids, pad_id), widened(own.mask), widened(own.logprobs), own.terminated]
    if own.values is not None:
        given.append(widened(own.values))
    ids, mask, logprobs, terminated, *values = strategy.gather(given, num)
    width = int(mask.any(0).sum())
    return Responses(
        ids[:, :width], mask[:, :width], logprobs[:, :width], terminated, values[0][:, :width] if values else None
    )


def gather_rewards(strategy: Strategy, own: RewardOutput, num: int) -> RewardOutput:
    """All `num` rewards; each worker has scored those of its share."""
    total, valid, *components = strategy.gather([own.total, own.valid, *own.components.values()], num)
    extras = {name: strategy.gather_lists(values) for name, values in own.extras.items()}
    return RewardOutput(total, dict(zip(own.components, components, strict=True)), valid, extras)


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
