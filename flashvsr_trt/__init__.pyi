from flashvsr_trt.errors import FlashVSRError as FlashVSRError
from flashvsr_trt.runtime.executors import open_session as open_session
from flashvsr_trt.runtime.session import Session as Session
from flashvsr_trt.upscaler import Upscaler as Upscaler

__version__: str
