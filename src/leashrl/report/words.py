"""How numbers read on the page."""


def number(value: float | None) -> str:
    """
    >>> number(-0.04), number(-1234.56), number(None)
    ('0.0', '−1,234.6', '–')
    """
    return "–" if value is None else f"{round(value, 1) + 0.0:,.1f}".replace("-", "−")


def interval(low: float | None, high: float | None) -> str:
    """
    >>> interval(1.0, 2.5), interval(None, None)
    ('1.0 to 2.5', '–')
    """
    return "–" if low is None or high is None else f"{number(low)} to {number(high)}"


def p_value(p: float | None) -> str:
    """
    >>> p_value(0.0213), p_value(0.1), p_value(0.00004), p_value(None)
    ('0.021', '0.10', '< 0.001', '–')
    """
    if p is None:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.0995 else f"{p:.2f}"


def seeds(n: int) -> str:
    words = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    return f"{words[n] if n < len(words) else n} seed{'' if n == 1 else 's'}"
