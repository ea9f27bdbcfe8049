"""The config of a training run."""

import dataclasses
from typing import Literal, get_args

from emv3_jax import tasks
from emv3_jax.attention import backends
from emv3_jax.components.config import ModelConfig, PrecisionConfig
from emv3_jax.diffusion.flow import TAU_MAX, SigmaDensity
from emv3_jax.errors import InputError
from emv3_jax.io import paths
from emv3_jax.limits import AMOUNT, BELOW_1, COUNT, LARGEST, SEED, SHARE, check_ranges
from emv3_jax.models.cross_attention import ALLOCATIONS
from emv3_jax.models.execution import Remat
from emv3_jax.models.precision import Precision
from emv3_jax.sampling.settings import SamplingConfig
from emv3_jax.sharding import MeshConfig
from emv3_jax.tasks import face_masks
from emv3_jax.training import curriculum
from emv3_jax.training.curriculum import ScheduleConfig, Stage

Optimizer = Literal["adamw", "lion", "muon", "sgd"]
Reading = Literal["reference", "absolute"]
WandbMode = Literal["online", "offline"]
MIXED = Precision(params="float32", compute="bfloat16")


def _check_choice(where: str, value: str, choices) -> None:
  if value not in get_args(choices):
    raise InputError(f"{where} is {value!r}; known: {', '.join(get_args(choices))}.")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """How a run goes; none of it but `batch` and the backends changes what is learnt.

  Attributes:
    steps: the step that the run stops at; 0 stops at the end of the last stage. The schedule does
      not depend on it.
    batch: clips of a step, of all devices together.
    accumulate: parts that a batch is worked on one after the other, for less memory.
    remat: what the backward pass recomputes, see `emv3_jax.models.execution`.
    attention: backend of local attention, see `emv3_jax.attention.backends`.
    log_every: steps between lines of metrics.
    checkpoint_every: steps between checkpoints; 0 writes one at the end only.
    preview_every: steps between previews, see `PreviewConfig`; 0 makes none.
    keep: newest checkpoints that are kept.
    keep_every: checkpoints at multiples of it are kept too; 0 keeps no others.
    data_threads: threads that read records.
    max_loss: a step whose mean error of the velocity is above it stops the run, as NaN does: of data
      or of negatives, whatever weight its loss has.
    wandb: project of Weights & Biases that gets the metrics too; empty turns it off.
    wandb_name: name of the run there; empty leaves it to wandb.
    wandb_mode: `online`, or `offline`: into WORKDIR/wandb, without a network.
  """

  steps: int = 0
  batch: int = 4
  accumulate: int = 1
  remat: Remat = "full"
  attention: str = "auto"
  log_every: int = 10
  checkpoint_every: int = 500
  preview_every: int = 0
  keep: int = 2
  keep_every: int = 0
  data_threads: int = 4
  max_loss: float = 100.0
  wandb: str = ""
  wandb_name: str = ""
  wandb_mode: WandbMode = "online"

  def __post_init__(self):
    check_ranges("train", self, {
        "steps": AMOUNT, "batch": COUNT, "accumulate": COUNT, "log_every": COUNT,
        "checkpoint_every": AMOUNT, "preview_every": AMOUNT, "keep": COUNT, "keep_every": AMOUNT,
        "data_threads": (1, 1024), "max_loss": AMOUNT})
    _check_choice("train.remat", self.remat, Remat)
    _check_choice("train.wandb_mode", self.wandb_mode, WandbMode)
    backends.check_name(self.attention)
    if self.batch % self.accumulate:
      raise InputError(f"train.batch is {self.batch}; it does not divide into train.accumulate "
                       f"{self.accumulate} parts.")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """The optimiser; learning rates are the stages'.

  Attributes:
    name: `adamw`, `lion`, `sgd` (with momentum b1), or `muon`: kernels of the layers take
      orthogonalised steps of momentum b1, as long as Adam's, all else Adam's own.
    b1, b2, eps: of the moments.
    weight_decay: of matrices and convolutions; vectors, modulations and norms have none.
    clip: the global norm that gradients are scaled down to; 0 leaves them.
  """

  name: Optimizer = "adamw"
  b1: float = 0.9
  b2: float = 0.999
  eps: float = 1e-8
  weight_decay: float = 0.01
  clip: float = 1.0

  def __post_init__(self):
    _check_choice("optimizer.name", self.name, Optimizer)
    check_ranges("optimizer", self, {
        "b1": (0, BELOW_1), "b2": (0, BELOW_1), "eps": SHARE, "weight_decay": (0, LARGEST),
        "clip": AMOUNT})


