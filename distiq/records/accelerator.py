"""What an accelerator's compiler expects of a file."""

from distiq.records.record import Record


class AcceleratorRecord(Record):
    """An estimate by the compiler's own model of the device: nothing here was measured.

    `on_accelerator` and `on_cpu` count the file's operators, `left` names those on the CPU by kind. `sram_bytes` is
    what the accelerator takes of memory, `cycles` those of one sample at `clock_hz`.
    """

    compiler: str
    device: str
    on_accelerator: int
    on_cpu: int
    left: tuple[str, ...] = ()
    sram_bytes: int
    cycles: int
    clock_hz: float

    @property
    def sentence(self) -> str:
        """The estimate in a sentence."""
        total, left = self.on_accelerator + self.on_cpu, f" ({', '.join(self.left)} on the CPU)" if self.left else ""
        milliseconds = 1000 * self.cycles / self.clock_hz
        return (
            f"{self.compiler} estimates for {self.device}: {self.on_accelerator} of {total} operators on the NPU{left},"
            f" {self.sram_bytes / 1000:.1f} kB of SRAM, {self.cycles:,} cycles for a sample ({milliseconds:.3f} ms at"
            f" {self.clock_hz / 1e6:g} MHz). Nothing of this was measured."
        )
