r"""Whether an answer is worked out: `1591` is, `37*43` is not, though both are equal.

A number is worked out as a literal, a fraction in lowest terms, a surd, a power of ten, a multiple of pi, e or i,
and a sum of such terms of different kinds. A formula is, where it has no operator that the reference lacks and is
not copied from the question. Only form is looked at; whether the value is right is another's to judge.
"""

import re
from collections.abc import Iterator
from math import gcd, isqrt

MAX_CHARACTERS = 500
MAX_DEPTH = 20
FUNCTIONS = re.compile(
    r"\\(?:o?i+nt|sum|prod|lim|[dt]?binom|choose|[bp]?mod|gcd|lcm|max|min|det|frac\{d\}|lfloor|lceil)(?![a-zA-Z])"
    r"|(?<![A-Za-z\\])(?:gcd|lcm|max|min|mod|binom|sum|lim)(?![A-Za-z])|(?<![!=])!(?!=)|∫|∑|∏|%\s*\d|⌊|⌈"
)
ARITHMETIC = re.compile(
    r"\d\s*(?:\*|×|÷|\\cdot|\\times|\\div)\s*\(?-?(?!10\s*\^)\d|\d\s*[+]\s*\d|\d\s*/\s*\d|\d\s*-\s*\d"
    r"|\d\s*\)\s*\(|\d\s*\^|\\sqrt\s*\{?\s*\d|\b0[xXbBoO][\dA-Fa-f]"
)
_FUNCTION_OF_A_NUMBER = re.compile(r"\\(?:log|ln|lg|exp|a?r?c?(?:sin|cos|tan|cot|sec|csc)h?)(?![a-z])|\||\\[lr]?vert")
_DELIMITED = re.compile(r"\$([^$]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_NOISE = re.compile(
    r"\\(?:boxed|displaystyle|left|right|[bB]igg?[lr]?|[,;:! ]|quad|qquad)(?![a-zA-Z])|\\\$|\$|\\[()\[\]](?!\d)"
)
_UNIT = re.compile(
    r"(?:\\ |~|\s)*(?:\\(?:text|mathrm|mbox|operatorname)\s*\{[^{}]*\}(?:\s*\^\s*\{?-?\d\}?)?"
    r"|\\?%|\^\s*\{?\s*\\circ\s*\}?|°|\\degree|(?<=[\d} ])[A-Za-z][a-zA-Z²³]{1,}(?:\s*\^\s*\{?\d\}?)?"
    r"|(?<=\d)\s+[A-Za-z][A-Za-z/.\s]*(?:\^\{?\d\}?)?)+\s*\.?\s*$"
)
_TOKEN = re.compile(
    r"\s*(?:(\d+(?:\{?,\}?\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)|(\\[dtc]?frac|\\sqrt|\\pi|\\cdot|\\times|\\div|\\[a-zA-Z]+"
    r"|\*\*|[-+*/^(){}\[\]_,]|sqrt|pi|π|√|×|·|÷|[a-zA-Z])|(\S))"
)
_SPLIT = re.compile(r",(?!\d{3}(?!\d))|;|&|\\\\|\\cup|∪|\\(?:begin|end)\s*\{[a-z]*matrix\}")
_LAST_SIDE = re.compile(r"(?<![<>!])=|\\approx|≈|\\in(?![a-zA-Z])|\\to(?![a-zA-Z])")
_TWO_SIGNS = re.compile(r"[-+]\s*[({]?\s*[-+]")  # -(-42), --42


def in_evaluated_form(answer: str, reference: str, question: str = "") -> bool:
    r"""Whether an expression that equals the reference is in the form of an answer.

    >>> in_evaluated_form("1591", "1591"), in_evaluated_form("37*43", "1591"), in_evaluated_form("1591/43", "37")
    (True, False, False)
    >>> in_evaluated_form(r"\frac{3}{4}", "0.75"), in_evaluated_form(r"\int_0^x t dt", "x^2/2")
    (True, False)
    """
    answer, reference = _inside(answer)[:MAX_CHARACTERS], _inside(reference)[:MAX_CHARACTERS]
    if _plain(answer) == _plain(reference):
        return True
    if _operators(answer) - _operators(reference):
        return False
    wanted = [_is_number(part) for part in _parts(reference)]
    if all(reading is True for reading in wanted):
        return not _FUNCTION_OF_A_NUMBER.search(answer) and all(map(_is_worked_out, _parts(answer)))
    return not _copied(answer, reference, question)


def _inside(text: str) -> str:
    """The last expression between dollars or brackets; the text itself where there are none."""
    found = _DELIMITED.findall(text)
    return next(filter(None, found[-1])) if found else text


