"""Finds the axes on which the token vectors of `local:` are kept: `python bench/fit_tokens.py [--out FILE]`

The texts are those of the sample archive, which comes with the package: nothing of a benchmark is looked at.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import simonides
from simonides.embedder import TOKEN_DIMENSION
from simonides.embedders.local import LocalEmbedder
from simonides.importers import read
from simonides.record import Record, Scope

PACKAGE = Path(simonides.__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=PACKAGE / "embedders" / "local_tokens.npz")
    out = parser.parse_args().out
    embedder = LocalEmbedder()
    vectors = np.concatenate([embedder.look(text)[1] for text in texts()])
    mean = vectors.mean(axis=0)
    energy, axes = np.linalg.eigh(np.cov((vectors - mean).T))
    kept = axes[:, ::-1][:, :TOKEN_DIMENSION]
    np.savez_compressed(out, mean=mean.astype(np.float16), axes=kept.astype(np.float16))
    share = energy[::-1][:TOKEN_DIMENSION].sum() / energy.sum()
    print(f"{out}: {len(vectors)} tokens, {TOKEN_DIMENSION} axes hold {share:.1%} of how they differ")


def texts() -> list[str]:
    found = read([PACKAGE / "demo" / "archive.json"], Scope(user="me"))
    return [record.text for record in found if isinstance(record, Record) and record.kind == "message"]


if __name__ == "__main__":
    main()
