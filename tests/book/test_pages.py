"""The generated pages say what the records say, and the hand-written ones cite what exists."""

import importlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from choosing import BEGIN, END, PROBLEMS

from lipnb.records import make_record, snapshot, synthetic_data, write_record
from lipnb.training.critic_methods import METHODS

ROOT = Path(__file__).parents[2]
CLAIM = {
    "claim": "SN is too smooth",
    "paper": "far below 1",
    "ours": "well below 1",
    "verdict": "reproduced",
    "evidence": [{"method": "sn", "metric": "max_gradient"}],
}


@pytest.fixture(scope="module")
def write_pages():
    """The script's entry point: options to exit status."""
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        main = importlib.import_module("pages").main
    finally:
        sys.path.remove(str(ROOT / "scripts"))
    return lambda *options: main([str(option) for option in options])


@pytest.fixture
def book(tmp_path):
    """A repository with one chapter, one module, and records of the toy for two methods."""
    for folder in ("book", "notebooks", "lipnb"):
        (tmp_path / folder).mkdir()
    (tmp_path / "requirements.txt").write_text("torch==2.15.0 \\\n    --hash=sha256:0\n")
    (tmp_path / "lipnb" / "toy.py").write_text("RATE = 0.1\n")
    (tmp_path / "notebooks" / "18_toy.md").write_text(
        "# 18 · The toy\n\n```{code-cell} ipython3\n:tags: [nbval-check-output]\n1\n```\n"
    )
    shutil.copy(ROOT / "book" / "deviations_toy.yaml", tmp_path / "book")
    (tmp_path / "book" / "choosing.md").write_text(f"Before.\n\n{BEGIN}old\n{END}\nAfter.\n")
    code = snapshot(["lipnb/toy.py"], tmp_path)
    for method, level in (("sn", 0.25), ("none", 20.0)):
        for seed in range(3):
            record = make_record(
                experiment="toy",
                method=method,
                seed=seed,
                parameters={"iterations": 16384},
                metrics={"max_gradient": {"value": level + seed, "n": 10}},
                data=synthetic_data("points", seed=seed),
                code=code,
                seconds=1.0,
            )
            write_record(record, tmp_path / "results")
    return tmp_path


@pytest.fixture
def text(book, write_pages):
    """Write the pages and return one."""

    def written(name="ledger"):
        assert write_pages("--root", book) == 0
        return (book / "book" / f"{name}.md").read_text()

    return written


def claims(book, *given):
    (book / "results" / "toy" / "claims.json").write_text(json.dumps(given))


def test_the_committed_pages_are_those_of_the_records():
    command = [sys.executable, "scripts/pages.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_experiment_is_in_the_ledger():
    page = (ROOT / "book" / "ledger.md").read_text()
    folders = {path.parent.name for path in (ROOT / "results").glob("*/*-seed*.json")} | {"toy"}
    for name in folders:
        assert re.search(rf"\| {name} [|]|\(ledger-{name}\)=", page), f"{name} is not in the ledger"


def test_the_ledger_shows_the_numbers_and_the_verdict(book, text):
    claims(book, CLAIM)
    page = text()
    # Three values 0.25, 1.25, 2.25: mean 1.25, sd 1, and t = 4.30265 for two degrees of freedom.
    assert "well below 1 (max gradient of sn: 1.2 ± 2.5, n = 3) | reproduced |" in page
    assert "| none | 3 | 21.0 ± 2.5 |" in page
    assert "6 records" in page and "made by today's code" in page
    assert "| optimiser and rate | not given |" in page


def test_without_a_full_run_the_verdict_says_so(book, text, write_pages):
    shutil.rmtree(book / "results")
    page = text()
    assert page.count("| no record yet | not run at full size yet |") == 4
    claims_file = book / "results" / "toy" / "claims.json"
    claims_file.parent.mkdir(parents=True)
    claims_file.write_text(json.dumps([CLAIM]))
    with pytest.raises(ValueError, match="before the full run, wanted 'not run at full size yet'"):
        write_pages("--root", book)


def test_a_short_run_is_not_taken_for_the_full_one(book, text, write_pages):
    path = next((book / "results" / "toy").glob("sn-seed0.json"))
    path.write_text(path.read_text().replace("16384", "640"))
    assert "**Not at full size**, which is iterations = 16384." in text()
    assert "| not run at full size yet |" in text("status")
    claims(book, CLAIM)
    with pytest.raises(ValueError, match="before the full run"):
        write_pages("--root", book)


def test_many_settings_are_cut_to_those_to_be_shown(book, text, write_pages):
    digest = "0123456789abcdef" * 4
    for path in (book / "results" / "toy").glob("*-seed*.json"):
        record = json.loads(path.read_text())
        record["parameters"] |= {"rate": 0.1, "sha256": digest}
        path.write_text(json.dumps(record))
    assert "All runs: iterations = 16384, rate = 0.1, sha256 = 0123456789ab…." in text()
    stated = book / "book" / "deviations_toy.yaml"
    plain = stated.read_text()
    stated.write_text(plain + "shown: [rate]\n")
    assert "All runs: rate = 0.1; 2 more settings are in the records." in text()
    stated.write_text(plain + "shown: [speed]\n")
    with pytest.raises(ValueError, match=r"shown must name settings .* got \['speed'\]"):
        write_pages("--root", book)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"verdict": "nearly reproduced"}, "verdict must be one of"),
        ({"evidence": [{"method": "sn", "metric": "slope"}]}, "evidence must be in the records"),
        ({"evidence": None}, "wanted the keys"),
    ],
)
def test_a_claim_must_be_one_of_the_records(changes, message, book, write_pages):
    claims(book, {k: v for k, v in (CLAIM | changes).items() if v is not None})
    with pytest.raises(ValueError, match=message):
        write_pages("--root", book)


