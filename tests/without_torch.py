"""The start of a script that a test runs in a process where neither torch nor Triton can be imported."""

FORBID_TORCH = """
import sys

class ForbidTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "triton"):
            raise ImportError(f"{name} is forbidden here")

sys.meta_path.insert(0, ForbidTorch())

"""
