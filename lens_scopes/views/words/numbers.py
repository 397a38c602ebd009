"""Number formats of every view. `page/scripts/numbers.js` writes the same text for the same number."""

from __future__ import annotations

import math


def number(value: float) -> str:
    """Four significant digits, or words where there is no number.

    >>> number(14.2), number(0.01234), number(12345.0), number(1.234e-7), number(0.0)
    ('14.20', '0.01234', '1.234e+04', '1.234e-07', '0')
    """
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "infinite" if value > 0 else "minus infinite"
    return f"{value:#.4g}".removesuffix(".") if value else "0"


def short_number(value: float) -> str:
    """Two significant digits for a narrow cell; whole numbers from 100 to 9999, powers of ten below 0.001.

    >>> short_number(0.0123), short_number(0.00098), short_number(123.4), short_number(12345.0)
    ('0.012', '9.8e-4', '123', '1.2e4')
    """
    if not math.isfinite(value):
        return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    if 100 <= abs(value) < 9999.5:
        return f"{value:.0f}"
    text = f"{value:.2g}" if value else "0"
    if text.removeprefix("-").startswith("0.000"):
        digits, _, power = f"{value:.1e}".partition("e")
        text = f"{digits.removesuffix('.0')}e{power}"
    return text.replace("e-0", "e-").replace("e+0", "e+").replace("e+", "e")


def percent(share: float) -> str:
    """A share or probability in [0, 1] as a percentage.

    >>> percent(0.78), percent(0.042), percent(0.02), percent(0.00013), percent(1e-9)
    ('78.0%', '4.2%', '2.0%', '0.013%', '<0.001%')
    """
    hundredfold = 100 * share
    if hundredfold >= 9.95:
        return f"{hundredfold:.1f}%"
    if hundredfold == 0:
        return "0%"
    return f"{hundredfold:#.2g}%" if hundredfold >= 0.001 else "<0.001%"
