"""`cache list` and `cache prune` find what the cache's own functions name."""

import json
from types import SimpleNamespace

from flashvsr_trt.bundle import FORMAT as BUNDLE_FORMAT
from flashvsr_trt.bundle import MANIFEST as BUNDLE_MANIFEST
from flashvsr_trt.cache.bundle import request_name
from flashvsr_trt.cache.contents import WHOLE, list_entries
from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import PRESETS, SCHEDULES
from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.config.tiles import tile_geometry
from flashvsr_trt.engines.cache import _readable_name
from flashvsr_trt.engines.flavours import FLAVOURS
from flashvsr_trt.engines.manifest import FORMAT, MANIFEST

GEOMETRIES = (Geometry(64, 96, 2), Geometry(64, 96, 4), tile_geometry((256, 384)))
STREAMS = [
    StreamConfig(preset, geometry, schedule)
    for preset in PRESETS
    for geometry in GEOMETRIES
    for schedule in SCHEDULES
]


def listed(folder, kind, names, manifest, form) -> set[str]:
    """Those of entries of these names that are listed as whole."""
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / manifest).write_text(json.dumps({"format": form}))
    return {entry.path.name for entry in list_entries({kind: folder}) if entry.state == WHOLE}


def test_engines_of_every_stream_and_flavour_are_listed(tmp_path):
    bundles = [SimpleNamespace(stream=stream, precision="bf16") for stream in STREAMS]
    keys = [SimpleNamespace(flavour=flavour, capability="12.0") for flavour in FLAVOURS]
    names = {_readable_name(bundle, key) + "0" * 32 for bundle in bundles for key in keys}
    assert len(names) == len(STREAMS) * len(FLAVOURS)
    assert listed(tmp_path, "engines", names, MANIFEST, FORMAT) == names


def test_bundles_of_every_stream_are_listed(tmp_path):
    names = {f"{request_name(stream, 'fp16')}-{'0' * 16}" for stream in STREAMS}
    assert listed(tmp_path, "bundles", names, BUNDLE_MANIFEST, BUNDLE_FORMAT) == names
