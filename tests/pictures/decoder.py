"""Runs the example `decode` as a process and sends it one file name after another."""

import subprocess
import threading
import time
from dataclasses import dataclass

import numpy

# Seconds after which a decoder is killed.
HANGS = 20


class Died(Exception):
    """The process ended or was killed while it decoded a file."""


@dataclass
class Refusal:
    """An error of the decoder: its class and its message."""

    kind: str
    message: str

    def __str__(self):
        return f"error {self.kind}: {self.message}"


class Decoder:
    def __init__(self, program, wanted=None):
        self.command = [str(program)]
        if wanted:
            self.command += ["--wanted", "{}x{}".format(*wanted)]
        self.process = None

    def close(self):
        if self.process:
            self.process.stdin.close()
            self.process.wait()

    def decode(self, path):
        """Decodes a file. Returns its pixels or a `Refusal`, and the seconds it took. Raises `Died` if the
        process ends; the next call starts a new process."""
        if not self.process:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        started = time.monotonic()
        alarm = threading.Timer(HANGS, self.process.kill)
        alarm.start()
        try:
            self.process.stdin.write(f"{path}\n".encode())
            self.process.stdin.flush()
            return self._answer(), time.monotonic() - started
        finally:
            alarm.cancel()

    def _answer(self):
        line = self.process.stdout.readline().decode().rstrip("\n")
        if line.startswith("error "):
            return Refusal(*line.split(" ", 2)[1:])
        if line.startswith("ok "):
            width, height = map(int, line.split()[1:])
            content = self.process.stdout.read(3 * width * height)
            if len(content) == 3 * width * height:
                return numpy.frombuffer(content, numpy.uint8).reshape(height, width, 3)
        status = self.process.wait()
        self.process = None
        raise Died(f"the decoder ended with status {status}")
