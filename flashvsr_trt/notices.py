"""How a user is told, in one line, what was chosen, made or left out."""

import logging
from collections.abc import Callable

Notify = Callable[[str], None]
"""Gets one line for each thing a user should know."""

log_notice: Notify = logging.getLogger("flashvsr_trt").warning
