"""SIMD arithmetic in LLVM's assembly: values are vectors of float64 with one lane per point.

`Assembly` writes straight-line code; `Value` is one of its results and takes Python's operators. Sine, cosine,
exponential and logarithm work on whole vectors here, to less than one unit in the last place (reductions and
polynomials after FreeBSD's msun, by Sun Microsystems, 1993); what is left to the C library goes lane by lane. A lane's
result never depends on the other lanes.
"""

import math
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

CONVERSION = 1.5 * 2.0**52
"""Added to x, |x| < 2^51, it rounds x to an integer, and leaves that integer in the low bits."""

LIBRARY = {
    "acos": 1,
    "acosh": 1,
    "asin": 1,
    "asinh": 1,
    "atan": 1,
    "atan2": 2,
    "atanh": 1,
    "cosh": 1,
    "erf": 1,
    "expm1": 1,
    "fmod": 2,
    "hypot": 2,
    "log1p": 1,
    "pow": 2,
    "remainder": 2,
    "sinh": 1,
    "tanh": 1,
    "sin": 1,
    "cos": 1,
}
"""The C library's functions that are called lane by lane, with their number of arguments."""


def literal(number: float) -> str:
    """A float64 as LLVM writes it, exact."""
    return f"0x{_bits_of(number):016X}"


def _bits_of(number: float) -> int:
    return int(struct.unpack("<Q", struct.pack("<d", number))[0])


class Value:
    """A vector of float64; numbers meet it as constants in all lanes."""

    __slots__ = ("code", "name")

    def __init__(self, code: "Assembly", name: str) -> None:
        self.code, self.name = code, name

    def __add__(self, other: "Value | float") -> "Value":
        return self.code.arithmetic("fadd", self, other)

    def __sub__(self, other: "Value | float") -> "Value":
        return self.code.arithmetic("fsub", self, other)

    def __rsub__(self, other: float) -> "Value":
        return self.code.arithmetic("fsub", other, self)

    def __mul__(self, other: "Value | float") -> "Value":
        return self.code.arithmetic("fmul", self, other)

    def __truediv__(self, other: "Value | float") -> "Value":
        return self.code.arithmetic("fdiv", self, other)

    def __rtruediv__(self, other: float) -> "Value":
        return self.code.arithmetic("fdiv", other, self)

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self) -> "Value":
        return Value(self.code, self.code.let(f"fneg {self.code.vector} {self.name}"))


