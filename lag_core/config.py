"""One configuration: frozen dataclasses, filled from a method's preset, a TOML file and `--set` overrides.

An unknown key, a wrong type or an impossible value is a `ConfigError` that names the key, the value and what is
allowed. The resolved configuration is stored in the run.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, Literal

from lag_core import reading
from lag_core.bounds import bounded, bounds_of
from lag_core.loss_terms import TermWeights
from lag_core.protocol import Setting
from lag_core.sentences import Said

LONGEST_TEXT = 1000
"""Characters of a value: a path is shorter."""
LONGEST_LIST = 64
"""Entries of a value: rates, domains."""
LARGEST_TILE = 1024
"""Side of the tiles that `aerial` can draw (data.aerial.SIZES)."""


class ConfigError(Said, ValueError):
    """A user's mistake in the configuration, with a one-sentence message."""


@dataclass(frozen=True)
class DataConfig:
    """Which images, which task, and how images are cut."""

    dataset: Literal["aerial", "folder", "voc", "ade20k", "isprs", "cityscapes", "coco"] = "aerial"
    root: str = ""
    """Folder of the dataset; unused by `aerial`."""
    task: str = "2-2-1"
    setting: Setting = "overlapped"
    domains: tuple[str, ...] = ()
    """Domain of step 0, then of every later step (class+domain-incremental); empty: images of every domain."""
    fraction: float = bounded(1.0, 1e-6, 1.0)
    """Share of each later step's images that is kept (data-limited protocol); step 0 keeps all."""
    selection: Literal["prefix", "random"] = "prefix"
    size: int = bounded(256, 32, 4096)
    """Side of the square that the network sees; see `fit`."""
    fit: Literal["pad", "crop", "windows"] = "pad"
    """"pad": longer images are scaled down, shorter ones padded. "crop": an image is scaled so that its shorter side is
    `size`, and its centre is cut out, with its mask. "windows": larger images are
    not scaled; their windows of `size` are images of their own (lag_core/data/windows.py)."""
    overlap: float = bounded(0.25, 0.0, 0.9)
    """"windows": overlap of validation windows as a share of their side; training windows do not overlap."""
    bands: tuple[int, ...] = ()
    """Three bands of an image file, counted from 1, in the order in which the network takes them; empty: the first
    three. TIFF files need the extra [tiff] for this."""
    range: tuple[float, ...] = ()
    """Of images with 16 bits a channel: the values [low, high] that become 0 and 255. Empty: percentiles 0.5 and 99.5
    of the training images, which are then stored here (lag_core/data/deep_pixels.py)."""
    augmentation: Literal["square", "field"] = "square"
    """"square": scaled by 0.75 to 1.5 around the size that `fit` gives. "field": scaled by `scales` from its own size
    and cropped at random, as the literature trains; with fit = "crop" training images are not cropped before."""
    scales: tuple[float, ...] = (0.5, 2.0)
    """"field": smallest and largest random scale."""
    validation: Literal["square", "own"] = "square"
    """What metrics are measured on: the square of `fit`, or each picture whole at its own size. The dashboard's maps
    are of the square."""
    views: int = bounded(4, 0, 64)
    """Views of each training image that are drawn once and kept with their trunk features; 0: drawn afresh in every
    epoch, with nothing kept (for datasets that do not fit in memory)."""
    workers: int = bounded(0, 0, 256)
    """Processes that read and augment images ahead of the training; 0: none. The results do not depend on it."""
    holdout: float = bounded(0.1, 0.0, 0.9)
    """Share of the training images kept aside for choices; the validation set is never used for one."""
    measure: Literal["val", "held"] = "val"
    """What the metrics are measured on: the validation set, or the images held out of training (to choose settings)."""
    tiles: int = bounded(300, 1, 100_000)
    """`aerial`: training tiles of each domain."""


