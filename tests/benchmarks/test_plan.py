"""Which rows a selection lays out."""

from pathlib import Path

from clip_edge.benchmarks.peers import PEERS
from clip_edge.benchmarks.plan import Selection, make_plan


def peers(bundle: Path, *patterns: str, **settings: object) -> list[str | None]:
    plan = make_plan([bundle], [Selection(towers=("text",), peers=patterns, **settings)])  # type: ignore[arg-type]
    return [cell.peer for cell in plan.cells if cell.peer]


def test_peers_are_named_by_patterns(tiny_bundle: Path) -> None:
    assert peers(tiny_bundle, "*") == list(PEERS)
    assert peers(tiny_bundle, "openvino*", "mnn") == ["openvino", "openvino-bf16", "openvino-int8", "mnn"]
    assert peers(tiny_bundle) == []


def test_what_starts_a_process_each_time_has_no_peers(tiny_bundle: Path) -> None:
    assert peers(tiny_bundle, "*", scenarios=("cold-start", "soak")) == []
