"""report.html: hostile text stays text, nothing is loaded, and it fits a phone."""

import io
import math
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from clip_edge.benchmarks.page import Chart, Check, Command, Headline, Hit, Page, Search, Table, render
from clip_edge.benchmarks.plots import Line
from clip_edge.benchmarks.report import Accuracy, Device, Failure, Report, Row
from clip_edge.benchmarks.soak import Soak, SoakPoint

CURVE = tuple(SoakPoint(2.0 * i, 0.004 + 0.0001 * i, 10**8, None, None) for i in range(1, 30))
HOSTILE = "</blockquote><script>alert(1)</script><img src=x onerror=alert(2)> \"'&{{ 7*7 }}"


def drawing(i: int) -> bytes:
    image = Image.new("RGB", (96, 96), ((i * 67) % 256, (90 + i * 29) % 256, (200 - i * 41) % 256))
    ImageDraw.Draw(image).ellipse((18 + i % 20, 20, 70, 74), fill=(250, 250, (i * 90) % 256))
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def full_page(report: Report, text: str) -> Page:
    def search(i: int, sentence: str, lang: str) -> Search:
        hits = tuple(Hit(drawing(i * 7 + j), 0.61 - 0.03 * j, j == i % 3) for j in range(5))
        return Search(sentence, lang, "val", 1 + i % 3, 500, hits)

    recall = tuple((float(step), 0.9 * (1 - math.exp(-step / 80))) for step in range(0, 260, 20))
    loss = tuple((float(step), 5.5 * math.exp(-step / 90) + 0.4) for step in range(0, 250, 2))
    sentences = [
        "a red apple above a blue car on a yellow background",
        text,
        "two green frogs",
        "一个红苹果在蓝色汽车上面",
    ]
    return Page(
        title="From pictures to a small CLIP model",
        subtitle="A student trained on 8,000 OpenMoji scenes, exported to ONNX, proved equal, and measured here.",
        headlines=(
            Headline("91.4 %", "text to image R@1"),
            Headline("2.1 ms", "a picture, one thread"),
            Headline("24.3 MB", "both towers"),
            Headline("5 min 12 s", "on two cores"),
        ),
        checks=(
            Check("Text to image, val, R@1", "at least 60 %", "91.4 %", True),
            Check("Every graph gives PyTorch's embeddings", "cosine at least 0.9999", "0.9871", False),
        ),
        charts=(
            Chart("Loss", (Line("clip loss", loss),)),
            Chart("Recall on val", (Line("R@1", recall), Line("R@10", tuple((x, y**0.5) for x, y in recall))), True),
        ),
        retrieval=Table(
            ("split", "language", ">R@1", ">R@10"), [["val", "en", "91.4 % (88–93)", "100 %"], [text, "zh", "1", "2"]]
        ),
        searches=tuple(search(i, sentence, "zh" if i == 3 else "en") for i, sentence in enumerate(sentences)),
        contact_sheet=drawing(5),
        attribution="OpenMoji, CC BY-SA 4.0",
        parity=Table(("tower", ">cases", ">min cosine"), [["image", "16", "0.9999998"], ["text", "32", "0.9999997"]]),
        facts=(("student", text), ("parameters", "3,371,000 image · 2,210,000 text")),
        commands=(Command("clip-edge data emoji --out runs/demo/data --images 8000 --langs en,zh", 31.2),),
        report=report,
    )


@pytest.fixture
def page(make_report: Callable[..., Report], make_row: Callable[..., Row]) -> bytes:
    text_stages = {"tokenise": 0.0001, "encode": 0.0008}
    cold_stages = {"start": 0.05, "import": 0.3, "load": 0.1, "first": 0.02}
    report = make_report(
        make_row(1),
        make_row(2, tower="text", stages_s=text_stages),
        make_row(3, batch=8, factor=7.0, stages_s={"decode": 0.004, "preprocess": 0.005, "encode": 0.018}),
        make_row(4, scenario="cold-start", factor=100.0, stages_s=cold_stages),
        make_row(5, precision="int8", factor=0.6, file_bytes=5_000_000, accuracy=Accuracy(0.995, 0.99, True)),
        make_row(6, backend="peer:openvino", factor=0.9, bundle=HOSTILE),
        make_row(7, scenario="soak", soak=Soak(CURVE, 1.3, "slower", 1_000_000)),
        warnings=(f"busy: {HOSTILE}",),
    )
    return render(full_page(report, HOSTILE))


