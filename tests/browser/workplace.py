"""The editors' workplace as editors use it."""

from playwright.sync_api import Page


def play(page: Page, question: str) -> None:
    """Ask in the playground of a version's page."""
    page.get_by_label("A question as people would ask it").fill(question)
    page.get_by_role("button", name="Try").click()
