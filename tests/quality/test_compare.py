"""Two videos in one pass, and in the memory of a few frames."""

import weakref

from flashvsr_trt.quality.compare import compare_videos
from flashvsr_trt.quality.page import SPREAD_FRAMES, ShownFrames
from tests.clips import make_clip


def test_no_more_frames_are_kept_than_are_shown(tmp_path):
    clip = str(make_clip(tmp_path / "clip.mkv", frames=60))
    shown, seen, most = ShownFrames(), [], 0

    def watch(frame, a, b):
        nonlocal most
        shown.add(frame, a, b)
        seen.extend((weakref.ref(a), weakref.ref(b)))
        most = max(most, sum(pixels() is not None for pixels in seen))

    compare_videos(clip, clip, notify=print, watch=watch)
    assert len(seen) == 120
    # Those spread over the clip, the worst, and the one that is being compared.
    assert most <= 2 * (SPREAD_FRAMES + 2)


def test_a_longer_side_is_counted_whichever_it_is(tmp_path):
    long = str(make_clip(tmp_path / "long.mkv", frames=7))
    short = str(make_clip(tmp_path / "short.mkv", frames=4))
    notices = []
    assert compare_videos(short, long, notify=notices.append).counts == (4, 7)
    assert compare_videos(long, short, notify=notices.append).counts == (7, 4)
    assert ["the first 4 are compared" in notice for notice in notices] == [True, True]
