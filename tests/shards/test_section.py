"""A section reads what the file holds, and an object in few requests."""

import io

import numpy as np
import pytest

from tests.common.media import make_media, noise
from xdc_fast.shards.describe import describe_video
from xdc_fast.shards.section import Section, open_section
from xdc_fast.storage import place_of


def test_an_object_is_read_as_a_file(server):
    content = np.random.default_rng(0).bytes(3_000_001)
    (server.folder / "b" / "file").write_bytes(content)
    choose = np.random.default_rng(1)
    with open_section(place_of("s3://b/file")) as whole:
        part, file = whole.part(1_000, 2_900_000), io.BytesIO(content[1_000:2_901_000])
        for _ in range(200):
            begin, count = choose.integers(3_000_000), choose.choice([1, 512, 40_000, 300_000])
            assert part.seek(int(begin)) == file.seek(int(begin))
            assert part.read(int(count)) == file.read(int(count)) and part.tell() == file.tell()
    server.log.clear()
    with open_section(place_of("s3://b/file")) as whole:
        assert b"".join(iter(lambda: whole.read(5_000), b"")) == content
    assert len(server.log) < 10


@pytest.mark.parametrize("codec", ["libx264", "libx265", "libvpx-vp9", "mjpeg"])
@pytest.mark.parametrize("flags", ["", "frag_keyframe+empty_moov"])
def test_the_frames_of_an_mp4_need_not_be_read(codec, flags, tmp_path, monkeypatch):
    options = {"options": {"movflags": flags}} if flags else {}
    shape = {"seconds": 1, "size": (160, 128), "pictures": noise}
    path = make_media(tmp_path / "v.mp4", video=codec, **shape, **options)
    with open_section(path) as whole:
        ours = describe_video(whole)
        monkeypatch.setattr(Section, "media_data", lambda self: [])
        theirs = describe_video(whole)
    assert (ours.times == theirs.times).all() and (ours.jpegs == theirs.jpegs).all()
    assert (ours.end, ours.fps, ours.hold) == (theirs.end, theirs.fps, theirs.hold)


def test_after_an_error_it_ends_and_check_raises_it():
    """FFmpeg prints what Python raises in between."""
    asked = []

    def read(start, count):
        asked.append(start)
        raise OSError(5, "Input/output error")

    whole = Section(read, 0, 100)
    part = whole.part(10, 20)
    assert part.read(5) == b"" == whole.read() and asked == [10]
    for section in (whole, part):
        with pytest.raises(OSError, match="Input/output"):
            section.check()
