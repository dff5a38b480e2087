"""A user's label table: what it names, however it is written, and what is refused."""

import os
import unicodedata

import pytest

from tests.common.media import make_media
from xdc_fast.errors import UserError
from xdc_fast.packing.sources import collect


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels") / "videos"
    folder.mkdir()
    for name in ("a.mp4", "b.mp4", "c.v2.mp4", unicodedata.normalize("NFD", "café.mp4")):
        (folder / name).write_bytes(b"x")
    return folder


def read(videos, text, encoding="utf-8"):
    """{name: class} of the inputs that have one, and the notes."""
    table = videos.parent / "table.csv"
    table.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    inputs = collect([videos], table, videos.parent / "out")
    named = {unicodedata.normalize("NFC", s.name): s.labels for s in inputs.sources}
    return {name: labels["class"] for name, labels in named.items() if labels["class"]}, inputs


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("file,class\na.mp4,cat\nb.mp4,dog\n", {"a.mp4": "cat", "b.mp4": "dog"}),
        ("file, class\na.mp4, cat\n b.mp4 ,dog\n", {"a.mp4": "cat", "b.mp4": "dog"}),
        ("\ufefffile;class\r\na.mp4;cat, big\r\n", {"a.mp4": "cat, big"}),
        ("File\tclass\nvideos/a.mp4\tcat\n", {"a.mp4": "cat"}),
        ("path,class\n./a.mp4,cat\nvideos\\b.mp4,dog\n", {"a.mp4": "cat", "b.mp4": "dog"}),
        ("name,class\na,cat\nc.v2,dog\n", {"a.mp4": "cat", "c.v2.mp4": "dog"}),
        ("file,class\na.avi,cat\nc.v2.webm,dog\n", {"a.mp4": "cat", "c.v2.mp4": "dog"}),
        ("file,class\ncaf\u00e9.mp4,coffee\n", {"caf\u00e9.mp4": "coffee"}),
        ('file,class\n"a.mp4","x, ""y"""\n\n,\n', {"a.mp4": 'x, "y"'}),
        ("class,file,\ncat,a.mp4,\n", {"a.mp4": "cat"}),
        ("file,class\na.mp4,cat\na.mp4,cat\n", {"a.mp4": "cat"}),
        ("file,class\na.avi,cat\na.mp4,dog\n", {"a.mp4": "dog"}),
        ("\n,\nfile,class\na.mp4,cat\n", {"a.mp4": "cat"}),
        ("sep=;\r\nfile;class\r\na.mp4;cat, big\r\n", {"a.mp4": "cat, big"}),
        ('file;class;"a, b, c and d"\na.mp4;cat;1\n', {"a.mp4": "cat"}),
        ("file,class\na.mp4,cat,,\nb.mp4,dog\n", {"a.mp4": "cat", "b.mp4": "dog"}),
        ("filename,class\na.mp4,cat\n", {"a.mp4": "cat"}),
        ("file\tclass\r\na.mp4\tcat\r\n".encode("utf-16"), {"a.mp4": "cat"}),
    ],
)
def test_lines_that_name_a_file(videos, text, wanted):
    assert read(videos, text)[0] == wanted


def test_a_line_may_have_the_path_from_anywhere_above(videos):
    assert read(videos, f"file,class\n{videos}/a.mp4,cat\n")[0] == {"a.mp4": "cat"}
    found, inputs = read(videos, "file,class\nelsewhere/a.mp4,cat\nb.mp4,dog\n")
    assert found == {"b.mp4": "dog"}
    assert any("3 inputs have no labels, 1 lines match no input" in note for note in inputs.notes)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("file,class\na.mp4,playing violin, fiddle\n", r"line 2 \(a\.mp4\) has 3 cells.* quote"),
        (
            "file,class,age\na.mp4,cat\n",
            r"line 2 \(a\.mp4\) has 2 cells, and the first line names 3",
        ),
        ("file,class\nb.mp4,x\n\na.mp4,cat\nvideos/a.mp4,dog\n./a.mp4,cow\n", ""),
        ("path,class\nvideos/a.mp4,cat\nvideos/a.mp4,dog\n", "lines 2 and 3 give"),
        ("path,class\na.mp4,cat\n./a.mp4,dog\n", "lines 2 and 3 give"),
        ("file,class\nz.mp4,cat\n", r"none of its 1 lines names a file.*'z\.mp4'.*'a\.mp4'"),
        ("file,class, class\na.mp4,cat,dog\n", "two columns of the same name, 'class'"),
        (
            "video,class\na.mp4,cat\n",
            "no column file or path or filename or name; it has: video, class",
        ),
        ('file,class\n"a.mp4,cat\n', "cannot be read as CSV"),
        (b"file,class\na.mp4,caf\xe9\n", "line 2 is not UTF-8; save the table as UTF-8"),
        ("file,class\na.mp4,c\0t\n", "line 2 holds a zero character"),
        ("sep=;\nfile;class\n\na.mp4;cat;dog\n", r"line 4 \(a\.mp4\) has 3 cells"),
        ("file,class,start,end\na.mp4,cat,1_0,2_0\n", "start '1_0' is no number of seconds"),
        ("", "no column file"),
    ],
)
def test_tables_that_are_refused(videos, text, words):
    if not words:  # the line that says more of the path wins
        assert read(videos, text)[0]["a.mp4"] == "dog"
        return
    with pytest.raises(UserError, match=f"table.csv: .*{words}"):
        read(videos, text)


def test_a_list_finds_files_by_their_name_in_another_form(tmp_path):
    (tmp_path / "in").mkdir()
    make_media(tmp_path / "in" / unicodedata.normalize("NFD", "é.mp4"))
    (tmp_path / "list.csv").write_text("path,class\nin\\\u00e9.mp4,x\n", encoding="utf-8")
    inputs = collect([tmp_path / "list.csv"], None, tmp_path / "out")
    assert [os.path.isfile(source.path) for source in inputs.sources] == [True]
