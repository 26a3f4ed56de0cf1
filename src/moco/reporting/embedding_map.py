"""A map of features: two coordinates an image, near where the features are alike."""

from __future__ import annotations

from importlib import metadata
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Method = Literal["auto", "umap", "tsne", "pca"]
METHODS = ("auto", "umap", "tsne", "pca")
NAMES = {"umap": "UMAP", "tsne": "t-SNE", "pca": "PCA"}
PERPLEXITY = 30.0
ITERATIONS = 500
FIRST_DIMS = 50  # principal components that t-SNE starts from, as its authors advise
FEW_IMAGES = 12  # up to here there are no neighbourhoods to lay out


def umap_is_there() -> bool:
    """Whether the package `umap-learn` is installed."""
    try:
        return bool(metadata.version("umap-learn"))
    except metadata.PackageNotFoundError:
        return False


def laid_out(features: NDArray[np.float32], method: Method = "auto") -> tuple[NDArray[np.float32], str]:
    """(float32 (N, 2), the method used) of `features` (N, F), which are brought to length one first.

    `auto` is UMAP where it is installed and t-SNE elsewhere; `FEW_IMAGES` and less are always laid out by PCA. The same
    features give the same map. The coordinates have no unit.
    """
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    if method == "auto":
        method = "umap" if umap_is_there() else "tsne"
    if len(unit) <= FEW_IMAGES:
        method = "pca"
    if method == "umap":
        return _umap(unit), "umap"
    if method == "tsne":
        return _tsne(unit), "tsne"
    return _pca(unit, 2), "pca"


def _pca(unit: NDArray[np.float32], dims: int) -> NDArray[np.float32]:
    """The first `dims` principal components (N, dims); zeros beyond those that there are."""
    centred = (unit - unit.mean(0)).astype(np.float64)
    if len(centred) < centred.shape[1]:
        left, scale, _ = np.linalg.svd(centred, full_matrices=False)
        found = (left * scale)[:, :dims]
    else:
        _, vectors = np.linalg.eigh(centred.T @ centred)
        found = centred @ vectors[:, ::-1][:, :dims]
    return np.pad(found, ((0, 0), (0, dims - found.shape[1]))).astype(np.float32)


def _tsne(unit: NDArray[np.float32]) -> NDArray[np.float32]:
    from sklearn.manifold import TSNE

    first = _pca(unit, FIRST_DIMS)
    begin = first[:, :2] / max(float(first[:, 0].std()), 1e-12) * 1e-4
    perplexity = min(PERPLEXITY, (len(unit) - 1) / 3)
    tsne = TSNE(init=begin, perplexity=perplexity, max_iter=ITERATIONS, angle=0.7, learning_rate="auto", random_state=0)
    return np.asarray(tsne.fit_transform(first), np.float32)


def _umap(unit: NDArray[np.float32]) -> NDArray[np.float32]:
    import warnings

    import umap

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a seed takes one thread, which is why it is given
        fitted = umap.UMAP(n_neighbors=min(15, len(unit) - 1), metric="cosine", random_state=0)
        return np.asarray(fitted.fit_transform(unit), np.float32)