def _operators(text: str) -> set[str]:
    return {re.sub(r"[\\dt]*(binom|frac)|\s|\d", r"\1", found[0]) for found in FUNCTIONS.finditer(text)}


def _plain(text: str) -> str:
    """The text without marks that have no meaning."""
    text = re.sub(r"\\[dt]frac", r"\\frac", _NOISE.sub("", text)).replace("**", "^").replace("\\cdot", "*")
    return re.sub(r"[\s{}]", "", text).rstrip(".")


def _copied(answer: str, reference: str, question: str) -> bool:
    """Whether a formula stands in the question, while the reference does not."""
    copy, plain = _plain(_last_side(answer)), _plain(question)
    if len(copy) < 3 or copy not in plain:
        return False
    wanted = _plain(_last_side(reference))
    return wanted not in plain and sorted(copy) != sorted(wanted)


def _last_side(text: str) -> str:
    """What stands after the last `=` of a text."""
    return _LAST_SIDE.split(text)[-1]


def _parts(text: str) -> Iterator[str]:
    """The elements of a list, set, tuple, interval or matrix; the text itself where it is none."""
    for part in _SPLIT.split(_NOISE.sub(" ", _last_side(text))):
        part = part.strip().rstrip(".").strip()
        part = part.replace("\\{", "(").replace("\\}", ")")
        while part[:1] in ("(", "[") and part.count("(") + part.count("[") > part.count(")") + part.count("]"):
            part = part[1:].strip()
        while part[-1:] in (")", "]") and part.count("(") + part.count("[") < part.count(")") + part.count("]"):
            part = part[:-1].strip()
        if part:
            yield part


def _is_worked_out(part: str) -> bool:
    """True too for what is no number to this grammar and has no arithmetic in it."""
    reading = _is_number(part)
    return reading if reading is not None else not ARITHMETIC.search(part)


def _is_number(part: str) -> bool | None:
    """Whether a text is a worked-out number; None where it is no number of this grammar."""
    part = re.sub(r"^\s*(?:\\pm|±|\\mp)", "", _UNIT.sub("", part)).strip().lstrip("€£¥").strip()
    if re.fullmatch(r"[-+]?(?:\\infty|∞|infinity)", part):
        return True
    if _TWO_SIGNS.match(part):
        return False
    try:
        reader = _Reader(part)
        terms = reader.sum()
        if reader.peek():
            raise _NoNumberError
    except _NotWorkedOutError:
        return False
    except (_NoNumberError, RecursionError):
        return None
    return bool(terms)


class _NoNumberError(Exception):
    """Not of the grammar."""


class _NotWorkedOutError(Exception):
    """Of the grammar, with something left to compute."""


