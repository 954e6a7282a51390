"""Names of other weights of a denoiser."""

import pytest

from models import variants


@pytest.mark.parametrize(
    "name, of, interval",
    [
        (variants.tuned("DiT-XL", (0, 200)), "DiT-XL@0-199", (0, 200)),
        (variants.tuned("DiT-XL", (999, 1000)), "DiT-XL@999-999", (999, 1000)),
        (variants.tuned("DiT-XL", None), "DiT-XL@all", None),
        (variants.aged("DiT-XL", 64_000), "DiT-XL@64k", None),
        (variants.aged("DiT-XL", 64_500), "DiT-XL@64500", None),
    ],
)
def test_a_name_says_what_the_weights_are_of(name, of, interval):
    assert name == of
    assert variants.base(name) == variants.base("DiT-XL") == "DiT-XL"
    assert variants.interval(name) == interval


def test_the_bases_of_an_allocation_are_its_architectures():
    text = "DiT-S@64k*10+DiT-B@200-499*6+DiT-XL*4"
    assert variants.bases(text) == "DiT-S*10+DiT-B*6+DiT-XL*4"


def test_names_are_sorted_by_their_numbers():
    names = ["DiT-XL@0-99", "DiT-S@147k", "DiT-S@64500", "DiT-S@59k", "DiT-S@all", "DiT-S"]
    assert sorted(names, key=variants.order) == names[::-1]
