"""The forms of the editors' workplace."""

from typing import Any
from uuid import UUID

from django import forms
from django.db.models import Q
from django.forms import BaseFormSet, formset_factory
from django.http import QueryDict
from django.utils.datastructures import MultiValueDict

from accounts.models import User
from accounts.roles import ROLES, Permission
from prompts.models import LanguageModel, PromptTemplate, PromptVersion
from prompts.publishing import MAX_NOTE_CHARACTERS, PARAMETERS, NotPossible, Terms, check_roles
from prompts.release.guards import Bounds
from prompts.release.rollout import EARLY, MAX_STEPS, USUAL_STEPS, Plan, Step
from prompts.rendering import DECLARABLE, MAX_VARIABLES, Kind, Refused, Variable, declared

SPARE_ROWS = 2
_WRITING = [slug for slug, role in ROLES.items() if Permission.EDIT_PROMPTS in role.permissions]


class TemplateForm(forms.ModelForm):  # type: ignore[type-arg]
    """What a template is called, and who may choose it."""

    roles = forms.MultipleChoiceField(
        choices=[(slug, role.label) for slug, role in ROLES.items()],
        widget=forms.CheckboxSelectMultiple,
        required=False,
        help_text="Who may choose it. Nobody chosen: everybody who may chat.",
    )

    class Meta:
        model = PromptTemplate
        fields = ("name", "slug", "purpose", "owner", "roles")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        can_own = Q(grants__role__in=_WRITING) | Q(pk=self.instance.owner_id)
        people = User.objects.filter(can_own).distinct().order_by("name", "email")
        self.fields["owner"] = forms.ModelChoiceField(
            people, required=False, help_text="Who is asked about it: somebody who edits prompts."
        )

    def clean(self) -> dict[str, Any]:
        """Refuse roles that can't be."""
        given: dict[str, Any] = super().clean() or {}
        slug = self.instance.slug or given.get("slug", "")
        try:
            check_roles(slug, given.get("roles", []))
        except NotPossible as error:
            self.add_error("roles", str(error))
        return given


