"""Sources of models: order, choice of files, checks and refusals."""

import ast
import importlib.util
import json
import re
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from huggingface_hub import constants

from sbertlab.storage import find
from sbertlab.storage.find import BASIC_NAMES, PACKAGED, ModelNotFoundError, find_model, full_name
from tests.storage.conftest import COMMIT, SILENT
from tests.storage.models import MODEL, contents, digest, put_wheel, write_model, zipped

HASHES = {name: digest(text.encode()) for name, text in MODEL.items()}


@pytest.fixture
def packaged(tmp_path, monkeypatch):
    """The model `org/packaged` in one wheel, beside code that would betray being run."""
    code = f"open({str(tmp_path / 'executed')!r}, 'w')"
    files = {"tiny_model/__init__.py": code, "setup.py": code, **{f"tiny_model/model/{k}": v for k, v in MODEL.items()}}
    requirements = [put_wheel(tmp_path / "index", "tiny-model", files)]
    model = {"requirements": requirements, "slices": [], "prefix": "tiny_model/model/", "files": {**HASHES}}
    monkeypatch.setitem(PACKAGED, "org/packaged", model)
    return model


def forbid_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the network was touched")

    for name in ("huggingface_hub.HfApi.model_info", "subprocess.run", "urllib.request.urlopen"):
        monkeypatch.setattr(name, refuse)


def test_a_packaged_model_is_unpacked_once_and_nothing_of_its_wheel_is_run(packaged, tmp_path, cache, monkeypatch):
    killed = write_model(cache / "models" / ".org--packaged.partial-0a1b2c3d")  # left by a killed process
    other = write_model(cache / "models" / ".org--other.partial-0a1b2c3d")
    with pytest.raises(ModelNotFoundError):
        find_model("org/packaged", local_files_only=True)
    folder = find_model("org/packaged")
    assert contents(folder) == MODEL
    assert not (tmp_path / "executed").exists()
    assert not killed.exists()
    assert other.exists()
    forbid_network(monkeypatch)
    assert find_model("org/packaged", revision="main") == find_model("org/packaged") == folder
    with pytest.raises(ModelNotFoundError):
        find_model("org/packaged", revision="v2", local_files_only=True)


def test_a_model_that_lost_a_file_is_fetched_again(packaged):
    (find_model("org/packaged") / "config.json").unlink()
    assert contents(find_model("org/packaged")) == MODEL


def test_slices_in_several_wheels_are_joined_into_one_zip(tmp_path, monkeypatch):
    whole = zipped({**{f"folder/{name}": text for name, text in MODEL.items()}, "folder/desktop.ini": "not wanted"})
    slices = {f"slice{n}/m.zip.{n}": cut for n, cut in enumerate((whole[:100], whole[100:250], whole[250:]))}
    index = tmp_path / "index"
    requirements = [put_wheel(index, f"slice-{n}", {name: slices[name]}) for n, name in enumerate(slices)]
    model = {"requirements": requirements, "slices": [*slices], "prefix": "folder/", "files": HASHES}
    monkeypatch.setitem(PACKAGED, "org/sliced", model)
    assert contents(find_model("org/sliced")) == MODEL


@pytest.mark.parametrize("forged", ["wheel", "file"])
def test_a_wheel_or_file_with_another_hash_is_refused(forged, packaged, tmp_path, cache):
    if forged == "wheel":
        put_wheel(tmp_path / "index", "tiny-model", {f"tiny_model/model/{name}": "forged" for name in MODEL})
    else:
        packaged["files"]["config.json"] = digest(b"what it should be")
    with pytest.raises(ModelNotFoundError, match=r"Expected sha256|config.json is refused: its SHA-256 is"):
        find_model("org/packaged")
    assert contents(cache / "models") == {".org--packaged.lock": ""}


def test_one_of_two_who_want_a_model_downloads_it_and_the_other_waits(packaged, monkeypatch):
    downloads, run = [], subprocess.run

    def slow(*arguments, **settings):
        downloads.append(arguments)
        time.sleep(0.5)
        return run(*arguments, **settings)

    monkeypatch.setattr(subprocess, "run", slow)
    with ThreadPoolExecutor(2) as both:  # the lock is a file's, so threads stand for processes
        one, other = both.map(find_model, ["org/packaged"] * 2)
    assert contents(one) == contents(other) == MODEL
    assert len(downloads) == 1


def test_the_real_packaged_models_have_a_hash_for_every_wheel_and_file():
    for model in PACKAGED.values():
        assert {"model.safetensors", "tokenizer.json", "modules.json", "1_Pooling/config.json"} <= set(model["files"])
        assert all(re.fullmatch(r"[0-9a-f]{64}", value) for value in model["files"].values())
        assert all(re.fullmatch(r"[\w-]+==[\d.]+ --hash=sha256:[0-9a-f]{64}", line) for line in model["requirements"])


def test_bare_names_mean_what_they_do_in_sentence_transformers():
    installed = Path(importlib.util.find_spec("sentence_transformers").origin).parent
    code = ast.parse((installed / "util" / "misc.py").read_text(encoding="utf-8"))
    literals = [node.elts for node in ast.walk(code) if isinstance(node, (ast.Set, ast.List, ast.Tuple))]
    lists = [{element.value for element in elements if isinstance(element, ast.Constant)} for elements in literals]
    assert [names for names in lists if "bert-base-uncased" in names] == [BASIC_NAMES]
    names = ["bert-base-uncased", "all-MiniLM-L6-v2", "org/bert"]
    assert [*map(full_name, names)] == ["bert-base-uncased", "sentence-transformers/all-MiniLM-L6-v2", "org/bert"]


