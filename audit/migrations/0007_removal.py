import django.db.models.functions.datetime
from django.db import migrations, models

# The one way by which entries go: a function of the tables' owner, which the application may call.
# It takes whole stretches from the beginning, sealed and older than the floor, and notes what it
# took before it does. The trigger lets go what such a note covers, and nothing else; no variable of
# a session has a say. The floor is a table that the owner alone changes (`manage.py migrate`).
# Both functions name the schema, so that no temporary table of a session stands in for a real one.
INSTALL = """
CREATE TABLE audit_floor (
    is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    days integer NOT NULL CHECK (days >= 1)
);
INSERT INTO audit_floor (days) VALUES (180);

DO $install$
BEGIN
EXECUTE format($f$
CREATE FUNCTION audit_keep_entry() RETURNS trigger LANGUAGE plpgsql
SET search_path = %1$I, pg_temp AS $$
BEGIN
    IF TG_OP = 'DELETE' AND EXISTS (
        SELECT 1 FROM audit_leaf WHERE entry_id = OLD.id
        AND index < (SELECT max(below_index) FROM audit_removal)
    ) THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'Audit entries are never changed or removed (%% of %%).', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege';
END $$;

CREATE FUNCTION audit_remove_prefix(older_than timestamptz, at_most bigint, why text, asked_by text)
RETURNS TABLE (removed_from bigint, removed_below bigint, gone_before bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = %1$I, pg_temp AS $$
DECLARE
    kept_days integer;
    first bigint;
    sealed bigint;
    signed_as bigint;
    stop bigint;
    lost bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(7169395);
    SELECT days INTO kept_days FROM audit_floor;
    IF older_than > statement_timestamp() - make_interval(days => kept_days) THEN
        RAISE EXCEPTION 'Audit entries are kept for at least %% days.', kept_days
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    SELECT coalesce(max(below_index), 0) INTO first FROM audit_removal;
    SELECT number, size INTO signed_as, sealed FROM audit_checkpoint ORDER BY number DESC LIMIT 1;
    IF sealed IS NULL OR sealed <= first THEN
        RETURN;
    END IF;
    stop := least(first + at_most, sealed);
    -- The first entry that is too young ends the stretch.
    SELECT coalesce(min(leaf.index), stop) INTO stop FROM audit_leaf AS leaf
        JOIN audit_entry AS entry ON entry.id = leaf.entry_id
        WHERE leaf.index >= first AND leaf.index < stop AND entry.recorded_at >= older_than;
    IF stop <= first THEN
        RETURN;
    END IF;
    -- What went another way before is told, not covered up.
    SELECT count(*) INTO lost FROM audit_leaf AS leaf
        WHERE leaf.index >= first AND leaf.index < stop
        AND NOT EXISTS (SELECT 1 FROM audit_entry AS entry WHERE entry.id = leaf.entry_id);
    INSERT INTO audit_removal
        (from_index, below_index, older_than, checkpoint_number, missing, reason, removed_by)
        VALUES (first, stop, older_than, signed_as, lost, why, asked_by);
    DELETE FROM audit_personaldetails AS personal USING audit_leaf AS leaf
        WHERE leaf.index >= first AND leaf.index < stop AND personal.entry_id = leaf.entry_id;
    DELETE FROM audit_entry AS entry USING audit_leaf AS leaf
        WHERE leaf.index >= first AND leaf.index < stop AND entry.id = leaf.entry_id;
    RETURN QUERY SELECT first, stop, lost;
END $$;
$f$, current_schema());
END $install$;

DROP TRIGGER audit_entry_rows_stay ON audit_entry;
CREATE TRIGGER audit_entry_rows_stay BEFORE UPDATE OR DELETE ON audit_entry
    FOR EACH ROW EXECUTE FUNCTION audit_keep_entry();
ALTER TABLE audit_entry ENABLE ALWAYS TRIGGER audit_entry_rows_stay;

CREATE TRIGGER audit_removal_rows_stay BEFORE UPDATE OR DELETE ON audit_removal
    FOR EACH ROW EXECUTE FUNCTION audit_refuse_change();
CREATE TRIGGER audit_removal_is_never_emptied BEFORE TRUNCATE ON audit_removal
    FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse_change();
ALTER TABLE audit_removal ENABLE ALWAYS TRIGGER audit_removal_rows_stay;
ALTER TABLE audit_removal ENABLE ALWAYS TRIGGER audit_removal_is_never_emptied;

REVOKE ALL ON FUNCTION audit_remove_prefix(timestamptz, bigint, text, text) FROM PUBLIC;
DO $$
DECLARE grantee text;
BEGIN
    FOR grantee IN
        SELECT DISTINCT CASE WHEN acl.grantee = 0 THEN 'PUBLIC'
                             ELSE quote_ident(pg_get_userbyid(acl.grantee)) END
        FROM pg_class AS c, aclexplode(c.relacl) AS acl
        WHERE c.oid IN ('audit_removal'::regclass, 'audit_floor'::regclass)
        AND acl.grantee <> c.relowner
    LOOP
        EXECUTE format('REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON audit_removal, audit_floor FROM %s',
            grantee);
    END LOOP;
    -- Who may write entries may also ask for their removal.
    FOR grantee IN
        SELECT DISTINCT CASE WHEN acl.grantee = 0 THEN 'PUBLIC'
                             ELSE quote_ident(pg_get_userbyid(acl.grantee)) END
        FROM pg_class AS c, aclexplode(c.relacl) AS acl
        WHERE c.oid = 'audit_entry'::regclass AND acl.grantee <> c.relowner
        AND acl.privilege_type = 'INSERT'
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION'
            ' audit_remove_prefix(timestamptz, bigint, text, text) TO %s', grantee);
    END LOOP;
END $$;
"""

REMOVE = """
DROP TRIGGER audit_removal_is_never_emptied ON audit_removal;
DROP TRIGGER audit_removal_rows_stay ON audit_removal;
DROP TRIGGER audit_entry_rows_stay ON audit_entry;
CREATE TRIGGER audit_entry_rows_stay BEFORE UPDATE OR DELETE ON audit_entry
    FOR EACH ROW EXECUTE FUNCTION audit_refuse_change();
ALTER TABLE audit_entry ENABLE ALWAYS TRIGGER audit_entry_rows_stay;
DROP FUNCTION audit_remove_prefix(timestamptz, bigint, text, text);
DROP FUNCTION audit_keep_entry();
DROP TABLE audit_floor;
"""


class Migration(migrations.Migration):

    dependencies = [
        ('audit', '0006_exports'),
    ]

    operations = [
        migrations.CreateModel(
            name='Removal',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('from_index', models.BigIntegerField()),
                ('below_index', models.BigIntegerField(unique=True)),
                ('older_than', models.DateTimeField()),
                ('checkpoint_number', models.BigIntegerField()),
                ('missing', models.BigIntegerField()),
                ('reason', models.CharField(max_length=200)),
                ('removed_by', models.CharField(max_length=64)),
                ('removed_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
            options={
                'ordering': ('below_index',),
            },
        ),
        migrations.RunSQL(INSTALL, REMOVE),
    ]