@dataclasses.dataclass(frozen=True)
class DropoutConfig:
  """Probabilities of training without conditions, as the branches of guidance know none.

  Attributes:
    audio: no audio.
    audio_text: neither audio nor text.
    everything: no audio, no text and no image: no known frame and zero CLIP features.
  """

  audio: float = 0.1
  audio_text: float = 0.1
  everything: float = 0.05

  def __post_init__(self):
    check_ranges("dropout", self, {field.name: SHARE for field in dataclasses.fields(self)})
    if sum(dataclasses.astuple(self)) > 1:
      raise InputError(f"dropout adds up to {sum(dataclasses.astuple(self)):g}; at most 1.")


@dataclasses.dataclass(frozen=True)
class LossConfig:
  """The flow-matching loss.

  Attributes:
    sigma: what sigma is drawn from.
    face, mouth: added to the weight 1 of a latent cell in the face and in the mouth region; the
      weights of a clip are scaled to a mean of 1.
    allocation: a name of `cross_attention.ALLOCATIONS` (PhDA); `released` is 1 throughout.
    jitter: standard deviation, in tau, of its knots from example to example; 0 leaves them.
    face_mask: `moving`: the audio acts where the face is in each latent frame, as far as the task can know
      it; `released`: on one box around the face of the whole clip. See `tasks.face_masks`.
  """

  sigma: SigmaDensity = SigmaDensity()
  face: float = 0.0
  mouth: float = 0.0
  allocation: str = "phased"
  jitter: float = 0.0
  face_mask: str = face_masks.MOVING

  def __post_init__(self):
    face_masks.check_name("loss.face_mask", self.face_mask)
    check_ranges("loss", self, {"face": (0, LARGEST), "mouth": (0, LARGEST), "jitter": (0, TAU_MAX)})
    if self.allocation not in ALLOCATIONS:
      raise InputError(f"loss.allocation is {self.allocation!r}; known: "
                       f"{', '.join(sorted(ALLOCATIONS))}.")


@dataclasses.dataclass(frozen=True)
class NDPOConfig:
  """Negative DPO and paired Diffusion-DPO.

  Attributes:
    reading: of eq. 3, see `training.objectives.losses`.
    beta: of `reference` and of paired DPO. `absolute` measures its own.
    calibration: steps of a stage over which `absolute` averages the error that beta is 1 over.
    sft_weight: lambda; with it above 0, ndpo steps learn positives too.
  """

  reading: Reading = "reference"
  beta: float = 500.0
  calibration: int = 100
  sft_weight: float = 0.0

  def __post_init__(self):
    _check_choice("ndpo.reading", self.reading, Reading)
    check_ranges("ndpo", self, {"beta": AMOUNT, "calibration": COUNT, "sft_weight": AMOUNT})


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig:
  """What a step minimises, see `Config.objective`."""

  seed: int
  loss: LossConfig
  dropout: DropoutConfig
  ndpo: NDPOConfig


@dataclasses.dataclass(frozen=True)
class PreviewConfig:
  """What is made of the average of the weights every train.preview_every steps.

  Attributes:
    audio, image, prompt, task, face_box: of a clip to sample, as in `Request`; without audio none.
    tokenizer: tokenizer.json to use; empty takes that of the folder with the other networks.
    held_out: dataset of clips not trained on, for the loss by band of sigma and task; may be empty.
    batches: of it, at most, that the loss is the mean of; no clip counts twice.
  """

  audio: str = ""
  image: str = ""
  prompt: str = ""
  task: str = "i2v"
  face_box: str = ""
  tokenizer: str = ""
  held_out: str = ""
  batches: int = 1

  def __post_init__(self):
    check_ranges("preview", self, {"batches": COUNT})
    paths.refuse_addresses(self, ("audio", "image", "tokenizer", "held_out"))
    tasks.of(self.task)


