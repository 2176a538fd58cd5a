"""What a user gives by name, checked without torch and without the Hub: task, methods, measures, repository; and the token.

Names of the Hub are checked by its own library, which is imported only then: most commands do not need it.
"""

import difflib
import re
from collections.abc import Iterable, Sequence

from .errors import HubError

# The Auto class of a head, and the pipeline that uses it; of a class that several Auto classes find, the first is meant. Pre-training, next
# sentences, hidden patches and texts from texts have none.
PIPELINES = {
    "AutoModelForSequenceClassification": "text-classification",
    "AutoModelForTokenClassification": "token-classification",
    "AutoModelForQuestionAnswering": "question-answering",
    "AutoModelForMultipleChoice": "multiple-choice",
    "AutoModelForMaskedLM": "fill-mask",
    "AutoModelForTableQuestionAnswering": "table-question-answering",
    "AutoModelForDocumentQuestionAnswering": "document-question-answering",
    "AutoModelForImageTextToText": "image-text-to-text",
    "AutoModelForSpeechSeq2Seq": "automatic-speech-recognition",
    "AutoModelForCTC": "automatic-speech-recognition",
    "AutoModelForAudioClassification": "audio-classification",
    "AutoModelForTextToWaveform": "text-to-audio",
    "AutoModelForTextToSpectrogram": "text-to-audio",
    "AutoModelForImageClassification": "image-classification",
    "AutoModelForVideoClassification": "video-classification",
    "AutoModelForZeroShotImageClassification": "zero-shot-image-classification",
    "AutoModelForZeroShotObjectDetection": "zero-shot-object-detection",
    "AutoModelForObjectDetection": "object-detection",
    "AutoModelForSemanticSegmentation": "image-segmentation",
    "AutoModelForImageSegmentation": "image-segmentation",
    "AutoModelForDepthEstimation": "depth-estimation",
    "AutoModelForMaskGeneration": "mask-generation",
    "AutoModelForKeypointMatching": "keypoint-matching",
    "AutoModelForCausalLM": "text-generation",
    "AutoModelForMultimodalLM": "any-to-any",
    "AutoModel": "feature-extraction",
}
# What `explain` computes unless methods are named: every model that can be explained serves these. Of the others a model may not serve all.
EXPLAIN_METHODS = ("weights", "oriented", "contributions", "rollout", "gradient", "input_x_gradient", "integrated_gradients")
METHODS = (*EXPLAIN_METHODS, "value_zeroing", "alti", "alti_logit", "attnlrp", "occlusion", "kernel_shap")
SAMPLED_METHODS = ("kernel_shap",)  # whose scores are drawn, and so depend on a seed
ALL = "all"  # on a command line: every method that the model serves
GENERATION_METHODS = ("input_x_gradient", "sequential_integrated_gradients")  # of a whole generation
CONTROL = "random"  # a method of `faithfulness` alone: scores of chance, of which a measure should find nothing
MEASURES = (
    *("attention_tau", "attention_abs_tau", "mask_tau", "mask_abs_tau", "deletion_tau", "deletion_abs_tau"),
    *("sign_agreement", "comprehensiveness", "sufficiency", "deletion_auc", "insertion_auc"),
    *("soft_comprehensiveness", "soft_sufficiency", "pi_soft_comprehensiveness", "pi_soft_sufficiency", "permutation", "random"),
)
# What `ablate_negatives` does to attention weights, and how a table calls it.
INTERVENTIONS = {
    "negatives_masked": "negative keys masked",
    "positives_masked": "positive keys masked",
    "negatives_zeroed": "negative weights set to 0 (no test: their share stays in the normaliser)",
    "positives_renormalised": "negative weights set to 0, positive ones scaled up",
    "negatives_spread": "negative weight spread evenly over the keys",
    "negatives_permuted": "negative weights moved to random keys",
    "negatives_shuffled": "negative weights exchanged among the negative keys",
    "made_positive": "negative weights made positive",
}
CLASSIFIER = re.compile("For(Sequence|Image)Classification")  # in the names of classes whose accuracy can be measured
NO_REPOSITORY = "{!r} is no name of a repository: write owner/name, each of at most 96 letters, digits, '-', '_' and '.'"


def check_choice(kind: str, chosen: Sequence[str], known: Iterable[str]) -> None:
    """Check names against those that there are.

    Args:
        kind: what they name, in the singular.
        chosen: by the user.
        known: in the order in which a message lists them.

    Raises:
        ValueError: one of them does not exist, or there is none.
    """
    unknown = [name for name in chosen if name not in known]
    if unknown or not chosen:
        near = difflib.get_close_matches(unknown[0], list(known), 1) if unknown else []
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        what = f"there is no {kind} {unknown[0]!r}{hint}" if unknown else f"{kind}s is empty"
        raise ValueError(f"{what}; choose from {', '.join(known)}")


def can_be_repository(name: str) -> bool:
    """Whether a repository can have that name, such as `owner/name`."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def check_repository(name: str) -> None:
    """Check a name to publish to.

    Raises:
        HubError: no repository can have it.
    """
    if not can_be_repository(name):
        raise HubError(NO_REPOSITORY.format(name))


def check_name(key: str, name: str | None) -> None:
    """Check a name for a model card.

    Args:
        key: the argument that it is.
        name: None is no name.

    Raises:
        ValueError: no repository can have it.
    """
    if name is not None and not can_be_repository(name):
        raise ValueError(f"{key} must be a name that a repository can have, such as you/model, but is {name!r}")


def usable_token(token: str | None = None) -> str:
    """The token that is used, if it could be one: another character would end up in an error message of the HTTP client.

    Args:
        token: None takes HF_TOKEN, or what `hf auth login` stored.

    Raises:
        HubError: there is none, or it is no token.
    """
    from huggingface_hub import get_token

    found = token or get_token()
    if not found:
        raise HubError("nobody is logged in: run `hf auth login`, set HF_TOKEN, or pass a token")
    if not re.fullmatch(r"[!-~]+", found):
        raise HubError("the token holds spaces or letters that no token has: copy it again from the Hub's settings")
    return found
