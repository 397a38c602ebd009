"""Silences prints, warnings and progress bars of libraries while a model loads."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

_NOISY_LOGGERS = ("transformers", "huggingface_hub", "transformer_lens")


class _OnlyErrors(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR


@contextlib.contextmanager
def quiet_libraries(download_bars: bool = False) -> Iterator[None]:
    """Within the block, transformers, huggingface_hub and transformer_lens print, warn and draw nothing.

    Errors are still raised and logged, and records of other loggers pass. With `download_bars` the hub may draw
    its bars. Everything is as it was afterwards, also after an exception.
    """
    root = logging.getLogger()
    only_errors, placeholder = _OnlyErrors(), logging.NullHandler()
    levels = {name: logging.getLogger(name).level for name in _NOISY_LOGGERS}
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        # transformer_lens warns through the root logger, which installs a handler for good if it finds none.
        root.addHandler(placeholder)
        stack.callback(root.removeHandler, placeholder)
        root.addFilter(only_errors)
        stack.callback(root.removeFilter, only_errors)
        stack.enter_context(_progress_bars_off(download_bars))
        for name, level in levels.items():
            logging.getLogger(name).setLevel(logging.ERROR)
            stack.callback(logging.getLogger(name).setLevel, level)
        yield


@contextlib.contextmanager
def _progress_bars_off(download_bars: bool) -> Iterator[None]:
    from huggingface_hub import utils as hub
    from transformers.utils import logging as transformers_logging

    bars, hub_bars = transformers_logging.is_progress_bar_enabled(), not hub.are_progress_bars_disabled()
    transformers_logging.disable_progress_bar()
    if download_bars and hub_bars:
        hub.enable_progress_bars()
    try:
        yield
    finally:
        if bars:
            transformers_logging.enable_progress_bar()
        if hub_bars:
            hub.enable_progress_bars()
        else:
            hub.disable_progress_bars()