class VariableForm(forms.Form):
    """One declared variable; a row without a name declares none."""

    name = forms.CharField(max_length=40, required=False)
    kind = forms.ChoiceField(choices=[(kind.value, kind.value) for kind in DECLARABLE])
    required = forms.BooleanField(required=False)
    default = forms.CharField(
        required=False,
        widget=forms.Textarea(attrs={"rows": 1}),
        help_text="A list: one item on each line. A flag: yes or nothing.",
        strip=False,
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        lines = str(self.initial.get("default", "")).count("\n") + 1
        self.fields["default"].widget.attrs["rows"] = min(lines, 6)

    def variable(self) -> Variable | None:
        """Return what the row declares. Raises Refused."""
        given = self.cleaned_data
        if not given.get("name"):
            return None
        kind = Kind(given["kind"])
        return Variable(given["name"], kind, given["required"], _default(kind, given["default"]))

    @classmethod
    def initial_for(cls, variable: Variable) -> dict[str, Any]:
        """Return the row that shows a variable."""
        default: Any = variable.default
        if isinstance(default, tuple):
            default = "\n".join(default)
        elif isinstance(default, bool):
            default = "yes" if default else ""
        return {
            "name": variable.name,
            "kind": variable.kind.value,
            "required": variable.required,
            "default": default,
        }


def _default(kind: Kind, text: str) -> str | bool | tuple[str, ...]:
    text = text.replace("\r\n", "\n")
    if kind == Kind.LIST:
        return tuple(line.strip() for line in text.split("\n") if line.strip())
    if kind == Kind.FLAG:
        return text.strip().lower() in {"yes", "true", "1", "on"}
    return text.strip("\n")


_Variables = formset_factory(VariableForm, extra=SPARE_ROWS, max_num=MAX_VARIABLES)


class DraftForm(forms.Form):
    """A draft as an editor writes it, with the revision that they had before them."""

    content = forms.CharField(
        label="What the AI is told",
        strip=False,
        widget=forms.Textarea(attrs={"rows": 16, "spellcheck": "true"}),
    )
    model = forms.ChoiceField(required=False)
    change_note = forms.CharField(max_length=500, required=False, label="What changes, and why")
    revision = forms.IntegerField(widget=forms.HiddenInput)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        models = LanguageModel.objects.order_by("label").values_list("slug", "label")
        self.fields["model"].choices = [("", "The model by default"), *models]  # type: ignore[attr-defined]
        for name, known in PARAMETERS.items():
            field: Any = forms.IntegerField if known.is_whole else forms.FloatField
            self.fields[name] = field(
                required=False,
                min_value=known.least,
                max_value=known.most,
                help_text=f"{known.least:,} to {known.most:,}. {known.says}",
            )
        initial = self.initial.get("variables", [])
        self.variables: BaseFormSet[VariableForm] = _Variables(
            self.data if self.is_bound else None, initial=initial, prefix="variables"
        )

    @classmethod
    def of(cls, version: PromptVersion) -> "DraftForm":
        """Return the form that shows a stored draft."""
        variables = [VariableForm.initial_for(one) for one in declared(version.variables)]
        initial = {
            **version.parameters,
            "content": version.content,
            "model": version.model,
            "change_note": version.change_note,
            "revision": version.revision,
            "variables": variables,
        }
        return cls(initial=initial)

    def parameter_fields(self) -> list[forms.BoundField]:
        """Return the fields of what is told to the provider beside the text."""
        return [self[name] for name in PARAMETERS]

    def terms(self) -> Terms | None:
        """Return what was written, if it could be told; else None, with the errors in the form."""
        if not (self.is_valid() and self.variables.is_valid()):
            return None
        given = self.cleaned_data
        try:
            found = [one.variable() for one in self.variables.forms if one.has_changed()]
            variables = tuple(variable for variable in found if variable)
            _refuse_twice(variables)
            chosen = {name: given[name] for name in PARAMETERS if given[name] is not None}
            note = given["change_note"]
            terms = Terms(given["content"], variables, given["model"], chosen, note)
            terms.rendered()
        except Refused as refused:
            self.add_error("content" if refused.line else None, str(refused))
            return None
        return terms

    def goes_on_from(self, revision: int) -> None:
        """Let what was written be saved on top of this revision, which its writer now sees."""
        data = self.data.copy() if isinstance(self.data, QueryDict) else MultiValueDict(self.data)
        data["revision"] = str(revision)
        self.data = data


def _refuse_twice(variables: tuple[Variable, ...]) -> None:
    names = [variable.name for variable in variables]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise Refused(f"{twice} is declared twice.")


class StepForm(forms.Form):
    """A step of a release; a row without a share is none."""

    share = forms.DecimalField(label="Share, %", required=False, max_digits=7, decimal_places=2)
    people = forms.IntegerField(required=False)
    turns = forms.IntegerField(required=False)
    hours = forms.DecimalField(required=False, max_digits=7, decimal_places=2)

    @classmethod
    def initial_for(cls, step: Step) -> dict[str, Any]:
        """Return the row that shows a step."""
        return {
            "share": f"{step.share / 100:g}",
            "people": step.people,
            "turns": step.turns,
            "hours": f"{step.minutes / 60:g}",
        }

    def step(self) -> Step | None:
        """Return what the row says."""
        given = self.cleaned_data
        if given.get("share") is None:
            return None
        return Step(
            share=round(given["share"] * 100),
            people=given["people"] or 0,
            turns=given["turns"] or 0,
            minutes=round((given["hours"] or 0) * 60),
        )


_Steps = formset_factory(StepForm, extra=SPARE_ROWS, max_num=MAX_STEPS, absolute_max=MAX_STEPS + 5)


class BeginForm(forms.Form):
    """How a version goes from a few people to everybody."""

    early_role = forms.ChoiceField(
        choices=[("", "No role"), *((slug, role.label) for slug, role in ROLES.items())],
        required=False,
        label="For everybody with the role",
    )
    early_people = forms.CharField(
        required=False,
        label="And for these people",
        widget=forms.Textarea(attrs={"rows": 3}),
        help_text="Their email addresses, one on each line.",
    )
    early_minimum = forms.IntegerField(
        required=False, label="People, at least", initial=EARLY.people
    )
    early_turns = forms.IntegerField(required=False, label="Turns, at least", initial=EARLY.turns)
    early_hours = forms.DecimalField(
        required=False,
        label="Hours, at least",
        max_digits=7,
        decimal_places=2,
        initial=f"{EARLY.minutes / 60:g}",
    )
    note = forms.CharField(
        label="Why",
        max_length=MAX_NOTE_CHARACTERS,
        widget=forms.Textarea(attrs={"rows": 3}),
        help_text="Goes to the audit log with your name. No personal data.",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        initial = [StepForm.initial_for(step) for step in USUAL_STEPS]
        self.steps: BaseFormSet[StepForm] = _Steps(
            self.data if self.is_bound else None, initial=initial, prefix="steps"
        )

    def early_waits(self) -> list[forms.BoundField]:
        """Return the fields of what is waited for in the early access."""
        return [self[name] for name in ("early_minimum", "early_turns", "early_hours")]

    def clean_early_people(self) -> list[UUID]:
        """Return the accounts that were named. Refuse addresses that nobody has."""
        named = {line.strip().lower() for line in self.cleaned_data["early_people"].splitlines()}
        named.discard("")
        found = {user.email.lower(): user.pk for user in User.objects.filter(email__in=named)}
        if unknown := sorted(named - found.keys()):
            raise forms.ValidationError(f"Nobody here has the address {unknown[0][:100]}.")
        return list(found.values())

    def plan(self) -> Plan | None:
        """Return the plan that was written; None, with the errors in the form, where it isn't."""
        if not (self.is_valid() and self.steps.is_valid()):
            return None
        given = self.cleaned_data
        early = Step(
            0,
            people=given["early_minimum"] or 0,
            turns=given["early_turns"] or 0,
            minutes=round((given["early_hours"] or 0) * 60),
        )
        steps = [step for form in self.steps.forms if (step := form.step())]
        return Plan(steps, given["early_role"], given["early_people"], early)


class NoteForm(forms.Form):
    """Why somebody releases, restores or pauses."""

    note = forms.CharField(
        max_length=MAX_NOTE_CHARACTERS,
        widget=forms.Textarea(attrs={"rows": 3}),
        help_text="Goes to the audit log with your name. No personal data.",
    )


class BoundsForm(forms.Form):
    """How much worse than production a release may be."""

    error_rate = forms.FloatField(help_text="More turns that fail, as a share: 0.02 is 2 in 100.")
    refusal_rate = forms.FloatField(help_text="More turns that are refused, as a share.")
    thumbs_down_rate = forms.FloatField(help_text="More thumbs down among ratings, as a share.")
    duration_factor = forms.FloatField(help_text="So many times as long may replies take.")
    cost_factor = forms.FloatField(help_text="So many times as dear may replies be.")
    advances_itself = forms.BooleanField(
        label="Take the next step by itself",
        required=False,
        help_text="When a step has its sample and time, and no bound is crossed. The last step is"
        " yours.",
    )

    def bounds(self) -> Bounds:
        """Return what was given; of a valid form."""
        return Bounds(**self.cleaned_data)
