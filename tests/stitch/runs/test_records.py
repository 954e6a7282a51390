"""Records: named by content, written once."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import InputError
from stitch.runs.records import ResultStore, content_hash, require_alike

derandomized = settings(derandomize=True, deadline=None)
RUN, PROTOCOL = {"seed": 0, "allocation": "S*5"}, {"num_images": 5000}
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


def record(run=RUN, protocol=PROTOCOL, **metrics):
    return {"run": run, "protocol": protocol, "metrics": metrics}


def reordered(content):
    if isinstance(content, dict):
        return {key: reordered(value) for key, value in reversed(content.items())}
    return [reordered(value) for value in content] if isinstance(content, list) else content


@derandomized
@given(st.dictionaries(st.text(max_size=5), plain))
def test_the_hash_does_not_depend_on_the_order_of_keys_or_on_a_trip_through_a_file(content):
    assert content_hash(reordered(content)) == content_hash(content)
    assert content_hash(json.loads(json.dumps(content))) == content_hash(content)


def test_the_hash_is_the_same_on_every_machine():
    assert content_hash({"b": [1, 2.5, None], "a": {"x": "é"}}) == "79b05ccf654de022"


def test_different_content_has_different_hashes():
    contents = [{}, {"b": 1}, *({"a": value} for value in (1, 1.5, "1", [1], None, True))]
    assert len({content_hash(content) for content in contents}) == len(contents)


def test_a_record_is_found_by_its_run_and_protocol(tmp_path):
    store = ResultStore(tmp_path / "records")
    assert store.get(RUN, PROTOCOL) is None
    path = store.add(record(fid=9.5))
    assert path == store.path(RUN, PROTOCOL)
    assert store.get(reordered(RUN), PROTOCOL) == record(fid=9.5)
    assert store.get(RUN, {"num_images": 10_000}) is None


def test_the_name_depends_on_run_and_protocol_and_on_nothing_else(tmp_path):
    store = ResultStore(tmp_path)
    name = content_hash({"run": RUN, "protocol": PROTOCOL})
    assert store.add(record(fid=1.0)).name == f"{name}.json"
    paths = {store.path(RUN, PROTOCOL), store.path(PROTOCOL, RUN), store.path(RUN, {}),
             store.path({**RUN, "seed": 1}, PROTOCOL)}  # fmt: skip
    assert len(paths) == 4


def test_a_record_is_never_changed(tmp_path):
    store = ResultStore(tmp_path)
    path = store.add(record(fid=9.5))
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="records are immutable"):
        store.add(record(fid=1.0))
    assert path.read_bytes() == before


def test_all_records_come_sorted_by_name_and_unfinished_files_are_none(tmp_path):
    store = ResultStore(tmp_path)
    assert list(store.all()) == []
    records = [record({"seed": seed}, fid=seed) for seed in range(5)]
    for one in records:
        store.add(one)
    (tmp_path / ".0.json.123.tmp").write_text("{")
    by_name = sorted(records, key=lambda one: store.path(one["run"], one["protocol"]).name)
    assert list(store.all()) == by_name


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_record_holds_nan_or_an_infinity(tmp_path, value):
    store = ResultStore(tmp_path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.add(record(fid=value))
    assert list(tmp_path.iterdir()) == []
    path = store.path(RUN, PROTOCOL)
    path.write_text(json.dumps(record(fid=value)))  # as before
    for read in (lambda: store.get(RUN, PROTOCOL), lambda: list(store.all())):
        with pytest.raises(InputError, match=f"{path.name} is damaged, .*not a finite number"):
            read()


@pytest.mark.parametrize(
    "harm",
    [
        lambda text: "",
        lambda text: text[:-4],
        lambda text: text.replace("9.5", "9.4"),
        lambda text: text.replace('"seed": 0', '"seed": 1'),
        lambda text: text.replace("sha256", "sha257"),
        lambda text: text.replace("9.5", '"9.5"'),
    ],
)
def test_a_record_that_was_damaged_or_changed_is_named(tmp_path, harm):
    store = ResultStore(tmp_path)
    path = store.add(record(fid=9.5))
    path.write_text(harm(path.read_text()))
    for read in (lambda: store.get(RUN, PROTOCOL), lambda: list(store.all())):
        with pytest.raises(InputError, match=f"{path.name} is damaged"):
            read()


def test_a_json_of_others_is_no_record_and_a_record_of_before_needs_no_checksum(tmp_path):
    store = ResultStore(tmp_path)
    (tmp_path / "theirs.json").write_text('{"learning_rate": 0.1}')
    (tmp_path / "list.json").write_text("[1, 2]")
    store.path(RUN, PROTOCOL).write_text(json.dumps(record(fid=9.5)))
    assert list(store.all()) == [record(fid=9.5)]
    assert store.get(RUN, PROTOCOL) == record(fid=9.5)


SAMPLED = {
    "weights": {"S": "1a", "XL": "2b", "first-stage": "3c"},
    "allocation": "S*2+XL*3",
    "sampler": {"name": "ddim", "steps": 5},
    "guidance": {"scale": 1.5, "channels": 4},
    "labels": "random",
}


def test_records_that_differ_in_allocation_only_belong_into_one_table():
    large = {**SAMPLED, "allocation": "XL*5", "weights": {"XL": "2b", "first-stage": "3c"}}
    require_alike([record(SAMPLED, fid=1.0), record(large, fid=2.0)])
    # Of an unpublished card they say how each of their denoisers is built.
    cards = [{"denoisers.XL.width": 8}, {"denoisers.XL.width": 8, "denoisers.S.width": 4}]
    require_alike([record({**large, "card": cards[0]}), record({**SAMPLED, "card": cards[1]})])
    require_alike([record(SAMPLED)])


@pytest.mark.parametrize(
    "run, protocol, name",
    [
        ({"sampler": {"name": "ddim", "steps": 6}}, {}, "sampler.steps is 5 in one and 6 in anoth"),
        ({"guidance": {"scale": 2.0, "channels": 4}}, {}, "guidance.scale is 1.5"),
        ({"labels": "balanced"}, {}, "labels is random"),
        ({"weights": {**SAMPLED["weights"], "first-stage": "4d"}}, {}, "weights.first-stage is 3c"),
        ({"schedule": "ldm"}, {}, "schedule is None in one and ldm in another"),
        ({"card": {"first_stage.scale": 2.0}}, {}, "card.first_stage.scale is None in one and 2.0"),
        ({}, {"num_images": 50_000}, "num_images is 5000 in one and 50000 in another"),
        ({}, {"reference_sha256": "5e"}, "reference_sha256"),
    ],
)
def test_unlike_records_are_refused_unless_told_otherwise(run, protocol, name):
    records = [record(SAMPLED), record({**SAMPLED, **run}, {**PROTOCOL, **protocol})]
    with pytest.raises(InputError, match=name):
        require_alike(records)
    with pytest.raises(InputError, match=name):
        require_alike([*records, records[0]], ["seed"])
    require_alike(records, [name.split(" ")[0]])
    require_alike(records, [name.split(" ")[0].split(".")[0]])
