import contextlib
import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_edge.distill.data.tars import BLOCK, Member, TarError, scan_tar

NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1, max_size=150
)


@given(
    st.lists(st.tuples(NAMES, st.binary(max_size=1500)), max_size=6),
    st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_finds_what_tarfile_wrote(make, tmp_path_factory, members, format_):
    path = make.tar(tmp_path_factory.mktemp("tar") / "a.tar", members, format_)
    data = path.read_bytes()
    found = list(scan_tar(path))
    assert [(one.name, data[one.offset : one.offset + one.size]) for one in found] == members
    assert {one.kind for one in found} <= {"file"}


@given(st.binary(max_size=3000))
def test_any_bytes_end_in_members_or_a_tar_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("tar") / "a.tar"
    path.write_bytes(data)
    try:
        found = list(scan_tar(path))
    except TarError:
        return
    assert all(one.offset + one.size <= len(data) for one in found)


@given(st.integers(0, 4 * BLOCK - 1), st.integers(1, 255))
def test_one_changed_byte_never_leads_outside_the_file(make, tmp_path_factory, place, change):
    path = make.tar(tmp_path_factory.mktemp("tar") / "a.tar", [("one.txt", b"1" * 600), ("two.txt", b"2")])
    data = bytearray(path.read_bytes())
    data[place] ^= change
    path.write_bytes(data)
    with contextlib.suppress(TarError):
        assert all(one.offset + one.size <= len(data) for one in scan_tar(path))


@pytest.mark.parametrize(("kept", "whole"), [(2048, 2), (2047, 1), (1536, 1), (1100, 1), (1024, 1), (900, 0), (100, 0)])
def test_a_cut_is_an_error_after_the_whole_members(make, tmp_path, kept, whole):
    path = make.tar(tmp_path / "a.tar", [("one.txt", b"1" * 512), ("two.txt", b"2" * 512)])
    path.write_bytes(path.read_bytes()[:kept])  # header, content, header, content, end marker: 512 bytes each
    seen: list[Member] = []
    with pytest.raises(TarError, match=r"the file is cut"):
        seen.extend(scan_tar(path))  # extend keeps what came before the error
    assert [one.name for one in seen] == ["one.txt", "two.txt"][:whole]


def test_links_and_folders_are_told_apart(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for name, kind in (
            ("d", tarfile.DIRTYPE),
            ("l", tarfile.SYMTYPE),
            ("h", tarfile.LNKTYPE),
            ("p", tarfile.FIFOTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type = kind
            info.linkname = "/etc/passwd"
            tar.addfile(info)
    assert [(one.name, one.kind) for one in scan_tar(path)] == [
        ("d/", "folder"),
        ("l", "other"),
        ("h", "other"),
        ("p", "other"),
    ]


def test_a_giant_size_is_a_cut_not_an_allocation(tmp_path):
    info = tarfile.TarInfo("bomb.png")
    info.size = 1 << 62
    path = tmp_path / "a.tar"
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + b"\0" * 1024)
    with pytest.raises(TarError, match=r"^the file is cut inside `bomb.png`$"):
        list(scan_tar(path))


def test_a_giant_name_is_refused(make, tmp_path):
    path = make.tar(tmp_path / "a.tar", [("n" * 70_000, b"")], tarfile.GNU_FORMAT)
    with pytest.raises(TarError, match=r"^a name of 70001 bytes: the file is damaged$"):
        list(scan_tar(path))


def test_a_compressed_tar_says_so(tmp_path):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a" * 90), io.BytesIO())
    path: Path = tmp_path / "a.tar.gz"
    path.write_bytes(out.getvalue() + b"\0" * BLOCK)
    with pytest.raises(TarError, match=r"^the tar is compressed"):
        list(scan_tar(path))
