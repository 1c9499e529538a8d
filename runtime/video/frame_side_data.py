"""What rides on a decoded frame besides pixels, whatever kinds this PyAV has names for."""

import av
from av.sidedata.sidedata import Type


def side_data(frame: av.VideoFrame) -> dict[str, bytes]:
    """Bytes of each kind of side data that PyAV names, by its name; other kinds (EXIF) are left out."""
    named, entries = Type.__members__, frame.side_data
    # PyAV 19 gives the kinds, as a mapping's keys; 18 gives the data.
    found = (entries[entry] if isinstance(entry, Type) else entry for entry in entries)
    return {data.type.name: bytes(data) for data in found if data.type.name in named}


def _unnamed_type(cls: type[Type], value: object) -> Type:
    """A kind that FFmpeg has and this PyAV has no name for: PyAV would refuse the whole frame."""
    unnamed = object.__new__(cls)
    unnamed._name_, unnamed._value_ = f"TYPE_{value}", value
    return unnamed


Type._missing_ = classmethod(_unnamed_type)
