"""Checks of the environment: installed versions against the declared ones, the devices, and which implementations run on them."""

import importlib.util
import os
import platform
import shutil
from collections.abc import Iterator
from importlib import metadata

import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from torch import Tensor

from ..attention.api import AUTOMATIC, IMPLEMENTATIONS, tanhmax_attention, why_not
from ..errors import one_line
from ..models.architectures import config_of
from .report import Finding

DISTRIBUTION = "hf-tanhmax"
REQUIRED = ("torch", "transformers", "safetensors", "huggingface_hub")
OPTIONAL = {"accelerate": "recipes", "peft": "recipes", "triton": "triton"}  # and the extra that declares it
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
FAMILIES = ("bert", "vit", "llama")  # whose default target modules PEFT has
TOLERANCE = 1e-3  # TF32 may be allowed; a broken kernel or library is off by far more


def check_environment() -> list[Finding]:
    """Look at Python, the packages that matter, and each device with each implementation on it, by tiny calls."""
    findings = [Finding("ok", "python", f"{platform.python_version()} on {platform.platform()}"), *_versions()]
    for device in _devices():
        findings += _check_device(device)
    return [*findings, *_check_peft(), *_kernels()]


def _versions() -> Iterator[Finding]:
    try:
        declared = [Requirement(text) for text in metadata.requires(DISTRIBUTION) or []]
    except metadata.PackageNotFoundError:
        yield Finding("warning", DISTRIBUTION, "is imported without being installed, so what it needs is unknown; pip install -e .")
        return
    yield Finding("ok", DISTRIBUTION, metadata.version(DISTRIBUTION))
    for name in (*REQUIRED, *OPTIONAL):
        wanted = next((one for one in declared if _is_for(one, name)), None)
        if wanted is None:
            yield Finding("warning", name, f"is unknown to the metadata of {DISTRIBUTION}, which are older than its code; install it again")
        else:
            yield _version(name, wanted)


def _is_for(requirement: Requirement, name: str) -> bool:
    marker, extra = requirement.marker, OPTIONAL.get(name)
    asked = marker is None if extra is None else marker is not None and marker.evaluate({"extra": extra})
    return asked and canonicalize_name(requirement.name) == canonicalize_name(name)


def _version(name: str, wanted: Requirement) -> Finding:
    try:
        have = metadata.version(name)
    except metadata.PackageNotFoundError:
        extra = f"[{OPTIONAL[name]}]" if name in OPTIONAL else ""
        say = f"is not installed; pip install {DISTRIBUTION}{extra} brings {wanted.specifier}"
        return Finding("warning" if name in OPTIONAL else "error", name, say)
    if wanted.specifier.contains(have, prereleases=True):
        return Finding("ok", name, f"{have}, supported is {wanted.specifier}")
    say = f"{have} is outside the supported {wanted.specifier}; install a version inside it"
    return Finding("warning" if name in OPTIONAL else "error", name, say)


def _devices() -> Iterator[torch.device]:
    yield torch.device("cpu")
    kind = torch.accelerator.current_accelerator(check_available=True)
    if kind is not None:
        yield from (torch.device(kind.type, index) for index in range(torch.accelerator.device_count()))


def _check_device(device: torch.device) -> Iterator[Finding]:
    subject = str(device)
    if device.type == "cuda":
        capability = ".".join(map(str, torch.cuda.get_device_capability(device)))
        yield Finding("ok", subject, f"{torch.cuda.get_device_name(device)}, compute capability {capability}")
        if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
            yield Finding("warning", subject, "Triton needs a C compiler at run time, and there is none; install gcc or set CC")
    for name in IMPLEMENTATIONS:
        reasons = {dtype: why_not(*_tensors(device, dtype), implementation=name) for dtype in DTYPES if _exists(device, dtype)}
        runs = ", ".join(str(dtype).removeprefix("torch.") for dtype, reason in reasons.items() if reason is None)
        first = next((reason for reason in reasons.values() if reason is not None), None)
        wanted = name == AUTOMATIC.get(device.type, ("composed",))[0]
        say = f"{name} computes {runs}" if runs else str(first)
        yield Finding("ok" if runs or not wanted else "warning", subject, say)
    if device.type == "cpu":
        yield _native(device)
    yield _compared(device)


def _native(device: torch.device) -> Finding:
    """Whether the C++ operator is in use; building it may take some seconds."""
    try:
        reason = why_not(*_tensors(device, torch.float32), implementation="native")
    except (RuntimeError, ValueError) as error:
        return Finding("error", str(device), str(error))
    return Finding(
        "ok", str(device), "cpu runs with its C++ operator" if reason is None else f"cpu runs without its C++ operator: {reason}"
    )


def _exists(device: torch.device, dtype: torch.dtype) -> bool:
    return device.type != "mps" or dtype != torch.float64


def _tensors(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    numbers = torch.linspace(-2.0, 2.0, 3 * 2 * 16 * 16, device=device).to(dtype).view(3, 1, 2, 16, 16)
    return numbers.cos()[0], numbers.sin()[1], numbers[2]


def _compared(device: torch.device) -> Finding:
    """A tiny call as a user makes it, against the reference."""
    tensors = _tensors(device, torch.float32)
    try:
        found = tanhmax_attention(*tensors, is_causal=True)
        wanted = tanhmax_attention(*tensors, is_causal=True, implementation="reference")
    except (RuntimeError, OSError) as error:
        return Finding("error", str(device), f"a tiny attention call fails: {one_line(error, 300)}")
    difference = float((found - wanted).abs().max())  # type: ignore[operator]
    if not difference <= TOLERANCE:
        return Finding("error", str(device), f"a tiny attention call differs from the reference by {difference:g}; please report it")
    return Finding("ok", str(device), "a tiny attention call agrees with the reference")


def _kernels() -> Iterator[Finding]:
    """Whether Transformers takes the installed `kernels`, by which it loads attention from the Hub; nothing else needs it."""
    wanted = next((one for text in metadata.requires("transformers") or [] if (one := Requirement(text)).name == "kernels"), None)
    if wanted is None:
        return
    line = f'pip install "kernels{wanted.specifier}"'
    try:
        have = metadata.version("kernels")
    except metadata.PackageNotFoundError:
        yield Finding("ok", "kernels", f'is not installed; attn_implementation="owner/name" needs it: {line}')
        return
    if wanted.specifier.contains(have, prereleases=True):
        yield Finding("ok", "kernels", f'{have}, with which attn_implementation="owner/name" loads attention from the Hub')
        return
    say = f'{have} is none that Transformers takes, so attn_implementation="owner/name" loads nothing from the Hub: {line}'
    yield Finding("warning", "kernels", say)


def _check_peft() -> Iterator[Finding]:
    if importlib.util.find_spec("peft") is None:
        return
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as TABLE

    without = [kind for family in FAMILIES if (kind := config_of(family).model_type) not in TABLE]
    if without:
        yield Finding("warning", "peft", f"knows no default target modules for {', '.join(without)}; give LoraConfig its target_modules")
    else:
        yield Finding("ok", "peft", f"knows default target modules for {', '.join(FAMILIES)}, and others that it knows without TanhMax")
