"""The embedded assets: downloads checked, damage found and redone, one process at a time."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from trainables import assets, packages
from trainables.packages import Package


class Index:
    """A package index of one wheel that counts the downloads."""

    def __init__(self, folder: Path) -> None:
        self.wheel = folder / "tiny-1.0-py3-none-any.whl"
        with zipfile.ZipFile(self.wheel, "w") as archive:
            archive.writestr("tiny/data.txt", "some text")
            archive.writestr("tiny/code.py", "raise SystemExit")
        self.downloads = 0
        self.broken = 0  # how many of the next downloads arrive cut short

    @property
    def package(self) -> Package:
        return Package(
            name="tiny",
            version="1.0",
            sha256=hashlib.sha256(self.wheel.read_bytes()).hexdigest(),
            size_mb=1,
            members=(("tiny/data.txt", "data.txt"),),
        )

    def download(self, package: Package, folder: Path) -> None:
        self.downloads += 1
        content = self.wheel.read_bytes()
        if self.broken:
            self.broken -= 1
            content = content[:-9]
        (folder / self.wheel.name).write_bytes(content)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("POOLSEARCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return Index(tmp_path)


def ensure(index: Index, *, hashes: bool = True) -> list[str]:
    said: list[str] = []
    assets.ensure([index.package], said.append, hashes=hashes, download=index.download)
    return said


def test_members_alone_are_kept_with_a_manifest(cache: Path, index: Index) -> None:
    assert ensure(index) == ["downloading tiny 1.0 (1 MB)"]
    folder = cache / index.package.folder
    assert sorted(path.name for path in folder.iterdir()) == ["data.txt", "manifest.json"]
    assert (folder / "data.txt").read_text() == "some text"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["data.txt"]["sha256"] == hashlib.sha256(b"some text").hexdigest()
    assert sorted(path.name for path in cache.iterdir()) == ["lock", index.package.folder]


def test_what_is_prepared_is_not_downloaded_again(cache: Path, index: Index) -> None:
    ensure(index)
    assert ensure(index) == []
    assert index.downloads == 1


def test_a_complete_cache_is_only_read(cache: Path, index: Index) -> None:
    ensure(index)
    before = sorted((str(path), path.stat().st_mtime_ns) for path in cache.rglob("*"))
    ensure(index)
    assert before == sorted((str(path), path.stat().st_mtime_ns) for path in cache.rglob("*"))


def test_a_broken_download_is_done_again(
    cache: Path, index: Index, caplog: pytest.LogCaptureFixture
) -> None:
    index.broken = 1
    ensure(index)
    assert index.downloads == 2
    assert "tiny 1.0: expected SHA-256" in caplog.text
    assert "downloading it again" in caplog.text


def test_a_download_that_stays_broken_is_an_error_with_a_remedy(cache: Path, index: Index) -> None:
    index.broken = 2
    with pytest.raises(
        assets.AssetError, match=r"tiny 1\.0: expected SHA-256 \w{64}, got"
    ) as error:
        ensure(index)
    assert "or point POOLSEARCH_CACHE at a filled cache" in str(error.value)
    assert [path.name for path in cache.iterdir()] == ["lock"]


def test_pips_own_reason_is_passed_on(cache: Path, index: Index) -> None:
    def download(package: Package, folder: Path) -> None:
        raise assets.AssetError("pip download failed (ERROR: no network)")

    with pytest.raises(
        assets.AssetError, match=r"tiny 1\.0: pip download failed \(ERROR: no netw"
    ):
        assets.ensure([index.package], lambda _: None, download=download)


def test_pip_that_finds_no_wheel_is_an_asset_error(
    tmp_path: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nothing"))
    with pytest.raises(assets.AssetError, match=r"pip download failed \(ERROR: No matching dist"):
        assets._pip_download(index.package, tmp_path)


@pytest.mark.parametrize("content", ["short", "SOME TEXT"])
def test_damage_is_found_and_redone(
    cache: Path, index: Index, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    ensure(index)
    path = cache / index.package.folder / "data.txt"
    path.write_text(content)
    ensure(index)
    assert path.read_text() == "some text"
    assert "data.txt" in caplog.text
    assert "preparing tiny again" in caplog.text


def test_a_manifest_cut_short_is_damage(cache: Path, index: Index) -> None:
    ensure(index)
    (cache / index.package.folder / "manifest.json").write_text('{"data')
    ensure(index)
    assert index.downloads == 2


def test_sizes_alone_are_compared_on_use(cache: Path, index: Index) -> None:
    ensure(index)
    (cache / index.package.folder / "data.txt").write_text("SOME TEXT")
    ensure(index, hashes=False)
    assert index.downloads == 1


def test_what_a_killed_process_left_is_removed(cache: Path, index: Index) -> None:
    left = cache / ".preparing-killed"
    left.mkdir(parents=True)
    ensure(index)
    assert not left.exists()


def test_parallel_users_download_once(cache: Path, index: Index) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: ensure(index), range(4)))
    assert index.downloads == 1


def test_a_cache_that_cannot_be_made_says_so(
    tmp_path: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("POOLSEARCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(assets.AssetError, match="set POOLSEARCH_CACHE to a folder to write to"):
        ensure(index)


def test_the_cache_folder_is_in_the_home_unless_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POOLSEARCH_CACHE", raising=False)
    assert assets.cache_folder() == Path.home() / ".cache" / "poolsearch"


@pytest.mark.embedded
def test_the_embedded_assets_are_prepared_and_stay(caplog: pytest.LogCaptureFixture) -> None:
    assets.prepare(logging.getLogger(__name__).info)
    said: list[str] = []
    assets.prepare(said.append)
    assert said == []
    names = {path.name for path in assets.model_folder().iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "LICENSE"} <= names
    assert "model.gguf" not in names


@pytest.mark.embedded
def test_the_embedded_model_speaks() -> None:
    """The conversion kept the weights: a sentence is likelier than its words in another order."""
    import torch
    import transformers

    folder = assets.model_folder()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    head = model.get_input_embeddings().weight  # SmolLM2 ties its output to its input embeddings

    def loss(text: str) -> float:
        ids = tokenizer(text, return_tensors="pt").input_ids
        with torch.inference_mode():
            logits = model(ids).last_hidden_state[0, :-1] @ head.T
        return float(torch.nn.functional.cross_entropy(logits, ids[0, 1:]))

    assert loss("The capital of France is Paris.") < 3 < loss("Paris is. of The France capital")


def test_packages_have_distinct_folders() -> None:
    folders = {package.folder for package in packages.PACKAGES}
    assert len(folders) == len(packages.PACKAGES)
