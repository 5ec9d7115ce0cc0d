-- name: RecordActivity :exec
INSERT INTO ledger.activity_logs (user_id, user_display, on_behalf, company_id, entity_type, entity_id, action, old_values, new_values, ip_address, request_id)
VALUES (@user_id, @user_display, @on_behalf, @company_id, @entity_type, @entity_id, @action, @old_values, @new_values, @ip_address, @request_id);

-- name: RecordSecurity :exec
INSERT INTO ledger.security_logs (user_id, user_display, action, metadata, ip_address, request_id)
VALUES (@user_id, @user_display, @action, @metadata, @ip_address, @request_id);

-- name: FiscalStart :one
SELECT s.fiscal_year_start_month FROM public.company_settings s WHERE s.company_id = @company_id;

-- name: CompanyDeleted :one
SELECT EXISTS (SELECT FROM public.companies c WHERE c.id = @company_id AND c.deleted_at IS NOT NULL) AS deleted;
