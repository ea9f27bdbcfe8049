"""The order of records: the global batch of a step as a function of (bucket sizes, seed, step).

Every bucket is an endless stream of its records, epoch after epoch, each epoch in a new order. Consecutive
batches are taken from the stream, also across the end of an epoch. So no record is ever dropped, and after
any number of batches the visits of two records of one bucket differ by at most one. Batches of different
buckets are interleaved evenly, in proportion to their numbers of records: the k-th batch of a bucket of n
records has the rank (k + 1/2) / n, and batches come in the order of their ranks.

This is not grain's mixing of datasets, which draws by weights and drops the rest of each bucket's epoch;
grain's `index_shuffle` orders an epoch.
"""

import functools

from grain.experimental import index_shuffle
import jax
import numpy as np

from emv3_jax.diffusion.randomness import Purpose, key_for


class Order:
  """The order of records.

  Args:
    bucket_numbers: int [records], the bucket of each record.
    batch: global batch size.
    seed: of the shuffling; None keeps the order of the dataset.
  """

  def __init__(self, bucket_numbers: np.ndarray, batch: int, seed: int | None):
    self._batch, self._seed = batch, seed
    members = [np.flatnonzero(bucket_numbers == number).astype(np.uint32)
               for number in range(int(bucket_numbers.max()) + 1)]
    self._members = [(number, found) for number, found in enumerate(members) if len(found)]
    self._epoch_seed = functools.cache(self._draw_epoch_seed)

  def records(self, step: int) -> np.ndarray:
    """Returns the indices of the records of the global batch of `step`, uint32 [batch], all of one bucket."""
    bucket, index = self._batch_of_step(step)
    number, members = self._members[bucket]
    epochs, within = np.divmod(index * self._batch + np.arange(self._batch), len(members))
    if self._seed is not None:
      within = [index_shuffle(int(position), len(members) - 1,
                              self._epoch_seed(number, int(epoch)), 4)
                for epoch, position in zip(epochs, within, strict=True)]
    return members[np.asarray(within)]

  def _batch_of_step(self, step: int) -> tuple[int, int]:
    """Returns (index of the bucket in `_members`, index of the batch in that bucket) of a step."""
    for bucket in range(len(self._members)):
      low, high = 0, step  # bounds of the index of this bucket's batch at `step`
      while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if self._rank(bucket, middle) < step else (low, middle)
      if self._rank(bucket, low) == step:
        return bucket, low
    raise AssertionError("every step has a batch of some bucket")

  def _rank(self, bucket: int, index: int) -> int:
    """Counts the batches of all buckets that come before batch `index` of `bucket`."""
    own = len(self._members[bucket][1])
    rank = index
    for other, (_, members) in enumerate(self._members):
      if other != bucket:
        # Batches m with (2 m + 1) / len(members) < (2 index + 1) / own, or equal and of an earlier bucket.
        room = (2 * index + 1) * len(members) - own + (other < bucket)
        rank += max(0, -(-room // (2 * own)))
    return rank

  def _draw_epoch_seed(self, bucket: int, epoch: int) -> int:
    assert self._seed is not None  # without, nothing is shuffled
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
      return int(jax.random.bits(key_for(self._seed, Purpose.DATA_ORDER, bucket, epoch)))
