"""Models on offer with their prices, to define."""

from datetime import timedelta
from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone

from accounts.admin import DiscreetAdmin
from accounts.models import Role
from prompts.models import LanguageModel, ModelPrice
from prompts.offering import define_model, set_price
from prompts.price_list import name_to_price

# A form is filled in for a while, and "now" stands in it from the beginning.
_AS_GOOD_AS_NOW = timedelta(minutes=10)


class LanguageModelForm(forms.ModelForm):  # type: ignore[type-arg]
    """A model with the roles that it is for."""

    roles = forms.ModelMultipleChoiceField(
        Role.objects.all(),
        widget=forms.CheckboxSelectMultiple,
        required=False,
        help_text="Who may be answered by it. Nobody chosen: everybody who may chat.",
    )

    class Meta:
        model = LanguageModel
        fields = (
            *("slug", "label", "is_active", "base_url", "secret_name", "remote_name"),
            *("context_window", "max_output_tokens", "roles", "fallback"),
        )


@admin.register(LanguageModel)
class LanguageModelAdmin(DiscreetAdmin):
    """Define, change, take off offer. A model that was priced stays, as replies name it."""

    form = LanguageModelForm
    list_display = ("label", "slug", "is_active", "remote_name", "price", "fallback")
    list_select_related = ("fallback",)
    actions = None

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """Keep the slug of a model: prompts and callers name it."""
        return ("slug",) if obj else ()

    def get_prepopulated_fields(self, request: HttpRequest, obj: Any = None) -> dict[str, Any]:
        """Let the slug of a new model follow its label."""
        return {} if obj else {"slug": ("label",)}

    def get_queryset(self, request: HttpRequest) -> QuerySet[LanguageModel]:
        """Load the prices with the models."""
        return super().get_queryset(request).prefetch_related("prices")

    @admin.display(description="USD per million tokens, in / out")
    def price(self, model: LanguageModel) -> str:
        """Return the price that counts now."""
        name, now = name_to_price(model.base_url, model.remote_name), timezone.now()
        for price in model.prices.all():  # the newest first
            if price.priced_name == name and price.from_at <= now:
                return f"{price.input.normalize():f} / {price.output.normalize():f}"
        return "unknown"

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Answer no: take it off offer instead."""
        return False

    def save_model(
        self, request: Any, obj: LanguageModel, form: LanguageModelForm, change: bool
    ) -> None:
        """Define it by the verb, which checks and records."""
        define_model(obj, roles=form.cleaned_data["roles"], by=request.user)
        if obj.is_active and self.price(obj) == "unknown":
            self.message_user(request, "Its price is unknown. Add one, or budgets refuse it.")


class ModelPriceForm(forms.ModelForm):  # type: ignore[type-arg]
    """A new price, from now on or later: what has been paid is not told anew."""

    class Meta:
        model = ModelPrice
        fields = ("model", "from_at", "input", "cached_input", "output", "source")

    def clean_from_at(self) -> Any:
        """Refuse a moment in the past."""
        from_at = self.cleaned_data["from_at"]
        if from_at < timezone.now() - _AS_GOOD_AS_NOW:
            raise forms.ValidationError("A price begins now or later, never in the past.")
        return from_at


@admin.register(ModelPrice)
class ModelPriceAdmin(DiscreetAdmin):
    """The history of prices. It only ever gets longer: a new price is a new row."""

    form = ModelPriceForm
    list_display = ("model", "priced_name", "from_at", "input", "cached_input", "output", "source")
    list_filter = ("model",)
    list_select_related = ("model",)
    ordering = ("-from_at",)
    actions = None

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Answer no."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Answer no."""
        return False

    def save_model(self, request: Any, obj: ModelPrice, form: ModelPriceForm, change: bool) -> None:
        """Add it by the verb, which checks and records."""
        set_price(obj, by=request.user)
