"""What the demo asks of a model, and what it makes of an answer."""

import warnings
from collections.abc import Sequence
from io import BytesIO
from typing import Any

from ...choices import CLASSIFIER
from ...interpret import Explanation, to_html
from ...interpret.inputs.encoding import ModelInput
from ...interpret.inputs.loading import Loaded
from ..explain_commands import SAID, explain_one, target_of, targets_of_page
from ..input_files import read_picture
from .pages import IN_FRAME, Page, form_page
from .server import LARGEST, Fields

LONGEST = 5000  # characters of a text: matrices of attention grow with the square


class Demo:
    """Explains what a form was filled with.

    Args:
        loaded: the model, with what makes its inputs.
        methods: scores to compute.
        steps: of integrated gradients.
        max_length: cuts longer texts to so many tokens; None refuses them.
    """

    def __init__(self, loaded: Loaded, *, methods: Sequence[str], steps: int, max_length: int | None) -> None:
        self.loaded = loaded
        self.chosen: dict[str, Any] = {"methods": tuple(methods), "steps": steps, "max_length": max_length}

    def form(self) -> Page:
        """The page to ask from: an image or a text, and a class, a word or a token that it is explained for."""
        model, head = self.loaded.model, type(self.loaded.model).__name__
        classes = list(model.config.id2label.values()) if CLASSIFIER.search(head) else []
        mask = self.loaded.tokenizer.mask_token if "ForMaskedLM" in head else None
        return form_page(
            model=model.config.name_or_path.rstrip("/").split("/")[-1] or head,
            head=head,
            of_images=self.loaded.processor is not None,
            classes=classes,
            mask=mask,
            causal=self.loaded.is_causal,
            by_position="ForTokenClassification" in head,
            longest=LONGEST,
            largest=LARGEST,
        )

    def explained(self, fields: Fields) -> Page:
        """The page of an explanation.

        Raises:
            ValueError, TypeError, OSError, RuntimeError: an input that cannot be read or explained.
        """
        return Page(to_html(self._explanations(fields)), IN_FRAME)

    def _explanations(self, fields: Fields) -> list[Explanation]:
        """One for the target that was asked for, or for each between which the reader can switch."""
        target = target_of(_text(fields, "target").strip() or None)
        chosen = self.chosen
        if position := _text(fields, "position").strip():
            if not position.removeprefix("-").isdecimal():
                raise ValueError(f"the position must be a whole number, but is {position!r}")
            chosen = {**chosen, "position": int(position)}
        with warnings.catch_warnings():
            for said in SAID:  # the page has it among its notes
                warnings.filterwarnings("ignore", message=said)
            given = self._given(fields)
            targets = targets_of_page(self.loaded, given, self.chosen["max_length"]) if target is None else [target]
            return [explain_one(self.loaded, given, each, **chosen) for each in targets]

    def _given(self, fields: Fields) -> ModelInput:
        """The image or the text."""
        if self.loaded.processor is not None:
            picture = fields.get("image", b"")
            if not picture:
                raise ValueError("no image came; choose a file, or drop one on the page")
            return read_picture(BytesIO(picture), "what was sent")
        text = _text(fields, "text").strip()
        if not text:
            raise ValueError("no text came; type a sentence")
        if len(text) > LONGEST:
            raise ValueError(f"the text has {len(text):,} characters, and at most {LONGEST:,} are read here")
        return text


def _text(fields: Fields, name: str) -> str:
    """What was typed into a field; forms send lines that end in CR and LF."""
    try:
        return fields.get(name, b"").decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"what was sent is no UTF-8: {error}") from error
