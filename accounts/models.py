"""Who: people with an account, roles, and who was granted which."""

from datetime import datetime
from typing import Any, ClassVar, Self

from django.contrib.auth.models import AbstractBaseUser, BaseUserManager
from django.contrib.postgres.expressions import ArraySubquery
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models.functions import Lower
from django.utils import timezone
from django.utils.functional import cached_property
from uuid_utils.compat import uuid7

from accounts import roles
from accounts.roles import Permission


class EmailAddressField(models.EmailField):  # type: ignore[type-arg]
    """An email address, the same in any case: kept, compared and looked up in lower case."""

    def to_python(self, value: Any) -> Any:
        """Return the address in lower case."""
        return _lower(super().to_python(value))

    def get_prep_value(self, value: Any) -> Any:
        """Return the address in lower case, for rows and for lookups alike."""
        return _lower(super().get_prep_value(value))


def _lower(value: Any) -> Any:
    return value.strip().lower() if isinstance(value, str) else value


class UserQuerySet(models.QuerySet["User"]):
    """Accounts."""

    def with_roles(self) -> Self:
        """Load each account's roles in the same query."""
        slugs = RoleGrant.objects.filter(user=models.OuterRef("pk")).values("role")
        return self.annotate(loaded_roles=ArraySubquery(slugs))

    def holding(self, role: str) -> Self:
        """Keep the active accounts that hold the role with this slug."""
        return self.filter(is_active=True, grants__role=role)


class UserManager(BaseUserManager["User"].from_queryset(UserQuerySet)):  # type: ignore[misc]
    """Makes accounts. There is no `create_superuser`, because no account is one."""

    def create_user(self, email: str, password: str | None = None, *, name: str = "") -> "User":
        """Create an account without any role; without a password nobody can sign in to it.

        Raises ValueError without an email, IntegrityError when an account has it already.
        """
        if not email:
            raise ValueError("An account needs an email.")
        user: User = self.model(email=_lower(email), name=name)
        user.set_password(password)
        user.save(using=self._db)
        return user

    def get_by_natural_key(self, username: str | None) -> "User":
        """Return the account with this email, in any case."""
        user: User = self.get(email=username)
        return user


class User(AbstractBaseUser):
    """A person who may sign in. What they may do follows from their roles alone."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    email = EmailAddressField("email", max_length=254)
    name = models.CharField("name", max_length=150, blank=True)
    is_active = models.BooleanField("active", default=True)
    date_joined = models.DateTimeField("joined", default=timezone.now, editable=False)
    erased_at = models.DateTimeField("erased", null=True, blank=True, editable=False)

    objects: ClassVar[UserManager] = UserManager()

    USERNAME_FIELD = "email"
    EMAIL_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []

    class Meta:
        verbose_name = "account"
        ordering = ("email",)
        constraints = (
            models.UniqueConstraint(
                fields=["email"],
                name="account_email_is_unique",
                violation_error_message="There is an account with this email.",
            ),
            # With the constraint above: unique in any case, and an equality finds it by index.
            models.CheckConstraint(
                condition=models.Q(email=Lower("email")), name="account_email_is_lower_case"
            ),
        )

    def __str__(self) -> str:
        return self.get_username()

    def clean(self) -> None:
        """Do as AbstractBaseUser does, in lower case."""
        super().clean()
        self.email = _lower(self.email)

    @property
    def is_superuser(self) -> bool:
        """Always False; Django's admin and libraries ask for it."""
        return False

    @property
    def is_staff(self) -> bool:
        """Say whether a role of theirs has a section in the admin."""
        return bool(roles.admin_patterns(self.permissions))

    @cached_property
    def roles(self) -> frozenset[str]:
        """The slugs of their roles: one query, or none after `with_roles()`.

        Kept for the life of this instance. In async code load the account `with_roles()`.
        """
        loaded = self.__dict__.get("loaded_roles")
        return frozenset(self.grants.values_list("role", flat=True) if loaded is None else loaded)

    def forget_roles(self) -> None:
        """Ask the database again the next time, because grants have changed."""
        for name in ("loaded_roles", "roles", "permissions"):
            self.__dict__.pop(name, None)

    @cached_property
    def permissions(self) -> frozenset[Permission]:
        """What they may do; nothing while the account is inactive."""
        return roles.permissions_of(self.roles) if self.is_active else frozenset()

    def refresh_from_db(self, *args: Any, **kwargs: Any) -> None:
        """Reload the row, and forget what was known about the roles."""
        self.forget_roles()
        super().refresh_from_db(*args, **kwargs)

    def has_perm(self, perm: str, obj: Any = None) -> bool:
        """Answer Django's admin and `{% if perms.… %}` from the table of roles."""
        return roles.implies(self.permissions, perm)

    def has_perms(self, perm_list: list[str], obj: Any = None) -> bool:
        """Say whether they have each of these permissions."""
        return all(self.has_perm(perm, obj) for perm in perm_list)

    def has_module_perms(self, app_label: str) -> bool:
        """Say whether the admin shows them anything of this app."""
        prefix = f"{app_label}."
        return any(p.startswith(prefix) for p in roles.admin_patterns(self.permissions))

    def get_full_name(self) -> str:
        """Return the name, or the email where there is none."""
        return self.name or self.email

    get_short_name = get_full_name


