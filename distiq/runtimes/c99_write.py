"""A `Program` as the text of a C file and its header, and what the text holds, read back."""

import functools
import json
import re
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np

from distiq.errors import UserError
from distiq.models.signature import AffineParameters, Signature
from distiq.runtimes.c99_layers import cmsis_bytes
from distiq.runtimes.c99_program import CMSIS, Q31, Arena, Array, Buffer, Program, Step, Value, order_of
from distiq.runtimes.runtime import QuantizationParameters, Weight

C_TYPES = {"int8": "int8_t", "int16": "int16_t", "int32": "int32_t", "int64": "int64_t", "uint8": "uint8_t",
           "float32": "float"}  # fmt: skip
ABOUT = "/* distiq "
LINE = 118
FILES = ("c99_kernels.c", "c99_wide_kernels.c")
LOG_MEL = "log_mel"
MARK = re.compile(r"^/\* kernel (\w+)(?:: ([\w ]+))? \*/$", re.MULTILINE)


class Sources(NamedTuple):
    """A C file and its header."""

    source: str
    header: str


def identifier(name: str) -> str:
    """A file's name as one of C: "int8-small" gives int8_small."""
    plain = re.sub(r"\W", "_", name)
    return f"m_{plain}" if not plain or plain[0].isdigit() else plain


def written(program: Program, arena: Arena, signature: Signature, name: str) -> Sources:
    """The text of both files.

    Args:
        signature: of the network, as it stands in the file for `load`.
        name: of the files, without a suffix.
    """
    prefix = identifier(name)
    about = {
        **signature.to_json(),
        "orders": [_orders(values) for values in (program.inputs, program.outputs)],
        "arena_bytes": arena.size,
        "least_arena_bytes": arena.lower_bound,
        "pcm16": takes_pcm16(program),
    }
    parts = [
        f"/* Written by distiq. `{prefix}_run` computes one sample; see {name}.h. */",
        f"{ABOUT}{json.dumps(about)} */",
        f'#include "{name}.h"\n#include <string.h>\n',
        "#if defined(__clang__)\n#pragma STDC FP_CONTRACT OFF\n#endif\n",
        f"#ifdef {CMSIS}\nenum {{ {CMSIS}_BYTES = {cmsis_bytes(program)} }};\n#endif\n",
        _kernels({step.kernel for step in program.steps}),
        "\n".join(map(_array, program.arrays)),
        *(_affine(buffer, affine) for buffer, affine in program.quantized.items()),
        f"\nstatic union {{ int8_t bytes[{max(arena.size, 1)}]; float alignment; }} arena;\n",
        *(_struct(number, step) for number, step in enumerate(program.steps)),
        _run(program, arena, prefix),
    ]
    return Sources("\n".join(parts) + "\n", _header(program, arena, prefix))


def _orders(values: list[Value]) -> list[list[int]]:
    """Of each tensor its axes behind the batch, in their order in memory."""
    return [[axis for axis in _shown(value) if axis] for value in values]


def _shown(value: Value) -> tuple[int, ...]:
    """Axes in memory order; axes of length 1 are placed where a reader expects them."""
    order, axes = order_of(value.layout), range(value.layout.ndim)
    if order is None or tuple(sorted(order)) == order:
        return tuple(axes)
    last = (0, *range(2, len(axes)), 1)
    wide = [axis for axis in order if value.layout.shape[axis] > 1]
    is_last = wide == [axis for axis in last if value.layout.shape[axis] > 1]
    in_plain = wide == sorted(wide)
    return tuple(axes) if in_plain else last if is_last else order


@functools.cache
def _kernel_texts() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Each kernel's text and what it needs."""
    text = "".join(files("distiq.runtimes").joinpath(name).read_text(encoding="utf-8") for name in FILES)
    marks = list(MARK.finditer(text))
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    return {
        mark[1]: (text[mark.end() : end].strip("\n"), tuple((mark[2] or "").split()))
        for mark, end in zip(marks, ends, strict=True)
    }


def _kernels(used: set[str]) -> str:
    """The kernels that a file calls, in the order in which they stand."""
    texts, needed, waiting = _kernel_texts(), {"types"}, list(used)
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            waiting += texts[name][1]
    return "\n\n".join(text for name, (text, _) in texts.items() if name in needed) + "\n"