@dataclass(frozen=True)
class ModelConfig:
    """The network: backbone, ASPP, heads."""

    backbone: Literal[
        "resnet18", "resnet34", "resnet50", "resnet101", "mobilenet_v2", "mobilenet_v3_large", "efficientnet_lite0"
    ] = "mobilenet_v2"
    weights: str = "none"
    """"none", "imagenet" (torchvision downloads it; an installed package has it for efficientnet_lite0), or a local
    file (.pt or .pth state dict, .safetensors)."""
    weights_sha256: str = ""
    """Expected digest of the local file; empty: unchecked."""
    output_stride: Literal[8, 16] = 16
    depth: Literal["layer3", "layer4"] = "layer4"
    """Last stage that the backbone has. "layer3" leaves the deepest one out: it is the most work at stride 8."""
    skip: Literal["none", "layer1", "layer2", "layer3"] = "none"
    """From this stage on, the trunk keeps every stage's output: later ones are enlarged and concatenated, so that
    the latent map is as fine as this stage's."""
    shared: Literal["none", "stem", "layer1", "layer2", "layer3", "layer4"] = "layer4"
    """Last backbone stage of the trunk, the part that is frozen after step 0 and shared by all steps. "none": no trunk,
    the whole network can train at each step."""
    latent: int = bounded(128, 4, 4096)
    """Channels of the latent map Z (the ASPP's output)."""
    head_width: int = bounded(64, 1, 4096)
    head_kernel: Literal[1, 3] = 3
    """Side of the head's first convolution; with 1, a head sees one latent pixel at a time."""
    aspp_rates: tuple[int, ...] = (3, 6, 9)
    separable: bool = True
    """Depthwise-separable 3x3 convolutions in the ASPP: small step files."""
    activation: Literal["relu", "leaky_relu"] = "relu"
    """Activation function everywhere, after sums, ASPP and pooling, too; leaky: slope 0.01 (ResNets alone)."""
    stem_activation: bool = True
    """false: none between the stem's norm and its max pooling (ResNets alone)."""
    dilated_first_block: bool = False
    """Whether the first block of a dilated stage is dilated like its others; torchvision's has half the rate."""
    pooling_window: int = bounded(0, 0, 4096)
    """Side, in cells, of the window over which the ASPP's image pooling averages; 0: the whole map."""
    checkpointing: bool = False
    """Whether each trained backbone stage is recomputed in the backward pass instead of being kept: less
    memory, about a third more time, the same bits."""
    head: Literal["conv", "linear"] = "conv"
    """A head: convolution, norm, activation, 1x1 convolution; or the 1x1 convolution alone."""


