"""The runner of ONNX Runtime's sessions as it is, on the device double."""

from flashvsr_trt.runtime.onnxruntime.engine import OnnxRuntimeRunner
from tests.runtime.engine_double import ComputingRunner


class QueuedRunner(OnnxRuntimeRunner):
    """The runner as it is, but a run waits in the device double's queue as it would on a GPU's stream."""

    def load(self, engine, stream):
        loaded = super().load(engine, stream)
        run = loaded.run
        loaded.run = lambda binding: self.device.put(stream, ("engine", engine), lambda: run(binding))
        return loaded

    def scratch_bytes(self, plan, step):
        return 0

    def keep_compiled(self):
        pass

    compute_kernel = ComputingRunner.compute_kernel

    def launch(self, plan, step, addresses, scratch, stream):
        work = lambda: self.compute_kernel(plan, step, addresses)  # noqa: E731 - a late call
        self.device.put(stream, ("kernel", step.node), work)
