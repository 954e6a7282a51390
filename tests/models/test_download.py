"""Downloads from a host on this machine: resumed, verified, mirrored, and what goes wrong."""

import errno
import hashlib
import json
import sys
import threading
import types
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file

import models
from models import download
from models.checkpoint import read_tensors
from models.download import DownloadError, get
from models.published_file import PublishedFile
from models.zoo import CARDS
from scripts import convert, zoo
from scripts import download as download_command
from stitch.runs import devices
from tests import golden

DATA = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(DATA).hexdigest()
PAGE = b"<!DOCTYPE html><title>Quota exceeded</title>"


@pytest.fixture
def host():
    """A web server: ``host.files`` maps paths to content; ``host.cut`` ends answers early."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0"

        def do_GET(self):
            content = state.files.get(self.path)
            wanted = self.headers.get("Range")
            state.requests.append((self.path, wanted))
            if content is None:
                return self.send_error(404)
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
            if start >= len(content):
                return self.send_error(416)
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start : state.cut])

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    url = f"http://127.0.0.1:{server.server_port}"
    state = types.SimpleNamespace(url=url, files={"/w.pt": DATA}, requests=[], cut=None)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield state
    server.shutdown()


@pytest.fixture
def file(host, tmp_path):
    def make(*paths, **facts):
        urls = tuple(host.url + path for path in paths or ["/w.pt"])
        return PublishedFile("weights", tmp_path / "there" / "w.pt", urls, **facts)

    return make


def everything(file):
    return sorted(path.name for path in file.path.parent.glob("*"))


def test_a_file_comes_with_a_record_and_is_not_fetched_again(file, host):
    wanted = file(sha256=SHA256, licence="MIT")
    assert get(wanted).startswith("downloaded")
    assert wanted.path.read_bytes() == DATA
    assert json.loads((wanted.path.parent / "w.json").read_text()) == {
        "file": "w.pt", "sha256": SHA256, "url": wanted.urls[0], "bytes": len(DATA),
        "licence": "MIT",
    }  # fmt: skip
    assert get(wanted) == "already exists"
    assert len(host.requests) == 1
    assert everything(wanted) == ["w.json", "w.pt"]


def test_an_interrupted_download_goes_on_where_it_stopped(file, host):
    wanted = file(sha256=SHA256)
    host.cut = 300_000
    with pytest.raises(DownloadError, match=f"300000 of {len(DATA)} bytes received; run it again"):
        get(wanted)
    assert not wanted.path.exists()
    host.cut = None
    get(wanted)
    assert host.requests[-1] == ("/w.pt", "bytes=300000-")
    assert wanted.path.read_bytes() == DATA
    assert everything(wanted) == ["w.json", "w.pt"]


def test_a_mirror_is_tried_when_a_host_fails(file):
    wanted = file("/gone", "/w.pt", sha256=SHA256)
    get(wanted)
    assert wanted.path.read_bytes() == DATA


def test_a_wrong_checksum_leaves_nothing_under_any_name(file):
    wanted = file(sha256="0" * 64)
    with pytest.raises(DownloadError, match=f"SHA-256 is {SHA256[:16]}..., it should be 0000"):
        get(wanted)
    assert everything(wanted) == []


def test_a_checksum_nobody_publishes_is_recorded_and_checked_from_then_on(file, host):
    wanted = file()
    get(wanted)
    wanted.path.unlink()
    host.files["/w.pt"] = DATA[:-1] + b"x"
    with pytest.raises(DownloadError, match="it should be"):
        get(wanted)
    wanted.path.write_bytes(DATA)
    assert get(wanted) == "already exists"


def test_a_file_put_there_by_hand_is_recorded(file):
    wanted = file()
    wanted.path.parent.mkdir()
    wanted.path.write_bytes(DATA)
    assert "recorded" in get(wanted)
    assert wanted.state() == "present"


@pytest.fixture
def damaged_zip(tmp_path):
    """What torch.save wrote, with one bit of a weight flipped: only its CRC tells."""
    weight = torch.arange(1.0, 9)
    torch.save({"weight": weight}, tmp_path / "good.pt")
    data = bytearray((tmp_path / "good.pt").read_bytes())
    data[data.index(weight.numpy().tobytes())] ^= 1
    return bytes(data)


def test_a_damaged_file_put_there_by_hand_is_not_recorded(file, damaged_zip):
    wanted = file()
    wanted.path.parent.mkdir()
    for content, problem in (
        (damaged_zip, "checksum of its member"),
        (damaged_zip[:-9], "is damaged"),
        (PAGE, "web page"),
    ):
        wanted.path.write_bytes(content)
        with pytest.raises(DownloadError, match=f"w.pt .*{problem}.*; delete it and get another"):
            get(wanted)
        assert everything(wanted) == ["w.pt"]


def test_a_transfer_without_a_published_checksum_that_arrives_damaged_leaves_nothing(
    file, host, damaged_zip
):
    host.files["/w.pt"] = damaged_zip
    with pytest.raises(DownloadError, match="checksum of its member .* differs"):
        get(file())
    assert everything(file()) == []


def test_a_damaged_file_is_replaced(file):
    wanted = file(sha256=SHA256)
    wanted.path.parent.mkdir()
    wanted.path.write_bytes(b"damaged")
    get(wanted)
    assert wanted.path.read_bytes() == DATA


def test_a_web_page_is_not_taken_for_weights(file, host):
    host.files["/w.pt"] = PAGE
    with pytest.raises(DownloadError, match="web page, such as a quota notice"):
        get(file())
    assert everything(file()) == []


@pytest.fixture
def zipped(file, host, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("model.ckpt", DATA)
        archive.writestr("other", b"")
    host.files["/a.zip"] = (tmp_path / "a.zip").read_bytes()
    return file("/a.zip", member="model.ckpt", sha256=SHA256)


def test_a_member_is_taken_out_of_a_zip(zipped):
    get(zipped)
    assert zipped.path.read_bytes() == DATA
    assert everything(zipped) == ["w.json", "w.pt"]


def test_what_was_received_is_kept_if_the_disk_is_too_full_to_unpack_it(zipped, host, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(download.shutil, "copyfileobj", full)
        with pytest.raises(DownloadError, match="No space left"):
            get(zipped)
    get(zipped)
    assert zipped.path.read_bytes() == DATA
    size = len(host.files["/a.zip"])
    assert host.requests == [("/a.zip", None), ("/a.zip", f"bytes={size}-")]


def test_drive_and_hub_go_through_their_libraries(tmp_path, monkeypatch):
    asked = []

    def drive(id, output, resume):
        asked.append(("drive", id, resume))
        raise OSError("quota")

    def hub(repository, filename, revision, local_dir):
        asked.append(("hub", repository, filename, revision))
        local_dir.mkdir()
        (local_dir / "f").write_bytes(DATA)
        return str(local_dir / "f")

    monkeypatch.setitem(sys.modules, "gdown", types.SimpleNamespace(download=drive))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", hub)
    urls = (
        "https://drive.google.com/file/d/ABC/view",
        "https://huggingface.co/owner/name/resolve/main/folder/w.safetensors",
    )
    wanted = PublishedFile("w", tmp_path / "w.safetensors", urls, sha256=SHA256)
    get(wanted)
    assert asked == [("drive", "ABC", True), ("hub", "owner/name", "folder/w.safetensors", "main")]
    assert everything(wanted) == ["w.json", "w.safetensors"]


# ---- the commands ----


def run(main, monkeypatch, capsys, *arguments):
    """Exit code and output of a command in this process."""
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    try:
        main()
        code = 0
    except SystemExit as exit:
        code = exit.code
    return code, "".join(capsys.readouterr())


def test_without_a_network_every_missing_file_its_url_and_its_place_are_named(
    tmp_path, monkeypatch, capsys
):
    def unreachable(url, part):
        raise OSError("Name or service not known")

    monkeypatch.setattr(download, "_transfer", unreachable)
    code, output = run(
        download_command.main,
        monkeypatch,
        capsys,
        "zoo=imagenet256-ldm",
        f"zoo.checkpoints={tmp_path}",
    )
    assert code == 2
    error = output.splitlines()[-1]
    assert error.startswith("error: 3 of 3 files could not be downloaded")
    for name, entry in OmegaConf.load(CARDS / "imagenet256-ldm.yaml").files.items():
        if name not in ("reference", "inception"):
            assert entry.urls[0] in error and str(tmp_path / entry.path) in error
    assert "VIRTUAL" not in error


@pytest.mark.parametrize("what, count", [("weights", 6), ("reference", 2), ("all", 8)])
def test_a_dry_run_lists_what_how_large_and_where(tmp_path, monkeypatch, capsys, what, count):
    spelling = "--dry-run" if what == "all" else "dry_run=true"
    arguments = ["zoo=imagenet256-dit", f"zoo.checkpoints={tmp_path}", spelling]
    code, output = run(download_command.main, monkeypatch, capsys, *arguments, f"what={what}")
    assert code == 0
    assert output.count("missing") == count
    if what != "reference":
        for part in ("2.7 GB", str(tmp_path / "dit_s_256.pt"), "dl.fbaipublicfiles.com"):
            assert part in output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["zoo=imagenet256-dit", "what=everything"], "must be weights | reference | all"),
        (["zoo=cifar"], "imagenet256-dit"),
    ],
)
def test_bad_settings_end_with_one_line(monkeypatch, capsys, arguments, message):
    code, output = run(download_command.main, monkeypatch, capsys, *arguments)
    assert code == 2
    assert message in output


def test_a_shipped_zoo_needs_no_download(monkeypatch, capsys):
    code, output = run(download_command.main, monkeypatch, capsys, "zoo=fashion")
    assert code == 0 and "nothing to download" in output


def test_the_table_of_a_zoo_states_cost_schedule_files_and_licence(monkeypatch, capsys):
    code, output = run(zoo.main, monkeypatch, capsys, "name=imagenet256-dit-uvit")
    assert code == 0
    lines = {line.split()[1]: line for line in output.splitlines() if line.startswith("imagenet")}
    assert list(lines) == ["DiT-S", "U-ViT-H", "first-stage", "preview"]
    for part in ("33.0", "6.06", "ddpm-linear", "dit_s_256.pt", "CC-BY-NC-4.0"):
        assert part in lines["DiT-S"]
    for part in ("500.8", "133", "stable-diffusion"):
        assert part in lines["U-ViT-H"]
    assert "multiply-accumulates" in output


def test_an_unknown_zoo_is_refused_by_the_table(monkeypatch, capsys):
    code, output = run(zoo.main, monkeypatch, capsys, "name=cifar")
    assert code == 2 and "known: fashion, imagenet256-dit" in output


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_weights_are_converted_to_native_and_to_diffusers(tmp_path, monkeypatch, capsys, precision):
    small = dict(latent_shape=(4, 8, 8), width=32, depth=1, num_heads=2, num_classes=5)
    monkeypatch.setattr(models, "create", lambda name, create=models.create: create("DiT", **small))
    source = models.create("small")
    golden.fill(source)
    torch.save({"ema": source.state_dict(), "model": {}}, tmp_path / "official.pt")
    steps = [("official.pt", "diffusers"), ("diffusers", "native.safetensors")]
    for start, end in steps:
        code, output = run(
            convert.main, monkeypatch, capsys, "network=small", f"source={tmp_path / start}",
            f"target={tmp_path / end}", f"precision={precision}",
        )  # fmt: skip
        assert code == 0, output
    found = read_tensors(tmp_path / "native.safetensors")
    dtype = devices.PRECISIONS[precision]
    for name, value in source.state_dict().items():
        assert torch.equal(found[name], value.to(dtype)), name


def test_conversion_of_a_damaged_file_writes_nothing(tmp_path, monkeypatch, capsys):
    save_file({"x": torch.zeros(2)}, tmp_path / "x.safetensors")
    code, output = run(
        convert.main, monkeypatch, capsys, "network=DiT-S/2", f"source={tmp_path}/x.safetensors",
        f"target={tmp_path}/y.safetensors",
    )  # fmt: skip
    assert code == 2 and "another architecture" in output
    assert not (tmp_path / "y.safetensors").exists()