@dataclass(frozen=True)
class OptimConfig:
    """How a step is optimised."""

    epochs: int = bounded(12, 0, 10_000)
    """Epochs of step 0."""
    epochs_later: int = bounded(8, 0, 10_000)
    min_iterations_first: int = bounded(0, 0, 10_000_000)
    """Lower bound of step 0's iterations."""
    min_iterations: int = bounded(0, 0, 10_000_000)
    """Lower bound of a later step's iterations: else a step with few images hardly trains (docs/method.md#tried)."""
    batch: int = bounded(16, 1, 4096)
    lr_head: float = bounded(0.01, 0.0, 100.0)
    """Heads at step 0."""
    lr_head_later: float = bounded(0.01, 1e-12, 100.0)
    """Heads after step 0; not 0, as with a frozen extractor nothing would train then."""
    lr_aspp: float = bounded(0.01, 0.0, 100.0)
    """ASPP at step 0."""
    lr_aspp_later: float = bounded(1e-3, 0.0, 100.0)
    lr_stage: float = bounded(1e-3, 0.0, 100.0)
    """Backbone stages at step 0; 0 keeps the backbone as loaded."""
    first_stage: Literal["stem", "layer1", "layer2", "layer3", "layer4"] = "stem"
    """First of the backbone stages that train at step 0; those before it stay as loaded."""
    lr_stage_later: float = bounded(0.0, 0.0, 100.0)
    """Stages behind the trunk after step 0 (needs an earlier model.shared than "layer4")."""
    batch_norm: Literal["first", "always", "never"] = "first"
    """At which steps trained layers normalise by their batch instead of by running statistics: the first, all
    or none."""
    extractor_delay: float = bounded(0.3, 0.0, 1.0)
    """Share of a later step's iterations before ASPP and stage join: a transferred head starts with a large loss."""
    warmup: float = bounded(0.0, 0.0, 1.0)
    """Share of a later step over which a part's learning rate grows from 0 after it joins."""
    clip: float = bounded(0.0, 0.0, 1e6)
    """Largest norm of all gradients together after step 0; 0: no limit."""
    steadiness: float = bounded(0.0, 0.0, 1.0)
    """Bound on the learning rate of a part that joins after step 0, as a share of the largest rate that is stable for
    the loss's curvature at that moment; 0: no bound. 0.5 is a good value (lag_core/training/sharpness.py)."""
    optimiser: Literal["sgd", "adamw"] = "sgd"
    """Optimiser of step 0. Later steps always use SGD: the shares of the loss terms follow its updates."""
    momentum: float = bounded(0.9, 0.0, 1.0)
    weight_decay: float = bounded(1e-4, 0.0, 10.0)
    sync_batch_norm: bool = False
    """Whether batch norm uses the batch of all processes together (with torchrun), not each process's own part."""
    decay_norms: bool = True
    """Whether weight decay acts on biases and on batch norm's scales, too, as it does in the literature."""
    power: float = bounded(0.9, 0.0, 100.0)
    """Exponent of the poly schedule."""
    label_stride: int = bounded(4, 1, 32)
    """The loss is taken on labels of 1/label_stride of the input's side."""
    amp: Literal["off", "auto", "bf16", "fp16"] = "off"
    """Mixed precision; "auto": bf16 where the device computes in it, else off. "fp16" scales the loss, leaves out
    updates whose gradients overflow, and records no shares of the terms."""
    accumulate: int = bounded(1, 1, 4096)
    """Number of equal parts of a batch that run one after another before the update: less memory. Means
    over pixels, prototypes and batch norm are then those of the parts."""
    channels_last: bool = False
    """Memory layout with the channels innermost, which suits a GPU's convolutions; changes the bits."""
    fused: bool = False
    """One kernel for the whole update instead of one per tensor; changes the bits."""
    tf32: bool = False
    """Whether a GPU may round the factors of float32 products to 10 bits of mantissa."""
    compile: bool = False
    """Whether torch.compile compiles the student (needs a compiler; the first iterations wait)."""
    seed: int = bounded(0, 0, 2**32 - 1)
    deterministic: bool = True
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = bounded(0, 0, 1024)
    """CPU threads; 0: as torch chooses."""


