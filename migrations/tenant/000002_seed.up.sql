-- seed_tenant is the contract between the control plane and this schema: it
-- makes the owner, the first company, the owner's membership and the first
-- signing key. It is called by ouvira_owner and is idempotent by p_seed_id:
-- called again it changes nothing and answers the same.
--
-- The owner comes with a password hash (sign-up) or with the SHA-256 of a
-- set-password token and its expiry (created by an operator).
-- Answers {"user_id", "company_id", "signing_keys": [public JWKs]}.
CREATE FUNCTION ouvira.seed_tenant(
    p_seed_id          uuid,
    p_full_name        text,
    p_email            text,
    p_email_verified   boolean,
    p_password_hash    text,
    p_token_hash       bytea,
    p_token_expires_at timestamptz,
    p_company_name     text,
    p_kid              text,
    p_public_jwk       jsonb,
    p_private_sealed   bytea
) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_user_id       bigint;
    v_company_id    bigint;
    v_membership_id bigint;
BEGIN
    -- Two callers at once: the second waits here and then finds the first's row.
    LOCK TABLE ouvira.seeds IN SHARE ROW EXCLUSIVE MODE;
    SELECT user_id, company_id INTO v_user_id, v_company_id FROM ouvira.seeds WHERE seed_id = p_seed_id;
    IF NOT FOUND THEN
        INSERT INTO public.users (username, full_name, email, email_verified, password_hash)
        VALUES (lower(p_email), p_full_name, lower(p_email), p_email_verified, p_password_hash)
        RETURNING id INTO v_user_id;
        IF p_token_hash IS NOT NULL THEN
            INSERT INTO public.password_tokens (token_hash, user_id, purpose, expires_at)
            VALUES (p_token_hash, v_user_id, 'set', p_token_expires_at);
        END IF;
        INSERT INTO public.companies (name, is_parent_company, create_by)
        VALUES (p_company_name, true, v_user_id)
        RETURNING id INTO v_company_id;
        INSERT INTO public.company_settings (company_id) VALUES (v_company_id);
        INSERT INTO public.user_companies (user_id, company_id, is_primary_company)
        VALUES (v_user_id, v_company_id, true)
        RETURNING id INTO v_membership_id;
        INSERT INTO public.user_company_roles (user_company_id, role_id)
        SELECT v_membership_id, id FROM public.roles WHERE role = 'owner' AND company_id IS NULL;
        INSERT INTO ouvira.seeds (seed_id, user_id, company_id) VALUES (p_seed_id, v_user_id, v_company_id);
    END IF;
    IF NOT EXISTS (SELECT FROM ouvira.signing_keys WHERE retired_at IS NULL) THEN
        INSERT INTO ouvira.signing_keys (kid, public_jwk, private_sealed) VALUES (p_kid, p_public_jwk, p_private_sealed);
    END IF;
    RETURN jsonb_build_object(
        'user_id', v_user_id,
        'company_id', v_company_id,
        'signing_keys', (SELECT jsonb_agg(public_jwk ORDER BY created_at) FROM ouvira.signing_keys WHERE retired_at IS NULL));
END
$$;
