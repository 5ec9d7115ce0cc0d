-- The hierarchy of companies as a closure table: one row for each company and
-- each company above it, itself included. The database keeps it, and refuses a
-- cycle, whoever writes.
CREATE TABLE public.company_paths (
    ancestor_id   bigint NOT NULL CONSTRAINT company_paths_ancestor_id_fkey REFERENCES public.companies (id) ON DELETE CASCADE,
    descendant_id bigint NOT NULL CONSTRAINT company_paths_descendant_id_fkey REFERENCES public.companies (id) ON DELETE CASCADE,
    depth         integer NOT NULL CONSTRAINT company_paths_depth_check CHECK (depth >= 0),
    CONSTRAINT company_paths_pkey PRIMARY KEY (ancestor_id, descendant_id)
);
CREATE INDEX company_paths_descendant_id_idx ON public.company_paths (descendant_id, depth);
REVOKE INSERT, UPDATE, DELETE ON public.company_paths FROM ouvira_app;

INSERT INTO public.company_paths (ancestor_id, descendant_id, depth)
WITH RECURSIVE up AS (
    SELECT c.id AS descendant_id, c.id AS ancestor_id, 0 AS depth FROM public.companies c
    UNION ALL
    SELECT up.descendant_id, c.parent_company_id, up.depth + 1
    FROM up JOIN public.companies c ON c.id = up.ancestor_id
    WHERE c.parent_company_id IS NOT NULL
)
SELECT ancestor_id, descendant_id, depth FROM up;

-- One change of the hierarchy at a time: the row of the authorization epoch is
-- locked first, and the statements after it see what the one before has
-- committed. Two companies cannot become each other's parent.
CREATE FUNCTION ouvira.keep_company_paths() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE public.authz_epoch SET epoch = epoch + 1;
    IF TG_OP = 'INSERT' THEN
        INSERT INTO public.company_paths (ancestor_id, descendant_id, depth) VALUES (NEW.id, NEW.id, 0);
    ELSE
        IF EXISTS (SELECT FROM public.company_paths WHERE ancestor_id = NEW.id AND descendant_id = NEW.parent_company_id) THEN
            RAISE EXCEPTION 'a company cannot be below itself'
                USING ERRCODE = 'check_violation', CONSTRAINT = 'companies_no_cycle_check', TABLE = 'companies', SCHEMA = 'public';
        END IF;
        DELETE FROM public.company_paths p
        USING public.company_paths below, public.company_paths above
        WHERE below.ancestor_id = NEW.id AND above.descendant_id = NEW.id AND above.ancestor_id <> NEW.id
          AND p.descendant_id = below.descendant_id AND p.ancestor_id = above.ancestor_id;
    END IF;
    IF NEW.parent_company_id IS NOT NULL THEN
        INSERT INTO public.company_paths (ancestor_id, descendant_id, depth)
        SELECT above.ancestor_id, below.descendant_id, above.depth + below.depth + 1
        FROM public.company_paths above, public.company_paths below
        WHERE above.descendant_id = NEW.parent_company_id AND below.ancestor_id = NEW.id;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER companies_keep_paths_on_insert AFTER INSERT ON public.companies
    FOR EACH ROW EXECUTE FUNCTION ouvira.keep_company_paths();
CREATE TRIGGER companies_keep_paths_on_move AFTER UPDATE ON public.companies
    FOR EACH ROW WHEN (OLD.parent_company_id IS DISTINCT FROM NEW.parent_company_id)
    EXECUTE FUNCTION ouvira.keep_company_paths();
CREATE TRIGGER companies_bump_authz_epoch AFTER UPDATE ON public.companies
    FOR EACH ROW WHEN ((OLD.status, OLD.deleted_at) IS DISTINCT FROM (NEW.status, NEW.deleted_at))
    EXECUTE FUNCTION ouvira.bump_authz_epoch();
