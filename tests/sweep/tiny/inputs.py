"""Inputs with which the forward of a tiny model runs, told by the names of its arguments and by its config."""

import inspect
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from .shapes import COUNTS, INPUTS
from .sizes import EOS, FIRST_SPECIAL, IMAGE, PAD, WIDTH
from .untried import Untried

LENGTH, PADDED = 9, 3  # of text; rows after the first end in so much padding
FRAMES = 48  # of a spectrogram
GRID = (1, 4, 4)  # frames, rows and columns of patches of each image, where a model takes patches


def tiny_inputs(model: PreTrainedModel, batch: int = 2) -> dict[str, torch.Tensor]:
    """Inputs with which a tiny model runs; rows after the first are padded on the right where it takes an attention mask.

    Args:
        model: of `tiny_model`, or its conversion.
        batch: rows.
    """
    if type(model).forward is torch.nn.Module.forward:
        raise Untried(f"{type(model).__name__} has no forward: only its parts and its own methods are called")
    if "atom_inputs" in inspect.signature(model.forward).parameters:
        raise Untried(f"the forward of {type(model).__name__} takes atoms as an object of its own, not tensors")
    if "inference_session" in inspect.signature(model.forward).parameters:
        raise Untried(f"the forward of {type(model).__name__} takes a session with a video, not tensors")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        return _Inputs(model, batch).made()


def setting(config: PreTrainedConfig, *names: str) -> Any:
    """The first of some settings that a config has, or else one of its parts."""
    for name in names:
        if getattr(config, name, None) is not None:
            return getattr(config, name)
    for part in config.sub_configs:
        holder = getattr(config, part, None)
        found = setting(holder, *names) if isinstance(holder, PreTrainedConfig) else None
        if found is not None:
            return found
    return None


def pair(size: Any) -> tuple[int, int]:
    """Height and width of a size."""
    if isinstance(size, dict):
        return size["height"], size["width"]
    return (size, size) if isinstance(size, int) else tuple(size)[-2:]


