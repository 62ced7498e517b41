"""A temperature that did not help is said on the page and in report.md, with its reason; one that helped is not."""

from __future__ import annotations

import pytest
from report_synthetic import Plan, changed, study

from edgesafe.report import View, build
from edgesafe.report.cautions import temperature_caution
from edgesafe.report.view import grouped

RAW, AFTER = "ece_em10_top1", "ece_em10_top1.calibrated"


def _with(view: View, **change: float) -> View:
    """ECE after temperature = before + change, by method."""
    measured = {}
    for name, m in view.measurements.items():
        shift = change[name.partition("-")[0]]
        after = m.metrics[AFTER].model_copy(update={"estimate": m.metrics[RAW].estimate + shift})
        measured[name] = m.model_copy(update={"metrics": {**m.metrics, AFTER: after}})
    return changed(view, measurements=measured)


def _given(view: View) -> View:
    recipe = {**view.study.record.recipe, "model": {"arch": "resnet20", "weights": "w.th"}}
    return changed(view, record=view.study.record.model_copy(update={"recipe": recipe}))


def test_a_temperature_that_helped_is_no_caution(small: View) -> None:
    view = _with(small, baseline=-0.01, weight=-0.001, filter=-0.02)
    assert temperature_caution(view, grouped(view)[0]) is None
    files = build(view)
    assert "did not improve" not in files.html + files.markdown and "not better than before" not in files.html


@pytest.mark.parametrize("shift", [0.0, 0.013], ids=["equal", "worse"])
def test_one_that_did_not_help_is_named_in_its_section_and_in_markdown(small: View, shift: float) -> None:
    view = _given(_with(small, baseline=-0.01, weight=shift, filter=-0.02))
    before = view.measurements["weight-r0.50-s0"].metrics[RAW].estimate
    files = build(view)
    section = files.html.split('<section id="calibration"')[1].split("</section>")[0]
    line = f"ECE {before * 100:.2f} % before, {(before + shift) * 100:.2f} % after temperature 2.02"
    for text in (section, files.markdown.replace("\\", "")):
        assert "Temperature scaling did not improve calibration on 1 of 3 variants." in text
        assert f"weight-r0.50-s0: {line}" in text and "filter-r0.50-s0: ECE" not in text
        assert "began with given weights" in text and "may have been among those" in text
        assert "Do not ship model.calibrated.onnx" in text and "misleads the fit" in text
    assert files.html.count("not better than before") == 1


def test_without_given_weights_the_reason_is_another(small: View) -> None:
    view = _with(small, baseline=0.01, weight=0.01, filter=0.01)
    caution = temperature_caution(view, grouped(view)[0])
    assert caution is not None and "3 of 3" in caution.head
    assert "given weights" not in caution.reason and "validation images" in caution.reason
    assert "below 1" not in caution.reason
    sharp = tuple(
        v.model_copy(update={"temperature": v.temperature.model_copy(update={"value": 0.6})}) for v in view.variants
    )
    view = changed(view, variants=sharp)
    caution = temperature_caution(view, grouped(view)[0])
    assert caution is not None and "3 of these 3" in caution.reason


def test_a_large_study_names_a_few() -> None:
    many = study(
        Plan(variants=(("filter", 0.5),), seeds=tuple(range(6)), n=60, corruptions=(), evidence=False, layers=2)
    )
    view = _with(many, baseline=0.01, filter=0.01)
    caution = temperature_caution(view, grouped(view)[0])
    assert caution is not None and len(caution.variants) == 9 and caution.variants[-1].startswith("and 4 more")


def test_nothing_measured_is_nothing_said(small: View) -> None:
    view = changed(small, measurements={})
    assert temperature_caution(view, grouped(view)[0]) is None
