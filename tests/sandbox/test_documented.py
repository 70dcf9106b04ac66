"""The conformance suite states nothing without a page of Stripe's, and its table in the docs is true."""

import re

from tests.sandbox.documented import HERE, OWN, PAGE, SITE, TABLE, asked_for, behaviours, modules, stated_in, table

LINES = range(1, 61)
# Lines of docs/scenarios.md that depend on nothing Stripe does.
OURS = {
    44: "our inbox",
    47: "our outbox",
    48: "our outbox",
    50: "our API",
    51: "our API",
    52: "our processes, and PostgreSQL",
    53: "PostgreSQL",
    54: "PostgreSQL",
    55: "our queues",
    56: "our hosts",
    57: "our retention",
    59: "PostgreSQL",
    60: "our processes",
}
LINK = re.compile(re.escape(SITE) + r"([A-Za-z0-9_/.-]*[A-Za-z0-9_])")


def test_every_conformance_test_names_its_page() -> None:
    stated = {(one.module, one.test): one.pages for one in behaviours()}
    for module in modules():
        for name, _ in stated_in(module):
            pages = stated.get((module.__name__.rpartition(".")[2], name), ())
            assert pages, f"{module.__name__}.{name}: which page of Stripe's says so? (tests/sandbox/documented.py)"
            assert all(page.startswith(SITE) for page in pages), name
    assert len(stated) > 100


def test_modules_about_the_sandbox_itself_exist_and_state_nothing_of_stripe() -> None:
    for name in OWN:
        lines = (HERE / f"test_{name}.py").read_text(encoding="utf-8").splitlines()
        assert [line for line in lines if line.startswith("@documented(")] == []


def test_every_page_cited_is_known_to_exist() -> None:
    """Nobody invents a link: pages.txt says how each page is known."""
    lines = (HERE / "pages.txt").read_text(encoding="utf-8").splitlines()
    known = {page: how for how, page in (line.split() for line in lines if not line.startswith("#"))}
    assert set(known.values()) == {"read", "linked"}
    root = HERE.parents[1]
    files = [PAGE, *HERE.glob("*.py"), *(root / "stripe_sandbox").glob("*.py")]
    cited = {page: file.name for file in files for page in LINK.findall(file.read_text(encoding="utf-8"))}
    assert {page: file for page, file in cited.items() if page not in known} == {}
    assert set(known) - set(cited) == set(), "cited nowhere any more"


def test_every_scenario_that_leans_on_stripe_has_its_behaviours_stated() -> None:
    leant_on = {line for one in behaviours() for line in one.lines}
    assert leant_on | set(OURS) == set(LINES)
    assert leant_on & set(OURS) == set()


def test_the_table_in_the_docs_is_the_suite() -> None:
    (found,) = TABLE.findall(PAGE.read_text(encoding="utf-8"))
    assert found == table(), "write it anew: python -m tests.sandbox.documented"


def test_what_runs_on_stripe_asks_for_the_client_alone() -> None:
    """The table says what runs on Stripe by what a test asks for, so all must ask."""
    on_stripe = {(one.module, one.test) for one in behaviours() if one.on_stripe}
    for module in modules():
        for name, test in stated_in(module):
            assert ("api" in asked_for(test)) or (module.__name__.rpartition(".")[2], name) not in on_stripe, name
    assert len(on_stripe) > 50
