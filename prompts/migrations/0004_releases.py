"""Releases: a version on its way to everybody, and who decided what about it."""

import datetime

import django.contrib.postgres.fields
import django.db.models.deletion
import django.utils.timezone
import uuid_utils.compat
from django.conf import settings
from django.db import migrations, models

import prompts.models.releases

# What the application checks with a sentence, the database refuses as well. ENABLE ALWAYS, so that
# session_replication_role = replica does not switch the triggers off.
GUARD = """
CREATE FUNCTION prompts_steps_rise(steps jsonb) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN jsonb_typeof(steps) IS DISTINCT FROM 'array' THEN false ELSE (
        SELECT count(*) BETWEEN 1 AND 20 AND max(share) > 0 AND bool_and(
            coalesce(share > before AND share <= 10000 AND least(people, turns, minutes) >= 0, false)
            AND num_nulls(people, turns, minutes) = 0
        )
        FROM (
            SELECT share, people, turns, minutes, lag(share, 1, -1) OVER (ORDER BY place) AS before
            FROM (
                SELECT place, (step->>'share')::int AS share, (step->>'people')::int AS people,
                    (step->>'turns')::int AS turns, (step->>'minutes')::int AS minutes
                FROM jsonb_array_elements(steps) WITH ORDINALITY AS listed (step, place)
            ) AS read
        ) AS following
    ) END
$$;

ALTER TABLE prompts_release
    ADD CONSTRAINT release_steps_rise CHECK (prompts_steps_rise(steps)),
    ADD CONSTRAINT release_has_the_share_of_its_step CHECK (
        coalesce((steps->(step::int)->>'share')::int = share, false)
    ),
    ADD CONSTRAINT early_access_is_without_share CHECK (
        (state <> 'early_access' OR share = 0) AND (state <> 'canary' OR share > 0)
    );

CREATE FUNCTION prompts_release_points_well() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.version_id = NEW.replaces_id OR (
        SELECT count(*) FROM prompts_promptversion
        WHERE id IN (NEW.version_id, NEW.replaces_id) AND template_id = NEW.template_id
            AND published_at IS NOT NULL
    ) <> 2 THEN
        RAISE EXCEPTION 'A release leads from one published version of its template to another.'
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE FUNCTION prompts_release_stays() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'UPDATE' THEN
        RAISE EXCEPTION 'A release is never removed (%).', TG_OP
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF OLD.state IN ('finished', 'rolled_back') THEN
        RAISE EXCEPTION 'A release that is over is never changed.'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF (NEW.id, NEW.template_id, NEW.version_id, NEW.replaces_id, NEW.salt, NEW.early_role,
            NEW.early_people, NEW.steps, NEW.began_at, NEW.began_by_id)
        IS DISTINCT FROM
       (OLD.id, OLD.template_id, OLD.version_id, OLD.replaces_id, OLD.salt, OLD.early_role,
            OLD.early_people, OLD.steps, OLD.began_at, OLD.began_by_id) OR NEW.step < OLD.step THEN
        RAISE EXCEPTION 'What a release began with stays, and its steps only go up.'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NEW;
END $$;

CREATE FUNCTION prompts_decisions_stay() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'Decisions about releases are never changed or removed (%).', TG_OP
        USING ERRCODE = 'insufficient_privilege';
END $$;

CREATE TRIGGER prompts_release_is_well BEFORE INSERT OR UPDATE
    ON prompts_release FOR EACH ROW EXECUTE FUNCTION prompts_release_points_well();
CREATE TRIGGER prompts_release_rows_stay BEFORE UPDATE OR DELETE
    ON prompts_release FOR EACH ROW EXECUTE FUNCTION prompts_release_stays();
CREATE TRIGGER prompts_release_is_never_emptied BEFORE TRUNCATE
    ON prompts_release FOR EACH STATEMENT EXECUTE FUNCTION prompts_release_stays();
CREATE TRIGGER prompts_releasedecision_rows_stay BEFORE UPDATE OR DELETE
    ON prompts_releasedecision FOR EACH ROW EXECUTE FUNCTION prompts_decisions_stay();
CREATE TRIGGER prompts_releasedecision_is_never_emptied BEFORE TRUNCATE
    ON prompts_releasedecision FOR EACH STATEMENT EXECUTE FUNCTION prompts_decisions_stay();
ALTER TABLE prompts_release ENABLE ALWAYS TRIGGER prompts_release_is_well;
ALTER TABLE prompts_release ENABLE ALWAYS TRIGGER prompts_release_rows_stay;
ALTER TABLE prompts_release ENABLE ALWAYS TRIGGER prompts_release_is_never_emptied;
ALTER TABLE prompts_releasedecision ENABLE ALWAYS TRIGGER prompts_releasedecision_rows_stay;
ALTER TABLE prompts_releasedecision ENABLE ALWAYS TRIGGER prompts_releasedecision_is_never_emptied;

DO $$
DECLARE grantee text;
BEGIN
    FOR grantee IN
        SELECT DISTINCT CASE WHEN acl.grantee = 0 THEN 'PUBLIC'
                             ELSE quote_ident(pg_get_userbyid(acl.grantee)) END
        FROM pg_class AS c, aclexplode(c.relacl) AS acl
        WHERE c.oid = 'prompts_releasedecision'::regclass AND acl.grantee <> c.relowner
    LOOP
        EXECUTE format(
            'REVOKE UPDATE, DELETE, TRUNCATE ON prompts_releasedecision FROM %s', grantee
        );
        EXECUTE format('REVOKE DELETE, TRUNCATE ON prompts_release FROM %s', grantee);
    END LOOP;
END $$;
"""