class Assembly:
    """Lines of LLVM assembly for vectors of `width` lanes.

    Args:
        width: lanes.
        shared: code whose declarations and helper functions this code's function will stand beside.
    """

    def __init__(self, width: int, shared: "Assembly | None" = None) -> None:
        self.width = width
        self.vector, self.integer, self.mask = (f"<{width} x {kind}>" for kind in ("double", "i64", "i1"))
        self.lines: list[str] = []
        self.declarations: set[str] = set() if shared is None else shared.declarations
        self.functions: dict[str, str] = {} if shared is None else shared.functions
        self.library: set[str] = set() if shared is None else shared.library
        self._pairs: dict[str, tuple[Value, Value]] = {}
        self._count = 0

    # Plain lines -----------------------------------------------------------------------------------------------------

    def let(self, expression: str) -> str:
        """The name of a new result."""
        self._count += 1
        name = f"%v{self._count}"
        self.lines.append(f"{name} = {expression}")
        return name

    def do(self, statement: str) -> None:
        """A line without a result."""
        self.lines.append(statement)

    def constant(self, number: float) -> Value:
        """The same number in all lanes."""
        return Value(self, f"splat (double {literal(number)})")

    def bits(self, number: int) -> str:
        """The same integer in all lanes."""
        return f"splat (i64 {number})"

    def value(self, x: Value | float) -> Value:
        """`x`, made a constant if it is a number."""
        return x if isinstance(x, Value) else self.constant(x)

    def arithmetic(self, operation: str, a: Value | float, b: Value | float) -> Value:
        """`fadd`, `fsub`, `fmul` or `fdiv`."""
        left, right = self.value(a).name, self.value(b).name
        return Value(self, self.let(f"{operation} {self.vector} {left}, {right}"))

    def intrinsic(self, name: str, *arguments: Value | float) -> Value:
        """LLVM's own vector function `llvm.name`."""
        types = ", ".join([self.vector] * len(arguments))
        full = f"@llvm.{name}.v{self.width}f64"
        self.declarations.add(f"declare {self.vector} {full}({types})")
        return Value(self, self.let(f"call {self.vector} {full}({self._typed(arguments)})"))

    def _typed(self, arguments: Sequence[Value | float]) -> str:
        return ", ".join(f"{self.vector} {self.value(a).name}" for a in arguments)

    def compare(self, how: str, a: Value | float, b: Value | float) -> str:
        """A mask by lane: `olt`, `ole`, `oeq` are false for not-a-numbers, `une` is true."""
        return self.let(f"fcmp {how} {self.vector} {self.value(a).name}, {self.value(b).name}")

    def both(self, a: str, b: str) -> str:
        """Where both masks hold."""
        return self.let(f"and {self.mask} {a}, {b}")

    def either(self, a: str, b: str) -> str:
        """Where one of the masks holds."""
        return self.let(f"or {self.mask} {a}, {b}")

    def select(self, mask: str, a: Value | float, b: Value | float) -> Value:
        """`a` where the mask holds, else `b`."""
        return Value(self, self.let(f"select {self.mask} {mask}, {self._typed((a, b))}"))

    def spread(self, vector: str) -> Value:
        """A vector's first number in all lanes."""
        zeros = f"<{self.width} x i32> zeroinitializer"
        return Value(self, self.let(f"shufflevector {self.vector} {vector}, {self.vector} poison, {zeros}"))

    def by_lane(self, name: str, *arguments: Value | float) -> Value:
        """A function of the C library, lane by lane."""
        self.library.add(name)
        self.declarations.add(f"declare double @{name}({', '.join(['double'] * len(arguments))})")
        result = "poison"
        for lane in range(self.width):
            scalars = [
                f"double {self.let(f'extractelement {self.vector} {self.value(a).name}, i32 {lane}')}"
                for a in arguments
            ]
            found = self.let(f"call double @{name}({', '.join(scalars)})")
            result = self.let(f"insertelement {self.vector} {result}, double {found}, i32 {lane}")
        return Value(self, result)

    # Elementary functions --------------------------------------------------------------------------------------------

    def sine_cosine(self, x: Value) -> tuple[Value, Value]:
        """Sine and cosine, computed together."""
        if x.name not in self._pairs:
            pair = f"{{{self.vector}, {self.vector}}}"
            self._define("sincos", pair, _sine_cosine)
            both = self.let(f"call {pair} @sincos({self.vector} {x.name})")
            first, second = (Value(self, self.let(f"extractvalue {pair} {both}, {i}")) for i in (0, 1))
            self._pairs[x.name] = first, second
        return self._pairs[x.name]

    def exponential(self, x: Value) -> Value:
        """e^x."""
        self._define("exponential", self.vector, _exponential)
        return Value(self, self.let(f"call {self.vector} @exponential({self.vector} {x.name})"))

    def logarithm(self, x: Value) -> Value:
        """The natural logarithm."""
        self._define("logarithm", self.vector, _logarithm)
        return Value(self, self.let(f"call {self.vector} @logarithm({self.vector} {x.name})"))

    def _define(self, name: str, result: str, write: "Callable[[Assembly, Value], None]") -> None:
        """Adds the function `name` of one vector, once."""
        if name in self.functions:
            return
        self.functions[name] = ""
        body = Assembly(self.width, shared=self)
        write(body, Value(body, "%x"))
        text = "\n".join(body.lines)
        self.functions[name] = f"define internal {result} @{name}({self.vector} %x) nounwind {{\nentry:\n{text}\n}}\n"

    # Control flow ----------------------------------------------------------------------------------------------------

    @contextmanager
    def loop(self, name: str, count: str, step: int, carried: Sequence[str] = ()) -> Iterator[tuple[str, list[str]]]:
        """Code for `index` = 0, `step`, ... below `count` (an i64, above 0).

        Yields the index's name, and the names of the carried vectors, all zero at first. The block puts, in place of
        those in the list, the names of what they become; after it, those hold the last ones. `carried` names them.
        """
        before, index = f"before_{name}", f"%{name}"
        self.do(f"br label %{before}")
        self.do(f"{before}:")
        self.do(f"br label %loop_{name}")
        self.do(f"loop_{name}:")
        at = len(self.lines)
        state = [f"%{name}_{c}" for c in carried]
        heads = list(state)
        yield index, state
        self.do(f"br label %next_{name}")
        self.do(f"next_{name}:")
        self.do(f"%{name}_next = add i64 {index}, {step}")
        self.lines[at:at] = [
            f"{index} = phi i64 [0, %{before}], [%{name}_next, %next_{name}]",
            *(
                f"{head} = phi {self.vector} [zeroinitializer, %{before}], [{new}, %next_{name}]"
                for head, new in zip(heads, state)
            ),
        ]
        more = self.let(f"icmp slt i64 %{name}_next, {count}")
        self.do(f"br i1 {more}, label %loop_{name}, label %after_{name}")
        self.do(f"after_{name}:")

    def module(self, name: str, signature: str) -> str:
        """The whole module: the function `name`, made of the lines so far, and what it calls."""
        text = "\n".join(self.lines)
        main = f"define void @{name}({signature}) nounwind {{\nentry:\n{text}\nret void\n}}\n"
        return "\n".join([*sorted(self.declarations), *(self.functions[k] for k in sorted(self.functions)), main])