def _array(array: Array) -> str:
    note = f"{ABOUT}{json.dumps({array.name: array.about})} */\n" if array.about else ""
    text = note + array_text(array.name, array.values)
    asked = " || ".join(f"defined({macro})" for macro in array.macros)
    return f"#if {asked}\n{text}\n#endif" if asked else text


def array_text(name: str, values: np.ndarray) -> str:
    """A constant in C."""
    flat = values.reshape(-1)
    texts = [_float(one) for one in flat] if values.dtype == np.float32 else map(str, flat.tolist())
    lines, line = [], ""
    for text in texts:
        if line and len(line) + len(text) + 2 > LINE:
            lines.append(line)
            line = ""
        line += f"{text}, "
    lines.append(line)
    body = "\n  ".join(one.rstrip() for one in lines)
    return f"static const {C_TYPES[str(values.dtype)]} {name}[{flat.size}] = {{\n  {body}\n}};"


def _float(value: Any) -> str:
    """Decimal digits that give this float32 again."""
    number = float(np.float32(value))
    if not np.isfinite(number):
        raise UserError("C99: the network holds a weight that is no finite number")
    text = f"{number:.9g}"
    return f"{text if any(mark in text for mark in '.e') else text + '.0'}f"


def _affine(buffer: Buffer, affine: AffineParameters) -> str:
    return f"#define {_scale(buffer)} {_float(affine.scale)}\n#define {buffer.name.upper()}_ZERO ({affine.zero_point})"


def _scale(buffer: Buffer) -> str:
    return f"{buffer.name.upper()}_SCALE"


def _struct(number: int, step: Step) -> str:
    fields = dict(step.fields)
    negated, of_macros = fields.pop("negated", False), {macro: fields.pop(macro, {}) for macro in (Q31, CMSIS)}
    lines = [f".{name} = {_initial(name, value, negated)}" for name, value in fields.items()]
    body = ", ".join(lines)
    for macro, own in of_macros.items():
        if own:
            inside = ", ".join(f".{name} = {_initial(name, value, False)}" for name, value in own.items())
            body += f"{'' if body.endswith('endif') else ','}\n#ifdef {macro}\n  {inside},\n#endif"
    end = "\n" if body.endswith("endif") else " "
    return f"static const {step.struct} s{number} = {{ {body}{end}}};"


def _initial(name: str, value: Any, negated: bool) -> str:
    match value:
        case (Buffer() as buffer, None):
            return f"-{_scale(buffer)}" if negated and name == "scale_b" else _scale(buffer)
        case (Buffer() as buffer, Buffer() as other):
            return f"{_scale(buffer)} / {_scale(other)}"
        case list():
            return "{ " + ", ".join(map(str, value)) + " }"
        case float():
            return _float(value)
    return str(value)


def _parameters(program: Program) -> str:
    takes = [f"const {C_TYPES[one.buffer.kind]} *{one.buffer.name}" for one in program.inputs]
    gives = [f"{C_TYPES[one.buffer.kind]} *{one.buffer.name}" for one in program.outputs]
    return ", ".join((*takes, *gives))


def takes_pcm16(program: Program) -> bool:
    """Whether only audio front-ends read the network's single input; a second function then takes it as int16."""
    if len(program.inputs) > 1:
        return False
    sound = program.inputs[0].buffer
    readers = [step for step in program.steps if sound in step.reads]
    return bool(readers) and all(step.kernel == LOG_MEL and step.arguments[0] == sound.name for step in readers)


def _run(program: Program, arena: Arena, prefix: str) -> str:
    """The function of one sample, or both where sound may be int16."""
    if not takes_pcm16(program):
        return f"void {prefix}_run({_parameters(program)}) {_body(program, arena, '0')}"
    sound, outputs = program.inputs[0].buffer.name, _parameters(program).partition(", ")[2]
    given = ", ".join(one.buffer.name for one in program.outputs)
    body = _body(program, arena, "pcm")
    return (
        f"static void computed(const float *{sound}, const int16_t *pcm, {outputs}) {body}\n\n"
        f"void {prefix}_run({_parameters(program)}) {{ computed({sound}, 0, {given}); }}\n"
        f"void {prefix}_run_pcm16(const int16_t *pcm, {outputs}) {{ computed(0, pcm, {given}); }}"
    )


