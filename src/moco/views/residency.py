"""Where the pixels live: on the device if they fit, else in host memory, else they are paged from disk."""

from __future__ import annotations

import torch

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
