"""Weights that no model can calculate with: refused before a lineage begins, found where one has begun."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import rayunlearn.serving.scheduler as scheduling
from rayunlearn.cli.models_command import ExportOptions, VerifyOptions, run_models
from rayunlearn.errors import BadInput, ExitCode, IntegrityError
from rayunlearn.inversion.model_inversion import generator_spec
from rayunlearn.ledger.ledger import LedgerReader
from rayunlearn.ledger.lineage import versions
from rayunlearn.lineages.published import load_version
from rayunlearn.models.conditional_generator import build_conditional_generator
from rayunlearn.models.weights import version_id, weights_to_bytes
from rayunlearn.serving.service import Place, Service
from rayunlearn.storage.store import Store
from tests.serving.tiny import (
    memory_store,
    original,
    same_bits,
    stored_original,
    tiny_context,
    tiny_recipe,
    tiny_scheduler,
)

Change = Callable[[Tensor], Tensor]

HOSTILE: dict[str, tuple[str, Change, str]] = {
    "int8": ("head.weight", lambda w: (w * 100).to(torch.int8), "torch.int8"),
    "fp8": ("head.weight", lambda w: w.to(torch.float8_e4m3fn), "torch.float8_e4m3fn"),
    "bool": ("head.bias", lambda w: w > 0, "torch.bool"),
    "uint16": ("head.bias", lambda w: w.abs().to(torch.uint16), "torch.uint16"),
    "variance": ("running_var", lambda v: -v - 1, "running_var' is -"),
    "too large": ("head.weight", lambda w: w.double() + 1e300, "finite numbers of 32 bits"),
}


def changed(weights: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    """The weights with the first tensor of the kind's name changed."""
    ending, change, _ = HOSTILE[kind]
    name = next(name for name in weights if name.endswith(ending))
    return {**weights, name: change(weights[name])}


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_checkpoint_of_codes_does_not_poison_its_lineage(kind: str, tmp_path: Path) -> None:
    """It is refused before anything is written; the right file then begins the lineage."""
    store, path = memory_store(), tmp_path / "original.safetensors"
    path.write_bytes(weights_to_bytes(changed(original()[1], kind)))
    with pytest.raises(BadInput, match=HOSTILE[kind][2]):
        Service(tiny_context(store, tiny_recipe()), Place(), checkpoint=path)
    assert store.list() == []
    path.write_bytes(weights_to_bytes(original()[1]))
    Service(tiny_context(store, tiny_recipe()), Place(), checkpoint=path).begin_lineage("default")
    (first,) = versions(LedgerReader(store), "default")
    assert first.version == version_id(original()[1])


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("kind", ["codes", "variance", "width"])
def test_a_generator_that_does_not_fit_is_refused_at_once(kind: str, tmp_path: Path) -> None:
    """By its types, numbers or shape; the run would else fail when it has begun. The right one is taken."""
    shape = ("few_shot.model_inversion.width=0.1", "few_shot.model_inversion.z_dim=8")
    recipe = tiny_recipe("digits_few_shot", *shape, "method=few_shot_pretrained", "few_shot.workers=0")
    spec = generator_spec(original()[0], recipe.few_shot.model_inversion)
    fitting = build_conditional_generator(spec, 0).state_dict()
    name = next(name for name in fitting if name.endswith("running_var"))
    bad: dict[str, dict[str, Tensor]] = {
        "codes": {n: v.to(torch.int8) for n, v in fitting.items()},
        "variance": {**fitting, name: -fitting[name]},
        "width": {**fitting, name: fitting[name][:-1]},
    }
    store, path = memory_store(), tmp_path / "generator.safetensors"

    def service() -> Service:
        return Service(tiny_context(store, recipe), Place(), generator=path)

    path.write_bytes(weights_to_bytes(bad[kind]))
    with pytest.raises(BadInput, match=r"generator\.safetensors"):
        service()
    assert store.list() == []
    path.write_bytes(
        weights_to_bytes({n: v.double() if v.is_floating_point() else v for n, v in fitting.items()})
    )
    given = service().generator
    assert given is not None and same_bits(given, fitting)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_diverged_is_not_published(value: float) -> None:
    """An original, or a result, that is not finite: nothing is stored, nothing could follow it."""
    spec, weights = stored_original()
    store = memory_store()
    with pytest.raises(
        BadInput, match="weights to publish in lineage 'default': tensor 'head.bias' is 'not f"
    ):
        tiny_scheduler(
            store,
            tiny_recipe(),
            of=(spec, {**weights, "head.bias": torch.full_like(weights["head.bias"], value)}),
        )
    assert store.list() == []


@pytest.fixture
def poisoned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A storage location whose lineage begins with a variance below 0, as one could before."""
    spec, weights = stored_original()
    monkeypatch.setattr(scheduling, "require_weights", lambda weights, where: None)
    store = Store.open(tmp_path / "storage", sync=False)
    tiny_scheduler(store, tiny_recipe(), of=(spec, changed(weights, "variance")))
    return tmp_path / "storage"


def test_what_was_published_of_such_is_found(poisoned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`models verify` names it, `models export` writes no file, no run and no audit begins from it."""
    out = poisoned.parent / "v.safetensors"
    store = Store.open(poisoned, create=False)
    (version,) = versions(LedgerReader(store), "default")
    with pytest.raises(BadInput, match=r"running_var' is -.*; allowed: at least 0"):
        load_version(store, version)
    assert run_models(VerifyOptions(storage=str(poisoned))) == IntegrityError.exit_code
    said = " ".join(capsys.readouterr().out.split())
    assert "1 finding in" in said and "running_var' is -" in said
    given = ExportOptions(version=version.version[:8], out=out, storage=str(poisoned))
    assert run_models(given) == ExitCode.BAD_INPUT and not out.exists()


def test_what_is_well_is_not_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Negative control: the same lineage from the proper weights."""
    tiny_scheduler(Store.open(tmp_path / "storage", sync=False), tiny_recipe(), of=stored_original())
    assert run_models(VerifyOptions(storage=str(tmp_path / "storage"))) == ExitCode.OK
    assert "No finding" in capsys.readouterr().out