def _body(program: Program, arena: Arena, pcm: str) -> str:
    """The calls of all kernels.

    Args:
        pcm: what a front-end reads in place of floats, where that is not null.
    """
    lines = ["{"]
    lines += [
        f"  {C_TYPES[buffer.kind]} *const {buffer.name} = ({C_TYPES[buffer.kind]} *)(arena.bytes + {start});"
        for buffer, start in arena.starts.items()
    ]
    for number, step in enumerate(program.steps):
        first, *others = step.arguments
        given = (first, pcm, *others) if step.kernel == LOG_MEL else step.arguments
        passed = ", ".join((f"&s{number}", *given))
        lines.append(f"  {step.kernel}({passed}); /* {step.operation} {step.kind} {step.macs} */")
    return "\n".join([*lines, "}"])


def _header(program: Program, arena: Arena, prefix: str) -> str:
    guard = f"{prefix.upper()}_H"
    lines = [
        f"/* Written by distiq. One sample at a time; {arena.size} bytes of RAM beside the arguments. */",
        f"#ifndef {guard}\n#define {guard}\n#include <stdint.h>\n",
        f"#define {prefix.upper()}_ARENA_BYTES {arena.size}",
    ]
    for side, values in (("INPUT", program.inputs), ("OUTPUT", program.outputs)):
        for number, value in enumerate(values):
            sizes = [value.layout.shape[axis] for axis in _shown(value)][1:]
            start = f"{prefix.upper()}_{side}_{number}"
            lines.append(f"\n/* {value.buffer.name}: {' x '.join(map(str, sizes))} in memory */")
            lines.append(f"#define {start}_SIZE {value.layout.numel()}")
            if value.affine:
                lines += [f"#define {start}_SCALE {_float(value.affine.scale)}"]
                lines += [f"#define {start}_ZERO ({value.affine.zero_point})"]
    lines.append(f"\nvoid {prefix}_run({_parameters(program)});")
    if takes_pcm16(program):
        lines += ["\n/* The same for samples as a microphone gives them, in half the memory: 32768 is 1.0f. */"]
        lines += [f"void {prefix}_run_pcm16(const int16_t *pcm, {_parameters(program).partition(', ')[2]});"]
    return "\n".join([*lines, "\n#endif\n"])


# Reading back ---------------------------------------------------------------------------------------------------------


def about_of(text: str) -> dict[str, Any]:
    """What a C file says of its network.

    Raises:
        ValueError, KeyError: it says nothing.
    """
    return json.loads(next(line for line in text.splitlines() if line.startswith(ABOUT))[len(ABOUT) : -len(" */")])


def arrays_of(text: str) -> dict[str, np.ndarray]:
    """The constants of a C file, by name."""
    types = {value: name for name, value in C_TYPES.items()}
    arrays = {}
    for kind, name, body in re.findall(r"static const (\w+) (\w+)\[\d+\] = \{([^}]*)\}", text):
        plain = body.replace("f", "")
        arrays[name] = np.array([float(one) for one in plain.split(",") if one.strip()]).astype(types[kind])
    return arrays


def parameters_of(text: str) -> QuantizationParameters:
    """The integers and scales of a C file."""
    arrays, weights, floats = arrays_of(text), [], []
    for line in [line for line in text.splitlines() if line.startswith(ABOUT)][1:]:
        ((name, about),) = json.loads(line[len(ABOUT) : -len(" */")]).items()
        seen, axes = about["seen"], about["axes"]
        stored = arrays[name].reshape([seen[axis] for axis in axes])
        values = stored.transpose(np.argsort(axes)).reshape(about["shape"])
        if about.get("float"):
            floats.append(values)
        else:
            weights.append(Weight(values, arrays[about["weight"]]))
    pairs = re.findall(r"#define \w+_SCALE (\S+)f\n#define \w+_ZERO \((-?\d+)\)", text)
    activations = frozenset((float(np.float32(float(scale))), int(zero)) for scale, zero in pairs)
    return QuantizationParameters(tuple(weights), tuple(floats), activations)


def steps_of(text: str) -> list[tuple[str, str, int]]:
    """Each call's operation, the type that it computes in, and its multiply-adds."""
    return [(name, kind, int(macs)) for name, kind, macs in re.findall(r"; /\* ([\w./]+) (\w+) (\d+) \*/$", text, re.M)]
