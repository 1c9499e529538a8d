"""What a build is asked for, besides the graphs and the target."""

from dataclasses import dataclass

from flashvsr_trt.errors import UsageError

OPTIMIZATION_LEVELS = range(6)


@dataclass(frozen=True)
class BuildOptions:
    """Choices that make other engines of the same graphs.

    Attributes:
        cut: lower graphs as for runtimes that take no plugins, also where they would be used; the kernels
            are then launched between engines.
        strip_weights: leave the weights out; they are put in from the weights file when an engine is loaded.
            Many sizes then share one copy. Building so needs a GPU.
        optimization_level: 0 to 5, how long the builder searches; None is its default.
        workspace_mb: most scratch memory that a kernel may take; None is all of the device.
        large_shared_memory: offer the builder also those kernels of the custom nodes that take more than
            48 KB of shared memory, and let it time them all. Nothing shows that TensorRT can launch them:
            verify such engines.

    Raises:
        UsageError: a value that no builder takes.
    """

    cut: bool = False
    strip_weights: bool = False
    optimization_level: int | None = None
    workspace_mb: int | None = None
    large_shared_memory: bool = False

    def __post_init__(self) -> None:
        if self.optimization_level is not None and self.optimization_level not in OPTIMIZATION_LEVELS:
            raise UsageError(f"optimization level {self.optimization_level} is not one of 0 to 5")
        if self.workspace_mb is not None and self.workspace_mb < 1:
            raise UsageError(f"a workspace of {self.workspace_mb} MB cannot be used; give 1 or more")

    @property
    def words(self) -> tuple[str, ...]:
        """The options of `engines build` that ask for this; none for the defaults."""
        given = {
            "--cut": self.cut,
            "--strip-weights": self.strip_weights,
            f"--optimization-level {self.optimization_level}": self.optimization_level is not None,
            f"--workspace {self.workspace_mb}": self.workspace_mb is not None,
            "--large-shared-memory": self.large_shared_memory,
        }
        return tuple(word for word, is_given in given.items() if is_given)


DEFAULT_OPTIONS = BuildOptions()