@dataclasses.dataclass(frozen=True)
class Config:
  """A whole training config, as `configs/train_*.py` give it.

  Attributes:
    name: what reports and checkpoints call this config.
    seed: of everything random, 0 to 2^32 - 1.
    checkpoint: model folder to start from; or a run's folder or one of its checkpoints, of which
      the average is taken; or `untrained` for random parameters. A base model without audio gets a
      fresh audio path.
    fresh_audio: starts the audio path anew even if the checkpoint has one: its keys and values are
      zeros, so that the model starts with the base's own predictions.
    components: model folder of the other networks, for previews and for the model that the run
      ends with; empty takes those of `checkpoint`.
    data: dataset folder.
    program_cache: folder of compiled programs; empty turns the cache off.
    program_cache_mib: what it may take; then it loses what was not used for longest.
    ema_decay: of the moving average that runs through all stages; see `Stage.ema_decay`.
    precision: of the networks; training wants the transformer's parameters in float32.
    sampling: settings that the model folder of this run recommends, and previews are made with;
      what is None is taken from `checkpoint`. Allocation and face mask are those of `loss`, and have to
      be them.
    stages: the schedule; empty takes the one that `schedule` names. One of both is given.
  """

  name: str
  seed: int = 0
  checkpoint: str = ""
  fresh_audio: bool = False
  components: str = ""
  data: str = ""
  program_cache: str = "~/.cache/emv3_jax/programs"
  program_cache_mib: int = 4096
  ema_decay: float = 0.9999
  model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
  precision: PrecisionConfig = dataclasses.field(
      default_factory=lambda: PrecisionConfig(transformer=MIXED))
  sampling: SamplingConfig = SamplingConfig()
  mesh: MeshConfig = MeshConfig()
  train: TrainConfig = TrainConfig()
  schedule: ScheduleConfig = ScheduleConfig()
  stages: tuple[Stage, ...] = ()
  optimizer: OptimizerConfig = OptimizerConfig()
  dropout: DropoutConfig = DropoutConfig()
  loss: LossConfig = LossConfig()
  ndpo: NDPOConfig = NDPOConfig()
  preview: PreviewConfig = PreviewConfig()

  def __post_init__(self):
    check_ranges("", self, {"seed": SEED, "ema_decay": (0, BELOW_1),
                            "program_cache_mib": COUNT})
    paths.refuse_addresses(self, ("checkpoint", "components", "data", "program_cache"))
    for name in ("allocation", "face_mask"):
      sampled, trained = getattr(self.sampling, name), getattr(self.loss, name)
      if sampled not in (None, trained):
        raise InputError(f"sampling.{name} is {sampled!r}, loss.{name} {trained!r}: a model is sampled as it was "
                         f"trained; leave sampling.{name} out.")
    if self.precision.transformer.is_int8:
      raise InputError("precision.transformer.params is int8, which has no gradient; train in float32.")
    if self.stages and self.schedule != ScheduleConfig():
      given = ", ".join(f"schedule.{field.name}" for field in dataclasses.fields(ScheduleConfig)
                        if getattr(self.schedule, field.name) != field.default)
      raise InputError(f"The config has stages, beside which {given} would mean nothing; write it "
                       "into the stages, or leave them out.")
    self.all_stages()  # a wrong schedule is refused at the door

  def all_stages(self) -> tuple[Stage, ...]:
    return self.stages or self.schedule.stages()

  @property
  def objective(self) -> ObjectiveConfig:
    return ObjectiveConfig(self.seed, self.loss, self.dropout, self.ndpo)

  @property
  def last_step(self) -> int:
    """The step that the run stops before."""
    return self.train.steps or curriculum.first_steps(self.all_stages())[-1]