class _Inputs:
    """The inputs of one model, an argument at a time."""

    def __init__(self, model: PreTrainedModel, batch: int) -> None:
        self.model, self.config, self.batch = model, model.config, batch
        self.type = model.config.model_type.removeprefix("tanhmax_")
        self.arguments = inspect.signature(model.forward).parameters
        self.needed = {
            name for name, each in self.arguments.items() if each.default is each.empty and each.kind == each.POSITIONAL_OR_KEYWORD
        }
        self.inputs: dict[str, Any] = {}

    def made(self) -> dict[str, torch.Tensor]:
        for name, value in INPUTS.get(self.type, {}).items():
            if name in self.arguments or ("kwargs" in self.arguments and name not in KINDS):
                self.inputs[name] = torch.randn(self.batch, *value) if isinstance(value, tuple) else value and value(self)
        if "grid_thw" in self.needed:
            self.inputs = self.pixels(next(iter(self.arguments))) | self.inputs
        for name in self.arguments:
            if name not in self.inputs and name in MAKERS and (name in ALWAYS or name in self.needed or name == self.model.main_input_name):
                self.inputs = MAKERS[name](self, name) | self.inputs
        if "input_ids" in self.arguments:
            self.inputs = self.text() | self.inputs
        elif "attention_mask" in self.arguments and "attention_mask" not in self.inputs and "inputs_embeds" in self.inputs:
            self.inputs["attention_mask"] = self.mask(LENGTH)
        if "decoder_input_ids" in self.arguments and "decoder_input_ids" not in self.inputs and not self.head("SequenceClassification"):
            self.inputs["decoder_input_ids"] = self.words(5)
        return {name: value for name, value in self.inputs.items() if value is not None}

    def head(self, *names: str) -> bool:
        """Whether the model has one of some heads."""
        return type(self.model).__name__.endswith(names)

    def mask(self, length: int, padded: int = PADDED) -> torch.Tensor:
        mask = torch.ones(self.batch, length, dtype=torch.long)
        mask[1:, -padded:] = 0
        return mask

    def words(self, length: int) -> torch.Tensor:
        return torch.randint(4, FIRST_SPECIAL, (self.batch, length))

    def text(self) -> dict[str, torch.Tensor]:
        """Ids of text, with a place for each token of an image, a video or a sound."""
        media, kinds = [], []  # ids, and whether each is text (0), of an image (1), of a video (2) or of a sound (3)
        for kind, number in (("image", 1), ("video", 2), ("audio", 3)):
            token = setting(self.config, f"{kind}_token_id", f"{kind}_token_index")
            count = self.tokens(kind) if token is not None else 0
            around = [setting(self.config, f"{name}_token_id") for name in AROUND.get(kind, ())] if count else []
            if None in around or not around:
                media, kinds = media + [token] * count, kinds + [number] * count
            else:
                media, kinds = [*media, around[0], *[token] * count, around[1]], [*kinds, 0, *[number] * count, 0]
        ids = torch.cat([self.words(2), torch.tensor(media, dtype=torch.long).repeat(self.batch, 1), self.words(LENGTH - 2)], dim=1)
        mask = self.mask(ids.shape[1])
        if "decoder_input_ids" in self.arguments and self.head("SequenceClassification"):  # it reads the decoder's state at the end token
            ids.scatter_(1, mask.sum(1, keepdim=True) - 1, EOS)
        made = {"input_ids": ids}
        if "attention_mask" in self.arguments:
            made = {"input_ids": torch.where(mask.bool(), ids, PAD), "attention_mask": mask}
        for name in ("mm_token_type_ids", "moe_mm_token_type_ids"):
            if name in self.arguments:
                made[name] = torch.tensor([0] * 2 + kinds + [0] * (LENGTH - 2)).repeat(self.batch, 1)
        if "token_type_ids" in self.needed or (media and "token_type_ids" in self.arguments):
            made["token_type_ids"] = torch.tensor([0] * 2 + [int(kind > 0) for kind in kinds] + [0] * (LENGTH - 2)).repeat(self.batch, 1)
        if self.head("MultipleChoice"):
            made = {name: torch.stack([value, value.flip(0)], dim=1) for name, value in made.items()}
        return made

    def tokens(self, kind: str) -> int:
        """How many tokens the images, videos or sounds of each row become."""
        if self.type in COUNTS:
            return COUNTS[self.type].get(kind, 0)
        method, wanted = self.method(f"get_{kind}_features")
        more = set(INPUTS.get(self.type, {})) if "kwargs" in wanted else set()
        given = {name: value for name, value in self.inputs.items() if name in more | set(wanted) and value is not None}
        if kind not in {KINDS.get(name) for name in given}:
            return 0
        found = method(**given)
        if not isinstance(found, torch.Tensor | list | tuple):
            found = found.last_hidden_state if found.pooler_output is None else found.pooler_output
        found = found if isinstance(found, torch.Tensor) else torch.cat([each.flatten(0, -2) for each in found])
        return found.flatten(0, -2).shape[0] // self.batch

    def method(self, name: str) -> tuple[Any, Any]:
        """A method of the model, or else of the first of its parts that has it, and its arguments."""
        for module in self.model.modules():
            wanted = inspect.signature(getattr(module, name)).parameters if hasattr(module, name) else {}
            if any(each.kind == each.POSITIONAL_OR_KEYWORD for each in wanted.values()):
                return getattr(module, name), wanted
        return None, {}

    def pixels(self, name: str) -> dict[str, torch.Tensor]:
        """Images, or their patches where there is a grid."""
        channels = setting(self.config, "num_channels", "in_channels", "in_chans") or 3
        if {"image_grid_thw", "grid_thw"} & set(self.arguments):
            patch = setting(self.config, "patch_size")
            patch = patch if isinstance(patch, int) else patch[-1]
            values = channels * (setting(self.config, "temporal_patch_size") or 1) * patch**2
            grid = torch.tensor([GRID] * self.batch)
            name_of_grid = "image_grid_thw" if "image_grid_thw" in self.arguments else "grid_thw"
            return {name: torch.randn(self.batch * grid[0].prod(), values), name_of_grid: grid}
        return {name: torch.randn(self.batch, channels, *pair(setting(self.config, "image_size", "img_size") or IMAGE))}

    def features(self, name: str) -> dict[str, torch.Tensor]:
        """Spectrograms: bins by frames where the encoder is Whisper's, else frames by bins."""
        shape = self.spectrogram()
        made = {name: torch.randn(shape)}
        for mask in ("input_features_mask", "feature_attention_mask"):
            if mask in self.arguments:
                made[mask] = torch.ones(self.batch, max(shape[1:]), dtype=torch.long)
        if "attention_mask" in self.arguments and "input_ids" not in self.arguments and shape[1] == FRAMES:
            made["attention_mask"] = self.mask(FRAMES, FRAMES // 3)
        return made

    def spectrogram(self) -> tuple[int, int, int]:
        bins = setting(self.config, "num_mel_bins", "input_feat_per_channel", "feature_size", "input_dim", "num_mels") or 16
        positions = setting(self.config, "max_source_positions")
        return (self.batch, bins, 2 * positions) if positions else (self.batch, FRAMES, bins)

    def embeddings(self, name: str) -> dict[str, torch.Tensor]:
        return {name: torch.randn(self.batch, LENGTH, setting(self.config, "hidden_size", "d_model") or WIDTH)}

    def wave(self, name: str) -> dict[str, torch.Tensor]:
        samples = 9600 if self.head("XVector") else 1920
        made = {name: torch.randn(self.batch, samples) * 0.3}
        if "attention_mask" in self.arguments and "input_ids" not in self.arguments:
            made["attention_mask"] = self.mask(samples, samples // 3)
        return made


MAKERS = {
    "pixel_values": _Inputs.pixels,
    "input_features": _Inputs.features,
    "input_values": _Inputs.wave,
    "inputs_embeds": _Inputs.embeddings,
    "hidden_states": _Inputs.embeddings,
    "query_embeds": _Inputs.embeddings,
    "encoder_hidden_states": _Inputs.embeddings,
}
AROUND = {"image": ("image_start", "image_end"), "video": ("video_start", "video_end")}  # tokens around those of a picture
ALWAYS = ("pixel_values", "input_features")
KINDS = {
    "pixel_values": "image",
    "image_patches": "image",
    "flattened_patches": "image",
    "pixel_values_videos": "video",
    "input_features": "audio",
    "input_values": "audio",
}