def test_variants_stand_beside_each_other(book, text):
    for path in (book / "results" / "toy").glob("*.json"):
        record = json.loads(path.read_text())
        record["metrics"]["gradient_error"] = {"value": 0.5 + record["seed"], "n": 10}
        record["parameters"]["optimizer"] = "sgd"
        record["experiment"] = "toy-sgd"
        write_record(record, book / "results")
    page = text()
    assert "| method | toy-sgd |\n| --- | --- |\n| none | 1.5 ± 2.5 |" in page
    assert "- toy-sgd: optimizer = sgd." in page
    assert "(ledger-toy-sgd)=" not in page


def test_changed_code_is_shown_on_both_pages(book, text, write_pages):
    assert "| current |" in text("status")
    (book / "lipnb" / "toy.py").write_text("RATE = 0.1  # unchanged\n")
    assert write_pages("--root", book, "--check") == 0
    (book / "lipnb" / "toy.py").write_text("RATE = 0.2\n")
    assert write_pages("--root", book, "--check") == 1
    assert "stale: lipnb/toy.py changed" in text("status")
    assert "changed since then: lipnb/toy.py." in text()


def test_an_edited_page_is_noticed(book, text, write_pages, capsys):
    page = text()
    assert write_pages("--root", book, "--check") == 0
    (book / "book" / "ledger.md").write_text(page.replace("21.0", "19.0"))
    assert write_pages("--root", book, "--check") == 1
    assert "book/ledger.md: differs" in capsys.readouterr().out
    assert (book / "book" / "ledger.md").read_text() != page, "a check writes nothing"


def test_the_status_lists_chapters_times_and_versions(book, text, write_pages):
    page = text("status")
    assert "| [18 · The toy](../notebooks/18_toy.ipynb) | 1 | not measured |" in page
    assert "| torch | 2.15.0 | all |" in page
    times = {"18_toy": {"seconds": 41.6, "date": "2026-11-23T01:00:00+00:00"}}
    (book / "_build").mkdir()
    (book / "_build" / "times.json").write_text(json.dumps(times))
    assert write_pages("--root", book, "--times") == 0
    assert "| 1 | 42 s | 2026-11-23 |" in text("status")


def sources():
    """Every hand-written or generated source of the book."""
    return [*(ROOT / "book").glob("*.md"), *(ROOT / "notebooks").glob("[0-9]*.md")]


def test_every_citation_is_in_the_bibliography():
    bibliography = (ROOT / "book" / "references.bib").read_text()
    known = re.findall(r"^@\w+\{([^,]+),", bibliography, re.MULTILINE)
    assert len(known) == len(set(known)), "a key stands twice"
    for path in sources():
        for group in re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", path.read_text(encoding="utf-8")):
            missing = {key.strip() for key in group.split(",")} - set(known)
            assert not missing, f"{path.name} cites {missing}"


def test_the_introduction_links_every_chapter():
    intro = (ROOT / "book" / "intro.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"chapter-(\d\d)", intro))
    assert linked == {path.name[:2] for path in (ROOT / "notebooks").glob("[0-9]*.md")}


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "book/running.md"])
def test_named_paths_exist_and_named_commands_are_targets(name):
    page = (ROOT / name).read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for command in set(re.findall(r"`make ([a-z]+)|^make ([a-z]+)", page, re.MULTILINE)):
        assert "".join(command) in targets, f"{name} names make {command}"
    for target in re.findall(r"\]\(([\w./-]+)\)", page):
        path = (ROOT / name).parent / target.split("#")[0]
        assert path.exists(), f"{name} links {target}"


def test_the_measured_part_of_choosing_comes_from_the_study(book, text):
    page = text("choosing")
    assert page.startswith("Before.") and page.endswith("After.\n") and "old" not in page
    assert "no records yet" in page
    for position, method in enumerate(METHODS):
        scores = {"ratio": 0.9, "cosine": 0.8, "lower": 0.7, "upper": 1.0, "seconds": 2.0}
        scores["seconds"] += 4 * position
        for seed in (0, 1):
            record = make_record(
                experiment="critics",
                method=method,
                seed=seed,
                parameters={"iterations": 1},
                metrics={
                    f"{which}.{name}": {"value": value + 0.02 * seed, "n": 1}
                    for which in PROBLEMS
                    for name, value in scores.items()
                },
                data=synthetic_data("laws", seed=seed),
                code=snapshot(["lipnb/toy.py"], book),
                seconds=1.0,
            )
            write_record(record, book / "results")
    page = text("choosing")
    assert "no records yet" not in page and len(page.splitlines()) > len(METHODS)
    row = next(line for line in page.splitlines() if line.startswith("| clipping"))
    assert row.count("0.91 / 0.81") == len(PROBLEMS) and "| 0.71 to 1.01 | 3.0 |" in row


def test_choosing_without_its_marks_is_refused(book, write_pages):
    (book / "book" / "choosing.md").write_text("no marks")
    with pytest.raises(ValueError, match="once each"):
        write_pages("--root", book)
