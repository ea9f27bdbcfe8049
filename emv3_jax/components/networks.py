"""The five networks of one model: parameters that are loaded, used and freed in turn."""

from collections.abc import Iterable, Iterator, Sequence
import contextlib
import dataclasses
import gc
import pathlib

from absl import logging
import jax
from jax.sharding import Mesh
from jaxtyping import Float, Float32, Integer, Num, Shaped, UInt8
import numpy as np

from emv3_jax import geometry, sharding
from emv3_jax.arrays import AnyArray
from emv3_jax.components import programs
from emv3_jax.components.config import COMPONENTS, ModelConfig, PrecisionConfig
from emv3_jax.errors import InputError
from emv3_jax.io import checkpoints, digests
from emv3_jax.models import umt5, wav2vec2, wav2vec2_pieces
from emv3_jax.models.network import Network, Params
from emv3_jax.runtime import config as config_lib
from emv3_jax.runtime import start_up


class Networks:
  """Networks of one configuration on a mesh, and where their parameters come from.

  Args:
    networks: their configurations.
    precision: their dtypes.
    mesh: the devices that every network runs on.
    folder: model folder as `python -m convert` writes it; None for untrained random parameters.
    parts: the components that will be used; the folder need not hold others.
    seed: of untrained parameters.
    keep: keep parameters loaded between uses instead of freeing them.
    name: what messages call the configuration.

  Attributes:
    networks, precision, mesh, folder: the arguments.
    card: the folder's model card; None without a folder.

  Raises:
    InputError: the folder's networks are not the configured ones (names the fields that differ).
  """

  def __init__(self, networks: ModelConfig, precision: PrecisionConfig, mesh: Mesh,
               folder: pathlib.Path | None, parts: Sequence[str] = COMPONENTS, *, seed: int = 0,
               keep: bool = False, name: str = ""):
    self.networks, self.precision, self.mesh, self.folder = networks, precision, mesh, folder
    self._seed, self._keep = seed, keep
    self._kept: dict[str, Params] = {}
    self._lent: dict[str, Params] = {}
    self.card = None if folder is None else checkpoints.read_model_card(folder)
    if self.card is not None:
      self._check_card(self.card, parts, name)

  def _check_card(self, card: checkpoints.ModelCard, parts: Sequence[str], config_name: str) -> None:
    for name in parts:
      found = card.require(name)
      wanted = dataclasses.asdict(getattr(self.networks, name))
      faults = config_lib.differences(found.config, wanted)
      if faults:
        raise InputError(
            f"Checkpoint {self.folder}: its {name} is not the one of config {config_name} "
            f"(checkpoint != config): {'; '.join(faults[:4])}.")

  def network(self, name: str) -> Network:
    """The network of a component, without parameters."""
    return programs.network(self.networks, self.precision, name)

  @contextlib.contextmanager
  def using(self, name: str, params: Params) -> Iterator[None]:
    """Takes the caller's parameters, which lie on the mesh, for a part within the block."""
    self._lent[name] = params
    try:
      yield
    finally:
      del self._lent[name]

  @contextlib.contextmanager
  def parameters(self, name: str) -> Iterator[Params]:
    """Parameters of one part on the mesh; freed at the end unless they are to be kept."""
    if name in self._lent:
      yield self._lent[name]
      return
    params = self._kept.get(name)
    if params is None:
      params = self._load(name)
    if self._keep:
      self._kept[name] = params
      yield params
      return
    try:
      yield params
    finally:
      jax.tree.map(lambda leaf: leaf.delete(), params)
      del params
      gc.collect()

  def _load(self, name: str) -> Params:
    network = self.network(name)
    shardings = programs.shardings(network, name, self.mesh)
    if self.folder is None:
      with start_up.part("read"):
        params = network.untrained(self._seed)
      with start_up.part("place"):
        return jax.block_until_ready(jax.tree.map(sharding.put, params, shardings))
    return checkpoints.load_component(self.folder, name, network.abstract,
                                      shardings=shardings if self.mesh.size > 1 else None)

  @property
  def normalises_waveform(self) -> bool:
    """Whether wav2vec2 takes waveforms of mean 0 and variance 1; so it is without a folder."""
    return self.card is None or self.card.normalises_waveform

  def encode(self, name: str, params: Params, *arrays: np.ndarray, **static) -> np.ndarray:
    """States of an encoder, float32.

    Args:
      name: `text_encoder`, `image_encoder` or `audio_encoder`.
      params: its parameters.
      *arrays: what its network is called with.
      **static: options of the call, see `wav2vec2`.
    """
    run = programs.encoder(self.network(name), self.mesh, tuple(sorted(static.items())))
    return np.asarray(run(params, *sharding.replicate(arrays, self.mesh)), np.float32)

  def encode_audio(self, params: Params, waveform: Float32[np.ndarray, "b samples"], *,
                   frames: int | None = None, layers: str = "last", in_pieces: bool = False
                   ) -> Float32[np.ndarray, "b a *layers d"]:
    """States of wav2vec 2.0 for sounds of any length; those above 10 s go through it in pieces.

    Args: as of `Wav2Vec2.__call__`, with the parameters before them; `in_pieces` for shorter ones too, with programs that
      serve every length.
    """
    config = self.networks.audio_encoder
    if not in_pieces and wav2vec2.num_tokens(waveform.shape[1], config) <= wav2vec2_pieces.PIECE:
      options = {} if frames is None and layers == "last" else {"frames": frames, "layers": layers}
      return self.encode("audio_encoder", params, waveform, **options)
    pieces = programs.audio_pieces(self.network("audio_encoder"), config, self.precision.audio_encoder, self.mesh)
    if not pieces.is_exact(waveform.shape[1], frames):
      logging.warning("%s", wav2vec2_pieces.not_exact(50 if frames is None else geometry.FPS))
    return pieces(params, waveform, frames=frames, layers=layers)

  def vae_encode(self, params: Params, video: Num[AnyArray, "b F H W 3"]
                 ) -> Float32[np.ndarray, "b f H8 W8 c"]:
    """Latents of videos in [-1, 1]."""
    clips, size8 = len(video), geometry.latent_size(video.shape[2:4])
    run = programs.vae_encode(self.network("vae"), self.mesh, size8, clips)
    placed = sharding.put(video, sharding.picture_sharding(self.mesh, clips, size8))
    return np.asarray(run(params, placed), np.float32)

  def vae_decode(self, params: Params, latents: Float[AnyArray, "b f H8 W8 c"]
                 ) -> UInt8[np.ndarray, "b F H W 3"]:
    """Frames of latents."""
    run = programs.vae_decode(self.network("vae"), self.mesh, latents.shape[2:4], len(latents))
    return sharding.fetch(run(params, sharding.replicate(latents, self.mesh)))

  def vae_decode_groups(self, params: Params, latents: Iterable[np.ndarray]
                        ) -> Iterator[np.ndarray]:
    """Frames of a clip group by group, in memory that does not grow with its length.

    Args:
      params: of the VAE.
      latents: the clip's latent frames in order, each [b, 1, H/8, W/8, 16].

    Yields:
      uint8 [b, n, H, W, 3] for each latent frame: n is 1 for the first and 4 for the others.
    """
    cached = None
    for group in latents:
      run = programs.vae_decode_group(self.network("vae"), self.mesh, group.shape[2:4], len(group))
      frames, cached = run(params, sharding.replicate(group, self.mesh), cached)
      yield sharding.fetch(frames)

  def encode_tokens(self, ids: Integer[np.ndarray, "b m"], mask: Shaped[np.ndarray, "b m"]
                    ) -> Float32[np.ndarray, "b m d"]:
    """umT5 states of token ids.

    On one device it is streamed from the model folder, one layer in memory at a time, unless
    parameters are kept: umT5-XXL is 11.4 GB, everything else together fits in half of that.
    Several devices share it.
    """
    if self.folder is None or self._keep or self.mesh.size > 1:
      with self.parameters("text_encoder") as params:
        return self.encode("text_encoder", params, ids, mask)
    read = start_up.part("read")  # as a decorator
    network, config, precision = self.network("text_encoder"), self.networks.text_encoder, self.precision.text_encoder
    stream = checkpoints.stream_component(self.folder, "text_encoder", network.abstract)
    states = umt5.encode_streaming(
        config, precision, lambda: stream.rows("token_embedding"), read(stream.layer), lambda: stream.part("norm"),
        ids, mask, programs=programs.text_layers(network, config, precision, self.mesh))
    return np.asarray(states, np.float32)

  def whole(self, array: AnyArray) -> jax.Array:
    """`array` on every device of the mesh."""
    return sharding.replicate(array, self.mesh)

  def digest(self, name: str) -> str:
    """Identifies a part's parameters by content; "" where they are the caller's or there are none.

    Raises:
      InputError: the model folder does not have them whole.
    """
    if name in self._lent:
      return ""
    if self.card is None:
      return digests.untrained_digest(getattr(self.networks, name), self._seed, name)
    return digests.weights_digest(self.card, name) if name in self.card.components else ""
