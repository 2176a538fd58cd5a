"""What a user chooses by name: the task of a model, scores that explain it, and measures of those. Nothing here needs torch."""

from collections.abc import Sequence

# The Auto class of a head, and the pipeline that uses it. Pre-training, next sentences and hidden patches have none.
PIPELINES = {
    "AutoModel": "feature-extraction",
    "AutoModelForSequenceClassification": "text-classification",
    "AutoModelForTokenClassification": "token-classification",
    "AutoModelForQuestionAnswering": "question-answering",
    "AutoModelForMultipleChoice": "multiple-choice",
    "AutoModelForMaskedLM": "fill-mask",
    "AutoModelForCausalLM": "text-generation",
    "AutoModelForImageClassification": "image-classification",
}
METHODS = ("weights", "oriented", "contributions", "rollout", "gradient", "input_x_gradient", "integrated_gradients")
CONTROL = "random"  # a method of `faithfulness` alone: scores of chance, of which a measure should find nothing
MEASURES = (
    *("attention_tau", "attention_abs_tau", "mask_tau", "mask_abs_tau", "deletion_tau", "deletion_abs_tau"),
    *("sign_agreement", "comprehensiveness", "sufficiency", "deletion_auc", "insertion_auc", "permutation", "random"),
)


def check_choice(kind: str, chosen: Sequence[str], known: Sequence[str]) -> None:
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
        what = f"there is no {kind} {unknown[0]!r}" if unknown else f"{kind}s is empty"
        raise ValueError(f"{what}; choose from {', '.join(known)}")