def test_an_existing_folder_comes_first(tmp_path, monkeypatch):
    forbid_network(monkeypatch)
    write_model(tmp_path / "all-MiniLM-L6-v2")
    monkeypatch.chdir(tmp_path)
    assert find_model("all-MiniLM-L6-v2") == Path("all-MiniLM-L6-v2")
    assert find_model(tmp_path / "all-MiniLM-L6-v2") == tmp_path / "all-MiniLM-L6-v2"


@pytest.mark.parametrize("name", ["", "na x", *r"./x /x ../x ~/absent a/b/c C:\models\x a..b org/".split()])
def test_a_path_is_reported_as_a_missing_folder(name, hub):
    with pytest.raises(ModelNotFoundError, match=re.escape(f"{name!r} is not a folder in ")):
        find_model(name)
    assert hub.asked == []


def test_the_error_lists_every_source_with_its_outcome_and_the_command():
    with pytest.raises(ModelNotFoundError) as caught:
        find_model("no-such-model")
    lines = str(caught.value).splitlines()
    sources = ["'no-such-model' is not a folder", "sbertlab's cache:", "Hugging Face's cache:", "the Hub:"]
    assert all(line.startswith(f"  - {source}") for line, source in zip(lines[1:-1], sources, strict=True))
    assert "HF_HUB_OFFLINE" in lines[4]
    assert lines[-1].endswith("python -m sbertlab fetch no-such-model")


def test_only_the_needed_files_are_taken_from_the_hub_once(hub, monkeypatch):
    modules = [{"path": path, "type": "x.y"} for path in ("", "1_Pooling", "2_Dense")]
    wanted = {**MODEL, "modules.json": json.dumps(modules), "1_Pooling/config.json": '{"mode": 1}', "vocab.txt": "v"}
    wanted |= {"2_Dense/config.json": '{"bias": true}', "2_Dense/pytorch_model.bin": "b", "spiece.model": "s"}
    wanted["q_0_Router/1_Dense/config.json"] = "{ }"
    unwanted = ["pytorch_model.bin", "tf_model.h5", "onnx/model.onnx", "onnx/config.json", "README.md", "modeling.py"]
    unwanted += ["model.fp16.safetensors", "checkpoint-5/model.safetensors", "openvino/openvino_model.bin"]
    hub.add_repository("sentence-transformers/some-model", wanted | dict.fromkeys(unwanted, "unwanted"))
    folder = find_model("some-model")
    assert contents(folder) == wanted
    assert hub.downloaded() == set(wanted)
    forbid_network(monkeypatch)
    assert find_model("some-model") == folder
    assert find_model("sentence-transformers/some-model", local_files_only=True) == folder


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_weights_in_several_files_are_taken_whole(kind, hub):
    shards = [f"model-0000{number}-of-00002.{kind}" for number in (1, 2)]
    index = {"weight_map": dict(zip("ab", shards, strict=True))}
    files = {"config.json": "{}", f"model.{kind}.index.json": json.dumps(index), **dict.fromkeys(shards, "weights")}
    hub.add_repository("org/large", files)
    folder = find_model("org/large")
    assert contents(folder) == files
    if kind == "safetensors":
        (folder / shards[1]).unlink()
        with pytest.raises(ModelNotFoundError, match=f"does not have {shards[1]}"):
            find_model("org/large", local_files_only=True)


def test_a_revision_reaches_the_hub_and_the_cache_folder_takes_the_place_of_both_caches(hub, tmp_path):
    hub.add_repository("org/model", MODEL, revision="v2.0")
    where = {"revision": "v2.0", "cache_folder": tmp_path / "mine"}
    folder = find_model("org/model", **where)
    assert folder.name == COMMIT
    assert "GET /api/models/org/model/revision/v2.0" in hub.asked
    assert tmp_path / "mine" in folder.parents
    assert find_model("org/model", local_files_only=True, **where) == folder
    assert not (tmp_path / "hub").exists()


@pytest.mark.parametrize(
    ("status", "code", "said"), [(404, "RepoNotFound", "RepositoryNotFoundError: .*org/absent"), (500, "", "HfHubHTTP")]
)
def test_the_token_is_sent_to_the_hub_and_its_answer_said(status, code, said, hub):
    hub.pages["/api/models/org/absent"], hub.headers["/api/models/org/absent"] = status, {"X-Error-Code": code}
    with pytest.raises(ModelNotFoundError, match=f"the Hub: .*{said}"):
        find_model("org/absent", token="hf_secret")
    assert set(hub.tokens) == {"Bearer hf_secret"}


def test_an_incomplete_copy_in_the_hub_cache_is_completed_and_then_serves_offline(hub, monkeypatch):
    hub.add_repository("org/model", {**MODEL, "README.md": "not needed"})
    (find_model("org/model") / "model.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match="does not have weights"):
        find_model("org/model", local_files_only=True)
    assert contents(find_model("org/model")) == MODEL
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert contents(find_model("org/model")) == MODEL


@pytest.mark.parametrize(("address", "said"), [("http://127.0.0.1:9", "ConnectError"), (None, "ReadTimeout")])
def test_a_hub_that_does_not_answer_is_given_up_quickly_and_quietly(address, said, hub, packaged, monkeypatch, capfd):
    monkeypatch.setattr(find, "TIMEOUT", 0.3)
    monkeypatch.setattr(constants, "ENDPOINT", address or hub.url)
    hub.pages |= dict.fromkeys(["/api/models/org/slow", "/api/models/org/packaged"], SILENT)
    start = time.perf_counter()
    with pytest.raises(ModelNotFoundError, match=rf"the Hub: {said}"):
        find_model("org/slow")
    assert time.perf_counter() - start < 10
    assert capfd.readouterr() == ("", "")
    assert contents(find_model("org/packaged")) == MODEL
