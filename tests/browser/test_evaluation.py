"""The page of `ctclip evaluate`: nothing that it holds may run or fetch, and all of it shows."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Browser

from ctclip_client.cli.program import main

_ROWS = "".join(f"s{at}.nii,{at % 2},{at / 20}\n" for at in range(20))
_COLOURS = """images => images.map(image => {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
  let blue = 0;
  for (let at = 0; at < pixels.length; at += 4)
    blue += pixels[at + 3] === 255 && pixels[at + 2] > pixels[at] + 80;
  return blue;
})"""
"""How many pixels of each picture have the colour of its curve."""


def test_its_policy_lets_pictures_and_colours_through_and_nothing_else(
    browser: Browser, tmp_path: Path
) -> None:
    for name, at in (("labels", 1), ("predictions", 2)):
        rows = [line.split(",") for line in _ROWS.splitlines()]
        lines = [f"{row[0]},{row[at]}\n" for row in rows]
        (tmp_path / f"{name}.csv").write_text("".join(["scan,Emphysema\n", *lines]))
    path = tmp_path / "page.html"
    given = [f"--{name}={tmp_path / name}.csv" for name in ("predictions", "labels")]
    assert main(["evaluate", *given, f"--report={path}"]) == 0
    page = browser.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.goto(path.as_uri())
    blue = page.eval_on_selector_all("img", _COLOURS)
    assert len(blue) == 4
    assert min(blue) > 50
    bar = page.locator(".research").evaluate("element => getComputedStyle(element).backgroundColor")
    assert bar == "rgb(27, 31, 36)"
    assert said == []
    tried = path.read_text().replace("</body>", "<script>document.title = 'ran'</script></body>")
    path.write_text(tried)
    page.goto(path.as_uri())
    assert page.title() != "ran"
    assert any("Content Security Policy" in line for line in said)
    page.close()
