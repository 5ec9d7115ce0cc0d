-- Invitations, and the promise that a company keeps an owner.
CREATE TABLE public.invitations (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    company_id  bigint NOT NULL CONSTRAINT invitations_company_id_fkey REFERENCES public.companies (id) ON DELETE CASCADE,
    email       text NOT NULL CONSTRAINT invitations_email_check CHECK (email = lower(email) AND email <> ''),
    role_id     bigint NOT NULL CONSTRAINT invitations_role_id_fkey REFERENCES public.roles (id),
    scope       text NOT NULL DEFAULT 'subtree' CONSTRAINT invitations_scope_check CHECK (scope IN ('self', 'subtree')),
    language    text NOT NULL,
    token_hash  bytea NOT NULL CONSTRAINT invitations_token_hash_key UNIQUE,
    status      text NOT NULL DEFAULT 'pending' CONSTRAINT invitations_status_check
                CHECK (status IN ('pending', 'accepted', 'revoked', 'expired')),
    expires_at  timestamptz NOT NULL,
    invited_by  bigint CONSTRAINT invitations_invited_by_fkey REFERENCES public.users (id) ON DELETE SET NULL,
    accepted_by bigint CONSTRAINT invitations_accepted_by_fkey REFERENCES public.users (id) ON DELETE SET NULL,
    accepted_at timestamptz,
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    deleted_at  timestamptz,
    is_deleted  boolean GENERATED ALWAYS AS (deleted_at IS NOT NULL) STORED
);
COMMENT ON COLUMN public.invitations.token_hash IS 'SHA-256 of the token (256 random bits), which is mailed and shown once.';
COMMENT ON COLUMN public.invitations.status IS 'A pending one whose expires_at is over counts as expired; it is written down when another is made.';
COMMENT ON COLUMN public.invitations.invited_by IS 'Who answers for it: made it, or sent it again.';
CREATE UNIQUE INDEX invitations_pending_key ON public.invitations (company_id, email) WHERE status = 'pending';
CREATE INDEX invitations_company_id_idx ON public.invitations (company_id, id);
CREATE INDEX invitations_role_id_idx ON public.invitations (role_id);

-- An owner is an active member, with an active account, whose owner role does
-- not expire: time alone must not leave a company without one.
CREATE FUNCTION ouvira.company_owned(p_company_id bigint, p_without_membership bigint DEFAULT NULL) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (
        SELECT FROM public.user_companies m
        JOIN public.users u ON u.id = m.user_id AND u.is_active AND u.deleted_at IS NULL
        JOIN public.user_company_roles a ON a.user_company_id = m.id AND a.expires_at IS NULL
        JOIN public.roles r ON r.id = a.role_id AND r.role = 'owner' AND r.is_system_role AND r.company_id IS NULL
        WHERE m.company_id = p_company_id AND m.is_active AND m.id IS DISTINCT FROM p_without_membership)
$$;

-- Whoever takes an owner away, by whatever road, waits for the row of the
-- authorization epoch and looks then: of two owners who remove each other at
-- the same time, one is refused. (VOLATILE: each statement sees what was
-- committed while this one waited.)
CREATE FUNCTION ouvira.keep_an_owner(p_company_id bigint, p_without_membership bigint DEFAULT NULL) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE public.authz_epoch SET epoch = epoch + 1;
    IF NOT EXISTS (SELECT FROM public.companies WHERE id = p_company_id AND deleted_at IS NULL) THEN
        RETURN;
    END IF;
    IF NOT ouvira.company_owned(p_company_id, p_without_membership) THEN
        RAISE EXCEPTION 'the company would be without an owner'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'companies_last_owner_check', TABLE = 'companies', SCHEMA = 'public';
    END IF;
END
$$;

-- Does the membership make its user an owner, as far as its own rows say?
CREATE FUNCTION ouvira.is_ownership(p_membership_id bigint) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (
        SELECT FROM public.user_company_roles a
        JOIN public.roles r ON r.id = a.role_id AND r.role = 'owner' AND r.is_system_role AND r.company_id IS NULL
        WHERE a.user_company_id = p_membership_id AND a.expires_at IS NULL)
$$;

CREATE FUNCTION ouvira.keep_an_owner_of_roles() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_company_id bigint;
BEGIN
    IF OLD.expires_at IS NULL
       AND EXISTS (SELECT FROM public.roles r WHERE r.id = OLD.role_id AND r.role = 'owner' AND r.is_system_role AND r.company_id IS NULL) THEN
        -- No row: the membership went first, and its own trigger has looked.
        SELECT m.company_id INTO v_company_id FROM public.user_companies m WHERE m.id = OLD.user_company_id;
        IF FOUND THEN
            PERFORM ouvira.keep_an_owner(v_company_id);
        END IF;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER user_company_roles_keep_an_owner AFTER UPDATE OR DELETE ON public.user_company_roles
    FOR EACH ROW EXECUTE FUNCTION ouvira.keep_an_owner_of_roles();

CREATE FUNCTION ouvira.keep_an_owner_of_memberships() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        -- Before the row goes: afterwards its roles are gone too, and nobody
        -- could tell that it was an owner's.
        IF OLD.is_active AND ouvira.is_ownership(OLD.id) THEN
            PERFORM ouvira.keep_an_owner(OLD.company_id, OLD.id);
        END IF;
        RETURN OLD;
    END IF;
    IF ouvira.is_ownership(OLD.id) THEN
        PERFORM ouvira.keep_an_owner(OLD.company_id);
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER user_companies_keep_an_owner AFTER UPDATE ON public.user_companies
    FOR EACH ROW WHEN (OLD.is_active AND (NOT NEW.is_active OR (OLD.user_id, OLD.company_id) IS DISTINCT FROM (NEW.user_id, NEW.company_id)))
    EXECUTE FUNCTION ouvira.keep_an_owner_of_memberships();
CREATE TRIGGER user_companies_keep_an_owner_on_delete BEFORE DELETE ON public.user_companies
    FOR EACH ROW EXECUTE FUNCTION ouvira.keep_an_owner_of_memberships();

CREATE FUNCTION ouvira.keep_an_owner_of_users() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM ouvira.keep_an_owner(m.company_id)
    FROM public.user_companies m WHERE m.user_id = OLD.id AND m.is_active AND ouvira.is_ownership(m.id);
    RETURN NULL;
END
$$;
CREATE TRIGGER users_keep_an_owner AFTER UPDATE OF is_active, deleted_at ON public.users
    FOR EACH ROW WHEN (OLD.is_active AND OLD.deleted_at IS NULL AND NOT (NEW.is_active AND NEW.deleted_at IS NULL))
    EXECUTE FUNCTION ouvira.keep_an_owner_of_users();
