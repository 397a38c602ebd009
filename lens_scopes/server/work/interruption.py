"""Hooks that let a job stop between any two layers, forward or backward."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from lens_scopes.engine.backward import Progress
from lens_scopes.engine.model import Hook, ModelLike, ScopedModel
from lens_scopes.server.work.queue import Job


@contextmanager
def interruptible(model: ModelLike, job: Job, stage: str) -> Iterator[Progress]:
    """Lets the job stop the model, and report how far it is.

    Args:
        model: whose forward and backward passes run in the with-block.
        job: checked before each layer, both ways.
        stage: what the steps are that the progress function is called with.

    Yields:
        A progress function for the work; until it is first called with more than one step, layers are reported.
    """
    n_layers = model.cfg.n_layers
    by_layers = True

    def progress(done: int, total: int) -> None:
        nonlocal by_layers
        by_layers = by_layers and total <= 1
        job.report(stage, done, total)

    def pass_layer(name: str, done: int) -> None:
        if by_layers:
            job.report(name, done, n_layers)
        else:
            job.check()

    def watch(layer: int) -> Hook:
        def back(gradient: Tensor) -> None:
            pass_layer("backward", n_layers - layer)

        def hook(activation: Tensor) -> None:
            pass_layer("forward", layer + 1)
            if activation.requires_grad:
                activation.register_hook(back)

        return hook

    with ScopedModel.of(model).hooked([(f"blocks.{layer}.hook_resid_pre", watch(layer)) for layer in range(n_layers)]):
        yield progress
