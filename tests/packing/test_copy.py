"""`--codec copy`: every frame can be reached by a seek, or the file is refused."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest

from tests.common.media import draw, tone, write_sound
from xdc_fast.packing.convert import convert
from xdc_fast.packing.media import Refusal
from xdc_fast.packing.settings import PackSettings
from xdc_fast.shards.decode import decode_frames, upright

KINDS = {
    "xvid.avi": ("mpeg4", {"bf": "2", "g": "12"}),
    "mpeg2.ts": ("mpeg2video", {"bf": "2", "g": "15"}),
    "open.mp4": ("libx264", {"bf": "3", "g": "24", "x264-params": "open-gop=1:threads=1"}),
    "open.mkv": (
        "libx265",
        {"x265-params": "log-level=error:keyint=24:min-keyint=24:pools=1:open-gop=1"},
    ),
    "refresh.mp4": ("libx264", {"bf": "0", "g": "30", "x264-params": "intra-refresh=1:threads=1"}),
    "closed.mp4": ("libx264", {"bf": "3", "g": "24", "x264-params": "threads=1"}),
    "vp9.webm": ("libvpx-vp9", {"g": "30", "cpu-used": "8", "deadline": "realtime"}),
}


def write(path, codec, options, frames=100):
    with av.open(str(path), "w") as container:
        track = container.add_stream(codec, rate=30, options=options)
        kind = {".webm": "libopus", ".avi": "mp3"}.get(path.suffix, "aac")
        sound = container.add_stream(kind, rate=48000, layout="mono")
        track.width, track.height, track.pix_fmt = 96, 64, "yuv420p"
        track.codec_context.thread_count = 1
        for k in range(frames):
            frame = av.VideoFrame.from_ndarray(draw(k, 96, 64), format="rgb24")
            frame.pts, frame.time_base = k, Fraction(1, 30)
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
        write_sound(container, sound, tone(frames / 30, 48000, 0.3), 48000)
    return path


@pytest.mark.parametrize("name", KINDS)
def test_each_window_of_a_copy_is_that_of_reading_through(tmp_path, name):
    path = write(tmp_path / name, *KINDS[name])
    facts = convert(path, PackSettings(codec="copy"), tmp_path / "v.mp4", tmp_path / "a.wav")
    file = (tmp_path / "v.mp4").read_bytes()
    with av.open(io.BytesIO(file)) as container:
        reformatter = av.video.reformatter.VideoReformatter()
        through = np.stack([upright(f, reformatter) for f in container.decode(video=0)])
    assert len(through) == facts["frames"] == 100
    for start in range(93):
        window = np.arange(start, start + 8)
        assert np.array_equal(decode_frames(file, window), through[window]), start


def test_what_a_seek_does_not_reach_is_refused(tmp_path):
    """An index that calls every tenth frame a key frame, though it needs those before."""
    whole, path = write(tmp_path / "x.mp4", "mpeg4", {"g": "300"}), tmp_path / "lies.mp4"
    with av.open(str(whole)) as source, av.open(str(path), "w") as container:
        tracks = {s.index: container.add_stream_from_template(s) for s in source.streams}
        for packet in source.demux():
            if packet.size:
                number = int(packet.pts * packet.time_base * 30)
                packet.is_keyframe |= packet.stream.type == "video" and number % 10 == 0
                packet.stream = tracks[packet.stream.index]
                container.mux(packet)
    with pytest.raises(Refusal, match="after a seek") as refused:
        convert(path, PackSettings(codec="copy"), tmp_path / "v.mp4", tmp_path / "a.wav")
    assert refused.value.reason == "cannot be copied"
    assert convert(path, PackSettings(short_side=32), tmp_path / "v.mp4", tmp_path / "a.wav")


def test_damage_is_no_open_gop(tmp_path):
    """Going further back does not read over damage in the frames that a window needs."""
    path = write(tmp_path / "x.mp4", "libx264", {"g": "10", "bf": "0", "x264-params": "threads=1"})
    convert(path, PackSettings(codec="copy"), tmp_path / "v.mp4", tmp_path / "a.wav")
    file = bytearray((tmp_path / "v.mp4").read_bytes())
    with av.open(io.BytesIO(file)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
        packet = packets[54]
    file[packet.pos + 10 : packet.pos + packet.size] = bytes(packet.size - 10)
    for window in ([54, 55], [55, 56], [59]):
        with pytest.raises((ValueError, av.FFmpegError)):
            decode_frames(bytes(file), np.array(window))
    for window in ([52, 53], [60, 61]):
        decode_frames(bytes(file), np.array(window))
