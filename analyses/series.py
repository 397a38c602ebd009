"""Series with known dynamics, made here: chaotic, periodic, random, and two of them under a drift."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
LOWEST, HIGHEST = 15, 85


def lorenz(length: int, generator: np.random.Generator) -> Values:
    """x of the Lorenz system (σ = 10, ρ = 28, β = 8/3) every 0.12 time units, after a transient; Runge–Kutta 4."""
    state = generator.normal(0, 1, 3) + (1.0, 1.0, 25.0)
    step, every = 0.01, 12

    def flow(s: Values) -> Values:
        return np.array([10 * (s[1] - s[0]), s[0] * (28 - s[2]) - s[1], s[0] * s[1] - 8 / 3 * s[2]])

    found = []
    for index in range(1000 + length * every):
        a = flow(state)
        b = flow(state + step / 2 * a)
        c = flow(state + step / 2 * b)
        d = flow(state + step * c)
        state = state + step / 6 * (a + 2 * b + 2 * c + d)
        if index >= 1000 and (index - 1000) % every == 0:
            found.append(state[0])
    return np.array(found)


def logistic(length: int, generator: np.random.Generator) -> Values:
    """x ← 3.9 x (1 − x), after a transient: chaotic, each value a function of the one before."""
    x = generator.uniform(0.1, 0.9)
    found = []
    for _ in range(100 + length):
        x = 3.9 * x * (1 - x)
        found.append(x)
    return np.array(found[100:])


def brownian(length: int, generator: np.random.Generator) -> Values:
    """Sums of independent normal steps: nothing but the last value matters."""
    return np.cumsum(generator.normal(0, 1, length))


def periodic(length: int, generator: np.random.Generator) -> Values:
    """Random values that repeat with a whole period from 5 to 9."""
    period = int(generator.integers(5, 10))
    return np.resize(generator.uniform(0, 1, period), length)


def autoregressive(length: int, generator: np.random.Generator) -> Values:
    """x_t = 1.6 x_{t−1} − 0.9 x_{t−2} + noise: a noisy oscillation of about 11 steps."""
    x = [0.0, 0.0]
    for _ in range(100 + length):
        x.append(1.6 * x[-1] - 0.9 * x[-2] + generator.normal())
    return np.array(x[-length:])


def drifted(make: Callable[[int, np.random.Generator], Values]) -> Callable[[int, np.random.Generator], Values]:
    """The same, with a line added that climbs by the series' own range."""

    def made(length: int, generator: np.random.Generator) -> Values:
        values = make(length, generator)
        return values + np.linspace(0, np.ptp(values), length)

    return made


KINDS: dict[str, Callable[[int, np.random.Generator], Values]] = {
    "logistic map": logistic,
    "Lorenz": lorenz,
    "periodic": periodic,
    "AR(2)": autoregressive,
    "Brownian": brownian,
    "logistic, drifted": drifted(logistic),
    "periodic, drifted": drifted(periodic),
}


def written(values: Sequence[float] | Values) -> tuple[str, list[int]]:
    """The series as two-digit numbers from LOWEST to HIGHEST, all but the last followed by commas; and the numbers.

    The last one is left out of the text: it is what is to be predicted.
    """
    low, high = float(np.min(values)), float(np.max(values))
    scaled = np.rint(LOWEST + (np.asarray(values) - low) / (high - low) * (HIGHEST - LOWEST)).astype(int).tolist()
    return "".join(f"{value:02d}," for value in scaled[:-1]), scaled
