"""The log as a compliance officer reads it: list, filter, entry, proof."""

import pytest
from playwright.sync_api import expect

from accounts.models import User
from audit.models import Entry, SigningKey
from audit.trail import record
from audit.verify import InclusionProof, VerifierKey, leaf_hash

pytestmark = pytest.mark.browser


def test_officer_filters_opens_an_entry_and_takes_its_proof(
    new_context, ravi: User, olive: User, sealed_log: list[int]
):
    record(olive, "auth.login_succeeded", olive)
    page = new_context(ravi).new_page()
    page.goto("/admin/audit/entry/")
    rows = page.locator("#result_list tr:not(.day)")
    expect(rows.filter(has_text=olive.email)).to_have_count(1)
    filters = page.get_by_role("navigation", name="Filter")
    filters.get_by_role("link", name="Administration", exact=True).click()
    filters.get_by_role("link", name="record.changed").click()
    filters.get_by_text("By actor’s role").click()
    filters.get_by_role("link", name="Compliance officer").click()
    expect(page.get_by_label("Filters in force")).to_contain_text("Role: Compliance officer")
    expect(rows.filter(has_text=olive.email)).to_have_count(0)
    page.locator("#result_list").get_by_role("link", name="record.changed").click()
    expect(page.get_by_role("heading", name="Sealed in checkpoint 1 · verified")).to_be_visible()
    with page.expect_download() as begun:
        page.get_by_role("link", name="Proof (.tlog-proof)").click()
    proof = InclusionProof.parse(begun.value.path().read_text())
    proof.verify(leaf_hash(proof.extra), [VerifierKey.parse(SigningKey.objects.get().vkey)])
    assert f'"entry":{sealed_log[0]},'.encode() in proof.extra
    assert Entry.objects.filter(event="audit.proof_downloaded", actor_id=str(ravi.pk)).exists()


def test_filter_is_reached_on_a_phone_and_days_are_chosen(new_context, ravi: User, sealed_log):
    page = new_context(ravi, viewport={"width": 390, "height": 800}).new_page()
    page.goto("/admin/audit/entry/")
    page.get_by_role("link", name="Filter", exact=True).click()
    page.get_by_label("To, in UTC").fill("2020-01-01")
    page.get_by_role("button", name="Show").first.click()
    expect(page.get_by_text("No entry matches.")).to_be_visible()
    page.get_by_role("link", name="Show everything").first.click()
    expect(page.locator("#result_list")).to_be_visible()
