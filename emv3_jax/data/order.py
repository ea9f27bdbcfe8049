"""Which records make the global batch of a step: a function of (counts, seed, step) alone.

Every bucket is an endless stream of its records, epoch after epoch, each epoch in a new order; its
batches are cut from the stream one after the other, also across the border of two epochs. So no
record is ever dropped, and after any number of batches two records of a bucket differ by one in how
often they were seen, at most. Batches of different buckets take turns evenly, in proportion to their
records: the k-th batch of a bucket of n records is due at (k + 1/2) / n, and batches come in that order.

Written here because grain's mixing of datasets draws by weights and drops the rest of an epoch of each
bucket; its own `index_shuffle` orders an epoch.
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
    """uint32 [batch]: the records of the global batch of `step`, all of one bucket."""
    place, turn = self._turn(step)
    number, members = self._members[place]
    epochs, within = np.divmod(turn * self._batch + np.arange(self._batch), len(members))
    if self._seed is not None:
      within = [index_shuffle(int(position), len(members) - 1,
                              self._epoch_seed(number, int(epoch)), 4)
                for epoch, position in zip(epochs, within, strict=True)]
    return members[np.asarray(within)]

  def _turn(self, step: int) -> tuple[int, int]:
    """(place in `_members`, number of that bucket's batch) of a step."""
    for place in range(len(self._members)):
      low, high = 0, step  # the batch of this bucket that `step` could be has a number in here
      while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if self._rank(place, middle) < step else (low, middle)
      if self._rank(place, low) == step:
        return place, low
    raise AssertionError("every step is some bucket's turn")

  def _rank(self, place: int, turn: int) -> int:
    """How many batches of all buckets are due before batch `turn` of the one at `place`."""
    own = len(self._members[place][1])
    rank = turn
    for other, (_, members) in enumerate(self._members):
      if other != place:
        # Batches m with (2 m + 1) / len(members) < (2 turn + 1) / own, or equal and listed before.
        room = (2 * turn + 1) * len(members) - own + (other < place)
        rank += max(0, -(-room // (2 * own)))
    return rank

  def _draw_epoch_seed(self, bucket: int, epoch: int) -> int:
    assert self._seed is not None  # without, nothing is shuffled
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
      return int(jax.random.bits(key_for(self._seed, Purpose.DATA_ORDER, bucket, epoch)))
