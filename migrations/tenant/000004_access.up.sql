-- What a role may do. A permission is "module.action"; teams add their own
-- modules beside the seeded ones, which stay.
CREATE TABLE public.permissions (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    code        text NOT NULL CONSTRAINT permissions_code_key UNIQUE
                CONSTRAINT permissions_code_check CHECK (code ~ '^[a-z][a-z0-9_]*[.][a-z][a-z0-9_]*$' AND length(code) <= 100),
    module      text NOT NULL CONSTRAINT permissions_module_check CHECK (module <> ''),
    description text NOT NULL DEFAULT '',
    is_system   boolean NOT NULL DEFAULT false,
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN public.permissions.is_system IS 'Seeded by the platform: operations depend on it, so it is neither changed nor deleted.';

CREATE TABLE public.role_permissions (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    role_id       bigint NOT NULL CONSTRAINT role_permissions_role_id_fkey REFERENCES public.roles (id) ON DELETE CASCADE,
    permission_id bigint NOT NULL CONSTRAINT role_permissions_permission_id_fkey REFERENCES public.permissions (id) ON DELETE CASCADE,
    granted       boolean NOT NULL DEFAULT true,
    created_at    timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT role_permissions_role_permission_key UNIQUE (role_id, permission_id)
);
COMMENT ON COLUMN public.role_permissions.granted IS 'false denies: it wins over every grant, at any distance.';
CREATE INDEX role_permissions_permission_id_idx ON public.role_permissions (permission_id);

CREATE TRIGGER permissions_bump_authz_epoch AFTER INSERT OR UPDATE OR DELETE ON public.permissions
    FOR EACH STATEMENT EXECUTE FUNCTION ouvira.bump_authz_epoch();
CREATE TRIGGER role_permissions_bump_authz_epoch AFTER INSERT OR UPDATE OR DELETE ON public.role_permissions
    FOR EACH STATEMENT EXECUTE FUNCTION ouvira.bump_authz_epoch();

-- The catalogue, and which of the seeded roles hold what: o owner, a admin,
-- m manager, e employee. It is only added to.
WITH catalogue (code, module, description, held_by) AS (VALUES
    ('user.read', 'user', 'See users', 'oam'),
    ('user.create', 'user', 'Make users', 'oa'),
    ('user.edit', 'user', 'Change users', 'oa'),
    ('user.deactivate', 'user', 'Disable users', 'oa'),
    ('role.read', 'role', 'See roles', 'oam'),
    ('role.create', 'role', 'Make roles', 'oa'),
    ('role.edit', 'role', 'Change roles and what they grant', 'oa'),
    ('role.delete', 'role', 'Delete roles', 'oa'),
    ('role.assign', 'role', 'Give roles to members', 'oam'),
    ('permission.read', 'permission', 'See permissions', 'oam'),
    ('permission.create', 'permission', 'Add permissions', 'o'),
    ('permission.edit', 'permission', 'Change permissions', 'o'),
    ('permission.delete', 'permission', 'Delete permissions', 'o'),
    ('company.read', 'company', 'See the company', 'oame'),
    ('company.create', 'company', 'Make companies under it', 'oa'),
    ('company.edit', 'company', 'Change the company', 'oam'),
    ('company.delete', 'company', 'Delete the company', 'o'),
    ('company.settings', 'company', 'Change its settings', 'oa'),
    ('invitation.read', 'invitation', 'See invitations', 'oam'),
    ('invitation.create', 'invitation', 'Invite people', 'oam'),
    ('invitation.revoke', 'invitation', 'Revoke invitations', 'oam'),
    ('member.read', 'member', 'See members', 'oame'),
    ('member.edit', 'member', 'Change memberships', 'oa'),
    ('member.remove', 'member', 'Remove members', 'oa'),
    ('audit.read', 'audit', 'Read the activity log', 'oam'),
    ('audit.security', 'audit', 'Read the security log', 'oa'),
    ('audit.verify', 'audit', 'Verify the audit chain', 'o'),
    ('organization.read', 'organization', 'See the organization', 'oame'),
    ('organization.edit', 'organization', 'Change the organization', 'oam'),
    ('apikey.read', 'apikey', 'See API keys', 'oa'),
    ('apikey.create', 'apikey', 'Make API keys', 'oa'),
    ('apikey.revoke', 'apikey', 'Revoke API keys', 'oa'),
    ('support.consent', 'support', 'Let support in', 'o')
), added AS (
    INSERT INTO public.permissions (code, module, description, is_system)
    SELECT code, module, description, true FROM catalogue
    RETURNING id, code
)
INSERT INTO public.role_permissions (role_id, permission_id)
SELECT r.id, added.id
FROM catalogue c
JOIN added ON added.code = c.code
JOIN public.roles r ON r.is_system_role AND r.company_id IS NULL AND position(left(r.role, 1) IN c.held_by) > 0;

-- A company's role is given in the company and below it, nowhere else, whoever
-- writes. The row of the authorization epoch is locked first, as in every
-- change of the hierarchy: of an assignment and a move that cannot both stand,
-- the second sees the first.
CREATE FUNCTION ouvira.keep_roles_in_subtree() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE public.authz_epoch SET epoch = epoch + 1;
    IF EXISTS (
        SELECT FROM changed a
        JOIN public.user_companies m ON m.id = a.user_company_id
        JOIN public.roles r ON r.id = a.role_id
        WHERE r.company_id IS NOT NULL
          AND NOT EXISTS (SELECT FROM public.company_paths p WHERE p.ancestor_id = r.company_id AND p.descendant_id = m.company_id)
    ) THEN
        RAISE EXCEPTION 'a company''s role is given in the company and below it only'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'user_company_roles_subtree_check', TABLE = 'user_company_roles', SCHEMA = 'public';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER user_company_roles_keep_in_subtree_on_insert AFTER INSERT ON public.user_company_roles
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION ouvira.keep_roles_in_subtree();
CREATE TRIGGER user_company_roles_keep_in_subtree_on_update AFTER UPDATE ON public.user_company_roles
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION ouvira.keep_roles_in_subtree();

-- The other ways to the same: a company moves, a membership or a role changes
-- its company. Nothing may be left outside.
CREATE FUNCTION ouvira.strand_no_role() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE public.authz_epoch SET epoch = epoch + 1;
    IF EXISTS (
        SELECT FROM public.user_company_roles a
        JOIN public.user_companies m ON m.id = a.user_company_id
        JOIN public.roles r ON r.id = a.role_id
        WHERE r.company_id IS NOT NULL
          AND CASE TG_TABLE_NAME
                  WHEN 'companies' THEN m.company_id IN (SELECT p.descendant_id FROM public.company_paths p WHERE p.ancestor_id = NEW.id)
                  WHEN 'user_companies' THEN m.id = NEW.id
                  ELSE r.id = NEW.id
              END
          AND NOT EXISTS (SELECT FROM public.company_paths p WHERE p.ancestor_id = r.company_id AND p.descendant_id = m.company_id)
    ) THEN
        RAISE EXCEPTION 'a company''s role would be held outside of the company'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'companies_roles_subtree_check', TABLE = TG_TABLE_NAME, SCHEMA = 'public';
    END IF;
    RETURN NULL;
END
$$;
-- By its name it comes after companies_keep_paths_on_move, which makes the new
-- paths.
CREATE TRIGGER companies_strand_no_role_on_move AFTER UPDATE ON public.companies
    FOR EACH ROW WHEN (OLD.parent_company_id IS DISTINCT FROM NEW.parent_company_id)
    EXECUTE FUNCTION ouvira.strand_no_role();
CREATE TRIGGER user_companies_strand_no_role AFTER UPDATE ON public.user_companies
    FOR EACH ROW WHEN (OLD.company_id <> NEW.company_id)
    EXECUTE FUNCTION ouvira.strand_no_role();
CREATE TRIGGER roles_strand_no_role AFTER UPDATE ON public.roles
    FOR EACH ROW WHEN (OLD.company_id IS DISTINCT FROM NEW.company_id)
    EXECUTE FUNCTION ouvira.strand_no_role();
