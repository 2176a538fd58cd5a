"""Which problems the GPU benchmark checks and times."""

from dataclasses import dataclass

import torch

from .gpu_contenders import contenders

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class Setting:
    """One problem: sizes, dtype and mask."""

    dtype: str
    batch: int
    heads: int
    kv_heads: int
    length: int
    head_dim: int
    causal: bool

    @property
    def group(self) -> int:
        """Query heads for each key head."""
        return self.heads // self.kv_heads

    @property
    def scores(self) -> float:
        """How many scores count: half of them if causal."""
        return self.batch * self.heads * self.length**2 * (0.5 if self.causal else 1.0)

    @property
    def family(self) -> tuple[str, int, bool, bool]:
        """What decides whether a contender takes a problem, whatever its length."""
        return self.dtype, self.head_dim, self.group == 1, self.causal


@dataclass(frozen=True)
class Plan:
    """What to run. `tokens` is batch times length (a batch is at least 1), `width` heads times head_dim, `groups` query heads per key head.

    float32, which is the Trainer's default and has no matrix unit unless TF32 will do, is timed up to `longest_float32` and without groups.
    Rounds end after `seconds` for one setting, but not before the fifth. `jobs` processes check results, and so compile, at the same time.
    Without `names`, whatever torch would compile anew for each shape is left out: that takes longer than all the rest.
    """

    device: str = "cuda"
    dtypes: tuple[str, ...] = ("bfloat16", "float32")
    lengths: tuple[int, ...] = (512, 2048, 8192, 32768)
    head_dims: tuple[int, ...] = (64, 128, 256)
    groups: tuple[int, ...] = (1, 4)
    tokens: int = 16384
    width: int = 2048
    gate_lengths: tuple[int, ...] = (257, 512)
    rounds: int = 25
    seconds: float = 2.5
    jobs: int = 8
    longest_float32: int = 2048
    names: tuple[str, ...] | None = None
    commit: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be run.

        Raises:
            ValueError: a head count that is not divided, or a contender that there is not.
        """
        for setting in self.settings():
            if setting.heads % setting.kv_heads:
                raise ValueError(f"{setting.kv_heads} key heads do not divide {setting.heads} query heads of size {setting.head_dim}")
        known = contenders(self.device) if self.names else {}
        for name in self.names or ():
            if name not in known:
                raise ValueError(f"unknown contender {name!r}; there are: {'; '.join(known)}")

    @property
    def dry_run(self) -> bool:
        """Whether the processor's clock stands in for a GPU's, so that no figure is a measurement."""
        return self.device != "cuda"

    def settings(self) -> list[Setting]:
        """Every problem to time."""
        return [
            Setting(dtype, max(1, self.tokens // length), heads, heads // group, length, head_dim, causal)
            for dtype in self.dtypes
            for head_dim in self.head_dims
            for length in self.lengths
            for group in self.groups
            for heads in (max(group, self.width // head_dim),)
            for causal in (False, True)
            if self._times(dtype, group, length)
        ]

    def _times(self, dtype: str, group: int, length: int) -> bool:
        return dtype != "float32" or (length <= self.longest_float32 and group == min(self.groups))

    def gate_settings(self) -> list[Setting]:
        """Every problem to check: the families of the problems to time, at an odd length and at a power of two."""
        heads = 2 * max(self.groups)
        return [
            Setting(dtype, 1 if self.dry_run else 2, heads, heads // group, length, head_dim, causal)
            for dtype in self.dtypes
            for head_dim in self.head_dims
            for length in self.gate_lengths
            for group in self.groups
            for causal in (False, True)
            if self._times(dtype, group, 0)
        ]


DRY = Plan("cpu", ("float32",), (32, 64), (16,), (1, 2), tokens=1, width=32, gate_lengths=(37,), rounds=1, jobs=1)