@dataclass(frozen=True)
class MethodConfig(TermWeights):
    """What is learned and what is preserved. Each method's preset fills this; every part can be overridden alone.

    The weights of the loss terms are those of `TermWeights` (lag_core/loss_terms.py).
    """

    name: str = "reference"
    loss: Literal["bce", "ce", "mib", "bce_foreground"] = "bce"
    """The loss, and thus how to predict. "bce_foreground": classes by their sigmoid; the background has
    no logit of its own and is predicted where no class is above 0.5 (DKD, STAR)."""
    positive: float = bounded(1.0, 0.0, 1e6)
    """"bce_foreground": weight of a channel's loss at its own pixels."""
    unknown: bool = False
    """Model the unknown class in its own channel (always on for datasets without background)."""
    extractor: Literal["frozen", "live"] = "frozen"
    """Whether ASPP and stage train after step 0."""
    old_heads: Literal["frozen", "live"] = "frozen"
    transfer: bool = False
    """Initialise a new head from an old one."""
    transfer_from: Literal["unknown", "nearest"] = "unknown"
    """The unknown's head (else the background's), or that of the old class that the teacher predicts on the new one."""
    init_from_background: bool = False
    """MiB's initialisation: the new classes share the background's probability."""
    pseudo: Literal["off", "hard", "soft", "adaptive", "entropy"] = "off"
    pseudo_threshold: float = bounded(0.7, 0.0, 1.0)
    pseudo_margin: float = bounded(0.0, 0.0, 1.0)
    """Least difference of the teacher's two best scores (uncertainty rule); 0: not used."""
    pseudo_keep: float = bounded(0.5, 0.0, 1.0)
    """"adaptive": share of each class's candidate pixels that is accepted."""
    kd_unknown: bool = True
    """Whether the teacher's logit of "unknown" is distilled too. It is high on what the step is about to learn."""
    kd_decay: float = bounded(1.0, 0.0, 1.0)
    """Distillation is multiplied by kd_decay ** progress."""
    spm_separation: float = bounded(0.5, 0.0, 1e6)
    nsc_threshold: float = bounded(0.7, 0.0, 1.0)
    """Least score of the teacher on the pixels whose relevance is preserved."""
    nsc_every: int = bounded(2, 1, 1_000_000)
    nsc_classes: int = bounded(4, 1, 1000)
    rho: float = bounded(0.5, 0.0, 1.0)
    """Fraction of semantic-invariant channels."""
    channel_metric: Literal["entropy_kl", "spatial_kl", "cosine", "l2", "random"] = "entropy_kl"
    channel_warmup: int = bounded(30, 0, 1_000_000)
    ramp: float = bounded(0.1, 0.0, 1.0)
    """LAG's terms grow linearly over this share of the step."""
    replay_at: Literal["latent", "trunk"] = "latent"
    """Where statistics are kept and replay begins: at Z, or at the frozen trunk's output."""
    replay_maps: Literal["drawn", "carried", "stored"] = "drawn"
    """"trunk": maps drawn from the statistics; or the step's own images with their new objects carried over to the old
    classes (needs replay_covariance = "full"); or the images of earlier steps: a bound, as no method may keep them."""
    replay_domain: Literal["stored", "step", "same"] = "stored"
    """For steps of another domain (data.domains). "stored": each old class is replayed by the statistics that its own
    step stored. "same": only if that step had this step's domain. "step": with replay_maps = "carried", by the
    statistics of this step's pixels that the teacher predicts as that class."""
    replay_kd: float = bounded(1.0, 0.0, 1e6)
    """"trunk": weight of distillation on the replayed maps."""
    replay_samples: int = bounded(8, 1, 100_000)
    """Of each old class in an iteration: patches at "latent", whole maps at "trunk"."""
    replay_covariance: Literal["mean", "diagonal", "rectified", "full"] = "diagonal"
    replay_balance: bool = False
    """STAR's balance: replayed features and background pixels as frequent as in all steps' data together."""
    labels: Literal["setting", "all"] = "setting"
    """"all": every class is annotated at every step and all steps are trained as one (joint)."""


@dataclass(frozen=True)
class LogConfig:
    """What is written while training."""

    events_every: int = bounded(10, 1, 1_000_000)
    """Iterations between two lines of events.jsonl."""
    gradients_every: int = bounded(20, 1, 1_000_000)
    """Iterations between two measurements of each term's gradient norm."""
    shares_every: int = bounded(20, 0, 1_000_000)
    """Iterations between two measurements of what each loss term does to the old classes (needs data.holdout > 0);
    0: off. Where it is a multiple of gradients_every, most gradients are measured once for both."""
    resume_seconds: float = bounded(20.0, 0.0, 1e6)
    """Seconds between two writes of resume.pt."""


@dataclass(frozen=True)
class Config:
    """Everything that a run depends on."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    log: LogConfig = field(default_factory=LogConfig)


def load(path: Path) -> dict[str, Any]:
    """The nested tables of a TOML file; ConfigError if it cannot be read."""
    try:
        return reading.from_toml(reading.read_text(path, reading.CONFIG))
    except FileNotFoundError:
        raise ConfigError(f"there is no config file {path}") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError among them
        raise ConfigError(f"{path} is not valid TOML: {error}") from None


def parse_override(text: str) -> dict[str, Any]:
    """`optim.lr_head=0.005` as nested tables. A value that is not TOML is taken as a string."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text!r}: expected section.key=value")
    if key.count(".") > 8:
        raise ConfigError(f"--set {key}: a key has a section and a name, at most 8 dots are read")
    try:
        parsed: Any = reading.from_toml(f"value = {value}")["value"]
    except ValueError:
        parsed = value
    for part in reversed(key.strip().split(".")):
        parsed = {part: parsed}
    return parsed