class _Reader:
    """A recursive descent over a number; each method reads one rule and gives what it is a multiple of."""

    def __init__(self, text: str) -> None:
        self.tokens: list[str] = []
        for number, mark, other in _TOKEN.findall(text):
            if other:
                raise _NoNumberError
            self.tokens.append(number or mark)
        self.at = 0
        self.depth = 0

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, *marks: str) -> bool:
        found = self.peek() in marks and self.peek() != ""
        self.at += found
        return found

    def want(self, mark: str) -> None:
        if not self.take(mark):
            raise _NoNumberError

    def sum(self) -> list[str]:
        """Terms of different kinds: 1 + sqrt(2) + pi."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _NoNumberError
        self.take("-", "+")
        kinds = [self.term()]
        while self.take("+", "-", "\\pm"):
            kinds.append(self.term())
        self.depth -= 1
        if len(set(kinds)) < len(kinds):
            raise _NotWorkedOutError  # 40 + 2, 2 sqrt(3) + sqrt(3)
        return kinds

    def term(self) -> str:
        """Factors, at most one of them a number besides a power of ten; perhaps over a divisor."""
        numbers: list[str] = []
        kinds: list[str] = []
        while True:
            start = self.at
            kind = self.factor(numbers)
            if kind:
                if kind.startswith("sqrt") and any(other.startswith("sqrt") for other in kinds):
                    raise _NotWorkedOutError
                kinds.append(kind)
            elif self.at > start and len(numbers) > 1 and not self.is_mixed(numbers):
                raise _NotWorkedOutError
            if self.take("/", "÷", "\\div"):
                divisor: list[str] = []
                under = self.factor(divisor)
                if not kinds and not under:
                    lowest(numbers, divisor)
                kinds += [f"1/{under}"] if under else []
                if self.peek() in ("*", "\\cdot", "\\times", "/"):
                    raise _NotWorkedOutError
                continue_on = self.peek() in ("\\pi", "pi", "π", "\\sqrt", "sqrt", "√", "e", "i")
            else:
                continue_on = self.take("*", "\\cdot", "\\times", "×", "·") or self.starts_factor()
            if not continue_on:
                return "*".join(sorted(kinds))

    def starts_factor(self) -> bool:
        token = self.peek()
        return bool(token) and (token[0].isdigit() or token in FIRST_OF_FACTOR)

    def is_mixed(self, numbers: list[str]) -> bool:
        """Whether the numbers of a term are `2 \\frac{1}{2}` or `3 * 10^5`."""
        return len(numbers) == 2 and (numbers[1] == "ten" or (numbers[0].isdigit() and numbers[1].startswith("frac")))

    def factor(self, numbers: list[str]) -> str:
        """One factor: a kind, or "" and an entry in `numbers`."""
        kind = self.atom(numbers)
        if not self.take("^", "**"):
            return kind
        exponent = self.exponent()
        if not kind and numbers and numbers[-1] == "10":
            numbers[-1] = "ten"
            return ""
        if kind in ("e", "pi") and exponent.strip("{}()") not in ("0", "1"):
            return f"{kind}^{exponent}"
        raise _NotWorkedOutError

    def exponent(self) -> str:
        start = self.at
        if self.take("{") or self.take("("):
            self.sum()
            if not (self.take("}") or self.take(")")):
                raise _NoNumberError
        else:
            self.take("-")
            self.atom([])
        return "".join(self.tokens[start : self.at])

    def atom(self, numbers: list[str]) -> str:
        token = self.peek()
        self.at += 1
        if token[:1].isdigit() or token[:1] == ".":
            numbers.append(re.sub(r"[{},]", "", token))
            return ""
        if token in ("\\frac", "\\dfrac", "\\tfrac", "\\cfrac"):
            return self.fraction(numbers)
        if token in ("\\sqrt", "sqrt", "√"):
            return self.root()
        if token in ("\\pi", "pi", "π"):
            return "pi"
        if token in ("e", "i"):
            return token
        if token in ("(", "{", "["):
            kinds = self.sum()
            self.want({"(": ")", "{": "}", "[": "]"}[token])
            if kinds == [""]:
                numbers.append("group")
            return "" if kinds == [""] else "(" + "+".join(kinds) + ")"
        raise _NoNumberError

    def fraction(self, numbers: list[str]) -> str:
        over, top = self.argument()
        under, bottom = self.argument()
        if over == [""] and under == [""]:
            lowest(top, bottom)
            numbers.append("frac")
            return ""
        kind = "+".join(over) + ("" if under == [""] else "/" + "+".join(under))
        return f"({kind})" if len(over) > 1 else kind

    def argument(self) -> tuple[list[str], list[str]]:
        r"""What stands in braces, or one digit: \frac12. Its kinds, and its tokens where it is a literal."""
        token = self.peek()
        if token.isdigit() and len(token) > 1:  # \frac12: two arguments of one digit
            self.tokens[self.at : self.at + 1] = list(token)
        start = self.at
        if not self.take("{"):
            kind = self.atom([])
            return [kind], self.tokens[start : self.at]
        kinds = self.sum()
        self.want("}")
        return kinds, self.tokens[start + 1 : self.at - 1]

    def root(self) -> str:
        order = 2
        if self.take("["):
            order = int(self.peek()) if self.peek().isdigit() and len(self.peek()) < 3 else 0
            self.at += 1
            self.want("]")
        start = self.at
        if self.take("("):
            kinds = self.sum()
            self.want(")")
            inside = self.tokens[start + 1 : self.at - 1]
        else:
            kinds, inside = self.argument()
        text = "".join(inside)
        if kinds == [""] and text.isdigit() and is_power(int(text[:40]), order):
            raise _NotWorkedOutError  # sqrt(16)
        return f"sqrt[{order}]({text})"


FIRST_OF_FACTOR = {
    "\\frac", "\\dfrac", "\\tfrac", "\\cfrac", "\\sqrt", "sqrt", "√", "\\pi", "pi", "π", "e", "i", "(", ".",
}  # fmt: skip


def lowest(top: list[str], bottom: list[str]) -> None:
    """Refuse a quotient of whole numbers that is not in lowest terms, and one of other numbers."""
    digits = ["".join(part).lstrip("-+") for part in (top, bottom)]
    if not all(part.isdigit() and len(part) <= 100 for part in digits):
        raise _NotWorkedOutError
    if gcd(int(digits[0]), int(digits[1])) != 1 or int(digits[1]) == 1:
        raise _NotWorkedOutError


def is_power(number: int, order: int) -> bool:
    """Whether a whole number is the `order`-th power of one."""
    if order == 2:
        return isqrt(number) ** 2 == number
    near = round(number ** (1 / order)) if order > 2 else 0
    return order > 2 and any(root**order == number for root in (near - 1, near, near + 1))
