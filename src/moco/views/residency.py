"""Where the pixels live: on the device if they fit, else in host memory, else they are paged from disk."""

from __future__ import annotations

from collections.abc import Callable

import torch

from moco.environment import cores, memory_available_bytes
from moco.views.ragged import Ragged
from moco.views.source import Images, Source
from moco.views.staging import Staging

SHARE = 0.5  # of the free memory that pixels may take: activations need the rest
GB = 1e9


def choose(size_bytes: int, device: torch.device, device_free_bytes: int, host_free_bytes: int) -> tuple[str, str]:
    """(`device`, `host` or `disk`, one phrase that says why). A pure function, so that it can be tested."""
    size = f"{size_bytes / GB:.1f} GB of pixels"
    fits_host = size_bytes <= SHARE * host_free_bytes
    if device.type == "cpu":
        if fits_host:
            return "host", f"{size}, mapped: they fit in memory ({host_free_bytes / GB:.1f} GB free)"
        return "disk", f"{size}, paged from disk: {host_free_bytes / GB:.1f} GB of memory are free"
    free = f"{device_free_bytes / GB:.1f} GB free on the GPU"
    if size_bytes <= SHARE * device_free_bytes:
        return "device", f"{size} on the GPU ({free})"
    if fits_host:
        return "host", f"{size} in host memory, copied batch by batch through pinned memory ({free})"
    return "disk", f"{size} read from disk one batch ahead ({free}, {host_free_bytes / GB:.1f} GB of host memory)"


def choose_compressed(
    stored_bytes: int, size_bytes: int, device: torch.device, device_free_bytes: int
) -> tuple[str, str]:
    """As `choose` for JPEGs of `stored_bytes` that make `size_bytes` of pixels: `device`, or `host`, batch by batch."""
    size = f"{stored_bytes / GB:.1f} GB of JPEGs ({size_bytes / GB:.1f} GB of pixels)"
    if device.type == "cpu":
        return "host", f"{size}, mapped, decoded one batch ahead"
    free = f"{device_free_bytes / GB:.1f} GB free on the GPU"
    if size_bytes <= SHARE * device_free_bytes:
        return "device", f"{size}, decoded once onto the GPU ({free})"
    return "host", f"{size}, decoded one batch ahead and copied through pinned memory ({free})"


def placed_compressed(
    images: Images, stored_bytes: int, size_bytes: int, device: torch.device, upload: Callable[[], Ragged]
) -> tuple[Source, str]:
    """As `placed` for `images` that are decoded when they are read."""
    where, why = choose_compressed(stored_bytes, size_bytes, device, _free_bytes(device))
    return (upload() if where == "device" else Staging(images, device, cores())), why


def placed(mapped: Ragged, size_bytes: int, device: torch.device, upload: Callable[[], Ragged]) -> tuple[Source, str]:
    """The source of `mapped` images, `size_bytes` in all, where there is room for them; and one phrase that says why.

    `upload` makes a copy of them on `device`.
    """
    where, why = choose(size_bytes, device, _free_bytes(device), memory_available_bytes())
    if where == "device":
        return upload(), why
    if where == "host" and device.type == "cpu":
        return mapped, why
    return Staging(mapped, device), why


def _free_bytes(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