class Seen(HTMLParser):
    """Collects tags, attributes and text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def test_hostile_text_stays_text(page: bytes) -> None:
    seen = Seen()
    seen.feed(page.decode())
    assert "script" not in seen.tags
    assert not [name for name, _ in seen.attributes if name.startswith("on")]
    # The search, the table, the facts and the warning; a row's name in the legend, its bar and its table.
    assert seen.text.count(HOSTILE) == 7


def test_nothing_is_loaded_from_anywhere(page: bytes) -> None:
    seen = Seen()
    seen.feed(page.decode())
    sources = [value or "" for name, value in seen.attributes if name in ("src", "href", "srcset", "data", "action")]
    assert sources
    assert all(source.startswith("data:") for source in sources)
    assert not re.search(rb"@import|url\(", page)
    assert "default-src 'none'" in dict(seen.attributes).values() or b"default-src 'none'" in page


def test_sections_without_content_are_left_out(
    make_report: Callable[..., Report], make_row: Callable[..., Row]
) -> None:
    text = render(Page(title="bench", report=make_report(make_row(1)))).decode()
    assert "How fast it is here" in text
    assert "<h2>Training" not in text
    assert "<h2>Checks" not in text


def test_every_device_has_a_tab(make_report: Callable[..., Report], make_row: Callable[..., Row]) -> None:
    facts = Device({"power_mode": f"15W {HOSTILE}"}, {"temperature_mc": "51000"})
    report = make_report(make_row(1), make_row(2, device=f"jetson {HOSTILE}"), devices={f"jetson {HOSTILE}": facts})
    page = render(Page(title="bench", report=report))
    seen = Seen()
    seen.feed(page.decode())
    assert "script" not in seen.tags
    assert [value for name, value in seen.attributes if name == "id"] == ["device-1", "device-2"]
    assert "this machine" in seen.text
    assert "temperature_mc 51000" in seen.text
    alone = render(Page(title="bench", report=make_report(make_row(1)))).decode()
    assert 'type="radio"' not in alone


def test_rows_that_are_missing_are_on_the_page(
    make_report: Callable[..., Report], make_row: Callable[..., Row]
) -> None:
    report = make_report(make_row(1), failures=(Failure("peer:x", f"it hangs {HOSTILE}"),))
    assert "peer:x: it hangs" in render(Page(title="bench", report=report)).decode()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium on this machine")
@pytest.mark.parametrize(("width", "dark"), [(390, False), (390, True), (1280, False)])
def test_it_fits_the_screen_and_the_console_is_quiet(page: bytes, tmp_path: Path, width: int, dark: bool) -> None:
    """The page in a frame of the given width; a script beside it reads how wide the content became."""
    file = tmp_path / "report.html"
    file.write_bytes(page)
    probe = tmp_path / "probe.html"
    probe.write_text(
        f'<body style="margin:0"><iframe id="f" src="report.html" style="border:0;width:{width}px"></iframe>'
        "<script>f.onload = () => {const d = f.contentDocument.documentElement;"
        "document.title = `${d.scrollWidth} ${d.clientWidth} ${d.scrollHeight}`}</script>"
    )
    flags = ["--force-dark-mode", "--blink-settings=preferredColorScheme=0"] if dark else []
    done = chromium(tmp_path, *flags, "--dump-dom", "--virtual-time-budget=4000", probe.as_uri())
    found = re.search(r"<title>(\d+) (\d+) (\d+)</title>", done.stdout)
    assert found, done.stdout[:500] + done.stderr[-500:]
    content, visible, height = map(int, found.groups())
    assert content <= visible == width
    assert height > 2000  # it was laid out
    assert "CONSOLE" not in done.stderr

    shot = tmp_path / "shot.png"
    chromium(tmp_path, *flags, f"--window-size={max(width, 500)},2000", f"--screenshot={shot}", file.as_uri())
    with Image.open(shot) as image:
        colours = image.convert("RGB").getcolors(1 << 24)
    assert colours is not None
    assert len(colours) > 100
    commonest = max(colours)[1]
    assert (sum(commonest) < 150) == dark


def chromium(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    quiet += ["--disable-background-networking", "--disable-component-update", "--enable-logging=stderr"]
    own = ["--allow-file-access-from-files", f"--user-data-dir={folder / 'profile'}", "--hide-scrollbars"]
    return subprocess.run(["chromium", *quiet, *own, *words], capture_output=True, text=True, timeout=120, check=True)
