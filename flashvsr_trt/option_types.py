"""Types of command-line options that several commands take."""

import click


class SizeType(click.ParamType):
    """WIDTHxHEIGHT, as FFmpeg spells it; the value is (height, width)."""

    name = "WxH"

    def convert(self, value, parameter, context) -> tuple[int, int]:
        width, _, height = str(value).partition("x")
        if not (width.isdigit() and height.isdigit()):
            self.fail(f"'{value}' is not a size; write it as 640x360", parameter, context)
        return int(height), int(width)
