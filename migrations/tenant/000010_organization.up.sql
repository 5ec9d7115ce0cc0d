-- The organization of each company: departments, job titles, locations, and
-- positions that hold them together. Everything refers within one company: the
-- keys that are referred to include it.
CREATE TABLE public.departments (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    company_id  bigint NOT NULL CONSTRAINT departments_company_id_fkey REFERENCES public.companies (id),
    name        text NOT NULL CONSTRAINT departments_name_check CHECK (name <> ''),
    code        text NOT NULL DEFAULT '',
    description text NOT NULL DEFAULT '',
    parent_id   bigint,
    manager_id  bigint,
    is_active   boolean NOT NULL DEFAULT true,
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    deleted_at  timestamptz,
    is_deleted  boolean GENERATED ALWAYS AS (deleted_at IS NOT NULL) STORED,
    CONSTRAINT departments_company_key UNIQUE (company_id, id),
    CONSTRAINT departments_parent_id_fkey FOREIGN KEY (company_id, parent_id) REFERENCES public.departments (company_id, id),
    CONSTRAINT departments_manager_id_fkey FOREIGN KEY (manager_id, company_id)
        REFERENCES public.user_companies (user_id, company_id) ON DELETE SET NULL (manager_id)
);
CREATE UNIQUE INDEX departments_code_key ON public.departments (company_id, lower(code)) WHERE code <> '' AND deleted_at IS NULL;
CREATE INDEX departments_parent_id_idx ON public.departments (parent_id);
CREATE INDEX departments_manager_id_idx ON public.departments (manager_id, company_id);

CREATE TABLE public.job_titles (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    company_id  bigint NOT NULL CONSTRAINT job_titles_company_id_fkey REFERENCES public.companies (id),
    name        text NOT NULL CONSTRAINT job_titles_name_check CHECK (name <> ''),
    code        text NOT NULL DEFAULT '',
    description text NOT NULL DEFAULT '',
    is_active   boolean NOT NULL DEFAULT true,
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    deleted_at  timestamptz,
    is_deleted  boolean GENERATED ALWAYS AS (deleted_at IS NOT NULL) STORED,
    CONSTRAINT job_titles_company_key UNIQUE (company_id, id)
);
CREATE UNIQUE INDEX job_titles_code_key ON public.job_titles (company_id, lower(code)) WHERE code <> '' AND deleted_at IS NULL;

CREATE TABLE public.locations (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    company_id  bigint NOT NULL CONSTRAINT locations_company_id_fkey REFERENCES public.companies (id),
    name        text NOT NULL CONSTRAINT locations_name_check CHECK (name <> ''),
    code        text NOT NULL DEFAULT '',
    description text NOT NULL DEFAULT '',
    address     text NOT NULL DEFAULT '',
    is_active   boolean NOT NULL DEFAULT true,
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    deleted_at  timestamptz,
    is_deleted  boolean GENERATED ALWAYS AS (deleted_at IS NOT NULL) STORED,
    CONSTRAINT locations_company_key UNIQUE (company_id, id)
);
CREATE UNIQUE INDEX locations_code_key ON public.locations (company_id, lower(code)) WHERE code <> '' AND deleted_at IS NULL;

CREATE TABLE public.positions (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    company_id    bigint NOT NULL CONSTRAINT positions_company_id_fkey REFERENCES public.companies (id),
    name          text NOT NULL CONSTRAINT positions_name_check CHECK (name <> ''),
    code          text NOT NULL DEFAULT '',
    description   text NOT NULL DEFAULT '',
    department_id bigint NOT NULL,
    job_title_id  bigint NOT NULL,
    location_id   bigint,
    reports_to_id bigint,
    user_id       bigint,
    is_active     boolean NOT NULL DEFAULT true,
    created_at    timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now(),
    deleted_at    timestamptz,
    is_deleted    boolean GENERATED ALWAYS AS (deleted_at IS NOT NULL) STORED,
    CONSTRAINT positions_company_key UNIQUE (company_id, id),
    CONSTRAINT positions_department_id_fkey FOREIGN KEY (company_id, department_id) REFERENCES public.departments (company_id, id),
    CONSTRAINT positions_job_title_id_fkey FOREIGN KEY (company_id, job_title_id) REFERENCES public.job_titles (company_id, id),
    CONSTRAINT positions_location_id_fkey FOREIGN KEY (company_id, location_id) REFERENCES public.locations (company_id, id),
    CONSTRAINT positions_reports_to_id_fkey FOREIGN KEY (company_id, reports_to_id) REFERENCES public.positions (company_id, id),
    CONSTRAINT positions_user_id_fkey FOREIGN KEY (user_id, company_id)
        REFERENCES public.user_companies (user_id, company_id) ON DELETE SET NULL (user_id)
);
COMMENT ON COLUMN public.positions.user_id IS 'Who holds it; NULL: vacant.';
CREATE UNIQUE INDEX positions_code_key ON public.positions (company_id, lower(code)) WHERE code <> '' AND deleted_at IS NULL;
CREATE INDEX positions_department_id_idx ON public.positions (department_id);
CREATE INDEX positions_job_title_id_idx ON public.positions (job_title_id);
CREATE INDEX positions_location_id_idx ON public.positions (location_id);
CREATE INDEX positions_reports_to_id_idx ON public.positions (reports_to_id);
CREATE INDEX positions_user_id_idx ON public.positions (user_id, company_id);

-- refuse_cycle(column) keeps a table from being above itself by that column.
-- One company's changes come one at a time: its row is locked first, and the
-- statement after it sees what the one before has committed.
CREATE FUNCTION ouvira.refuse_cycle() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_cycle boolean;
BEGIN
    PERFORM FROM public.companies WHERE id = NEW.company_id FOR NO KEY UPDATE;
    EXECUTE format(
        'WITH RECURSIVE up AS (
             SELECT t.%1$I AS id FROM public.%2$I t WHERE t.id = $1
             UNION
             SELECT t.%1$I FROM public.%2$I t JOIN up ON t.id = up.id
         )
         SELECT EXISTS (SELECT FROM up WHERE id = $1)', TG_ARGV[0], TG_TABLE_NAME)
    INTO v_cycle USING NEW.id;
    IF v_cycle THEN
        RAISE EXCEPTION '% % would be above itself', TG_TABLE_NAME, NEW.id
            USING ERRCODE = 'check_violation', CONSTRAINT = TG_TABLE_NAME || '_no_cycle_check', TABLE = TG_TABLE_NAME, SCHEMA = 'public';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER departments_refuse_cycle AFTER INSERT OR UPDATE OF parent_id ON public.departments
    FOR EACH ROW WHEN (NEW.parent_id IS NOT NULL) EXECUTE FUNCTION ouvira.refuse_cycle('parent_id');
CREATE TRIGGER positions_refuse_cycle AFTER INSERT OR UPDATE OF reports_to_id ON public.positions
    FOR EACH ROW WHEN (NEW.reports_to_id IS NOT NULL) EXECUTE FUNCTION ouvira.refuse_cycle('reports_to_id');
