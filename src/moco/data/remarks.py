"""What the image readers would write to the terminal: warnings, log lines, and libtiff's own lines on stderr."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import warnings
from collections.abc import Iterator

from PIL import Image

READERS = ("PIL", "tifffile", "imagecodecs")


@contextlib.contextmanager
def without_remarks() -> Iterator[None]:
    """Keep the readers' remarks (odd EXIF, a large picture, a bad code word) off the screen while many are decoded.

    A file that can't be read is told by what is raised. Warning filters, loggers and libtiff's handlers belong to
    the whole process: enter it once around the threads, not inside them.
    """
    with warnings.catch_warnings(), _unlogged(), _silent_libtiff():
        warnings.filterwarnings("ignore", module=rf"({'|'.join(READERS)})\b")
        yield


@contextlib.contextmanager
def _unlogged() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in READERS]
    before = [logger.propagate for logger in loggers]
    silence = logging.NullHandler()  # without any handler Python writes to stderr
    for logger in loggers:
        logger.addHandler(silence)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, propagate in zip(loggers, before, strict=True):
            logger.propagate = propagate
            logger.removeHandler(silence)


@contextlib.contextmanager
def _silent_libtiff() -> Iterator[None]:
    """Take away the handlers with which the libtiff that Pillow is linked to writes to file descriptor 2."""
    try:
        library = ctypes.CDLL(Image.core.__file__)  # finds the functions of what Pillow itself has loaded
        setters = [library.TIFFSetErrorHandler, library.TIFFSetWarningHandler]
    except (AttributeError, OSError):  # linked in without its names: its lines can't be kept away
        yield
        return
    for setter in setters:
        setter.restype, setter.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    before = [setter(None) for setter in setters]
    try:
        yield
    finally:
        for setter, handler in zip(setters, before, strict=True):
            setter(handler)
