"""What of a zoo's card is part of a run's identity: all that is not as it was published.

The networks of published cards are named by the hashes of their weights, which records have had
from the beginning. But the same weights may be those of another network
(``zoo.denoisers.DiT-S.num_heads=2``, or a card that was corrected), and a file may have two kinds
(``zoo.files.LDM.ema``).
"""

import functools
import hashlib
import itertools
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from models import variants
from models.zoo import CARDS, STITCHED, Zoo

DECODERS = ("first_stage", "preview")
# Zoo -> entry of its card, such as ``denoisers.DiT-S`` -> hash of its facts. An entry that is not
# there, or otherwise, is said whole by every run that it is part of.
PUBLISHED = Path(__file__).with_name("published_cards.json")


def changes(zoo: Zoo, names: Collection[str]) -> dict[str, Any]:
    """What the card says of the denoisers ``names`` and of the decoder, and was not published.

    Of networks that the settings of a command changed, what they changed; of networks that are not
    published, or whose card was edited, everything.

    Returns:
        Place in the card, such as ``denoisers.DiT-S.num_heads`` -> value, None for what was taken
        out.
    """
    ours, published = facts(zoo.card), _published(zoo.name)
    decoder = zoo.decoder.replace("-", "_")
    files = [f"files.{zoo.file(name).name}" for name in (*names, zoo.decoder)]
    places = sorted(
        place
        for place in ours.keys() | published.keys()
        if _entry(place) in (decoder, *files) or concerns(place, names)
    )
    return {p: ours.get(p) for p in places if ours.get(p) != published.get(p)}


def concerns(place: str, names: Collection[str]) -> bool:
    """Whether a place in a card tells how one of the denoisers ``names`` is built.

    A stitch consists of several denoisers: all count.
    """
    entry = _entry(place)
    if any(name.startswith(f"{STITCHED}:") for name in names):
        return entry == STITCHED or entry.startswith("denoisers.")
    return entry in [f"denoisers.{variants.base(name)}" for name in names]


def facts(card: DictConfig) -> dict[str, Any]:
    """Place -> value of all that tells what networks compute."""
    content = OmegaConf.to_container(card, resolve=True)
    entries = {f"denoisers.{name}": entry for name, entry in content["denoisers"].items()}
    entries |= {k: content[k] for k in (*DECODERS, STITCHED) if k in content}
    found = {
        f"{name}.{key}": value
        for name, entry in entries.items()
        for key, value in entry.items()
        if key != "file"
    }
    files = content.get("files", {}).items()
    return found | {f"files.{name}.ema": entry.get("ema", True) for name, entry in files}


def hashes(card: DictConfig) -> dict[str, str]:
    """Entry of a card -> hash of its facts, as ``PUBLISHED`` has them."""
    found = {}
    known = facts(card)
    for entry, places in itertools.groupby(sorted(known, key=_entry), _entry):
        text = json.dumps({place: known[place] for place in places}, sort_keys=True)
        found[entry] = hashlib.sha256(text.encode()).hexdigest()[:16]
    return found


def _entry(place: str) -> str:
    return place.rpartition(".")[0]


@functools.cache
def _published(name: str) -> dict[str, Any]:
    """Place -> value of the entries that the file of a card has as they were published."""
    known = json.loads(PUBLISHED.read_text()).get(name)
    if known is None:
        return {}
    card = OmegaConf.load(CARDS / f"{name}.yaml")
    here = hashes(card)
    same = {entry for entry in here if here[entry] == known.get(entry)}
    return {place: value for place, value in facts(card).items() if _entry(place) in same}