class Role(models.Model):
    """A row for each role of `accounts.roles.ROLES`, so that grants can point to it."""

    slug = models.SlugField(primary_key=True, max_length=40)
    label = models.CharField(max_length=80)

    class Meta:
        ordering = ("slug",)

    def __str__(self) -> str:
        return self.label


class RoleGrant(models.Model):
    """That an account holds a role, since when, and who gave it. Made by `accounts.granting`."""

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="grants")
    role = models.ForeignKey(Role, on_delete=models.PROTECT, related_name="grants")
    granted_by = models.ForeignKey(
        User, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    granted_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ("user", "role")
        constraints = (
            models.UniqueConstraint(fields=["user", "role"], name="role_is_granted_once"),
        )

    def __str__(self) -> str:
        return f"{self.role_id} of {self.user_id}"


class ApiTokenQuerySet(models.QuerySet["ApiToken"]):
    """Tokens."""

    def usable(self, now: datetime) -> Self:
        """Keep those that open something at `now`: their account is active, too."""
        lasting = models.Q(expires_at=None) | models.Q(expires_at__gt=now)
        return self.filter(lasting, revoked_at=None, user__is_active=True)


class ApiToken(models.Model):
    """A secret by which a program acts for a person. Of the secret only its digest is kept."""

    class Scope(models.TextChoices):
        """What a token opens, besides what its person may do at all."""

        CHAT = "chat", "Ask questions, stop and rate replies"
        READ = "read", "Read conversations and usage"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="api_tokens")
    name = models.CharField(max_length=80)
    beginning = models.CharField(
        max_length=16, help_text="How the secret begins, by which people know it again."
    )
    digest = models.BinaryField(max_length=32, unique=True, help_text="SHA-256 of the secret.")
    scopes = ArrayField(models.CharField(max_length=20, choices=Scope.choices))
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    last_used_at = models.DateTimeField(null=True, blank=True, help_text="To the minute.")
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    objects = ApiTokenQuerySet.as_manager()

    class Meta:
        verbose_name = "API token"
        ordering = ("-created_at",)
        constraints = (
            models.CheckConstraint(condition=models.Q(scopes__len__gt=0), name="token_has_a_scope"),
        )

    def __str__(self) -> str:
        return f"API token {self.pk}"

    @property
    def has_expired(self) -> bool:
        """Whether its time is over."""
        return self.expires_at is not None and self.expires_at <= timezone.now()

    @property
    def scope_labels(self) -> list[str]:
        """What it opens, in words."""
        return [str(scope.label) for scope in self.Scope if scope in self.scopes]