def merge(layers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Nested tables merged; later ones win."""
    result: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            below = result.get(key)
            nested = isinstance(value, Mapping)
            result[key] = merge([below if isinstance(below, dict) else {}, value]) if nested else value
    return result


def resolve(tables: Mapping[str, Any]) -> Config:
    """A checked `Config` from nested tables; missing keys take their defaults. ConfigError on anything else."""
    config = _build(Config, tables, "")
    _check(config)
    return config


def to_dict(config: Config) -> dict[str, Any]:
    """Nested plain tables of `config`, ready for JSON; `resolve` takes them back."""
    return dataclasses.asdict(config)


def neutral(tables: Mapping[str, Any]) -> dict[str, Any]:
    """`to_dict` without this machine's folders: only the last part of data.root and model.weights is left."""
    data, model = dict(tables["data"]), dict(tables["model"])
    data["root"] = PurePath(data["root"]).name
    model["weights"] = PurePath(model["weights"]).name
    return {**tables, "data": data, "model": model}


def _build(cls: type, tables: Any, prefix: str) -> Any:
    if not isinstance(tables, Mapping):
        raise ConfigError(f"{prefix.rstrip('.')}: expected a table, found {tables!r}")
    hints = typing.get_type_hints(cls)
    for key in tables:
        if key not in hints:
            close = difflib.get_close_matches(key, hints, 1)
            hint = f"; did you mean {prefix}{close[0]}?" if close else f"; known: {', '.join(hints)}"
            raise ConfigError(f"unknown key {prefix}{key}{hint}")
    return cls(**{key: _value(hints[key], value, prefix + key) for key, value in tables.items()})


def _value(hint: Any, value: Any, key: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, key + ".")
    origin = typing.get_origin(hint)
    if origin is Literal:
        allowed = typing.get_args(hint)
        if value not in allowed or isinstance(value, bool):
            raise ConfigError(f"{key} = {value!r}: allowed are {', '.join(map(repr, allowed))}")
        return value
    if origin is tuple:
        return tuple(_value(typing.get_args(hint)[0], item, key) for item in _bounded_list(value, key))
    if origin in (typing.Union, types.UnionType):
        raise TypeError(f"{key}: unions are not used in configurations")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{key} = {value!r}: expected {hint.__name__}")
    return _bounded_text(value, key) if isinstance(value, str) else value


def _bounded_list(value: Any, key: str) -> list[Any] | tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{key} = {value!r}: expected a list")
    if len(value) > LONGEST_LIST:
        raise ConfigError(f"{key}: a list of {len(value)} entries; at most {LONGEST_LIST} are possible")
    return value


def _bounded_text(value: str, key: str) -> str:
    if len(value) > LONGEST_TEXT or "\0" in value:
        raise ConfigError(f"{key}: a text of {len(value)} characters; at most {LONGEST_TEXT} are possible, and no NUL")
    return value


def all_bounds() -> dict[str, tuple[float, float]]:
    """ "section.key" -> (lowest, highest) of every bounded number, in the order of the sections."""
    sections = ((one.name, one.default_factory) for one in dataclasses.fields(Config))
    return {f"{name}.{key}": found for name, section in sections for key, found in bounds_of(section).items()}


def _check(config: Config) -> None:
    for key, (low, high) in all_bounds().items():
        section, name = key.split(".")
        value = getattr(getattr(config, section), name)
        if not low <= value <= high:
            raise ConfigError(f"{key} = {value!r}: must lie between {low:g} and {high:g}")
    if config.data.range and not (len(config.data.range) == 2 and config.data.range[0] < config.data.range[1]):
        raise ConfigError(f"data.range = {list(config.data.range)}: expected [low, high] with low < high, or nothing")
    if config.data.bands and (len(config.data.bands) != 3 or min(config.data.bands) < 1):
        raise ConfigError(f"data.bands = {list(config.data.bands)}: expected three bands, counted from 1, or nothing")
    if not config.model.aspp_rates or min(config.model.aspp_rates) < 1:
        rates = list(config.model.aspp_rates)
        raise ConfigError(f"model.aspp_rates = {rates}: expected one or more rates of at least 1")
    _check_switches(config.model)
    _check_depth(config.model)
    if config.optim.lr_stage_later > 0 and config.model.shared == "layer4":
        raise ConfigError('optim.lr_stage_later > 0 needs model.shared = "layer3": layer4 is part of the frozen trunk')
    _check_protocol(config)
    _check_method(config.method)
    if config.data.measure == "held" and config.data.holdout == 0:
        raise ConfigError('data.measure = "held" needs data.holdout > 0: nothing is held out')
    if config.data.dataset == "aerial" and config.data.size > LARGEST_TILE:
        raise ConfigError(
            f"data.size = {config.data.size}: a tile of 'aerial' has at most {LARGEST_TILE} pixels a side"
        )
    if config.data.dataset != "aerial" and not config.data.root:
        raise ConfigError(f"data.root is missing: dataset {config.data.dataset!r} is read from a folder")


def _check_method(method: MethodConfig) -> None:
    """Options that depend on one another."""
    if method.replay_maps == "carried" and (method.replay_at, method.replay_covariance) != ("trunk", "full"):
        raise ConfigError('method.replay_maps = "carried" needs replay_at = "trunk" and replay_covariance = "full"')
    if method.replay_domain == "step" and method.replay_maps != "carried":
        raise ConfigError('method.replay_domain = "step" needs replay_maps = "carried"')
    if method.replay_maps == "stored" and method.replay_at != "trunk":
        raise ConfigError('method.replay_maps = "stored" needs replay_at = "trunk"')
    if method.auxiliary > 0 and method.loss != "bce_foreground":
        raise ConfigError(
            'method.auxiliary > 0 needs method.loss = "bce_foreground": it takes the background\'s channel'
        )
    if method.replay_balance and method.replay_at != "latent":
        raise ConfigError('method.replay_balance needs method.replay_at = "latent"')


def _check_depth(model: ModelConfig) -> None:
    """Options for a backbone that ends early, or that joins two of its stages."""
    if model.depth == "layer3" and model.shared == "layer3":
        raise ConfigError('model.shared = "layer3" needs model.depth = "layer4": no stage is left behind the trunk')
    if model.skip != "none" and model.shared != "layer4":
        raise ConfigError(f'model.skip = "{model.skip}" needs model.shared = "layer4": the trunk ends behind it')
    if model.skip == model.depth:
        raise ConfigError(f'model.skip = "{model.skip}": model.depth = "{model.depth}" leaves no later stage to join')


def _check_protocol(config: Config) -> None:
    """Keys of the data and the optimiser that depend on one another."""
    scales = config.data.scales
    if len(scales) != 2 or not 0.01 <= scales[0] <= scales[1] <= 100:
        raise ConfigError(f"data.scales = {list(scales)}: expected the smallest and the largest scale, 0.01 to 100")
    if config.data.dataset == "aerial" and config.data.fit == "windows":
        raise ConfigError('data.fit = "windows" needs images from files: tiles of "aerial" have the size of the square')
    if config.data.dataset == "aerial" and config.data.augmentation == "field":
        raise ConfigError('data.augmentation = "field" needs images from files: tiles of "aerial" have one size')
    if config.model.shared == "none" and config.method.replay > 0 and config.method.replay_at == "trunk":
        raise ConfigError('method.replay_at = "trunk" needs a frozen trunk: choose another model.shared than "none"')


def _check_switches(model: ModelConfig) -> None:
    """Switches that are defined for ResNets alone."""
    if model.backbone.startswith("resnet"):
        return
    if model.activation != "relu":
        raise ConfigError(f'model.activation = "{model.activation}" needs a ResNet: {model.backbone} has its own')
    if not model.stem_activation:
        raise ConfigError(f"model.stem_activation = false needs a ResNet, not {model.backbone}")
