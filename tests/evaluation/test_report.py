"""The report as a file: well-formed, complete in itself, escaped, whatever numbers there are."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial

import pytest
from browser import measured, screenshot
from report_page import HOSTILE, Parsed, png_size, report_of_a_barrel

from alignnet.errors import ConfigError
from alignnet.evaluation import plots, quality_plots
from alignnet.evaluation.map_panels import scale_bar
from alignnet.evaluation.report.document import style
from alignnet.evaluation.report.markup import Column, formula, html, link, table
from alignnet.evaluation.report.numbers import alike, short
from alignnet.evaluation.report.page import page, write_report
from alignnet.evaluation.report.pictures import Picture
from alignnet.evaluation.report.sections import SECTIONS
from alignnet.evaluation.report.svg import said_once
from alignnet.evaluation.report.verdict import verdict
from alignnet.evaluation.summary import Evaluation


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Evaluation, "draw", lambda *arguments: None)
        return report_of_a_barrel(tmp_path_factory.mktemp("evaluation"))


@pytest.fixture(scope="module")
def text(report):
    return page(report)


@pytest.fixture(scope="module")
def parsed(text):
    return Parsed(text)


def nothing(value):
    """Nested metrics with no number left."""
    if isinstance(value, dict):
        return {key: nothing(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [nothing(inner) for inner in value]
    return None if isinstance(value, float) else value


def test_every_tag_is_closed_and_every_name_is_the_only_one(parsed):
    assert parsed.errors == []
    names = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(names) == len(set(names))
    targets = [a["href"][1:] for a in parsed.all("a") + parsed.all("use") if a["href"].startswith("#")]
    assert targets
    assert set(targets) <= set(names)
    clips = re.findall(r"url\(#([^)]+)\)", " ".join(str(a) for _, a in parsed.elements))
    assert clips
    assert set(clips) <= set(names)


def test_nothing_is_fetched(text, parsed):
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    for tag, attributes in parsed.elements:
        assert tag not in ("script", "iframe", "object", "embed", "base")
        for name in ("src", "href", "xlink:href", "data", "srcset"):
            address = attributes.get(name) or ""
            assert not re.match(r"(?i)\s*(https?:|//|file:|javascript:)", address), (tag, address)
            if tag != "a":
                assert address.startswith(("#", "data:")) or not address
        assert not any(name.startswith("on") for name in attributes)


def test_every_image_is_in_the_file_and_has_its_pixels(parsed):
    images = parsed.all("image")
    assert len(images) == 13  # twelve maps and the scale
    for image in images:
        width, height = png_size(image["href"])
        assert min(width, height) > 5


def test_every_figure_says_in_words_what_it_shows(parsed):
    shared, *figures = parsed.all("svg")
    assert shared == {"class": "shared", "aria-hidden": "true"}
    assert len(figures) == 37
    for figure in figures:
        assert figure["role"] == "img"
        assert re.search(r"\d", figure["aria-label"]), figure["aria-label"]


def test_every_section_whose_numbers_there_are_is_there_once(report, parsed, monkeypatch):
    keys = [a["id"] for a in parsed.all("section")]
    assert keys == ["verdict", *(section.key for section in SECTIONS)]
    assert len(parsed.all("main")) == len(parsed.all("header")) == len(parsed.all("h1")) == 1
    bare = {key: report.metrics[key] for key in ("chi2_per_ndf", "chi2_per_ndf_before", "n_tracks")}
    monkeypatch.setattr(Picture, "html", lambda picture: html(""))
    few = Parsed(page(replace(report, metrics=bare, run={}, links={})))
    assert [a["id"] for a in few.all("section")] == ["verdict", "corrections"]


def test_tables_have_headers_and_boxes_that_scroll(parsed):
    tables = parsed.all("table")
    assert (
        len([a for a in parsed.all("div") if a.get("class") == "scroll"])
        == len(tables)
        == len(parsed.all("caption"))
    )
    assert {a["scope"] for a in parsed.all("th")} == {"row", "col"}


def test_what_a_user_wrote_is_text(text, parsed):
    assert "<script" not in text
    assert "alert(&quot;x&quot;)" in text
    words = "".join(parsed.text)
    assert words.count(HOSTILE) >= 6  # title, command, file, configuration, sensor and its reason, link
    assert {"../alignment.root", "a%22b.png"} <= {a["href"] for a in parsed.all("a")}


def test_the_verdict_stands_above_all_else(report, text, parsed):
    judged = verdict(report.metrics)
    assert text.index(html(judged.headline)) < text.index('id="verdict"') < text.index('id="run"')
    words = "".join(parsed.text).replace("\N{NO-BREAK SPACE}", " ")
    plain = [re.sub(r"\b(DCA|p)_", r"\1", finding.text) for finding in judged.findings]
    assert all(finding in words for finding in plain)


def test_numbers_that_no_section_knows_are_shown_all_the_same(parsed):
    words = [word for word in parsed.text if word.strip()]
    assert words[words.index("stave 3.mean_um") + 1] == "0.2500"


def test_volumes_and_weak_modes_are_those_that_the_training_found(report, parsed):
    cells = [word for word in parsed.text if word.strip()]
    modes = report.metrics["weak_modes"]["modes"]
    assert {"radial", "twist", "clamshell_sin"} <= set(modes)
    for name, row in modes.items():
        at = cells.index(name, cells.index("Weak modes"))
        assert cells[at + 1 : at + 3] == [row["verdict"], short(row["sigma_um"])]
    for level, n in (("half_barrel", 8), ("stave", 24)):
        found = report.metrics["volumes"][level]
        assert found["n"] == n
        largest = found["largest"][0]
        at = cells.index(largest["name"])
        assert cells[at + 2] == " ± ".join(alike(largest["du_um"], largest["du_um_error"]))
        assert 0 < largest["du_um_error"] < 200  # half-barrels by their prior alone, staves by tracks


def test_tables_of_dca_in_other_bins_get_their_figures(report, monkeypatch):
    monkeypatch.setattr(Picture, "html", lambda picture: html(f"[{picture.name}]"))
    table_in_phi = {
        name: {key.replace("pt_", "phi_"): column for key, column in columns.items()}
        for name, columns in report.metrics["dca"].items()
    }
    metrics = {**report.metrics, "dca_phi": table_in_phi, "dca_by": {"eta": table_in_phi}}
    metrics["dca_p_values"] = {"xy": 0.123, "z": 0.5}
    found = page(replace(report, metrics=metrics))
    for name in ("dca-xy", "dca-z", "dca_phi-xy", "dca_by_eta-z"):
        assert f"[{name}]" in found
    assert "dca_by (" not in found  # nor are they among the further numbers
    assert "dca_p_values (" in found


def test_colours_are_those_of_the_page_and_nothing_is_behind_figures(text):
    rules = text[text.index(".c0{") : text.index("</style>")]
    figures = rules + text[text.index("<svg") :]
    assert "var(--before)" in figures
    assert "var(--after)" in figures
    for colour in ("#0072b2", "#d55e00", "#222222", "#000000"):
        assert colour not in figures
    assert "fill: #ffffff" not in figures
    assert "background" not in figures[: figures.index("</svg>")]


def test_what_figures_share_is_said_once(text):
    outlines = re.findall(r'<(?:path|clipPath) id="[^"]*"(.*?)(?:/>|</clipPath>)', text, flags=re.S)
    assert len(outlines) > 50
    assert len(outlines) == len(set(outlines))
    elements = re.findall(r"<(?:path|use|g)\b[^>]*>", text)
    assert all("url(" in one for one in elements if " style=" in one)
    assert "<g>" not in text
    rules = re.findall(r"^\.(c[0-9a-f]+)\{", text, flags=re.M)
    assert len(rules) == len(set(rules))
    assert set(re.findall(r'class="(c[0-9a-f]+)"', text)) == set(rules)


def test_without_any_number_there_is_a_page_that_says_so(report):
    found = page(replace(report, metrics=nothing(report.metrics)))
    assert Parsed(found).errors == []
    assert "Do not use this alignment" in found
    assert ">nan" not in found


def test_the_same_figure_is_the_same_text(report):
    picture = Picture("scale", partial(scale_bar, 50.0), "Colours from −50 to 50 µm")
    assert picture.html() == picture.html()


def test_it_is_written_whole_or_not_at_all(report, tmp_path, monkeypatch):
    monkeypatch.setattr(Picture, "html", lambda picture: html(""))
    path = tmp_path / "evaluation" / "report.html"
    write_report(path, report)
    before = path.read_text(encoding="utf-8")
    with pytest.raises(AttributeError):
        write_report(path, replace(report, metrics=None))
    assert path.read_text(encoding="utf-8") == before
    assert list(path.parent.iterdir()) == [path]
    with pytest.raises(ConfigError, match="cannot write"):
        write_report(path / "report.html", report)


def test_pieces_of_a_page():
    assert formula("DCA_xy < 3 µm") == "DCA<sub>xy</sub> &lt; 3\N{NO-BREAK SPACE}µm"
    assert formula("max_pT of snap_T") == "max_pT of snap_T"
    assert link("a b.png") == '<a href="a%20b.png">a b.png</a>'
    made = Parsed(table("A & B", [Column("layer", True), Column("n")], [["0", "<3"]]))
    assert made.errors == []
    assert [word for word in made.text if word.strip()] == ["A & B", "layer", "n", "0", "<3"]


# in a browser


def test_a_browser_shows_all_of_it_on_a_desk_and_on_a_phone(text, tmp_path):
    widths = [1280, 390]
    found, said = measured(text, widths, tmp_path)
    assert said == []
    assert len(found["images"]) == 13
    assert min(found["images"]) > 0
    for frame, width in zip(found["frames"], widths, strict=True):
        assert frame["fetched"] == []
        assert frame["client"] == width
        assert frame["scroll"] <= width
        assert len(frame["figures"]) == 37
        for left, right, height in frame["boxes"]:
            assert left >= 0
            assert left + 150 < right <= width
            assert height > 40
        assert min(frame["scales"]) > 1.0  # CSS pixels a point: letters of 9 points are read
    assert found["frames"][0]["ink"] == "rgb(27, 27, 27)"
    desk, phone = ({left for left, _, _ in frame["figures"]} for frame in found["frames"])
    assert len(desk) > len(phone) == 1  # side by side, and one below the other
    assert all(box[1] <= 1280 for box in found["frames"][0]["figures"])  # nothing scrolls on a desk
    assert [table for table in found["frames"][0]["tables"] if table[0] > table[1]] == []


def test_figures_look_the_same_with_letters_of_their_own_and_with_shared_ones(report, tmp_path):
    drawn = {
        "dca": partial(plots.dca_mean_and_width, report.metrics["dca"], ["xy"]),
        "staves": partial(quality_plots.volume_residuals, report.metrics["residual_levels"]),
        "scale": partial(scale_bar, 50.0),
    }
    body = "".join(Picture(name, draw, "a figure").html() for name, draw in drawn.items())
    rules, shared = said_once(body)
    assert len(rules) + len(shared) < 0.7 * len(body)
    looks = partial(screenshot, folder=tmp_path, width=1000, height=1600)
    found = looks(f"<style>{style()}{rules}</style>{shared}")
    assert found == looks(f"<style>{style()}</style>{body}")
    assert found != looks(f"<style>{style()}</style>{shared}")


def test_the_browser_would_have_seen_a_page_too_wide_an_image_gone_and_a_fetch(tmp_path):
    wide, gone = '<div style="width:500px">wide</div>', '<img src="https://example.org/a.png">'
    spoilt = f"<!DOCTYPE html><body>{wide}{gone}<script>console.error('oh')</script>"
    found, said = measured(spoilt, [390], tmp_path)
    assert found["frames"][0]["scroll"] > 390
    assert found["frames"][0]["fetched"] == ["https://example.org/a.png"]
    assert found["images"] == [0]
    assert "oh" in said[0]


def test_dark_pages_have_light_ink(text, tmp_path):
    found, _ = measured(text, [1280], tmp_path, "--blink-settings=preferredColorScheme=0")
    assert found["frames"][0]["ink"] == "rgb(228, 228, 228)"
