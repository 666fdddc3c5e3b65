"""The page of a comparison: it opens offline, every link has its target, and nothing from a run becomes markup."""

import re
from html.parser import HTMLParser
from typing import Any

from compare_records import PLANNED, all_records, experiment

from layerlab.lab.compare import report, table

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """Ids, links, every attribute that could fetch something, and whether tags are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name == "href":
                self.links.append(value or "")
            if name in ("src", "srcset", "action", "data", "poster", "xlink:href", "background"):
                self.fetched.append(value or "")
            assert not name.startswith("on"), f"a script in {tag}"

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> closes another"


def made(records: list[dict[str, Any]], **options: Any) -> str:
    return report.page(table.build(records, PLANNED), records, **options)


def test_it_asks_for_nothing_from_anywhere() -> None:
    text = made(all_records())
    page = Page(text)
    assert page.fetched == []
    assert all(link.startswith("#") for link in page.links)
    assert not {"script", "link", "iframe", "img", "object", "embed"} & set(page.tags)
    assert not re.search(r"https?://|//[a-z]|url\(|@import", text)


def test_every_link_has_its_target_and_every_target_is_one() -> None:
    page = Page(made(all_records()))
    assert {link[1:] for link in page.links} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


def test_every_cell_with_a_figure_links_to_its_run() -> None:
    records = all_records()
    filled, text = table.build(records, PLANNED), made(records)
    for part in filled:
        for row in part.rows:
            for cell in row.cells:
                if cell.text:
                    assert f'<a href="#run-{cell.run}">{cell.text}</a>' in text
    ids = Page(text).ids
    assert all(f"run-{record['run']}" in ids for record in records)


def test_a_run_shows_hypothesis_control_and_both_verdicts() -> None:
    text = made(all_records())
    block = text[text.index('id="run-bb000000"') :]
    block = block[: block.index("</section>")]
    for words in ("nothing is lost", "no protection", "trial: held", "control: did not hold", "What then?"):
        assert words in block


def test_what_a_run_says_is_text_and_never_markup() -> None:
    evil = '<script src="http://evil.example/x.js"></script><a href="http://evil.example">"\'&'
    records = [experiment("optimistic", "rule-change", "bb000000", told=evil)]
    page = Page(made(records))
    assert "script" not in page.tags
    assert all(link.startswith("#") for link in page.links)


def test_an_interrupted_comparison_says_so_and_so_does_an_empty_one() -> None:
    assert "was interrupted: 3 of its runs are missing" in made(all_records(), missing_runs=3)
    page = Page(made([], missing_runs=9))
    assert {link[1:] for link in page.links} <= set(page.ids)


def test_light_and_dark_have_the_same_colours_set() -> None:
    text = made(all_records())
    light, dark = re.findall(r":root \{(.*?)\}", text, re.DOTALL)[:2]
    names = [set(re.findall(r"--(\w+):", block)) for block in (light, dark)]
    assert names[0] == names[1] != set()


def test_a_bar_is_as_long_as_its_figure() -> None:
    records = all_records()
    records[0]["measured"]["users"]["transactions_per_second"] = 100.0
    records[1]["measured"]["users"]["transactions_per_second"] = 200.0
    charts = report._figure_charts(table.build(records, PLANNED))["users"]
    chart = next(c for c in charts if c.title == "of calls")
    assert [bar.width for bar in chart.bars] == [report.BAR_WIDTH / 2, report.BAR_WIDTH]
