"""A plan on paper: a ring of 64 GPUs over a million tokens. `python -m recipes.benchmarks.ring_plan` prints it.

Nothing here was run. Bytes are those of `ring.bytes_sent`, which tests count; scores are those of a zigzag layout, in which every rank has
half of a square in every step; hardware numbers are the makers'. The rate at which kernels compute is an assumption, so there are two: the
tensor cores' peak, under which communication is hardest to hide, and a share of it.
"""

import math
from dataclasses import dataclass

from hf_tanhmax.results import table

from .ring import bytes_sent

GIB = 1 << 30
HARDWARE = {
    "bfloat16 peak, dense": "989 TFLOP/s, half of the 1,979 that the NVIDIA H200 data sheet gives with sparsity",
    "memory": "4.8 TB/s, 141 GB: NVIDIA H200 data sheet",
    "network": "400 Gbit/s per GPU and direction, an adapter for each: NVIDIA DGX BasePOD reference architecture, DGX H200",
}
PEAK, MEMORY, NETWORK = 989e12, 4.8e12, 50e9
SHARES = (1.0, 0.4)  # of the peak
BACKWARD = 2.5  # matrix products of the backward pass over those of the forward pass


@dataclass(frozen=True)
class Plan:
    """Attention of a model over one sequence, bfloat16: the sizes of an 8-billion LLaMA by default."""

    ranks: int = 64
    length: int = 1 << 20
    layers: int = 32
    heads: int = 32
    kv_heads: int = 8
    head_dim: int = 128

    @property
    def local(self) -> int:
        """Positions of a rank."""
        return self.length // self.ranks

    @property
    def block(self) -> int:
        """Numbers in a rank's keys and values."""
        return 2 * self.local * self.kv_heads * self.head_dim

    @property
    def rows(self) -> int:
        """Numbers in a rank's output."""
        return self.local * self.heads * self.head_dim

    @property
    def products(self) -> float:
        """Floating-point operations of a rank's forward step: two products of half a square of scores."""
        return 4 * self.heads * self.head_dim * self.local**2 / 2

    def saved(self) -> int:
        """Bytes that a layer keeps for the backward pass: query and output, keys and values, and L."""
        return 2 * (2 * self.rows + self.block) + 4 * self.local * self.heads

    def passing(self) -> tuple[int, int]:
        """Bytes for a while, forward and backward.

        Forward there is the output in float32 and a part of it, and a block on its way; backward the gradient of the query in float32 and a
        part of it, a block on its way, and three of gradients: what comes, what is added, what leaves.
        """
        return 8 * self.rows + 2 * self.block, 8 * self.rows + 2 * self.block + 3 * 4 * self.block

    def sent(self) -> tuple[int, int]:
        """Bytes that a rank sends in a layer, forward and backward."""
        return bytes_sent(self.ranks, self.block, 2)

    def seconds(self, share: float) -> tuple[tuple[float, float], tuple[float, float], tuple[float, float]]:
        """Of a layer, forward and backward: matrix products alone, network alone, and both with what does not overlap.

        What does not: each step joins its part to the output, three passes over float32 in memory, and backward adds the gradients of the
        query likewise and those of a block; the last gradients travel home when all is computed.
        """
        compute, network, whole = [], [], []
        for factor, sent, joined, last in (
            (1.0, self.sent()[0] / max(1, self.ranks - 1), 3 * 4 * self.rows, 0.0),
            (BACKWARD, self.sent()[1] / self.ranks, 3 * 4 * (self.rows + self.block), 4 * self.block / NETWORK),
        ):
            step = factor * self.products / (share * PEAK)
            compute.append(self.ranks * step)
            network.append(self.ranks * sent / NETWORK)
            whole.append(self.ranks * (max(step, sent / NETWORK) + joined / MEMORY) + last)
        return (compute[0], compute[1]), (network[0], network[1]), (whole[0], whole[1])


def fewest(plan: Plan, share: float) -> int:
    """Positions per rank from which on a step computes longer than its blocks travel, forward and backward.

    The one grows with the square of a rank's part, the other with the part.
    """
    step = plan.products / (share * PEAK)
    sent = (plan.sent()[0] / (plan.ranks - 1), plan.sent()[1] / plan.ranks / BACKWARD)
    return math.ceil(plan.local * max(sent) / NETWORK / step)


def rendered(plan: Plan | None = None) -> str:
    """The plan in Markdown."""
    plan = plan or Plan()
    alone = Plan(1, plan.length, plan.layers, plan.heads, plan.kv_heads, plan.head_dim)
    passing = [max(each.passing()) / GIB for each in (plan, alone)]
    memory = [
        ["kept for the backward pass, per layer", f"{plan.saved() / GIB:.2f}", f"{alone.saved() / GIB:.1f}"],
        ["for a while, at most", f"{passing[0]:.2f}", f"{passing[1]:.1f}"],
        [f"{plan.layers} layers, without checkpointing", *(f"{each.saved() * each.layers / GIB:.0f}" for each in (plan, alone))],
    ]
    times = []
    for share in SHARES:
        compute, network, whole = plan.seconds(share)
        for number, name in enumerate(("forward", "backward")):
            sent = f"{plan.sent()[number] / 1e9:.1f}"
            cells = [f"{1e3 * each[number]:.0f}" for each in (compute, network, whole)]
            times.append([f"{name}, {share:.0%} of the peak", sent, *cells, f"{compute[number] / whole[number]:.0%}"])
    sizes = f"{plan.layers} layers, {plan.heads} heads over {plan.kv_heads} key heads, D {plan.head_dim}, bfloat16"
    lines = [
        f"{plan.ranks} GPUs, {plan.length:,} tokens, so {plan.local:,} per GPU; {sizes}; batch 1, causal, zigzag.",
        table(["attention, GiB", "per GPU", "on one GPU"], memory, markdown=True),
        table(["per layer", "sent per GPU, GB", "products, ms", "network, ms", "together, ms", "efficiency"], times, markdown=True),
        f"A step computes longer than its blocks travel, so that they cost nothing, from {fewest(plan, SHARES[0]):,} tokens per GPU on at "
        f"the peak, and from {fewest(plan, SHARES[1]):,} on at {SHARES[1]:.0%} of it.",
        "\n".join(f"* {name}: {value}" for name, value in HARDWARE.items()),
    ]
    return "\n\n".join(lines)


if __name__ == "__main__":
    print(rendered())
