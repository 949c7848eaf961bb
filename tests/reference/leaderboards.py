"""Runs of made-up figures, the methods that they name, and the boards of them that are kept as text.

After a wanted change of the rendering: ``python -m tests.reference.leaderboards``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmark.boards import markdown, view
from benchmark.boards.view import ordered_boards
from benchmark.registries import MethodEntry
from benchmark.registry import Registry
from benchmark.results.record import Result

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "leaderboard"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
PROVENANCE = {
    "started": "2026-11-23T17:57:34+00:00",
    "commit": COMMIT,
    "dirty": False,
    "sources": {"method": "0f00", "loss": "ba5e"},
    "device": "cpu",
    "cpu": "A processor",
    "threads": 1,
    "libraries": {"torch": "2.15.0"},
}


#: What a page must show as text.
HOSTILE = "</script><script>window.hacked=1</script><!--<img src=x onerror='window.hacked=1'>&amp;\u2028"


def registry(*entries: MethodEntry) -> Registry[MethodEntry]:
    """A registry that holds these methods and no other."""
    made = Registry("method", "METHODS", MethodEntry, "methods", lambda _: None, ("embedding", "generative", "local"))
    made._known, made._third_parties_loaded = {entry.name: entry for entry in entries}, True
    return made


def entry(name: str, title: str, family: str, year: int, module: str) -> MethodEntry:
    return MethodEntry(name, title, family, year, "", module, GOLDEN / f"{name}.py")


ENTRIES = (
    entry("ale", "ALE", "embedding", 2016, "methods.embedding.ale"),
    entry("devise", "DeViSE", "embedding", 2013, "methods.embedding.devise"),
    entry("eszsl", "ESZSL", "embedding", 2015, "methods.embedding.eszsl"),
    entry("clswgan", "f-CLSWGAN", "generative", 2018, "methods.generative.clswgan"),
    entry("guest", "A guest", "embedding", 2000, "zsl_plugin_guest"),
)
METHODS = registry(*ENTRIES)


def result(method: str = "ale", loss: str = "mse", seed: int = 0, **changes: Any) -> Result:
    """A run whose figures follow from ``T1`` and ``H``; ``changes`` go to the spec, or to the result itself."""
    t1, h, semantics = changes.pop("T1", 50.0), changes.pop("H", 30.0), changes.pop("semantics", True)
    own = {key: changes.pop(key) for key in ("status", "error", "provenance", "cost") if key in changes}
    errors = {"mean": t1 * 1e-5, "std": h * 1e-5, "spread": h / t1, "r": 0.25, "worst_decile": t1 * 2e-5}
    metrics = {"T1": t1, "AUSUC": h * 0.6, "gamma": 0.5} | dict.fromkeys(("U", "S", "H"), h)
    metrics |= dict.fromkeys(("U_calibrated", "S_calibrated", "H_calibrated"), h + 5)
    per_class = [
        {"name": f"{seen} {d}", "seen": seen, "T1": None if seen else t1 + d, "gzsl": h + d, "calibrated": h + 5 - d}
        for seen in (True, False)
        for d in (-2, 0, 2)
    ]
    spec = {
        "protocol": "strict",
        "split": "proposed",
        "dataset": "awa1",
        "simulated": False,
        "features": "res101",
        "revision": "aaaabbbbcccc",
        "method": method,
        "loss": loss,
        "hparams": {"lr": 0.01} | changes.get("hparam_overrides", {}),
        "loss_parameters": changes.get("loss_overrides", {}),
    }
    content: dict[str, Any] = {
        "spec": spec | changes,
        "seed": seed,
        "status": "ok",
        "provenance": PROVENANCE,
    }
    if own.get("status", "ok") == "ok":
        content["cost"] = {"fit_s": 1.5 + seed, "evaluate_s": 0.1, "peak_memory_mib": 9.0}
        content["selection"] = {"on": "validation", "criterion": "AUSUC", "value": 40.0, "choice": 1, "gamma": 0.5}
        content["selection"]["history"] = [{"epoch": 1.0, "held-out AUSUC": 40.0}]
        content["refit_history"] = [{"epoch": 1.0, "loss": 0.5}]
        if changes.get("protocol") == "literature":
            content["selection"] |= {"on": "test", "value": h * 0.6}
            content["selection"]["history"] = [{"epoch": 1.0, "held-out AUSUC": h * 0.6}]
            content["refit_history"] = []
        content["evaluation"] = {
            "metrics": metrics,
            "per_class": per_class,
            "imbalance": {"seen": errors, "unseen": errors | {"r": 0.5}} if semantics else None,
        }
    return Result.model_validate(content | own)


def seeds(n: int, method: str = "ale", loss: str = "mse", level: float = 50.0, **changes: Any) -> list[Result]:
    """Runs of seeds 0..n-1 around a level, with a wobble of their own."""
    wobble = [0.0, 0.7, -0.4, 1.1, -0.9]
    shift = len(loss) / 7
    return [
        result(method, loss, s, T1=level + wobble[s], H=level - 20 + shift * wobble[(s + len(loss)) % 5], **changes)
        for s in range(n)
    ]


def repeated(n: int, method: str, loss: str, **changes: Any) -> list[Result]:
    """Runs of a deterministic method: all but the first repeat it."""
    again = PROVENANCE | {"repeats_seed": 0}
    return [result(method, loss, s, provenance=again if s else PROVENANCE, **changes) for s in range(n)]


def golden_results() -> list[Result]:
    one = {"loss_overrides": {"scale": "mean_one"}}
    lampert = {"features": "lampert2009", "revision": "ddddeeeeffff", "dataset_options": {"features": "lampert2009"}}
    sim = {"dataset": "awa1-sim", "simulated": True, "revision": "sim1-0123456789ab", "features": "sim-small"}
    failed = {"status": "failed", "error": "FloatingPointError: loss is `nan` | at epoch 3 (train.py:9 in step)"}
    return [
        *seeds(5, "ale", "none", 49.0, semantics=False),
        *seeds(5, "ale", "mse"),
        *seeds(5, "ale", "remse", 51.0),
        *seeds(5, "ale", "remse", 50.2, **one),
        *seeds(3, "ale", "mse", 52.0, hparam_overrides={"lr": 0.1, "preprocess": "l2"}),
        *repeated(5, "eszsl", "mse", T1=53.0, H=30.0),
        *repeated(5, "eszsl", "remse", T1=53.5, H=30.0),
        *seeds(
            3, "clswgan", "remse", 55.0, provenance={"commit": "fedcba9876543210", "dirty": True, "device": "A GPU"}
        ),
        *seeds(5, "ale", "mse-matched", 50.9),
        *(result("clswgan", "remse", s, **failed) for s in (3, 4)),
        *seeds(5, "guest", "mse", 40.0),
        *seeds(1, "my|method", "lds", 41.0, provenance={}),
        *seeds(2, "ale", "mse", 45.0, **lampert),
        *seeds(2, "ale", "remse", 46.0, **lampert),
        *seeds(2, "ale", "mse", 60.0, protocol="literature"),
        *seeds(2, "ale", "remse", 61.0, protocol="literature"),
        *(r for p in range(3) for r in seeds(2, "ale", "mse", 44.0 + p, split=f"random-{p}")),
        *(r for p in range(3) for r in seeds(2, "ale", "remse", 45.0 + p * p, split=f"random-{p}")),
        *seeds(5, "ale", "mse", 30.0, **sim),
        *seeds(5, "ale", "remse", 33.0, **sim),
    ]


RESULTS = golden_results()


def page_results() -> list[Result]:
    """The runs of the golden boards, some with hostile names, and as many further data sets as a ranking needs."""
    others = [
        result(name, loss, dataset=dataset, H=h)
        for dataset in ("abc", "xyz")
        for loss, third in (("mse", "guest"), ("remse", "clswgan"))
        for name, h in (("ale", 30.0), ("eszsl", 40.0), (third, 20.0))
    ]
    return [*RESULTS, *others, *seeds(2, "ale", HOSTILE, 35.0, hparam_overrides={"note": HOSTILE})]


if __name__ == "__main__":
    for path in GOLDEN.glob("*.md"):
        path.unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(view, "METHODS", METHODS)
        for file, content in markdown.render(ordered_boards(RESULTS)).items():
            (GOLDEN / file).write_text(content, encoding="utf-8")
