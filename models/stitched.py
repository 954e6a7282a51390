"""Model stitching: two DiTs that exchange their tokens between blocks (SN-Netv2).

Pan et al. 2023, arXiv 2307.00154; the baseline of T-Stitch's Figure 10 (appendix A.8). One set of
weights holds both DiTs and, for every cut, a stitching layer in either direction. A stitch is a
path through them. Shape suffixes as in ``models.dit``.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.dit import CONFIGURATIONS, DiT
from models.errors import InputError

SMALL, LARGE = 0, 1
# (part, first block, block after the last) of every DiT on a path, part being SMALL or LARGE.
Route = tuple[tuple[int, int, int], ...]
Cut = tuple[int, int]


def default_cuts(depths: Sequence[int]) -> list[Cut]:
    """SN-Netv2's cuts: after each block of the small DiT, at the same share of the large one.

    Args:
        depths: blocks of the small and of the large DiT.
    """
    small, large = depths
    return [(i, i * large // small) for i in range(1, small)]


def routes(depths: Sequence[int], cuts: Sequence[Cut]) -> list[Route]:
    """All stitches, in SN-Netv2's order.

    The two DiTs alone; from small to large at every cut, from large to small; and with two cuts,
    one behind the other in both DiTs, large-small-large and small-large-small. K cuts in one order
    give 2 + 2 K + K (K - 1): 134 for the eleven of DiT-S and DiT-XL, as many as the paper has.

    Args:
        depths: blocks of the small and of the large DiT.
        cuts: (i, j): after block i of the small one and block j of the large one, from 1.

    Raises:
        InputError: if a cut is not between two blocks, or is there twice.
    """
    for cut in cuts:
        if not all(0 < place < depth for place, depth in zip(cut, depths, strict=True)):
            raise InputError(
                f"stitched.cuts: {list(cut)} is not between two blocks; the first number must be 1 "
                f"to {depths[SMALL] - 1}, the second 1 to {depths[LARGE] - 1}"
            )
    if len(set(cuts)) < len(cuts):
        raise InputError(f"stitched.cuts={[list(cut) for cut in cuts]} names a cut twice")
    found: list[Route] = [((part, 0, depths[part]),) for part in (SMALL, LARGE)]
    for first, then in ((SMALL, LARGE), (LARGE, SMALL)):
        found += [((first, 0, cut[first]), (then, cut[then], depths[then])) for cut in cuts]
    pairs = [
        (a, b) for a, b in itertools.combinations(sorted(cuts), 2) if a[0] < b[0] and a[1] < b[1]
    ]
    for first, then in ((LARGE, SMALL), (SMALL, LARGE)):
        found += [
            ((first, 0, a[first]), (then, a[then], b[then]), (first, b[first], depths[first]))
            for a, b in pairs
        ]
    return found


class StitchingLayer(nn.Module):
    """Linear map of tokens of one width to another; its matrix learns a low-rank update only.

    ``weight`` stays as least squares gave it, ``down`` and ``up`` are LoRA's matrices (Hu et al.
    2021), and the bias is trained.
    """

    def __init__(self, width: int, width_out: int, rank: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width_out, width), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(width_out))
        self.down = nn.Parameter(torch.empty(rank, width))
        self.up = nn.Parameter(torch.zeros(width_out, rank))
        nn.init.xavier_uniform_(self.weight)
        nn.init.xavier_uniform_(self.down)

    def forward(self, x_BND: Tensor) -> Tensor:
        return F.linear(x_BND, self.weight + self.up @ self.down, self.bias)

    @torch.no_grad()
    def fit(self, x: Tensor, target: Tensor) -> None:
        """Set weight and bias to the least-squares solution of ``x @ weight.T + bias = target``.

        Args:
            x, target: (..., width) and (..., width_out) matched activations.
        """
        x, target = (tokens.flatten(0, -2).double().cpu() for tokens in (x, target))
        ones = x.new_ones(len(x), 1)
        solution = torch.linalg.lstsq(torch.cat([x, ones], dim=1), target).solution
        self.weight.copy_(solution[:-1].T)
        self.bias.copy_(solution[-1])


class StitchedDiT(nn.Module):
    """Two DiTs and the stitching layers between them: ``forward(x, t, y, stitch)``.

    Args:
        small, large: what ``models.create`` takes to make each DiT, its name included.
        rank: of the update of every stitching layer.
        cuts: see ``routes``; None: ``default_cuts``.

    Attributes:
        parts: the small and the large DiT.
        routes: the path of every stitch.
        spec: of the large DiT, which no cache knows how to use.

    Raises:
        InputError: if a part is no DiT, they do not fit one another, or a cut does not exist.
    """

    def __init__(
        self, small: Mapping, large: Mapping, rank: int, cuts: Sequence[Sequence[int]] | None = None
    ):
        super().__init__()
        self.parts = nn.ModuleList([_dit(small), _dit(large)])
        specs = [part.spec for part in self.parts]
        if specs[SMALL] != specs[LARGE] or self.parts[SMALL].grid != self.parts[LARGE].grid:
            raise InputError(
                "stitched.small and stitched.large are not alike but for their sizes: "
                f"{specs[SMALL]} and {specs[LARGE]}, tokens {self.parts[SMALL].grid} and "
                f"{self.parts[LARGE].grid}; choose two DiTs of the same latents and patches"
            )
        self.spec = dataclasses.replace(specs[LARGE], cacheable=False)
        depths = [len(part.blocks) for part in self.parts]
        self.cuts = default_cuts(depths) if cuts is None else [tuple(cut) for cut in cuts]
        self.routes = routes(depths, self.cuts)
        widths = [part.width for part in self.parts]
        # layers[part]: into that part, one for every cut.
        self.layers = nn.ModuleList(
            nn.ModuleList(StitchingLayer(width, width_out, rank) for _ in self.cuts)
            for width, width_out in (reversed(widths), widths)
        )

    @property
    def blocks(self) -> list[nn.Module]:
        """The blocks of both DiTs."""
        return [block for part in self.parts for block in part.blocks]

    def forward(self, x: Tensor, t: Tensor, y: Tensor, stitch: int = LARGE) -> Tensor:
        """Predict by one stitch, as ``DiT.forward`` does.

        Args:
            x, t, y: see ``DiT.forward``.
            stitch: index into ``routes``; 0 and 1 are the two DiTs alone.
        """
        tokens, place = None, 0
        for part, start, stop in self.routes[stitch]:
            dit = self.parts[part]
            c_BD = dit.conditioning(t, y)
            if tokens is None:
                tokens = dit.embed(x)
            else:
                cut = (place, start) if part == LARGE else (start, place)
                tokens = self.layers[part][self.cuts.index(cut)](tokens)
            for block in dit.blocks[start:stop]:
                tokens = block(tokens, c_BD)
            place = stop
        return dit.head(tokens, c_BD).to(x.dtype)

    def stitches(self) -> list["Stitch"]:
        """Every stitch as a denoiser."""
        return [Stitch(self, index) for index in range(len(self.routes))]

    @torch.no_grad()
    def fit(self, x: Tensor, t: Tensor, y: Tensor) -> None:
        """Fit every stitching layer to the tokens of both DiTs for the same inputs."""
        after = [list(_tokens(part, x, t, y)) for part in self.parts]
        for part, layers in enumerate(self.layers):
            other = 1 - part
            for cut, layer in zip(self.cuts, layers, strict=True):
                layer.fit(after[other][cut[other]], after[part][cut[part]])


def sizes(card: Mapping) -> dict:
    """What ``models.create`` takes to make the ``StitchedDiT`` of a zoo.

    Args:
        card: a zoo's, as plain data; its ``stitched`` names two of its denoisers.

    Raises:
        InputError: if it has no such denoisers.
    """
    entry = dict(card["stitched"])
    for part in ("small", "large"):
        if entry[part] not in card["denoisers"]:
            raise InputError(
                f"zoo.stitched.{part}={entry[part]} is no denoiser of the zoo {card['name']}; "
                f"known: {', '.join(card['denoisers'])}"
            )
        entry[part] = dict(card["denoisers"][entry[part]])
        entry[part].pop("file", None)
    return entry


class Stitch(nn.Module):
    """One stitch as a denoiser: ``forward(x, t, y)``. It shares the weights of all."""

    def __init__(self, stitched: StitchedDiT, index: int):
        super().__init__()
        self.stitched, self.index, self.spec = stitched, index, stitched.spec

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """See ``DiT.forward``."""
        return self.stitched(x, t, y, self.index)


def _tokens(dit: DiT, x: Tensor, t: Tensor, y: Tensor) -> Iterator[Tensor]:
    """The tokens before the first block and after each."""
    c_BD, x_BND = dit.conditioning(t, y), dit.embed(x)
    yield x_BND
    for block in dit.blocks:
        x_BND = block(x_BND, c_BD)
        yield x_BND


def _dit(sizes: Mapping) -> DiT:
    sizes = dict(sizes)
    name = sizes.pop("name")
    if name != "DiT" and name not in CONFIGURATIONS:
        raise InputError(f"stitched: {name} is no DiT; model stitching is between DiTs")
    return DiT(**{**CONFIGURATIONS.get(name, {}), **sizes})
