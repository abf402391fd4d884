"""Open every built page in headless Chromium, phone-wide: does it render, and does it fit?

python scripts/check_browser.py _build/html

Each page must render all of its formulas without error, must not be wider than the screen, and
must leave no error on the console. Where no Chromium is installed, nothing is looked at.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from html import unescape
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PHONE = 390  # CSS pixels
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --allow-file-access-from-files "
    "--enable-logging=stderr --virtual-time-budget=600000 --dump-dom"
).split()
COMPLAINT = re.compile(r"Uncaught|SyntaxError|Failed to load|net::ERR|Refused to|MathJax.*rror")
FRAME = """<!doctype html><html><body><pre id="found"></pre><script>
const pages = PAGES, found = {};
async function look(page) {
  const frame = document.createElement("iframe");
  frame.style.cssText = "width:WIDTHpx;height:800px;border:0";
  const loaded = new Promise((done) => { frame.onload = done; });
  frame.src = page;
  document.body.append(frame);
  await loaded;
  const inside = frame.contentWindow, root = frame.contentDocument;
  if (inside.MathJax && inside.MathJax.startup) await inside.MathJax.startup.promise;
  const maths = [...root.querySelectorAll(".math")];
  found[page] = {
    formulas: maths.length,
    unrendered: maths.filter((node) => !node.querySelector("mjx-container")).length,
    errors: [...root.querySelectorAll("mjx-merror")].map((node) => node.textContent),
    width: root.documentElement.scrollWidth,
  };
  frame.remove();
}
(async () => {
  for (const page of pages) await look(page);
  document.getElementById("found").textContent = JSON.stringify(found);
})();
</script></body></html>"""


def browser() -> str | None:
    """The first Chromium on this machine."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


def look(program: str, pages: list[Path]) -> tuple[dict[str, dict[str, object]], list[str]]:
    """What each page looks like inside, and what the console says."""
    with tempfile.TemporaryDirectory() as folder:
        frame = Path(folder) / "frame.html"
        urls = json.dumps([page.as_uri() for page in pages])
        frame.write_text(FRAME.replace("PAGES", urls).replace("WIDTH", str(PHONE)))
        command = [program, *FLAGS, f"--user-data-dir={folder}/profile", frame.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    match = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    found = json.loads(unescape(match[1])) if match and match[1] else {}
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return found, [line for line in console if COMPLAINT.search(line)]


def page_problems(name: str, seen: dict[str, object] | None) -> list[str]:
    """What is wrong with one page."""
    if seen is None:
        return [f"{name}: did not load"]
    bad = [f"{name}: formula error {text}" for text in list(seen["errors"])]  # type: ignore[call-overload]
    if seen["unrendered"]:
        bad.append(f"{name}: {seen['unrendered']} of {seen['formulas']} formulas not rendered")
    if int(str(seen["width"])) > PHONE:
        bad.append(f"{name}: {seen['width']} pixels wide on a screen of {PHONE}")
    return bad


def main(folder: str) -> int:
    """Look at every page that has a body of its own."""
    root = Path(folder).resolve()
    pages = [p for p in sorted(root.glob("*/*.html")) if not p.parent.name.startswith("_")]
    program = browser()
    if not pages:
        print(f"no page under {root}")
        return 1
    if program is None:
        print("no Chromium on this machine: the pages were not opened")
        return 0
    found, console = look(program, pages)
    bad = [f"console: {line}" for line in console]
    for page in pages:
        bad += page_problems(str(page.relative_to(root)), found.get(page.as_uri()))
    formulas = sum(int(str(seen["formulas"])) for seen in found.values())
    print(*bad, sep="\n", end="\n" if bad else "")
    print(f"{len(found)} pages opened, {formulas} formulas rendered, {len(bad)} problems")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
