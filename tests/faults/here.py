"""The server of this process, for faults that kill nothing: its settings are the test's."""

from django.db import connection

from tests.conftest import PASSWORD
from tests.faults.page import Page, Person
from tests.faults.site import Row, last_reply


class Here:
    """What a Site offers, without processes of its own."""

    def __init__(self, url: str, provider: str) -> None:
        self.url, self.provider = url, provider
        self._people: dict[str, Person] = {}
        self._pages: list[Page] = []

    def person(self, name: str) -> Person:
        if name not in self._people:
            self._people[name] = Person(self.url, f"{name}@parley.example", PASSWORD)
        return self._people[name]

    def page(self, conversation: str = "", *, by: str = "olive") -> Page:
        """A tab of this person, on a new conversation or on one that exists."""
        path = f"/c/{conversation}/" if conversation else "/"
        page = Page(self.person(by), self.url, path)
        self._pages.append(page)
        return page.connected()

    def close_pages(self) -> None:
        for page in self._pages:
            page.leave()

    def query(self, statement: str, *values: object) -> list[tuple]:
        with connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            return cursor.fetchall()

    def row(self, conversation: str) -> Row:
        """The conversation's last reply."""
        return last_reply(self.query, conversation)
