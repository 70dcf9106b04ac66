"""The children's output: whole lines with names, and never a reason to block."""

import io
import os
from collections.abc import Callable

from payments.development.output import Output

Wait = Callable[..., object]


class ClosedTerminal(io.StringIO):
    def write(self, _text: str) -> int:
        raise BrokenPipeError


def test_output_puts_the_name_before_each_line(eventually: Wait) -> None:
    stream = io.StringIO()
    descriptor = Output(stream, colour=False).pipe("worker")
    os.write(descriptor, b"one\ntwo \xff\nthree")
    os.close(descriptor)
    eventually(lambda: "three" in stream.getvalue())
    assert stream.getvalue() == "worker    | one\nworker    | two \ufffd\nworker    | three\n"


def test_output_colours_each_name_in_its_own_way() -> None:
    stream = io.StringIO()
    output = Output(stream, colour=True)
    output.say("api", "x")
    output.say("relay", "x")
    first, second = stream.getvalue().splitlines()
    assert first.split("m")[0] != second.split("m")[0]


def test_output_keeps_reading_when_nobody_listens() -> None:
    descriptor = Output(ClosedTerminal(), colour=False).pipe("api")
    for _ in range(1_000):  # a megabyte: a pipe holds 64 kB, so this would block for ever if nobody read
        os.write(descriptor, b"x" * 999 + b"\n")
    os.close(descriptor)