# The triggers and constraints go with their tables, which reversing drops next; nothing but the
# functions would stay.
LET_GO = """
DROP TRIGGER prompts_releasedecision_is_never_emptied ON prompts_releasedecision;
DROP TRIGGER prompts_releasedecision_rows_stay ON prompts_releasedecision;
DROP TRIGGER prompts_release_is_never_emptied ON prompts_release;
DROP TRIGGER prompts_release_rows_stay ON prompts_release;
DROP TRIGGER prompts_release_is_well ON prompts_release;
ALTER TABLE prompts_release DROP CONSTRAINT release_steps_rise;
DROP FUNCTION prompts_decisions_stay();
DROP FUNCTION prompts_release_stays();
DROP FUNCTION prompts_release_points_well();
DROP FUNCTION prompts_steps_rise(jsonb);
"""


def _person():
    return models.ForeignKey(
        blank=True, db_constraint=False, null=True, on_delete=django.db.models.deletion.DO_NOTHING,
        related_name="+", to=settings.AUTH_USER_MODEL,
    )


def _id():
    return models.UUIDField(
        default=uuid_utils.compat.uuid7, editable=False, primary_key=True, serialize=False
    )


class Migration(migrations.Migration):
    dependencies = [
        ("prompts", "0003_versions"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AddField(
            "promptversion",
            "is_for_release",
            models.BooleanField(
                db_default=False,
                default=False,
                help_text="Published to be released step by step, not made live at once.",
            ),
        ),
        migrations.CreateModel(
            name="Release",
            fields=[
                ("id", _id()),
                (
                    "salt",
                    models.BinaryField(
                        default=prompts.models.releases.new_salt,
                        help_text="Decides, with their id, where a person stands.",
                    ),
                ),
                ("early_role", models.SlugField(blank=True, max_length=40)),
                (
                    "early_people",
                    django.contrib.postgres.fields.ArrayField(
                        base_field=models.UUIDField(), blank=True, default=list, size=None
                    ),
                ),
                ("steps", models.JSONField()),
                (
                    "step",
                    models.PositiveSmallIntegerField(
                        default=0, help_text="Which of `steps` holds, from 0."
                    ),
                ),
                (
                    "share",
                    models.PositiveSmallIntegerField(
                        help_text="Of the people, in basis points: that of the step."
                    ),
                ),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("early_access", "early access"),
                            ("canary", "Canary"),
                            ("paused", "Paused"),
                            ("finished", "in production"),
                            ("rolled_back", "rolled back"),
                        ],
                        max_length=12,
                    ),
                ),
                ("step_began_at", models.DateTimeField(default=django.utils.timezone.now)),
                ("paused_at", models.DateTimeField(blank=True, null=True)),
                (
                    "paused_for",
                    models.DurationField(
                        default=datetime.timedelta,
                        help_text="How long this step was paused before it went on.",
                    ),
                ),
                ("began_at", models.DateTimeField(default=django.utils.timezone.now)),
                ("ended_at", models.DateTimeField(blank=True, null=True)),
                ("began_by", _person()),
                (
                    "replaces",
                    models.ForeignKey(
                        help_text="What is live meanwhile, and after a rollback.",
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="prompts.promptversion",
                    ),
                ),
                (
                    "template",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="releases",
                        to="prompts.prompttemplate",
                    ),
                ),
                (
                    "version",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="releases",
                        to="prompts.promptversion",
                    ),
                ),
            ],
            options={
                "ordering": ("-began_at",),
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("state__in", ["early_access", "canary", "paused"])),
                        fields=("template",),
                        name="one_release_under_way",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            (
                                "state__in",
                                ["early_access", "canary", "paused", "finished", "rolled_back"],
                            )
                        ),
                        name="release_state_known",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("paused_at__isnull", False), ("state", "paused")),
                            models.Q(
                                models.Q(("state", "paused"), _negated=True), ("paused_at", None)
                            ),
                            _connector="OR",
                        ),
                        name="paused_release_says_since_when",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="ReleaseDecision",
            fields=[
                ("id", _id()),
                (
                    "verb",
                    models.CharField(
                        choices=[
                            ("began", "Began"),
                            ("advanced", "Advanced"),
                            ("paused", "Paused"),
                            ("resumed", "Resumed"),
                            ("rolled_back", "rolled back"),
                            ("finished", "Finished"),
                        ],
                        max_length=11,
                    ),
                ),
                (
                    "share",
                    models.PositiveSmallIntegerField(help_text="From then on, in basis points."),
                ),
                (
                    "part",
                    models.CharField(
                        blank=True,
                        help_text="Which part of Parley decided, where no person did.",
                        max_length=40,
                    ),
                ),
                (
                    "is_emergency",
                    models.BooleanField(
                        default=False, help_text="An author of the version decided alone."
                    ),
                ),
                ("note", models.CharField(max_length=300)),
                (
                    "numbers",
                    models.JSONField(blank=True, default=dict, help_text="What it was decided by."),
                ),
                ("at", models.DateTimeField(default=django.utils.timezone.now)),
                ("by", _person()),
                (
                    "release",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="decisions",
                        to="prompts.release",
                    ),
                ),
            ],
            options={"ordering": ("at", "id")},
        ),
        migrations.RunSQL(GUARD, LET_GO),
    ]
