"""Pictures that live inside the page: no style attributes, no ids that clash, colours that follow the theme.

The page's content security policy allows its one style sheet by hash and nothing else, so inline SVG may
carry presentation attributes (`fill="#2864b4"`) but no `style="..."`. The style sheet recolours those
attributes in the dark theme; `PALETTE` is what it knows.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree

SVG = "{http://www.w3.org/2000/svg}"
HREF = "{http://www.w3.org/1999/xlink}href"
INK, MUTED, GRID, PAPER = "#1c1e21", "#6b7078", "#e4e6ea", "#ffffff"
SERIES = ("#2864b4", "#c4571b", "#2f8a57", "#8a4fb0", "#a8790b", "#b03a5b")
CONTROL = "#8b9097"
# Light colour -> dark colour, for every colour that a picture may use.
PALETTE = {
    INK: "#e6e8eb",
    MUTED: "#9aa1ab",
    GRID: "#30343b",
    PAPER: "#17191d",
    SERIES[0]: "#6ea8f0",
    SERIES[1]: "#f0935a",
    SERIES[2]: "#62c48c",
    SERIES[3]: "#c395e6",
    SERIES[4]: "#d9ae45",
    SERIES[5]: "#ea7f9d",
    CONTROL: "#7b828c",
}


def dark_rules() -> str:
    """Style rules that recolour the pictures in the dark theme."""
    return "\n".join(
        f'.plot [{attribute}="{light}"] {{ {attribute}: {dark}; }}'
        for light, dark in PALETTE.items()
        for attribute in ("fill", "stroke")
    )


def tidy(text: str, prefix: str, label: str) -> str:
    """A matplotlib SVG made fit for the page.

    Args:
        text: The SVG document.
        prefix: Put before the ids that the picture refers to, so that two pictures do not share one.
        label: What the picture shows, for screen readers.
    """
    root = ElementTree.fromstring(text)
    _drop(root, {f"{SVG}metadata", f"{SVG}style"})
    used = set(re.findall(r"url\(#([^)]+)\)", text)) | set(re.findall(r'href="#([^"]+)"', text))
    for element in root.iter():
        element.tag = element.tag.removeprefix(SVG)
        _unstyle(element)
        _rename(element, used, prefix)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.attrib.update({"class": "plot", "role": "img", "aria-label": label})
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=False)


def _drop(element: ElementTree.Element, tags: set[str]) -> None:
    for child in list(element):
        if child.tag in tags:
            element.remove(child)
        else:
            _drop(child, tags)


def _unstyle(element: ElementTree.Element) -> None:
    """Turn the style attribute into presentation attributes; of a font only its size is kept."""
    style = element.attrib.pop("style", "")
    for declaration in style.split(";"):
        name, _, value = declaration.partition(":")
        name, value = name.strip(), value.strip()
        if name in ("font", "font-size"):  # releases of matplotlib differ
            size = re.search(r"[\d.]+px", value)
            if size:
                element.set("font-size", size.group())
        elif name and not name.startswith("font-"):
            element.set(name, value)


def _rename(element: ElementTree.Element, used: set[str], prefix: str) -> None:
    name = element.attrib.pop("id", None)
    if name in used:
        element.set("id", f"{prefix}-{name}")
    target = element.attrib.pop(HREF, None)
    if target is not None:
        element.set("href", f"#{prefix}-{target.removeprefix('#')}")
    clip = element.attrib.get("clip-path")
    if clip is not None:
        element.set("clip-path", clip.replace("url(#", f"url(#{prefix}-"))