def _polynomial(code: Assembly, x: Value, coefficients: Sequence[float]) -> Value:
    """c_0 + x (c_1 + x (c_2 + ...)); products and sums in one rounding where the processor can."""
    result = code.constant(coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        result = code.intrinsic("fmuladd", result, x, coefficient)
    return result


# pi/2 in three parts of 33 bits, so that their products with integers below 2^20 are exact, and what is left of it.
_HALF_PI = (
    float.fromhex("0x1.921fb544p+0"),
    float.fromhex("0x1.0b4611a6p-34"),
    float.fromhex("0x1.3198a2e0p-69"),
    float.fromhex("0x1.b839a252049c1p-104"),
)
_SINE = (
    -1.66666666666666324348e-01,
    8.33333333332248946124e-03,
    -1.98412698298579493134e-04,
    2.75573137070700676789e-06,
    -2.50507602534068634195e-08,
    1.58969099521155010221e-10,
)
_COSINE = (
    4.16666666666666019037e-02,
    -1.38888888888741095749e-03,
    2.48015872894767294178e-05,
    -2.75573143513906633035e-07,
    2.08757232129817482790e-09,
    -1.13596475577881948265e-11,
)
_FAR = 2.0**20
"""Beyond it, angles are reduced by the C library."""


def _sine_cosine(code: Assembly, x: Value) -> None:
    """With x = n pi/2 + (y + tail), |y| <= pi/4: n modulo 4 says which of the series of y, and with which sign."""
    shifted = x * (2.0 / math.pi) + CONVERSION
    n = shifted - CONVERSION
    first = x - n * _HALF_PI[0]
    product = n * _HALF_PI[1]
    second = first - product
    # What the last subtraction lost, exactly (Knuth's two-sum).
    taken = first - second
    lost = (first - (second + taken)) + (taken - product)
    rest = (lost - n * _HALF_PI[2]) - n * _HALF_PI[3]
    y = second + rest
    tail = (second - y) + rest

    z = y * y
    half = z * 0.5
    higher = _polynomial(code, z, _SINE[1:])
    cube = z * y
    sine = y - ((z * (tail * 0.5 - cube * higher) - tail) - cube * _SINE[0])
    whole = 1.0 - half
    cosine = whole + (((1.0 - whole) - half) + (z * (z * _polynomial(code, z, _COSINE)) - y * tail))

    quadrant = code.let(f"bitcast {code.vector} {shifted.name} to {code.integer}")

    def turned(quadrants: str, even: Value, odd: Value) -> Value:
        """The series that an odd or even quadrant takes, negative in quadrants 2 and 3."""
        low = code.let(f"trunc {code.integer} {quadrants} to {code.mask}")
        chosen = code.select(low, odd, even)
        raised = code.let(f"shl {code.integer} {quadrants}, {code.bits(62)}")
        sign = code.let(f"and {code.integer} {raised}, {code.bits(-(2**63))}")
        as_bits = code.let(f"bitcast {code.vector} {chosen.name} to {code.integer}")
        signed = code.let(f"xor {code.integer} {as_bits}, {sign}")
        return Value(code, code.let(f"bitcast {code.integer} {signed} to {code.vector}"))

    near_sine = turned(quadrant, sine, cosine)
    near_cosine = turned(code.let(f"add {code.integer} {quadrant}, {code.bits(1)}"), sine, cosine)
    # The reduction makes +0 of -0.
    near_sine = code.select(code.compare("oeq", x, 0.0), x, near_sine)

    far = code.compare("ogt", code.intrinsic("fabs", x), _FAR)
    some = code.let(f"bitcast {code.mask} {far} to i{code.width}")
    any_far = code.let(f"icmp ne i{code.width} {some}, 0")
    code.do(f"br i1 {any_far}, label %slow, label %done")
    code.do("slow:")
    far_sine = code.select(far, code.by_lane("sin", x), near_sine)
    far_cosine = code.select(far, code.by_lane("cos", x), near_cosine)
    code.do("br label %done")
    code.do("done:")
    pair = f"{{{code.vector}, {code.vector}}}"
    s = code.let(f"phi {code.vector} [{near_sine.name}, %entry], [{far_sine.name}, %slow]")
    c = code.let(f"phi {code.vector} [{near_cosine.name}, %entry], [{far_cosine.name}, %slow]")
    half_done = code.let(f"insertvalue {pair} poison, {code.vector} {s}, 0")
    code.do(f"ret {pair} {code.let(f'insertvalue {pair} {half_done}, {code.vector} {c}, 1')}")


_LN2_HIGH = 6.93147180369123816490e-01  # 32 bits
_LN2_LOW = 1.90821492927058770002e-10
_EXPONENTIAL = (
    1.66666666666666019037e-01,
    -2.77777777770155933842e-03,
    6.61375632143793436117e-05,
    -1.65339022054652515390e-06,
    4.13813679705723846039e-08,
)


def _exponential(code: Assembly, x: Value) -> None:
    """e^x = 2^k e^r, |r| <= ln(2)/2, with e^r - 1 from Remez's rational function of r."""
    # Beyond these, the result is 0 or infinite all the same. Not-a-numbers stay.
    x = code.select(code.compare("olt", x, -800.0), -800.0, x)
    x = code.select(code.compare("ogt", x, 800.0), 800.0, x)
    k = (x * math.log2(math.e) + CONVERSION) - CONVERSION
    high, low = x - k * _LN2_HIGH, k * _LN2_LOW
    r = high - low
    t = r * r
    c = r - t * _polynomial(code, t, _EXPONENTIAL)
    y = 1.0 - ((low - (r * c) / (2.0 - c)) - high)
    # 2^k by two factors, for k may lie outside of what one exponent can hold.
    half = (k * 0.5 + CONVERSION) - CONVERSION
    code.do(f"ret {code.vector} {((y * _power_of_two(code, half)) * _power_of_two(code, k - half)).name}")


def _power_of_two(code: Assembly, k: Value) -> Value:
    """2^k for an integer k from -1022 to 1023."""
    as_bits = code.let(f"bitcast {code.vector} {(k + (CONVERSION + 1023.0)).name} to {code.integer}")
    exponent = code.let(f"shl {code.integer} {as_bits}, {code.bits(52)}")
    return Value(code, code.let(f"bitcast {code.integer} {exponent} to {code.vector}"))


_LOGARITHM = (
    6.666666666666735130e-01,
    3.999999999940941908e-01,
    2.857142874366239149e-01,
    2.222219843214978396e-01,
    1.818357216161805012e-01,
    1.531383769920937332e-01,
    1.479819860511658591e-01,
)


def _logarithm(code: Assembly, x: Value) -> None:
    """With x = 2^k (1 + f), sqrt(1/2) <= 1 + f < sqrt(2); log(1 + f) from a polynomial of s = f / (2 + f)."""
    small = code.compare("olt", x, 2.0**-1022)
    scaled = code.select(small, x * 2.0**54, x)
    as_bits = code.let(f"bitcast {code.vector} {scaled.name} to {code.integer}")
    # Moved so that the exponent changes at sqrt(1/2), not at 1.
    moved = code.let(f"sub {code.integer} {as_bits}, {code.bits(_bits_of(math.sqrt(0.5)))}")
    k_bits = code.let(f"ashr {code.integer} {moved}, {code.bits(52)}")
    shift = code.let(f"shl {code.integer} {k_bits}, {code.bits(52)}")
    mantissa_bits = code.let(f"sub {code.integer} {as_bits}, {shift}")
    mantissa = Value(code, code.let(f"bitcast {code.integer} {mantissa_bits} to {code.vector}"))
    k_raised = code.let(f"add {code.integer} {k_bits}, {code.bits(_bits_of(CONVERSION))}")
    k = Value(code, code.let(f"bitcast {code.integer} {k_raised} to {code.vector}")) - CONVERSION
    k = k - code.select(small, 54.0, 0.0)
    f = mantissa - 1.0
    s = f / (f + 2.0)
    z = s * s
    series = z * _polynomial(code, z, _LOGARITHM)
    half_square = (f * 0.5) * f
    y = k * _LN2_HIGH - ((half_square - (s * (half_square + series) + k * _LN2_LOW)) - f)
    y = code.select(code.compare("oeq", x, math.inf), math.inf, y)
    y = code.select(code.compare("oeq", x, 0.0), -math.inf, y)
    y = code.select(code.compare("olt", x, 0.0), math.nan, y)
    y = code.select(code.compare("uno", x, x), x, y)
    code.do(f"ret {code.vector} {y.name}")
